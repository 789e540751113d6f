"""A record that comes too late voids its round: nothing merges, nothing is drawn, nobody is paid, nothing is redrawn.

The block after the record's decides who is drawn. Without a last block for it a coordinator could hold a record back
until it liked the draw. So the chain decides what is late: the block of the round's commitment root is on it, and so
is the record's.

A void round is a round in which nobody was listed; everything else follows from that. In particular its units hand
nothing on (`verification.commit.carried`): they could never be drawn, so a residual forged in one would be carried
into rounds where every replay agrees with it. And it counts for no schedule (`verification.sample.count_listed`):
nobody grows out of suspicion in rounds without draws. What the record says of earlier rounds' units stands.
"""

from protocol.chain import ChainView
from protocol.manifest import RunManifest
from protocol.messages import RoundRecord


def is_late(manifest: RunManifest, posted: int, anchored: int) -> bool:
    """Tell whether a record is too late.

    Args:
        posted: block of the round's commitment root.
        anchored: block of the record.
    """
    return anchored > posted + manifest.deadlines.reveal + manifest.deadlines.record


def is_void(manifest: RunManifest, chain: ChainView, round_: int) -> bool:
    """Tell whether a round's record was anchored too late. An open round is not void."""
    posted, anchored = chain.commitments(round_), chain.anchor(round_)
    return posted is not None and anchored is not None and is_late(manifest, posted.block, anchored)


def in_force(record: RoundRecord, *, void: bool) -> RoundRecord:
    """Return what a record brings about: itself without units that do not count; if void, no more than judgements."""
    if void:
        return record.model_copy(update={"units": (), "receipts": (), "retracted": (), "joint": None})
    units = tuple(unit for unit in record.units if unit.counts)
    return record if len(units) == len(record.units) else record.model_copy(update={"units": units})
