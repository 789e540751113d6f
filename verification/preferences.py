"""Which signed preferences count: a function of records, the same for everybody.

The record of round t may carry preferences about rounds s with t - lag < s < t: the learners of round s + lag know the
records before it. What a record carries against these rules counts for nobody, and an audit names it; everything else
that the record says stands.
"""

from collections.abc import Callable, Iterator

from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.messages import ListedPreference, RoundRecord
from protocol.preferences import check_preference, people_of, signed

RecordOf = Callable[[int], RoundRecord | None]
"""Give what is in force of a round's anchored record; None where it is not here."""


def open_rounds(manifest: RunManifest, round_: int) -> range:
    """Return the rounds about which the record of a round may carry preferences."""
    rollouts = manifest.rollouts
    if rollouts is None or rollouts.people is None:
        return range(0)
    return range(max(0, round_ - rollouts.lag + 1), round_)


def last_record(manifest: RunManifest, round_: int) -> int:
    """Return the last round whose record may carry preferences about a round."""
    rollouts, _ = people_of(manifest)
    return round_ + rollouts.lag - 1


def check_listed(
    manifest: RunManifest, record: RecordOf, round_: int
) -> Iterator[tuple[ListedPreference, str]]:
    """Yield what the record of a round carries, in its order, each with why it does not count, or an empty string.

    Raises:
        Malformed: the record, or one before it that says so, is not here.
    """
    body = _here(record, round_)
    if not body.preferences:
        return
    window = open_rounds(manifest, round_)
    taken = {
        (one.round, one.said.pair)
        for earlier in range(window.start + 1, round_)
        for one in _here(record, earlier).preferences
        if not _fault(manifest, record, open_rounds(manifest, earlier), one)
    }
    for one in body.preferences:
        fault = _fault(manifest, record, window, one)
        if not fault and (one.round, one.said.pair) in taken:
            fault = "its person said one thing of these two samples before"
        if not fault:
            taken.add((one.round, one.said.pair))
        yield one, fault


def preferences_about(manifest: RunManifest, record: RecordOf, round_: int) -> tuple[ListedPreference, ...]:
    """Return the preferences about a round's samples that count, in the order of the records.

    Raises:
        Malformed: the round's record, or one that may carry them, is not here; no other is looked at.
    """
    taken, found = set(), []
    for later in range(round_ + 1, last_record(manifest, round_) + 1):
        window = open_rounds(manifest, later)
        for one in _here(record, later).preferences:
            about = one.round == round_ and one.said.pair not in taken
            if about and not _fault(manifest, record, window, one):
                taken.add(one.said.pair)
                found.append(one)
    return tuple(found)


def _fault(manifest: RunManifest, record: RecordOf, window: range, one: ListedPreference) -> str:
    """Return why a preference cannot count, whatever else is said, or an empty string."""
    if not window and (manifest.rollouts is None or manifest.rollouts.people is None):
        return "the run asks no people"
    if one.round not in window:
        return (
            f"about round {one.round}, and this record may carry those of {window.start} to {window.stop - 1}"
        )
    if not any(unit.merged and unit.number == one.said.number for unit in _here(record, one.round).units):
        return f"about number {one.said.number}, of whom round {one.round} merged nothing"
    try:
        check_preference(manifest, signed(manifest, one))
    except Malformed as error:
        return error.message
    return ""


def _here(record: RecordOf, round_: int) -> RoundRecord:
    found = record(round_)
    if found is None:
        raise Malformed(f"the record of round {round_} is not here")
    return found
