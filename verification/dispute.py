"""How a segment is judged: by a replay under the unit's profile, and in dispute by exact arithmetic.

Two honest float32 replays may differ, so none of them proves a fault. What is beyond the profile's tolerance is
replayed once more, whole and from its committed start, in arithmetic that has the same bits on every machine
(`training.exact`): all who judge then compare the committed end with one reference, whose root they name.
"""

from protocol.canonical import digest
from protocol.errors import OwnFault
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import PASSED, REJECTED
from protocol.state import EXACT_DIVERGES, exact_root
from training.assignment import Offsets, assignment
from training.distance import segment_distances
from training.inner import InnerState
from training.trainer import Material, Trainer, exact_trainer
from verification.judge import grade, is_disputed, is_fresh
from verification.unit import DrawnUnit, ReplayReport

UNBOUNDED = 1e30
"""Stands for a distance that is not a number; the largest a verdict can say."""

SIZELESS = 1e-30
"""Stands for the distance of states that differ in their bits but in no value, as zeros of two signs do."""


def unit_profile(manifest: RunManifest, unit: DrawnUnit) -> NumericProfile:
    """Return the profile that a unit was committed under."""
    profile = manifest.verification.profile(unit.commitment.body.profile)
    assert profile is not None, "a commitment is checked before it is listed"
    return profile


def segment_rows(manifest: RunManifest, unit: DrawnUnit) -> tuple[Offsets, int]:
    """Return the drawn segment's draws int64[steps, batch] and its first global step."""
    steps = manifest.verification.segment_steps
    first = unit.segment * steps
    offsets = assignment(manifest, unit.beacon, unit.round, unit.number)[first : first + steps]
    return offsets, unit.round * manifest.inner.steps + first


def run_segment(
    manifest: RunManifest, trainer: Trainer, unit: DrawnUnit, start: InnerState
) -> InnerState | None:
    """Take the drawn segment's steps; None when they lead to values that are not finite."""
    trainer.load(start)
    try:
        trainer.run(*segment_rows(manifest, unit))
    except OwnFault:
        return None
    return trainer.state()


def judge_segment(
    manifest: RunManifest,
    material: Material,
    unit: DrawnUnit,
    own: NumericProfile,
    start: InnerState,
    claimed: InnerState,
    replayed: InnerState | None,
) -> ReplayReport:
    """Compare the committed end of a segment with a replay of it, and in dispute with the exact reference.

    Args:
        material: what its steps are taken on.
        own: profile of the replay: the unit's, or one that may judge it.
        start, claimed: opened, and equal to the committed roots.
        replayed: the end that the replay reached; None where it stopped being finite, at which honest training stops
            too, so that nobody commits to a later state.
    """
    profile = unit_profile(manifest, unit)
    fresh = is_fresh(manifest, unit.commitment.body, unit.segment)
    distances = _distances(manifest, start, claimed, replayed)
    tensor, distance = max(distances.items(), key=lambda entry: entry[1])
    if not is_disputed(profile, distance, fresh=fresh):
        return ReplayReport(PASSED, "", distance, tensor, distances=distances)
    if own.arithmetic == "exact":
        reference = replayed
    else:
        reference = run_segment(manifest, exact_trainer(manifest, material), unit, start)
    exact_tensor, exact_distance = largest_distance(manifest, start, claimed, reference)
    outcome = grade(profile, exact_distance, fresh=fresh)
    if reference is None:
        reason = "the opened start leads to values that are not finite"
    elif outcome == REJECTED:
        reason = (
            f"segment {unit.segment} replays {distance:.3g} away in {tensor}, exactly {exact_distance:.3g}"
        )
    else:
        reason = (
            f"segment {unit.segment} is {exact_distance:.3g} away from exact arithmetic in {exact_tensor}"
        )
    return ReplayReport(
        outcome,
        reason[:200],
        distance,
        tensor,
        distances=distances,
        exact=reference_root(manifest, unit, reference),
        exact_distance=exact_distance,
    )


def largest_distance(
    manifest: RunManifest, start: InnerState, claimed: InnerState, reached: InnerState | None
) -> tuple[str, float]:
    """Return the tensor whose claimed end is farthest from the one reached, and how far.

    Args:
        reached: None where values stopped being finite.
    """
    found = _distances(manifest, start, claimed, reached)
    return max(found.items(), key=lambda entry: entry[1])


def reference_root(manifest: RunManifest, unit: DrawnUnit, end: InnerState | None) -> str:
    """Return the root of the end that exact arithmetic reaches; None where it stopped being finite."""
    if end is None:
        return EXACT_DIVERGES
    parameters, moments = map(digest, _files(manifest, end))
    return exact_root(manifest.run_id, unit.round, unit.number, unit.segment + 1, parameters, moments)


def _distances(
    manifest: RunManifest, start: InnerState, claimed: InnerState, reached: InnerState | None
) -> dict[str, float]:
    """Return the distance of each tensor, bounded; above zero wherever a bit differs."""
    if reached is None:
        return {"loss": UNBOUNDED}
    found = segment_distances(manifest, start, claimed, reached)
    distances = {name: one if one < UNBOUNDED else UNBOUNDED for name, one in found.items()}
    if not any(distances.values()) and _files(manifest, claimed) != _files(manifest, reached):
        distances[next(iter(distances))] = SIZELESS
    return distances


def _files(manifest: RunManifest, state: InnerState) -> tuple[bytes, bytes]:
    return state.parameters_file(manifest.model), state.moments_file(manifest.model)
