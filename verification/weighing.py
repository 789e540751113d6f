"""What a round's record says of its merged updates: the weight of each, and its peer's score (`training.merging`)."""

from collections.abc import Mapping, Sequence

from protocol.manifest import RunManifest
from protocol.messages import Retraction, RoundRecord, UnitRecord
from training.merging import Merit
from training.workbench import MergedUnit, WeighRequest
from verification.retract import moving_units, moving_updates, sources


def weigh_request(
    round_: int,
    draft: RoundRecord,
    salts: Mapping[int, str],
    earlier: Mapping[int, RoundRecord],
    waiting: Sequence[Retraction] = (),
) -> WeighRequest:
    """Return what a round's updates are judged by.

    Args:
        draft: a record whose merged units all have weight.
        salts: of the reveals, by number.
        earlier: what is in force of the records before it.
        waiting: what may be taken back, oldest first.
    """
    units = moving_units(draft)
    scores = scores_before(earlier)
    merged = (
        MergedUnit(number=unit.number, salt=salts[unit.number], score=scores.get(unit.number))
        for unit in units
    )
    moving = moving_updates(units)
    return WeighRequest(
        round=round_,
        parameters=draft.parameters,
        updates=moving.updates,
        weights=moving.weights,
        retracted=sources(earlier, waiting),
        units=tuple(merged),
    )


def scores_before(earlier: Mapping[int, RoundRecord]) -> dict[int, int]:
    """Return the newest score of every number, given what is in force of the records so far."""
    return {
        unit.number: unit.score
        for _, record in sorted(earlier.items())
        for unit in record.units
        if unit.score is not None
    }


def weigh(draft: RoundRecord, merits: Sequence[Merit]) -> RoundRecord:
    """Return a record whose merged units have the weights and scores of their merits, one for each of them."""
    found = dict(zip((unit.number for unit in moving_units(draft)), merits, strict=True))
    units = (weighed(unit, found[unit.number]) if unit.number in found else unit for unit in draft.units)
    return draft.model_copy(update={"units": tuple(units)})


def unweighed(manifest: RunManifest, unit: UnitRecord) -> UnitRecord:
    """Return a merged unit before its update is judged: it has the weight of its tier."""
    return unit.model_copy(update={"weight": manifest.tier_weights[unit.tier], "reason": "", "score": None})


def weighed(unit: UnitRecord, merit: Merit) -> UnitRecord:
    """Return a merged unit with its merit."""
    weight = unit.weight if merit.passed else 0
    return unit.model_copy(update={"weight": weight, "reason": merit.reason, "score": merit.score})
