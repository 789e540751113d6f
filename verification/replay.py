"""The replay of a training unit: the drawn segment within tolerance, and the end of the unit exactly.

How a segment is judged, and what exact arithmetic has to do with it, is in `verification.dispute`.

The step is `training.inner`'s, so a verifier executes what the peer executed. Whatever segment was drawn, the
update's symbols and the new residual are recomputed bit by bit, because the codec is exact on every machine.

A replay has two halves: `begin` needs only the segment's start, and gives the fingerprint that a verifier seals;
`compare` reads the end, which is served after that.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import process_time

from protocol.canonical import digest
from protocol.errors import Malformed, OwnFault, ProofInconclusive, ProofRejected
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import Opening, Signed
from protocol.tensors import Floats, pack, parameter_layout, unpack
from protocol.update import symbols_digest
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.corpus import Shard
from training.inner import InnerState
from training.outer import load_parameters
from training.trainer import trainer_for
from verification import opening as training_opening
from verification.dispute import judge_segment, segment_rows, unit_profile
from verification.fingerprint import VALUES, fingerprint, middle_steps
from verification.profile import judging_pair, this_machine
from verification.unit import DrawnUnit, ForgedResidual, NeededFile, ReplayReport, proven_false

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingUnits:
    """Replay pre-training units of one run (`verification.unit.UnitKind`)."""

    shard: Shard
    device: str = "cpu"

    def check_opening(self, manifest: RunManifest, unit: DrawnUnit, opening: Signed[Opening]) -> None:
        """Compare the signed addresses with the committed roots; see `verification.opening`."""
        training_opening.check_opening(manifest, unit, opening)

    def needed_files(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening
    ) -> tuple[NeededFile, ...]:
        """Return the files to fetch; see `verification.opening`."""
        return training_opening.needed_files(manifest, unit, opening)

    def replay(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> ReplayReport:
        """Execute the drawn segment again and recompute the update and the residual, all files at hand.

        Raises:
            ProofInconclusive: the round's public parameters are not a file of this run, or no replay on this machine
                may judge the unit's profile.
            OwnFault: this machine fails.
        """
        begun = self.begin(manifest, unit, opening, files)
        if isinstance(begun, ReplayReport):
            return begun
        return self.compare(manifest, unit, opening, files, begun)

    def begin(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> "ReplayReport | Replayed":
        """Execute the drawn segment again; a report says that batches or start are proven false without its end.

        Raises:
            ProofInconclusive: as `replay`.
            OwnFault: this machine fails.
        """
        began = process_time()
        profile = self._own_profile(manifest, unit)
        try:
            public = load_parameters(manifest, files[unit.commitment.body.parameters]).parameters
        except Malformed as error:
            raise ProofInconclusive(f"the round's public parameters: {error.message}") from error
        try:
            _check_assignment(manifest, unit)
            start, residual = _read_start(manifest, unit, opening, files)
            _check_start(manifest, unit, opening, start, public)
        except ProofRejected as error:
            return proven_false(error)
        end, shown = self._run_segment(manifest, unit, start, profile)
        return Replayed(profile, public, start, end, residual, shown, process_time() - began)

    def compare(
        self,
        manifest: RunManifest,
        unit: DrawnUnit,
        opening: Opening,
        files: Mapping[str, bytes],
        replayed: "Replayed",
    ) -> ReplayReport:
        """Compare a replay with the opened end, and recompute the update and the residual.

        Args:
            files: of the opening's end and final state; others are not read.
        """
        try:
            # First, so that no fault of the segment hides a forged residual.
            _check_update(manifest, opening, replayed, files)
            end = _read_end(manifest, opening, replayed.start, files)
        except ProofRejected as error:
            return replace(proven_false(error), fingerprint=replayed.fingerprint)
        report = judge_segment(
            manifest, self.shard, unit, replayed.profile, replayed.start, end, replayed.end
        )
        return replace(report, fingerprint=replayed.fingerprint)

    def _own_profile(self, manifest: RunManifest, unit: DrawnUnit) -> NumericProfile:
        """Return the profile under which a unit is replayed here."""
        profile = unit_profile(manifest, unit)
        pair = judging_pair(manifest, this_machine(self.device), profile)
        if pair.replay is None:
            raise ProofInconclusive(
                f"this machine cannot judge a unit of {profile.name}: {pair.reason}",
                hint="`murmur verifier profiles` shows what it can judge",
            )
        return pair.replay

    def _run_segment(
        self, manifest: RunManifest, unit: DrawnUnit, start: InnerState, own: NumericProfile
    ) -> tuple[InnerState | None, tuple[float, ...]]:
        """Return the segment's end, None where values stop being finite, and the fingerprint to seal."""
        offsets, step = segment_rows(manifest, unit)
        steps, middle = len(offsets), middle_steps(len(offsets))
        trainer = trainer_for(manifest, self.shard, own, self.device)
        trainer.load(start)
        end: InnerState | None = None
        shown: tuple[float, ...] = (0.0,) * VALUES  # of a replay that stops being finite on its way
        try:
            trainer.run(offsets[:middle], step)
            if middle <= steps:
                shown = fingerprint(manifest, unit, start, trainer.state())
                trainer.run(offsets[middle:], step + middle)
                return trainer.state(), shown
            end = trainer.state()
            further = assignment(manifest, unit.sampling, unit.round, unit.number)[:1]
            trainer.run(further, step + steps)
            shown = fingerprint(manifest, unit, start, trainer.state())
        except OwnFault as error:
            log.info("round %d, number %d: %s", unit.round, unit.number, error)
        return end, shown


@dataclass(frozen=True, eq=False)
class Replayed:
    """Hold a replay whose opened end nobody here has seen (`verification.unit.Replayed`)."""

    profile: NumericProfile  # of the replay
    public: Floats  # [P], the round's global parameters
    start: InnerState
    end: InnerState | None  # None where values stopped being finite
    residual: Floats | None  # [P], carried into the unit
    fingerprint: tuple[float, ...]
    cpu_s: float


def _check_assignment(manifest: RunManifest, unit: DrawnUnit) -> None:
    drawn = assignment_digest(assignment(manifest, unit.beacon, unit.round, unit.number))
    if drawn != unit.commitment.body.assignment:
        raise ProofRejected("commitment to other batches than the assigned ones")


def _read_start(
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
) -> tuple[InnerState, Floats | None]:
    """Read where the segment starts and the residual; what no honest trainer can have written is proven false."""
    model = manifest.model
    residual = _read_residual(manifest, opening, files)
    try:
        start = InnerState.from_files(model, files[opening.start_parameters], files[opening.start_moments])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    if (start.exp_avg_sq < 0).any():
        raise ProofRejected("opened a negative second moment")
    steps = manifest.verification.segment_steps
    if start.steps > unit.round * manifest.inner.steps + unit.segment * steps:
        raise ProofRejected("opened more optimizer steps than the run has had")
    return start, residual


def _read_end(
    manifest: RunManifest, opening: Opening, start: InnerState, files: Mapping[str, bytes]
) -> InnerState:
    """Read the segment's end; see `_read_start`."""
    model = manifest.model
    try:
        end = InnerState.from_files(model, files[opening.end_parameters], files[opening.end_moments])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    if (end.exp_avg_sq < 0).any():
        raise ProofRejected("opened a negative second moment")
    steps = manifest.verification.segment_steps
    if end.steps != start.steps + steps:
        raise ProofRejected(f"opened {end.steps - start.steps} optimizer steps in a segment of {steps}")
    return end


def _check_start(
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, start: InnerState, public: Floats
) -> None:
    if unit.segment:
        return
    if digest(pack(parameter_layout(manifest.model), public)) != opening.start_parameters:
        raise ProofRejected("first segment starts from other parameters than the round's")


def _read_residual(manifest: RunManifest, opening: Opening, files: Mapping[str, bytes]) -> Floats | None:
    """Read what the unit carried in; who carries on what is no residual has forged it before."""
    if opening.residual_before is None:
        return None
    try:
        return unpack(parameter_layout(manifest.model), files[opening.residual_before])[0]
    except Malformed as error:
        raise ForgedResidual(f"opened a residual that is not canonical: {error.message}") from error


def _check_update(
    manifest: RunManifest, opening: Opening, replayed: Replayed, files: Mapping[str, bytes]
) -> None:
    """Recompute update and residual; of two faults the residual's is named, since it is carried on."""
    layout = parameter_layout(manifest.model)
    try:
        final, _ = unpack(layout, files[opening.final_parameters])
        symbols, after = compress(manifest.codec, replayed.public - final, replayed.residual)
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    except OwnFault as error:
        raise ProofRejected(f"the final state has no update: {error.message}") from error
    if digest(pack(layout, after)) != opening.residual_after:
        raise ForgedResidual("committed residual does not follow from final state and residual before")
    if symbols_digest(symbols) != opening.symbols:
        raise ProofRejected("committed symbols do not follow from final state and residual")
