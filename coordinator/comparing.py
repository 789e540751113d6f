"""What people can compare now, and why a preference would not count: read from the database, nothing is written."""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from coordinator.tables import PreferenceRow, RoundRow, RunRow, SamplesRow, UnitRow
from protocol.canonical import digest
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.messages import Preference
from protocol.preferences import people_of, place_of
from verification.preferences import last_record, open_rounds

MAX_GROUPS: Final = 4096  # that are looked at for a pair
INVALID: Final = ("void", "false")

Pair = tuple[int, int, int, int, int]
"""Name two samples: round, number, group, lower place, higher place."""


@dataclass(frozen=True)
class Comparable:
    """Hold what may be compared now: of open rounds, merged, and not found invalid."""

    rounds: range
    groups: tuple[tuple[int, int, int], ...]  # (round, number, group)
    said: tuple[PreferenceRow, ...]


class Comparisons:
    """Read what a run's people can compare."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def manifest(self) -> RunManifest:
        """Return the run's manifest.

        Raises:
            Malformed: the coordinator has not begun, or the run asks no people.
        """
        with Session(self._engine) as session:
            wire = session.scalar(select(RunRow.manifest))
        if wire is None:
            raise Malformed("the coordinator has not begun")
        manifest = RunManifest.from_bytes(wire.encode())
        people_of(manifest)
        return manifest

    def next_pair(self, manifest: RunManifest, address: str, skipped: set[Pair]) -> dict[str, Any] | None:
        """Return two samples for a person to compare, those first that few have compared; None: there are none now.

        Which is shown on the left, and where several are equally rare which comes first, depends on the person.

        Raises:
            Malformed: the address is none of the run's people.
        """
        person = self.person(manifest, address)
        with Session(self._engine) as session:
            found = _comparable(session, manifest)
            counts = Counter((one.round, one.number, one.group) for one in found.said)
            order = sorted(found.groups, key=lambda group: (counts[group], _lot(person, *group)))
            for group in order:
                pair = _pair(session, group, person, found.said, skipped)
                if pair is not None:
                    low, high, samples = pair
                    if _lot(person, *group, low, high)[0] in "01234567":
                        low, high = high, low
                    place = dict(zip(("round", "number", "group"), group, strict=True))
                    sides = {
                        name: {"place": one, **samples[one]} for name, one in (("left", low), ("right", high))
                    }
                    return {**place, **sides, "last_record": last_record(manifest, group[0])}
        return None

    def person(self, manifest: RunManifest, address: str) -> int:
        """Return the place of an address among a run's people.

        Raises:
            Malformed: it is not there.
        """
        place = place_of(manifest, address)
        if place is None:
            raise Malformed(f"{address} is not among the people whose preferences count in this run")
        return place

    def refusal(self, manifest: RunManifest, round_: int, said: Preference) -> str:
        """Return why a preference would not count, as far as the database tells, or an empty string."""
        with Session(self._engine) as session:
            found = _comparable(session, manifest)
            if round_ not in found.rounds:
                when = "too late" if round_ < found.rounds.stop else "too early"
                return f"{when}: samples of round {round_} cannot be compared now"
            unit = session.get(UnitRow, (round_, said.number))
            if unit is None or not unit.merged or unit.outcome in INVALID:
                return f"nothing of number {said.number} in round {round_} is learned from"
            if session.get(PreferenceRow, (round_, *said.pair)) is not None:
                return "you have compared these two samples before"
        return ""


def _comparable(session: Session, manifest: RunManifest) -> Comparable:
    recorded = session.scalar(select(func.max(RoundRow.round)).where(RoundRow.ended_at.is_not(None)))
    rounds = open_rounds(manifest, 0 if recorded is None else recorded + 1)
    inside = (rounds.start, rounds.stop - 1)
    groups = session.execute(
        select(SamplesRow.round, SamplesRow.number, SamplesRow.group)
        .join(UnitRow, (UnitRow.round == SamplesRow.round) & (UnitRow.number == SamplesRow.number))
        .where(SamplesRow.round.between(*inside), UnitRow.merged.is_(True))
        .where(UnitRow.outcome.is_(None) | UnitRow.outcome.not_in(INVALID))
        .order_by(SamplesRow.round, SamplesRow.number, SamplesRow.group)
        .limit(MAX_GROUPS)
    ).all()
    said = session.scalars(select(PreferenceRow).where(PreferenceRow.round.between(*inside))).all()
    return Comparable(rounds, tuple((one[0], one[1], one[2]) for one in groups), tuple(said))


def _pair(
    session: Session,
    group: tuple[int, int, int],
    person: int,
    said: tuple[PreferenceRow, ...],
    skipped: set[Pair],
) -> tuple[int, int, list[dict[str, Any]]] | None:
    """Return the two differing samples of a group that were compared least, and all of its samples."""
    samples: list[dict[str, Any]] = json.loads(session.get_one(SamplesRow, group).samples)
    here = [one for one in said if (one.round, one.number, one.group) == group]
    counts = Counter((one.low, one.high) for one in here)
    own = {(one.low, one.high) for one in here if one.person == person}
    free = [
        (low, high)
        for low, high in combinations(range(len(samples)), 2)
        if samples[low] != samples[high] and (low, high) not in own and (*group, low, high) not in skipped
    ]
    if not free:
        return None
    low, high = min(free, key=lambda pair: (counts[pair], _lot(person, *group, *pair)))
    return low, high, samples


def _lot(*numbers: int) -> str:
    return digest(" ".join(map(str, numbers)).encode())
