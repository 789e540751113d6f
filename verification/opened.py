"""What a unit's opened files say, read and checked without taking a step again."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.canonical import digest
from protocol.errors import Malformed, MurmurError, OwnFault, ProofRejected
from protocol.judging import Judgment, judging
from protocol.manifest import RunManifest
from protocol.messages import Opening
from protocol.published import published_identity, read_published
from protocol.rollouts import rollouts_of
from protocol.tensors import Floats, pack, parameter_layout, unpack
from protocol.update import symbols_digest
from training.assignment import assignment, assignment_digest, task_seeds
from training.codec import compress
from training.delay import caught_up
from training.inner import InnerState, primed, read_moments
from training.joint import give_back
from training.judging import Docket
from training.outer import OuterState
from training.second_moments import with_slice
from verification.rollouts import check_judgments, check_rollouts
from verification.sampled import IndexedGroup, Sampling
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
    manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes], public: OuterState
) -> InnerState:
    """Read where the segment's steps start: its opened state, after what is public of the round and due there.

    Args:
        public: what the round starts from.

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
    # In rounds before, its peer may have had the full tier.
    if start.steps > unit.round * manifest.at(0).inner.steps + unit.segment * steps:
        raise ProofRejected("opened more optimizer steps than the run has had")
    if unit.segment == 0:
        start = primed(start, public.moments)
    if not (unit.goes_on(manifest) and unit.segment == manifest.outer.delay):
        return start
    try:
        assert opening.before_parameters is not None, "it gave the committed root"
        before, _ = unpack(parameter_layout(model), files[opening.before_parameters])
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    return caught_up(start, before, public.parameters)


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

    Who goes on from its own state has shown it: the opening gives its root.

    Raises:
        ProofRejected: it starts elsewhere.
    """
    if unit.segment or unit.goes_on(manifest):
        return
    if digest(pack(parameter_layout(manifest.model), public)) != opening.start_parameters:
        raise ProofRejected("first segment starts from other parameters than the round's")


def read_residual(
    manifest: RunManifest, opening: Opening, files: Mapping[str, bytes], back: Floats | None = None
) -> Floats | None:
    """Read the residual that the unit's update was made with, [P]; None for nothing.

    Args:
        back: what came back to it, beside what it carried in.

    Raises:
        ForgedResidual: who carries on what is no residual has forged it before.
    """
    if opening.residual_before is None:
        return back
    try:
        carried = unpack(parameter_layout(manifest.model), files[opening.residual_before])[0]
    except Malformed as error:
        raise ForgedResidual(f"opened a residual that is not canonical: {error.message}") from error
    return give_back(carried, back)


@dataclass(frozen=True)
class Recomputed:
    """Name the update and the residual that follow from a unit's final state and the residual before."""

    symbols: str  # identity of what the unit published
    residual: str  # address of the residual's file


@dataclass(frozen=True)
class Shown:
    """Hold what a unit published beside its update."""

    groups: tuple[bytes, ...] = ()  # canonical bytes of each group of rollouts
    judgments: tuple[Judgment, ...] = ()


def read_shown(manifest: RunManifest, opening: Opening, files: Mapping[str, bytes]) -> Shown:
    """Read what a unit published beside its update; nothing where runs have no rollouts.

    Raises:
        ProofRejected: what was opened is no unit's blob.
    """
    if manifest.rollouts is None or opening.published is None:
        return Shown()
    try:
        found = read_published(manifest, files[opening.published])
        return Shown(found.groups, found.judgments)
    except Malformed as error:
        raise ProofRejected(f"opened a blob that is not a unit's: {error.message}") from error


class Unplayable(MurmurError):
    """Report that an environment fails on a sample: a defect of the environment's, which nobody pays for with stake."""


def play_again(
    manifest: RunManifest, unit: DrawnUnit, shown: Shown, public: Floats, files: Mapping[str, bytes]
) -> tuple[Sampling, ...]:
    """Play all rollouts of a unit again, and its judgments; return how those of the drawn segment were sampled.

    Args:
        public: [P], the round's global parameters.

    Raises:
        ProofRejected: they are not what the environment gives, or what the judge was asked.
        Unplayable: the environment fails on one of them.
    """
    if not shown.groups:
        return ()
    beacon, round_, number = unit.beacon, unit.round, unit.number
    own = slice(unit.segment, None, manifest.segments)
    try:
        groups = check_rollouts(manifest, beacon, round_, number, shown.groups)
        weights, seeds = unit.commitment.body.parameters, task_seeds(manifest, beacon, round_, number)
        found = [Sampling("rollouts", manifest, public, weights, tuple(enumerate(groups))[own], seeds)]
        if rollouts_of(manifest).judge is not None:
            docket = Docket(manifest, beacon, round_, unit.lessons.judged, files.__getitem__)
            judged = check_judgments(docket, number, shown.judgments)
            found.append(_judging(docket, number, tuple(enumerate(judged))[own], files))
        return tuple(one for one in found if one.groups)
    except Malformed as error:
        raise ProofRejected(f"rollouts: {error.message}") from error
    except OwnFault as error:
        raise Unplayable(f"rollouts that cannot be played: {error.message}") from error


def _judging(
    docket: Docket, number: int, groups: tuple[IndexedGroup, ...], files: Mapping[str, bytes]
) -> Sampling:
    """Return how judgments were sampled.

    Raises:
        Unplayable: the file that the manifest pins holds no judge.
    """
    config, seeds = judging(docket.manifest), tuple(one.seed for one in docket.charges(number))
    weights = config.initial_parameters
    try:
        parameters, _ = unpack(parameter_layout(config.model), files[weights])
    except Malformed as error:
        raise Unplayable(f"the run's judge: {error.message}") from error
    return Sampling("judgments", config, parameters, weights, groups, seeds)


def recompute_update(
    manifest: RunManifest,
    unit: DrawnUnit,
    opening: Opening,
    public: Floats,
    residual: Floats | None,
    files: Mapping[str, bytes],
    shown: Shown = Shown(),
) -> Recomputed:
    """Recompute update and residual, which have the same bits on every machine.

    Args:
        public: [P], the round's global parameters.
        residual: [P], that it was made with.
        shown: what was published with it.

    Raises:
        ProofRejected: there is no update of this final state.
    """
    layout = parameter_layout(manifest.model)
    try:
        final, _ = unpack(layout, files[opening.final_parameters])
        symbols, after = compress(manifest.codec, public - final, residual)
        if manifest.moment_slices:
            _, second, _ = read_moments(manifest.model, files[opening.final_moments])
            symbols = with_slice(manifest, symbols, second, unit.beacon, unit.round, unit.number)
    except Malformed as error:
        raise ProofRejected(f"opened a file that is not canonical: {error.message}") from error
    except OwnFault as error:
        raise ProofRejected(f"the final state has no update: {error.message}") from error
    return Recomputed(
        published_identity(symbols_digest(symbols), shown.groups, shown.judgments),
        digest(pack(layout, after)),
    )


def check_update(opening: Opening, recomputed: Recomputed) -> None:
    """Compare update and residual; of two faults the residual's is named, since it is carried on.

    Raises:
        ProofRejected, ForgedResidual: one is not what was committed.
    """
    if recomputed.residual != opening.residual_after:
        raise ForgedResidual("committed residual does not follow from final state and residual before")
    if recomputed.symbols != opening.symbols:
        raise ProofRejected("committed symbols do not follow from final state, residual and rollouts")
