"""The replay of a unit: the drawn segment within tolerance, and the end of the unit exactly.

How a segment is judged, and what exact arithmetic has to do with it, is in `verification.dispute`.

The step is `training.inner`'s, so a verifier executes what the peer executed. Whatever segment was drawn, the
update's symbols and the new residual are recomputed bit by bit, because the codec is exact on every machine.

A replay has two halves: `begin` needs only the segment's start, and gives the fingerprint that a verifier seals;
`compare` reads the end, which is served after that.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from time import process_time

from contracts.types import CaseOutcome
from protocol.errors import Malformed, OwnFault, ProofInconclusive, ProofRejected
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import REJECTED, Opening, Signed
from protocol.rollouts import rollouts_of
from protocol.tensors import Floats
from training.assignment import assignment
from training.corpus import Shard
from training.experience import Experience
from training.inner import InnerState
from training.joint import read_returned
from training.outer import load_parameters
from training.trainer import Material, steps_taken, trainer_for
from verification import opening as training_opening
from verification.dispute import judge_segment, segment_rows, unit_profile
from verification.finding import find
from verification.fingerprint import VALUES, fingerprint, middle_steps
from verification.judge import is_fresh
from verification.opened import (
    Shown,
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
from verification.profile import judging_pair, this_machine
from verification.sampled import Sampling, judge_groups
from verification.unit import NO_RESULT, DrawnUnit, Finding, NeededFile, ReplayReport, proven_false

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Units:
    """Replay the units of one run (`verification.unit.UnitKind`).

    Attributes:
        shard: what pre-training takes its steps on; None for a policy, which learns from rollouts among the files.
    """

    shard: Shard | None
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
        began, manifest = process_time(), unit.view(manifest)
        profile = self._own_profile(manifest, unit)
        try:
            outer = load_parameters(manifest, files[unit.commitment.body.parameters])
            public = outer.parameters
            back = read_returned(manifest, unit.carried.returned, lambda address, _: files[address])
            material = self._material(manifest, unit, files)
        except Malformed as error:
            raise ProofInconclusive(f"the round's public parameters or updates: {error.message}") from error
        try:
            check_assignment(manifest, unit)
            residual = read_residual(manifest, opening, files, back)
            start = read_start(manifest, unit, opening, files, outer)
            check_start(manifest, unit, opening, public)
            published = read_shown(manifest, opening, files)
            samplings = play_again(manifest, unit, published, public, files)
        except ProofRejected as error:
            return proven_false(error)
        except Unplayable as error:
            return ReplayReport(REJECTED, error.message[:200])
        sampled = self._judge_samplings(manifest, unit, samplings, profile)
        end, shown = self._run_segment(manifest, material, unit, start, profile)
        spent = process_time() - began
        return Replayed(profile, public, material, start, end, residual, published, sampled, shown, spent)

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
        manifest = unit.view(manifest)
        try:
            # First, so that no fault of the segment hides a forged residual.
            recomputed = recompute_update(
                manifest, unit, opening, replayed.public, replayed.residual, files, replayed.published
            )
            check_update(opening, recomputed)
            steps = steps_taken(replayed.material, segment_rows(manifest, unit)[0])
            end = read_end(manifest, opening, replayed.start, files, steps)
        except ProofRejected as error:
            return replace(proven_false(error), fingerprint=replayed.fingerprint)
        report = judge_segment(
            manifest, replayed.material, unit, replayed.profile, replayed.start, end, replayed.end
        )
        sampled = replayed.sampled
        if sampled is not None:
            report = _worse(report, sampled)
        # A verdict that rests on either shows the replay's fingerprint.
        return replace(report, fingerprint=replayed.fingerprint)

    def find(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> Finding:
        """Judge a segment as a juror does, in exact arithmetic; see `verification.finding`."""
        began, manifest = process_time(), unit.view(manifest)
        try:
            material = self._material(manifest, unit, files)
        except Malformed as error:
            reason = f"the round's public parameters or updates: {error.message}"
            return Finding(CaseOutcome.VOID, NO_RESULT, reason[:200], cpu_s=process_time() - began)
        found = find(manifest, material, unit, opening, files)
        return replace(found, cpu_s=process_time() - began)

    def _material(self, manifest: RunManifest, unit: DrawnUnit, files: Mapping[str, bytes]) -> Material:
        """Return what the unit's steps are taken on.

        Raises:
            Malformed: published rollouts cannot be read.
        """
        if manifest.rollouts is None:
            assert self.shard is not None, "a run on text is replayed with its text"
            return self.shard
        return Experience.read(manifest, unit.lessons, files.__getitem__)

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

    def _judge_samplings(
        self, manifest: RunManifest, unit: DrawnUnit, samplings: tuple[Sampling, ...], own: NumericProfile
    ) -> ReplayReport | None:
        """Return how the segment's groups were sampled, and its judgments; None where it has neither."""
        reports = [self._judge_sampling(manifest, unit, one, own) for one in samplings]
        return reduce(_worse, reports) if reports else None

    def _judge_sampling(
        self, manifest: RunManifest, unit: DrawnUnit, sampling: Sampling, own: NumericProfile
    ) -> ReplayReport:
        """Return how groups were sampled.

        Every verdict has one distance, which its profile's bounds grade (`verification.judge`): so a value's share of
        its tolerance is told as that share of the bound, and the exact regret's of `slash_regret` likewise.
        """
        profile, name = unit_profile(manifest, unit), sampling.name
        found = judge_groups(sampling, profile, own, self.device)
        worst = max(found.measured.values, key=lambda one: one.ratio)
        fresh = is_fresh(manifest, unit.commitment.body, unit.segment)
        bound, slash_bound = profile.bound(fresh), profile.slash_bound(fresh)
        exact_distance = 0.0
        if found.exact is not None:
            tolerance = rollouts_of(manifest).tolerance(profile.name)
            slash = 0.0 if tolerance is None else tolerance.slash_regret
            exact_distance = _in_units(found.exact.regret, slash, slash_bound)
        return ReplayReport(
            found.outcome,
            f"{name}: {found.reason}"[:200] if found.reason else "",
            _in_units(worst.value, worst.bound, bound),
            f"{name}.{worst.check}",
            distances={f"{name}.{one.check}": one.value for one in found.measured.values},
            exact=None if found.exact is None else found.exact.best,
            exact_distance=exact_distance,
        )

    def _run_segment(
        self,
        manifest: RunManifest,
        material: Material,
        unit: DrawnUnit,
        start: InnerState,
        own: NumericProfile,
    ) -> tuple[InnerState | None, tuple[float, ...]]:
        """Return the segment's end, None where values stop being finite, and the fingerprint to seal."""
        offsets, step = segment_rows(manifest, unit)
        steps, middle = len(offsets), middle_steps(len(offsets))
        trainer = trainer_for(manifest, material, own, self.device)
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


def _worse(one: ReplayReport, other: ReplayReport) -> ReplayReport:
    """Return the worse of two reports, the first where they are equal, with the distances of both."""
    worse = other if other.outcome > one.outcome else one
    return replace(worse, distances={**one.distances, **other.distances})


def _in_units(value: float, tolerance: float, bound: float) -> float:
    """Return a value that is as large beside a bound as it was beside its tolerance."""
    return value * bound / tolerance if tolerance and bound else value


@dataclass(frozen=True, eq=False)
class Replayed:
    """Hold a replay whose opened end nobody here has seen (`verification.unit.Replayed`)."""

    profile: NumericProfile  # of the replay
    public: Floats  # [P], the round's global parameters
    material: Material  # that the steps are taken on
    start: InnerState
    end: InnerState | None  # None where values stopped being finite
    residual: Floats | None  # [P], that the update was made with
    published: Shown  # rollouts and judgments
    sampled: ReplayReport | None  # of the drawn groups and judgments
    fingerprint: tuple[float, ...]
    cpu_s: float
