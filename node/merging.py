"""How a contributor takes a round's outer step: over everybody's updates, or over the joint one in their place.

The round's drawn witnesses hold all updates, and hold the joint one against them; whoever finds that it is another
objects (`node.objecting`) and stops, as it does where a record's parameters are not those that it reached itself. They
also go on holding them for whoever audits the run.
"""

from collections.abc import Callable
from functools import cache

from node.events import Aggregate
from node.facts import Facts
from protocol.chain import ChainView
from protocol.manifest import RunManifest
from protocol.messages import RoundRecord
from training.workbench import RetractedRound
from verification.retract import moving_units, sources
from verification.witness import witnesses


def aggregation(
    round_: int, record: RoundRecord, retracted: tuple[RetractedRound, ...], is_witness: bool
) -> Aggregate:
    """Return the job of a round's outer step.

    Args:
        record: what is in force of the round's, which starts from the parameters that we have.
        retracted: what is needed to take back what it says.
    """
    check = is_witness and record.joint is not None
    return Aggregate(round_, record.parameters, moving_units(record), retracted, record.joint, check)


def retracted_by(record: RoundRecord, round_: int, facts: Facts) -> tuple[RetractedRound, ...] | None:
    """Return what is needed to take back what a record says, or None while an old record was not heard.

    Raises:
        Malformed: a unit moved nothing in an earlier round.
    """
    named = {one.round for one in record.retracted if one.round < round_}
    earlier = {old: facts.of(old).confirmed for old in named}
    heard = {old: found for old, found in earlier.items() if found is not None}
    return sources(heard, record.retracted) if len(heard) == len(named) else None


def shelved(manifest: RunManifest, chain: ChainView, own: int) -> Callable[[int, int], bool]:
    """Return what tells whether a contributor holds a number's update of a round for whoever asks.

    Without joint updates it holds all, which it needed anyway. With them it holds its own, and those of rounds whose
    witness it was: each update then has the coordinator, its owner and the witnesses, and no bytes are fetched for it.
    """

    def holds(round_: int, number: int) -> bool:
        return not manifest.merging.joint_k or number == own or own in drawn(round_)

    @cache
    def drawn(round_: int) -> tuple[int, ...]:
        beacon = chain.assignment_beacon(round_)
        assert beacon is not None, "the round has an anchored record"
        roster = (one.number for one in chain.roster(round_))
        return witnesses(manifest, manifest.run_id, beacon, round_, roster)

    return holds
