"""Which earlier units a round's inner steps learn from and its judges judge: a function of records."""

from collections.abc import Callable, Mapping

from protocol.lessons import NOTHING, Lesson, Lessons, Preferred
from protocol.manifest import RunManifest
from protocol.messages import RoundRecord
from verification.preferences import preferences_about


def experience(
    manifest: RunManifest, record: Callable[[int], RoundRecord | None], round_: int
) -> Lessons | None:
    """Return what a round's units build on; None while a record that says so is missing here.

    Learned from are the units that the record `lag` rounds before merged, in its order, but for those that it or a
    later record before this round calls void or false; rounds that come too early learn from nothing. What judges
    say of them stands in the units of the round after theirs, under the same condition. Judged is whatever the record
    before this round merged. What people prefer among the samples is what records until then carry and what counts
    (`verification.preferences`).

    Args:
        record: gives what is in force of a round's anchored record.
    """
    rounds = learned_rounds(manifest, round_)
    if manifest.rollouts is None or not rounds:
        return NOTHING
    known: dict[int, RoundRecord] = {}
    for one in rounds:
        found = record(one)
        if found is None:
            return None
        known[one] = found
    source = round_ - manifest.rollouts.lag
    judged = manifest.judge is not None
    return Lessons(
        learned=_standing(known, source),
        judging=_standing(known, source + 1) if judged and source >= 0 else (),
        judged=_merged(known[round_ - 1]) if judged else (),
        preferences=_preferences(manifest, known, source),
    )


def learned_rounds(manifest: RunManifest, round_: int) -> range:
    """Return the earlier rounds whose records say what a round builds on."""
    if manifest.rollouts is None:
        return range(0)
    first = round_ - manifest.rollouts.lag
    return range(max(0, first), round_) if first >= 0 or manifest.judge else range(0)


def _preferences(
    manifest: RunManifest, known: Mapping[int, RoundRecord], source: int
) -> tuple[Preferred, ...]:
    if manifest.rollouts is None or manifest.rollouts.people is None or source not in known:
        return ()
    return tuple(
        Preferred(number=one.said.number, group=one.said.group, better=one.said.better, worse=one.said.worse)
        for one in preferences_about(manifest, known.get, source)
    )


def _merged(record: RoundRecord) -> tuple[Lesson, ...]:
    return tuple(
        Lesson(number=unit.number, blob=unit.blob)
        for unit in record.units
        if unit.merged and unit.blob is not None
    )


def _standing(known: Mapping[int, RoundRecord], source: int) -> tuple[Lesson, ...]:
    """Return the units of a round that nobody has called void or false."""
    if source not in known:
        return ()
    outcomes = {
        one.number: one.outcome for later in known.values() for one in later.judged if one.round == source
    }
    return tuple(one for one in _merged(known[source]) if outcomes.get(one.number) not in ("void", "false"))
