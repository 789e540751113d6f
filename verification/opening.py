"""What a training unit opens: addresses that must give the committed roots, and the files a replay reads."""

from functools import lru_cache

import numpy as np

from contracts.types import CaseOutcome
from protocol.canonical import digest
from protocol.errors import Malformed, ProofRejected
from protocol.joint import max_joint_bytes
from protocol.manifest import RunManifest
from protocol.messages import Opening, Signed
from protocol.model_config import ModelConfig
from protocol.published import max_published_bytes
from protocol.state import NOTHING_CARRIED, moments_root, residual_root, segment_root, update_root
from protocol.tensors import moment_layout, pack, parameter_layout
from training.outer import outer_layout
from verification.commit import check_carried, check_tier
from verification.unit import NO_RESULT, DrawnUnit, Finding, ForgedResidual, NeededFile


@lru_cache(maxsize=8)
def zero_moments(model: ModelConfig) -> str:
    """Return the address of the moments of a peer that carries nothing: zeros after zero steps."""
    layout = moment_layout(model)
    return digest(pack(layout, np.zeros(layout.size, np.float32), 0))


def check_opening(manifest: RunManifest, unit: DrawnUnit, opening: Signed[Opening]) -> None:
    """Check that the addresses an accused peer signed give the roots it committed to.

    Raises:
        Malformed: the commitment carries other roots than the unit must, or has another number of segments, so
            that it should not have been listed; or the opening is of another round, peer, commitment or
            segment: nothing that was asked for is open.
        ProofRejected: an address does not give its committed root (`ForgedResidual`: that of a residual).
            Opening and commitment are signed by one peer, so that the two messages prove it without a file; where
            it has changed its key in between, with what the ledger says of its keys.
    """
    said = opening.body
    check_listed(manifest, unit)
    if (opening.run, opening.round, said.number) != (unit.commitment.run, unit.round, unit.number):
        raise Malformed("opening of another unit")
    if said.commitment != unit.commitment.id:
        raise Malformed("opening of another commitment")
    if said.segment != unit.segment:
        raise Malformed(f"opening of segment {said.segment} instead of {unit.segment}")
    if manifest.rollouts is not None and (
        said.published is None or not 0 < said.published_bytes <= max_published_bytes(manifest)
    ):
        raise Malformed("opening without the unit's rollouts")
    if opening.author not in (unit.commitment.author, *unit.openers):
        raise Malformed("opening signed neither by the commitment's key nor by a later one of its number")
    for what, found, committed in _roots(manifest, unit, said):
        if found != committed:
            if what in ("residual before", "residual after"):
                raise ForgedResidual(f"opened {what} does not give the committed root")
            raise ProofRejected(f"opened {what} does not give the committed root")


def check_listed(manifest: RunManifest, unit: DrawnUnit) -> None:
    """Check that a commitment carries what it must, in the tier it must, and has that tier's segments.

    Raises:
        Malformed: it should not have been listed.
    """
    body = unit.commitment.body
    check_carried(manifest, body, unit.carried)
    check_tier(manifest, unit.round, body, unit.carried)
    if len(body.segments) != unit.view(manifest).segments + 1:
        raise Malformed(f"commitment with {len(body.segments)} segment roots")
    if manifest.verification.profile(body.profile) is None:
        raise Malformed(f"commitment under profile {body.profile}, which the run does not have")


def not_countable(manifest: RunManifest, unit: DrawnUnit) -> Finding | None:
    """Return what a juror finds of a commitment that should not have been listed; None where it should.

    It is void: what it says is public, and who listed it is at fault as well.
    """
    try:
        check_listed(manifest, unit)
    except Malformed as error:
        return Finding(CaseOutcome.VOID, NO_RESULT, error.message[:200])
    return None


def _roots(manifest: RunManifest, unit: DrawnUnit, said: Opening) -> list[tuple[str, str, str]]:
    """Return (what, root from the opened addresses, committed root) of everything an opening shows."""
    run, round_, number = unit.commitment.run, unit.round, unit.number
    body = unit.commitment.body
    start, last = unit.segment, unit.view(manifest).segments

    def state(index: int, parameters: str, moments: str) -> str:
        return segment_root(run, round_, number, index, parameters, moments)

    checks = [
        (
            "start of the segment",
            state(start, said.start_parameters, said.start_moments),
            body.segments[start],
        ),
        (
            "end of the segment",
            state(start + 1, said.end_parameters, said.end_moments),
            body.segments[start + 1],
        ),
        ("final state", state(last, said.final_parameters, said.final_moments), body.segments[last]),
        ("residual after", residual_root(run, round_, number, said.residual_after), body.residual_after),
        ("update", update_root(run, round_, number, said.symbols, said.salt), body.update),
        (
            "residual before",
            _carried_residual(run, round_ - 1, number, said.residual_before),
            body.residual_before,
        ),
    ]
    if unit.goes_on(manifest) and start in (0, manifest.outer.delay):
        before = said.before_parameters or "", said.before_moments or ""
        found = segment_root(run, round_ - 1, number, unit.carried.segments, *before)
        checks.append(("state gone on from", found, unit.carried.state))
        if start == 0:
            checks.append(("first parameters", said.start_parameters, before[0]))
    if manifest.carries_moments:
        after = moments_root(run, round_, number, said.final_moments)
        checks.append(("final moments", after, body.moments_after))
    if start == 0:
        if body.moments_before == NOTHING_CARRIED:
            checks.append(("first moments", said.start_moments, zero_moments(manifest.model)))
        else:
            carried = moments_root(run, round_ - 1, number, said.start_moments)
            checks.append(("carried moments", carried, body.moments_before))
    return checks


def _carried_residual(run: str, round_: int, number: int, residual: str | None) -> str:
    if residual is None:
        return NOTHING_CARRIED
    # Nothing is carried into round 0, so an address there gives no root at all.
    return residual_root(run, round_, number, residual) if round_ >= 0 else ""


def needed_files(manifest: RunManifest, unit: DrawnUnit, opening: Opening) -> tuple[NeededFile, ...]:
    """Return the files that a replay reads.

    Both ends of the segment, the final parameters, the residual before, and the public parameters of the round; the
    final moments where the update says a slice of them; of
    rollouts the unit's own, those it learns from and those it judges, and the judge's parameters; where the round
    before had a joint update, that one, and the peer's own that became part of it. What is recomputed exactly is
    compared by address and not fetched. Ends are late: they are served once verifiers have sealed
    (`verification.seal`).
    """
    parameters = parameter_layout(manifest.model).file_bytes
    moments = moment_layout(manifest.model).file_bytes
    needed = [
        NeededFile(
            "parameters", unit.commitment.body.parameters, outer_layout(manifest).file_bytes, public=True
        ),
        NeededFile("start_parameters", opening.start_parameters, parameters),
        NeededFile("start_moments", opening.start_moments, moments),
        NeededFile("end_parameters", opening.end_parameters, parameters, late=True),
        NeededFile("end_moments", opening.end_moments, moments, late=True),
        NeededFile("final_parameters", opening.final_parameters, parameters, late=True),
    ]
    if manifest.moment_slices:
        needed.append(NeededFile("final_moments", opening.final_moments, moments, late=True))
    if manifest.rollouts is not None and opening.published is not None:
        needed.append(NeededFile("published", opening.published, opening.published_bytes))
        largest = max_published_bytes(manifest)
        needed += (NeededFile("experience", blob, largest, public=True) for blob in unit.lessons.blobs)
        judge = manifest.judge
        if judge is not None:
            bytes_ = parameter_layout(judge.model).file_bytes
            needed.append(NeededFile("judge", judge.parameters, bytes_, public=True))
    if unit.goes_on(manifest) and unit.segment == manifest.outer.delay:
        assert opening.before_parameters is not None, (
            "an opening without it does not give the committed roots"
        )
        needed.append(NeededFile("before_parameters", opening.before_parameters, parameters))
    if opening.residual_before is not None:
        needed.append(NeededFile("residual_before", opening.residual_before, parameters))
    if (back := unit.carried.returned) is not None:
        needed.append(NeededFile("update_before", back.update, max_published_bytes(manifest)))
        needed.append(NeededFile("joint_before", back.joint, max_joint_bytes(manifest), public=True))
    return tuple(needed)
