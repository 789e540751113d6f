"""The trainer: a child process that makes units and aggregates rounds, `python -m node.trainer`.

It speaks `protocol.worker`'s JSON lines; tensors pass as canonical files through the daemon's blob store, by content
address. Its only state between calls is the program loaded, so killing it costs the call and nothing else.
"""

import sys
import time
from collections.abc import Sequence
from functools import cached_property
from math import isfinite, ldexp, sqrt
from statistics import fmean

import numpy as np

from node.cheats.casting import steps_of
from node.figures import Figures
from node.honesty import HonestSteps
from node.stretch import Stretch
from node.unit import Ahead, Files, Work
from protocol.blobs import pieces_digest
from protocol.errors import OwnFault
from protocol.frozen import Digest, Frozen
from protocol.joint import Returned
from protocol.judging import Judgment, judging
from protocol.lessons import NOTHING, Lessons
from protocol.manifest import RunManifest
from protocol.messages import Number, Round, Tier
from protocol.published import Published, max_published_bytes, write_published
from protocol.rollouts import Shape, encode_group
from protocol.tensors import Floats, moment_layout, pack, parameter_layout, unpack
from protocol.update import MIN_EXPONENT
from protocol.worker import Method, Params, Progress, Result, serve
from training.assignment import assignment, assignment_digest, task_seeds
from training.codec import compress
from training.delay import caught_up
from training.experience import Experience
from training.flops import training_flops
from training.inner import InnerState, prepare_process, read_moments
from training.joint import give_back, read_returned
from training.judging import Docket, judgments_of
from training.outer import squared_norms
from training.peak import measured_peak
from training.program import program_digest
from training.sampler import Sampler
from training.second_moments import with_slice
from training.trainer import Material, Trainer, trainer_for
from training.workbench import AggregateRequest, TrainerLoadRequest, Workbench
from verification.profile import own_profile, this_machine


class AheadRequest(Frozen):
    """Name one unit and what it goes on from before an outer step that is delayed."""

    round: Round
    number: Number
    beacon: Digest
    tier: Tier = 0
    before: Files | None = None  # where its peer's last unit ended; None: the round's parameters
    moments: Digest | None


class TrainRequest(AheadRequest):
    """Name one unit and the blobs it starts from."""

    parameters: Digest
    residual: Digest | None
    lessons: Lessons = NOTHING  # what a policy builds on
    returned: Returned | None = None  # what comes back to the residual
    ahead: Ahead | None = None  # what was made of it already
    keep: bool = True  # the states between segments; else only their hashes are made, and what is carried on


class Bench:
    """Hold what one run needs for its units: manifest, store, and what inner steps are taken on."""

    def __init__(self, request: TrainerLoadRequest, steps: HonestSteps) -> None:
        self.work = Workbench.open(request)
        self.manifest = self.work.manifest
        self._steps = steps
        self._store = self.work.store
        prepare_process(request.threads)
        self._profile = own_profile(self.manifest, this_machine(request.device), request.profile)
        self._device = request.device
        self._rest = 1 / request.cpu_share - 1  # seconds of rest for each of inner steps
        self._shard = None if self.manifest.rollouts else self.work.shard()
        self._of_tier: tuple[int, Trainer] | None = None  # the last unit's, which holds model and optimizer

    def train(self, request: TrainRequest, progress: Progress) -> Work:
        """Sample the unit's rollouts and judgments if it has any, take its inner steps, and write what it publishes.

        The state after every segment is written too, the update is compressed.

        Raises:
            NetworkError: a blob to start from is missing or damaged.
            Malformed: one of them is not a file of this run.
            OwnFault: the loss or the update is not finite.
        """
        began, began_wall = time.process_time(), time.perf_counter()
        manifest, ahead = self.manifest.at(request.tier), request.ahead
        outer = self.work.parameters(request.parameters)
        public = outer.parameters
        residual = self._residual(request)
        assigned = assignment(manifest, request.beacon, request.round, request.number)
        groups = self._rollouts(request, public, progress)
        judgments = self._judgments(request, progress)
        stretch = self._stretch(request)
        if request.before is None:
            stretch.begin(self._start(request, public), outer.moments, keep=request.keep)
            stretch.advance(manifest.segments, keep=request.keep, progress=progress)
        else:
            before = self._vector(request.before.parameters)
            reached = self._gone_ahead(stretch, request, before, progress)
            stretch.trainer.load(caught_up(reached, before, public))
            stretch.advance(manifest.segments, keep=request.keep, progress=progress)
        end, files = stretch.trainer.state(), stretch.files
        if not request.keep:
            self._store.put_pieces(end.moments_pieces(manifest.model))
        carried = None
        if manifest.outer.delay:
            carried = self._store.put_pieces(end.parameters_pieces(manifest.model))
        change = self._steps.change(public - end.parameters)
        losses, norms = stretch.losses, stretch.norms
        symbols, rest = compress(manifest.codec, change, self._steps.residual_before(residual))
        unit = request.beacon, request.round, request.number
        symbols = with_slice(manifest, symbols, self._steps.second_moments(end.exp_avg_sq), *unit)
        published = Published(symbols, groups, judgments)
        blob = write_published(manifest, published)
        return Work(
            assignment=assignment_digest(assigned),
            segments=tuple(files),
            parameters=carried,
            moments=files[-1].moments,
            residual=self._store.put(
                pack(parameter_layout(manifest.model), self._steps.residual_after(rest))
            ),
            symbols=published.identity,
            blob=self._store.put(blob),
            blob_bytes=len(blob),
            cpu_s=time.process_time() - began + (0.0 if ahead is None else ahead.cpu_s),
            loss=fmean(losses),
            figures=Figures(
                steps=len(losses),
                tokens=_tokens(manifest, losses),
                train_s=stretch.train_s,
                unit_s=time.perf_counter() - began_wall + (0.0 if ahead is None else ahead.unit_s),
                gradient_norm=_finite(fmean(norms)) if norms else None,
                gradient_norm_max=_finite(max(norms)) if norms else None,
                pseudo_gradient_norm=_norm(change),
                update_norm=_finite(ldexp(sqrt(squared_norms([symbols])[0]), MIN_EXPONENT)),
                flops=_flops(manifest, losses),
            ),
        )

    def _gone_ahead(
        self, stretch: Stretch, request: TrainRequest, before: Floats, progress: Progress
    ) -> InnerState:
        """Return the state in which the outer step is due: reached already, or now."""
        if request.ahead is not None:
            stretch.take(request.ahead)
            return self._state(request.ahead.segments[-1])
        stretch.begin(self._start(request, before), None, keep=request.keep)
        stretch.advance(self.manifest.outer.delay, keep=request.keep, progress=progress)
        return stretch.trainer.state()

    def ahead(self, request: AheadRequest, progress: Progress) -> Ahead:
        """Take a unit's steps as far as they do not need the round's parameters; their states are written.

        Raises:
            NetworkError: the state to go on from is missing or damaged.
            Malformed: it is not a state of this run.
            OwnFault: the loss is not finite.
        """
        assert request.before is not None, "who carries nothing waits for the round's parameters"
        began, began_wall = time.process_time(), time.perf_counter()
        stretch = self._stretch(request)
        stretch.begin(self._start(request, self._vector(request.before.parameters)), None, keep=True)
        stretch.advance(self.manifest.outer.delay, keep=True, progress=progress)
        return Ahead(
            segments=tuple(stretch.files),
            losses=tuple(stretch.losses),
            gradient_norms=tuple(filter(isfinite, stretch.norms)),
            cpu_s=time.process_time() - began,
            train_s=stretch.train_s,
            unit_s=time.perf_counter() - began_wall,
        )

    def peak(self) -> float:
        """Return the FLOPs a second that the device reaches at its best, in the profile's arithmetic."""
        return measured_peak(self._device, arithmetic=self._profile.arithmetic)

    def _stretch(self, request: AheadRequest) -> Stretch:
        manifest = self.manifest.at(request.tier)
        rows = self._steps.batches(manifest, request.beacon, request.round, request.number)
        first = request.round * manifest.inner.steps
        return Stretch(manifest, self._steps, self._trainer_for(request), rows, first, self._put, self._rest)

    def _trainer_for(self, request: AheadRequest) -> Trainer:
        """Return what takes the unit's steps; a text's is kept from unit to unit."""
        if self._shard is None:
            lessons = request.lessons if isinstance(request, TrainRequest) else NOTHING
            return self._trainer(self.manifest, self._experience(lessons))
        if self._of_tier is None or self._of_tier[0] != request.tier:
            self._of_tier = request.tier, self._trainer(self.manifest.at(request.tier), self._shard)
        return self._of_tier[1]

    def _trainer(self, manifest: RunManifest, material: Material) -> Trainer:
        return trainer_for(self._steps.recipe(manifest), material, self._profile, self._device)

    def _experience(self, lessons: Lessons) -> Experience:
        return Experience.read(self.manifest, lessons, self._published)

    def _published(self, address: str) -> bytes:
        return self._store.get(address, max_size=max_published_bytes(self.manifest))

    def _rollouts(self, request: TrainRequest, parameters: Floats, progress: Progress) -> tuple[bytes, ...]:
        """Sample the unit's groups from the round's parameters; return their canonical bytes."""
        manifest = self.manifest
        if manifest.rollouts is None:
            return ()
        progress({"sampling": manifest.rollouts.sampling.groups})
        seeds = task_seeds(manifest, request.beacon, request.round, request.number)
        sampler = Sampler(manifest, parameters, request.parameters, self._profile, self._device)
        shape = Shape.of(manifest)
        return tuple(encode_group(group, shape) for group in self._steps.groups(sampler, seeds))

    def _judgments(self, request: TrainRequest, progress: Progress) -> tuple[Judgment, ...]:
        """Score what the beacon has this unit judge of the round before."""
        manifest = self.manifest
        if manifest.judge is None:
            return ()
        docket = Docket(manifest, request.beacon, request.round, request.lessons.judged, self._published)
        charges = docket.charges(request.number)
        progress({"judging": len(charges)})
        return judgments_of(manifest, charges, self._steps.scores(self._judge, docket, charges))

    @cached_property
    def _judge(self) -> Sampler:
        """Return the run's judge, ready to be sampled from."""
        manifest = judging(self.manifest)
        layout, address = parameter_layout(manifest.model), manifest.initial_parameters
        parameters, _ = unpack(layout, self._store.get(address, max_size=layout.file_bytes))
        return Sampler(manifest, parameters, address, self._profile, self._device)

    def _start(self, request: AheadRequest, vector: Floats) -> InnerState:
        """Return the state in which a unit starts, at parameters float32[P]."""
        model = self.manifest.model
        if request.moments is None:
            return InnerState.fresh(vector)
        moments = self._store.get(request.moments, max_size=moment_layout(model).file_bytes)
        return InnerState(vector, *read_moments(model, moments))

    def _residual(self, request: TrainRequest) -> Floats | None:
        """Return what the unit carries in, and what comes back to it; None for nothing."""
        carried = None if request.residual is None else self._vector(request.residual)
        read = self._store.get
        back = read_returned(self.manifest, request.returned, lambda blob, limit: read(blob, max_size=limit))
        return give_back(carried, back)

    def _state(self, files: Files) -> InnerState:
        """Read a state that is in the store."""
        moments = self._store.get(files.moments, max_size=moment_layout(self.manifest.model).file_bytes)
        return InnerState(self._vector(files.parameters), *read_moments(self.manifest.model, moments))

    def _vector(self, address: str) -> Floats:
        """Read float32[P] that lies in the store as parameters do."""
        layout = parameter_layout(self.manifest.model)
        return unpack(layout, self._store.get(address, max_size=layout.file_bytes))[0]

    def _put(self, state: InnerState, *, keep: bool) -> Files:
        """Return the addresses of a state; without `keep` its bytes are hashed and not written."""
        model = self.manifest.model
        put = self._store.put_pieces if keep else pieces_digest
        return Files(parameters=put(state.parameters_pieces(model)), moments=put(state.moments_pieces(model)))


def _tokens(manifest: RunManifest, losses: Sequence[float]) -> int | None:
    """Return how many tokens the steps were taken on; a policy's samples have as many as they happen to have."""
    if manifest.rollouts is not None:
        return None
    return len(losses) * manifest.inner.batch * manifest.model.context


def _flops(manifest: RunManifest, losses: Sequence[float]) -> float | None:
    tokens = _tokens(manifest, losses)
    return None if tokens is None else float(tokens * training_flops(manifest))


def _norm(values: Floats) -> float | None:
    """Return a norm, summed in float64 without a copy; None where it is not finite."""
    return _finite(float(np.sqrt(np.einsum("i,i->", values, values, dtype=np.float64))))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


class Service:
    """Answer the daemon's calls: `load` first, then `train` and `aggregate`."""

    def __init__(self, steps: HonestSteps) -> None:
        self._steps = steps
        self._loaded: Bench | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """Return the methods by the name they are called with."""
        return {
            "load": self.load,
            "ahead": self.ahead,
            "train": self.train,
            "aggregate": self.aggregate,
            "peak": self.peak,
        }

    def load(self, params: Params, progress: Progress) -> Result:
        """Prepare for a run (`TrainerLoadRequest`) and return the program digest that this machine computes."""
        self._loaded = Bench(TrainerLoadRequest.model_validate(params), self._steps)
        return {"program": program_digest()}

    def ahead(self, params: Params, progress: Progress) -> Result:
        """Make a unit's first segments (`AheadRequest`) and return them as `node.unit.Ahead`."""
        return self._bench.ahead(AheadRequest.model_validate(params), progress).model_dump(mode="json")

    def train(self, params: Params, progress: Progress) -> Result:
        """Make a unit (`TrainRequest`) and return it as `node.unit.Work`."""
        return self._bench.train(TrainRequest.model_validate(params), progress).model_dump(mode="json")

    def aggregate(self, params: Params, progress: Progress) -> Result:
        """Aggregate a round (`AggregateRequest`) and return the next parameters' address."""
        return {"parameters": self._bench.work.aggregate(AggregateRequest.model_validate(params))}

    def peak(self, params: Params, progress: Progress) -> Result:
        """Measure the device's peak, in FLOPs a second."""
        return {"flops": self._bench.peak()}

    @property
    def _bench(self) -> Bench:
        if self._loaded is None:
            raise OwnFault("the trainer was not loaded")
        return self._loaded


def main(arguments: list[str]) -> None:
    """Serve until stdin closes. The one argument, if any, names a way to cheat (see `node.cheats`)."""
    serve(Service(steps_of(arguments[0] if arguments else None)).methods)


if __name__ == "__main__":
    main(sys.argv[1:])
