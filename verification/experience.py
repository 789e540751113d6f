"""Which rollouts a round's inner steps learn from: a function of records, the same for everybody."""

from collections.abc import Callable

from protocol.frozen import Digest, Frozen
from protocol.manifest import RunManifest
from protocol.messages import Number, RoundRecord


class Lesson(Frozen):
    """Name a unit whose rollouts are learned from."""

    number: Number
    blob: Digest  # that it published


def experience(
    manifest: RunManifest, record: Callable[[int], RoundRecord | None], round_: int
) -> tuple[Lesson, ...] | None:
    """Return the units whose rollouts a round learns from; None while a record that says so is missing here.

    They are those that the record `lag` rounds before merged, in its order, but for units that it or a later record
    before this round calls void or false. Rounds that come too early learn from nothing.

    Args:
        record: gives what is in force of a round's anchored record.
    """
    if manifest.rollouts is None or round_ < manifest.rollouts.lag:
        return ()
    source = round_ - manifest.rollouts.lag
    records = [record(one) for one in range(source, round_)]
    known = [one for one in records if one is not None]
    if len(known) < len(records):
        return None
    outcomes = {one.number: one.outcome for later in known for one in later.judged if one.round == source}
    return tuple(
        Lesson(number=unit.number, blob=unit.blob)
        for unit in known[0].units
        if unit.merged and unit.blob is not None and outcomes.get(unit.number) not in ("void", "false")
    )


def learned_rounds(manifest: RunManifest, round_: int) -> range:
    """Return the earlier rounds whose records say what a round learns from."""
    lag = 0 if manifest.rollouts is None else manifest.rollouts.lag
    return range(max(0, round_ - lag), round_) if round_ >= lag else range(0)
