"""The replay of a training unit: the drawn segment within tolerance, and the end of the unit exactly.

How a segment is judged, and what exact arithmetic has to do with it, is in `verification.dispute`.

The step is `training.inner`'s, so a verifier executes what the peer executed. Whatever segment was drawn, the
update's symbols and the new residual are recomputed bit by bit, because the codec is exact on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.canonical import digest
from protocol.errors import Malformed, OwnFault, ProofInconclusive, ProofRejected
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import PROVEN_FALSE, Opening, Signed
from protocol.tensors import Floats, pack, parameter_layout, unpack
from protocol.update import symbols_digest
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.corpus import Shard
from training.inner import InnerState
from training.outer import load_parameters
from training.trainer import trainer_for
from verification import opening as training_opening
from verification.dispute import judge_segment, run_segment, unit_profile
from verification.profile import judging_pair, this_machine
from verification.unit import DrawnUnit, NeededFile, ReplayReport


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
        """Execute the drawn segment again and recompute the update and the residual.

        Raises:
            ProofInconclusive: the round's public parameters are not a file of this run, or no replay on this machine
                may judge the unit's profile.
            OwnFault: this machine fails.
        """
        profile = self._own_profile(manifest, unit)
        try:
            public = load_parameters(manifest, files[unit.commitment.body.parameters]).parameters
        except Malformed as error:
            raise ProofInconclusive(f"the round's public parameters: {error.message}") from error
        try:
            _check_assignment(manifest, unit)
            states = _read(manifest, unit, opening, files)
            _check_start(manifest, unit, opening, states.start, public)
            _check_symbols(manifest, unit, opening, states, public)
        except ProofRejected as error:
            return ReplayReport(PROVEN_FALSE, error.message[:200])
        return self._replay_segment(manifest, unit, states, profile)

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

    def _replay_segment(
        self, manifest: RunManifest, unit: DrawnUnit, states: "_Opened", own: NumericProfile
    ) -> ReplayReport:
        trainer = trainer_for(manifest, self.shard, own, self.device)
        replayed = run_segment(manifest, trainer, unit, states.start)
        return judge_segment(manifest, self.shard, unit, own, states.start, states.end, replayed)


@dataclass(frozen=True, eq=False)
class _Opened:
    start: InnerState
    end: InnerState
    final: Floats
    residual: Floats | None


def _check_assignment(manifest: RunManifest, unit: DrawnUnit) -> None:
    drawn = assignment_digest(assignment(manifest, unit.beacon, unit.round, unit.number))
    if drawn != unit.commitment.body.assignment:
        raise ProofRejected("commitment to other batches than the assigned ones")


def _read(manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]) -> _Opened:
    """Read what was opened; what no honest trainer can have written is proven false."""
    model = manifest.model
    try:
        start = InnerState.from_files(model, files[opening.start_parameters], files[opening.start_moments])
        end = InnerState.from_files(model, files[opening.end_parameters], files[opening.end_moments])
        final, _ = unpack(parameter_layout(model), files[opening.final_parameters])
        residual = None
        if opening.residual_before is not None:
            residual, _ = unpack(parameter_layout(model), files[opening.residual_before])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    steps = manifest.verification.segment_steps
    if (start.exp_avg_sq < 0).any() or (end.exp_avg_sq < 0).any():
        raise ProofRejected("opened a negative second moment")
    if start.steps > unit.round * manifest.inner.steps + unit.segment * steps:
        raise ProofRejected("opened more optimizer steps than the run has had")
    if end.steps != start.steps + steps:
        raise ProofRejected(f"opened {end.steps - start.steps} optimizer steps in a segment of {steps}")
    return _Opened(start, end, final, residual)


def _check_start(
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, start: InnerState, public: Floats
) -> None:
    if unit.segment:
        return
    if digest(pack(parameter_layout(manifest.model), public)) != opening.start_parameters:
        raise ProofRejected("first segment starts from other parameters than the round's")


def _check_symbols(
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, states: _Opened, public: Floats
) -> None:
    layout = parameter_layout(manifest.model)
    try:
        symbols, residual = compress(manifest.codec, public - states.final, states.residual)
    except OwnFault as error:
        raise ProofRejected(f"the final state has no update: {error.message}") from error
    if symbols_digest(symbols) != opening.symbols:
        raise ProofRejected("committed symbols do not follow from final state and residual")
    if digest(pack(layout, residual)) != opening.residual_after:
        raise ProofRejected("committed residual does not follow from final state and symbols")
