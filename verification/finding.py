"""What a juror finds of a segment that a case is about: an outcome, and what only an exact replay can know.

A finding is a function of the run's signed messages and the opened files, with the same bits on every machine and from
every juror (`training.exact`, `training.distance`). Whatever a case says and whoever opened it, the same is found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from contracts.types import CaseOutcome
from protocol.canonical import tagged_digest
from protocol.errors import Malformed, OwnFault, ProofRejected
from protocol.manifest import RunManifest
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED, Opening
from training.joint import read_returned
from training.outer import load_parameters
from training.trainer import Material, exact_trainer, steps_taken
from verification.dispute import largest_distance, reference_root, run_segment, segment_rows, unit_profile
from verification.judge import is_fresh
from verification.opened import (
    Recomputed,
    Unplayable,
    check_assignment,
    check_start,
    check_update,
    play_again,
    read_end,
    read_residual,
    read_shown,
    read_start,
    recompute_update,
)
from verification.sampled import Sampling, find_groups
from verification.unit import NO_RESULT, DrawnUnit, Finding, ForgedResidual


def find(
    manifest: RunManifest, material: Material, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
) -> Finding:
    """Judge a segment in exact arithmetic, all its files at hand.

    Of several faults a forged residual is named first, since it is carried on, then an update that does not follow,
    then rollouts that are not the environment's or the policy's.

    Args:
        material: what its steps are taken on.
        opening: of the segment, whose addresses give the committed roots (`verification.opening.check_opening`).
        files: content by address; each hashes to its address.
    """
    try:
        outer = load_parameters(manifest, files[unit.commitment.body.parameters])
        public = outer.parameters
        back = read_returned(manifest, unit.carried.returned, lambda address, _: files[address])
    except Malformed as error:
        # Whoever commits to a round names its parameters: the fault is not necessarily the owner's.
        return Finding(
            CaseOutcome.VOID, NO_RESULT, f"the round's public parameters or updates: {error.message}"[:200]
        )
    recomputed: Recomputed | None = None
    try:
        residual = read_residual(manifest, opening, files, back)
        shown = read_shown(manifest, opening, files)
        recomputed = recompute_update(manifest, unit, opening, public, residual, files, shown)
        check_update(opening, recomputed)
        check_assignment(manifest, unit)
        check_start(manifest, unit, opening, public)
        samplings = play_again(manifest, unit, shown, public, files)
        start = read_start(manifest, unit, opening, files, outer)
        steps = steps_taken(material, segment_rows(manifest, unit)[0])
        end = read_end(manifest, opening, start, files, steps)
    except Unplayable as error:
        return Finding(CaseOutcome.VOID, _read_result(unit, recomputed), error.message[:200])
    except ProofRejected as error:
        forged = isinstance(error, ForgedResidual)
        outcome = CaseOutcome.FORGED if forged else CaseOutcome.FALSE
        return Finding(outcome, _read_result(unit, recomputed), error.message[:200])
    sampled = _find_samplings(manifest, unit, samplings)
    if sampled is not None and sampled.outcome == CaseOutcome.FALSE:
        return sampled
    reference = run_segment(manifest, exact_trainer(manifest, material), unit, start)
    tensor, distance = largest_distance(manifest, start, end, reference)
    result = _both(sampled, bytes.fromhex(reference_root(manifest, unit, reference)))
    profile, fresh = unit_profile(manifest, unit), is_fresh(manifest, unit.commitment.body, unit.segment)
    if distance <= profile.bound(fresh) and sampled is not None and sampled.outcome == CaseOutcome.VOID:
        return replace(sampled, result=result)
    if distance <= profile.bound(fresh):
        return Finding(CaseOutcome.RIGHT, result, "", distance, tensor)
    void = distance <= profile.slash_bound(fresh)
    reason = f"segment {unit.segment} is {distance:.3g} away from exact arithmetic in {tensor}"
    if reference is None:
        reason = "the opened start leads to values that are not finite"
    return Finding(CaseOutcome.VOID if void else CaseOutcome.FALSE, result, reason, distance, tensor)


def _find_samplings(manifest: RunManifest, unit: DrawnUnit, samplings: Sequence[Sampling]) -> Finding | None:
    """Return how the segment's groups and judgments were sampled, by exact arithmetic; None where it has neither.

    Of two faults the worse is named, the first where they are equal; the result holds what is known of both.
    """
    found = [_find_sampling(manifest, unit, one) for one in samplings]
    if len(found) < 2:
        return found[0] if found else None
    order = (CaseOutcome.FALSE, CaseOutcome.VOID, CaseOutcome.RIGHT)
    worst = min(found, key=lambda one: order.index(one.outcome))
    return replace(worst, result=_both(found[0], found[1].result))


def _find_sampling(manifest: RunManifest, unit: DrawnUnit, sampling: Sampling) -> Finding:
    name = sampling.name
    try:
        found = find_groups(sampling, unit_profile(manifest, unit))
    except OwnFault as error:  # exact arithmetic stops at the same place everywhere
        return Finding(CaseOutcome.VOID, NO_RESULT, f"{name}: {error.message}"[:200])
    outcomes = {PASSED: CaseOutcome.RIGHT, REJECTED: CaseOutcome.VOID, PROVEN_FALSE: CaseOutcome.FALSE}
    result = bytes.fromhex(found.measured.best)
    reason = f"{name}: {found.reason}"[:200] if found.reason else ""
    return Finding(outcomes[found.outcome], result, reason, found.measured.regret, f"{name}.regret")


def _both(sampled: Finding | None, result: bytes) -> bytes:
    """Return the result of a segment with rollouts and steps."""
    if sampled is None:
        return result
    return bytes.fromhex(tagged_digest("murmur/finding", sampled.result, result))


def _read_result(unit: DrawnUnit, recomputed: Recomputed | None) -> bytes:
    """Return the result of a fault that shows without taking the segment's steps again."""
    found = ("", "") if recomputed is None else (recomputed.symbols, recomputed.residual)
    return bytes.fromhex(tagged_digest("murmur/finding", unit.commitment.id, unit.segment, *found))
