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

from protocol.errors import Malformed, OwnFault, ProofInconclusive, ProofRejected
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import Opening, Signed
from protocol.tensors import Floats
from training.assignment import assignment
from training.corpus import Shard
from training.inner import InnerState
from training.outer import load_parameters
from training.trainer import trainer_for
from verification import opening as training_opening
from verification.dispute import judge_segment, segment_rows, unit_profile
from verification.finding import find
from verification.fingerprint import VALUES, fingerprint, middle_steps
from verification.opened import (
    check_assignment,
    check_start,
    check_update,
    read_end,
    read_residual,
    read_start,
    recompute_update,
)
from verification.profile import judging_pair, this_machine
from verification.unit import DrawnUnit, Finding, NeededFile, ReplayReport, proven_false

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
            check_assignment(manifest, unit)
            residual = read_residual(manifest, opening, files)
            start = read_start(manifest, unit, opening, files)
            check_start(manifest, unit, opening, public)
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
            recomputed = recompute_update(manifest, opening, replayed.public, replayed.residual, files)
            check_update(opening, recomputed)
            end = read_end(manifest, opening, replayed.start, files)
        except ProofRejected as error:
            return replace(proven_false(error), fingerprint=replayed.fingerprint)
        report = judge_segment(
            manifest, self.shard, unit, replayed.profile, replayed.start, end, replayed.end
        )
        return replace(report, fingerprint=replayed.fingerprint)

    def find(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> Finding:
        """Judge a segment as a juror does, in exact arithmetic; see `verification.finding`."""
        began = process_time()
        found = find(manifest, self.shard, unit, opening, files)
        return replace(found, cpu_s=process_time() - began)

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
