"""What a unit's opened files say, read and checked without taking a step again."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.canonical import digest
from protocol.errors import Malformed, MurmurError, OwnFault, ProofRejected
from protocol.manifest import RunManifest
from protocol.messages import Opening
from protocol.published import published_identity, read_published
from protocol.tensors import Floats, pack, parameter_layout, unpack
from protocol.update import symbols_digest
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.inner import InnerState
from verification.rollouts import check_rollouts
from verification.sampled import IndexedGroup
from verification.unit import DrawnUnit, ForgedResidual


def check_assignment(manifest: RunManifest, unit: DrawnUnit) -> None:
    """Compare the batches committed to with those that the beacon assigns.

    Raises:
        ProofRejected: they are others.
    """
    drawn = assignment_digest(assignment(manifest, unit.beacon, unit.round, unit.number))
    if drawn != unit.commitment.body.assignment:
        raise ProofRejected("commitment to other batches than the assigned ones")


def read_start(
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
) -> InnerState:
    """Read where the segment starts.

    Raises:
        ProofRejected: no honest trainer can have written this.
    """
    model = manifest.model
    try:
        start = InnerState.from_files(model, files[opening.start_parameters], files[opening.start_moments])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    if (start.exp_avg_sq < 0).any():
        raise ProofRejected("opened a negative second moment")
    steps = manifest.verification.segment_steps
    if start.steps > unit.round * manifest.inner.steps + unit.segment * steps:
        raise ProofRejected("opened more optimizer steps than the run has had")
    return start


def read_end(
    manifest: RunManifest, opening: Opening, start: InnerState, files: Mapping[str, bytes], steps: int
) -> InnerState:
    """Read the segment's end.

    Args:
        steps: that the segment's draws are.

    Raises:
        ProofRejected: no honest trainer can have written this.
    """
    model = manifest.model
    try:
        end = InnerState.from_files(model, files[opening.end_parameters], files[opening.end_moments])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    if (end.exp_avg_sq < 0).any():
        raise ProofRejected("opened a negative second moment")
    if end.steps != start.steps + steps:
        raise ProofRejected(f"opened {end.steps - start.steps} optimizer steps in a segment of {steps}")
    return end


def check_start(manifest: RunManifest, unit: DrawnUnit, opening: Opening, public: Floats) -> None:
    """Compare the start of a unit's first segment with the round's global parameters, [P].

    Raises:
        ProofRejected: it starts elsewhere.
    """
    if unit.segment:
        return
    if digest(pack(parameter_layout(manifest.model), public)) != opening.start_parameters:
        raise ProofRejected("first segment starts from other parameters than the round's")


def read_residual(manifest: RunManifest, opening: Opening, files: Mapping[str, bytes]) -> Floats | None:
    """Read what the unit carried in, [P]; None for nothing.

    Raises:
        ForgedResidual: who carries on what is no residual has forged it before.
    """
    if opening.residual_before is None:
        return None
    try:
        return unpack(parameter_layout(manifest.model), files[opening.residual_before])[0]
    except Malformed as error:
        raise ForgedResidual(f"opened a residual that is not canonical: {error.message}") from error


@dataclass(frozen=True)
class Recomputed:
    """Name the update and the residual that follow from a unit's final state and the residual before."""

    symbols: str  # identity of what the unit published
    residual: str  # address of the residual's file


def read_groups(manifest: RunManifest, opening: Opening, files: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """Read the canonical bytes of the groups that a unit published; none where runs have no rollouts.

    Raises:
        ProofRejected: what was opened is no unit's blob.
    """
    if manifest.rollouts is None or opening.published is None:
        return ()
    try:
        return read_published(manifest, files[opening.published]).groups
    except Malformed as error:
        raise ProofRejected(f"opened a blob that is not a unit's: {error.message}") from error


class Unplayable(MurmurError):
    """Report that an environment fails on a sample: a defect of the environment's, which nobody pays for with stake."""


def play_again(manifest: RunManifest, unit: DrawnUnit, groups: tuple[bytes, ...]) -> tuple[IndexedGroup, ...]:
    """Play all rollouts of a unit again; return the groups that belong to the drawn segment.

    Raises:
        ProofRejected: they are not what the environment gives.
        Unplayable: the environment fails on one of them.
    """
    if not groups:
        return ()
    try:
        found = check_rollouts(manifest, unit.beacon, unit.round, unit.number, groups)
    except Malformed as error:
        raise ProofRejected(f"rollouts: {error.message}") from error
    except OwnFault as error:
        raise Unplayable(f"rollouts that cannot be played: {error.message}") from error
    return tuple(enumerate(found))[unit.segment :: manifest.segments]


def recompute_update(
    manifest: RunManifest,
    opening: Opening,
    public: Floats,
    residual: Floats | None,
    files: Mapping[str, bytes],
    groups: tuple[bytes, ...] = (),
) -> Recomputed:
    """Recompute update and residual, which have the same bits on every machine.

    Args:
        public: [P], the round's global parameters.
        residual: [P], carried into the unit.
        groups: canonical bytes of the rollouts published with it.

    Raises:
        ProofRejected: there is no update of this final state.
    """
    layout = parameter_layout(manifest.model)
    try:
        final, _ = unpack(layout, files[opening.final_parameters])
        symbols, after = compress(manifest.codec, public - final, residual)
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    except OwnFault as error:
        raise ProofRejected(f"the final state has no update: {error.message}") from error
    return Recomputed(published_identity(symbols_digest(symbols), groups), digest(pack(layout, after)))


def check_update(opening: Opening, recomputed: Recomputed) -> None:
    """Compare update and residual; of two faults the residual's is named, since it is carried on.

    Raises:
        ProofRejected, ForgedResidual: one is not what was committed.
    """
    if recomputed.residual != opening.residual_after:
        raise ForgedResidual("committed residual does not follow from final state and residual before")
    if recomputed.symbols != opening.symbols:
        raise ProofRejected("committed symbols do not follow from final state, residual and rollouts")
