"""Which units are taken back: a pure rule of the records, which names every one of them by (round, number).

A unit that moved the parameters and that a record declares void or false is invalid. Where a unit was false because
its residual was forged, nothing says since when: all units of that peer are invalid that belong to the same chain of
residuals, back to the one that started from zero and on to the last that carried it, drawn or not. (Units are judged
beside later rounds, so a forged residual runs on for a round or two.) What is invalid waits, oldest first, until the
aggregation of a later round takes it back (`training.outer.fitting` says how many at once).

What is judged after the last record, and what still waits then, stays in the final parameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

from protocol.errors import Malformed
from protocol.messages import Judgement, Retraction, RoundRecord, UnitRecord
from training.workbench import AggregateRequest, MovingUpdates, RetractedRound
from verification.cases import combined, forges
from verification.commit import carries_on

MAX_RETRACTED: Final = 100
"""Units taken back in one round, so that its record stays a single message."""

Units = frozenset[tuple[int, int]]
"""Units by (round, number)."""


def waiting(records: Sequence[RoundRecord]) -> tuple[Retraction, ...]:
    """Return the units that the newest record may take back, oldest first, then by number.

    Args:
        records: what is in force of each (`verification.lateness.in_force`), from round 0 on; of the newest only
            its judgements are read, which count already.
    """
    newest = len(records) - 1
    judged: dict[tuple[int, int], list[Judgement]] = {}
    for record in records:
        for one in record.judged:
            judged.setdefault((one.round, one.number), []).append(one)
    invalid = {key for key, found in judged.items() if combined(found) in ("void", "false")}
    forged = (key for key, found in judged.items() if forges(found))
    invalid |= chained(records, forged)
    gone = {(one.round, one.number) for record in records[:newest] for one in record.retracted}
    return tuple(
        Retraction(round=round_, number=number)
        for round_, number in sorted(invalid - gone)
        if round_ < newest and any(unit.number == number for unit in moving_units(records[round_]))
    )


def chained(records: Sequence[RoundRecord], forged: Iterable[tuple[int, int]]) -> Units:
    """Return all units whose residual hangs together with that of a unit whose residual was forged.

    Args:
        records: what is in force of each, from round 0 on.
        forged: units by (round, number).
    """
    found: set[tuple[int, int]] = set()
    for round_, number in forged:
        if (round_, number) in found or round_ >= len(records):
            continue
        first = last = round_
        while first and carries_on(number, records[first - 1]):
            first -= 1
        while last + 1 < len(records) and carries_on(number, records[last]):
            last += 1
        found |= {(one, number) for one in range(first, last + 1)}
    return frozenset(found)


def sources(
    records: Mapping[int, RoundRecord], retracted: Sequence[Retraction]
) -> tuple[RetractedRound, ...]:
    """Return what an aggregation needs to take units back: all updates of their rounds, since these set the shares.

    Args:
        records: what is in force of each; at least those of the rounds named.

    Raises:
        Malformed: a unit named moved nothing in one of these rounds.
    """
    found = []
    for round_, group in groupby(retracted, lambda one: one.round):
        if round_ not in records:
            raise Malformed(f"a unit of round {round_} is taken back, which is not before this one")
        record = records[round_]
        moving = moving_units(record)
        places = {unit.number: place for place, unit in enumerate(moving)}
        numbers = [one.number for one in group]
        missing = [number for number in numbers if number not in places]
        if missing:
            raise Malformed(f"number {missing[0]} is taken back, but moved nothing in round {round_}")
        taken = tuple(places[number] for number in numbers)
        moved = moving_updates(moving)
        found.append(
            RetractedRound(updates=moved.updates, weights=moved.weights, taken=taken, joint=record.joint)
        )
    return tuple(found)


def aggregate_request(record: RoundRecord, earlier: Mapping[int, RoundRecord]) -> AggregateRequest:
    """Return what the outer step of a round takes in: all updates, or the joint one in their place.

    Args:
        record: what is in force of the round's.
        earlier: the same of those before it, at least of those it takes something back from.

    Raises:
        Malformed: it takes back what moved nothing.
    """
    moving = moving_updates(moving_units(record) if record.joint is None else ())
    return AggregateRequest(
        parameters=record.parameters,
        joint=record.joint,
        updates=moving.updates,
        weights=moving.weights,
        retracted=sources(earlier, record.retracted),
    )


def moving_units(record: RoundRecord) -> tuple[UnitRecord, ...]:
    """Return the units whose updates move the parameters, in the record's order."""
    return tuple(unit for unit in record.units if unit.moves)


def moving_updates(units: Iterable[UnitRecord]) -> MovingUpdates:
    """Return the updates of such units, as an aggregation takes them."""
    found = [(unit.blob, unit.weight) for unit in units if unit.blob is not None]
    return MovingUpdates(
        updates=tuple(blob for blob, _ in found), weights=tuple(weight for _, weight in found)
    )
