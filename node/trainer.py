"""The trainer: a child process that makes units and aggregates rounds, `python -m node.trainer`.

It speaks `protocol.worker`'s JSON lines; tensors pass as canonical files through the daemon's blob store, by content
address. Its only state between calls is the program loaded, so killing it costs the call and nothing else.
"""

import sys
import time
from statistics import fmean

from node.cheats.casting import steps_of
from node.honesty import HonestSteps
from node.unit import Files, Work
from protocol.blobs import pieces_digest
from protocol.errors import OwnFault
from protocol.manifest import Digest, Frozen
from protocol.messages import Number, Round
from protocol.tensors import Floats, moment_layout, pack, parameter_layout, unpack
from protocol.update import encode, symbols_digest
from protocol.worker import Method, Params, Progress, Result, serve
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.inner import InnerState, prepare_process, read_moments
from training.program import program_digest
from training.trainer import trainer_for
from training.workbench import AggregateRequest, TrainerLoadRequest, Workbench
from verification.profile import own_profile, this_machine


class TrainRequest(Frozen):
    """Name one unit and the blobs it starts from."""

    round: Round
    number: Number
    beacon: Digest
    parameters: Digest
    moments: Digest | None
    residual: Digest | None
    keep: bool = True  # the states between segments; else only their hashes are made, and what is carried on


class Bench:
    """Hold what one run needs for its units: manifest, store, shard and the inner trainer."""

    def __init__(self, request: TrainerLoadRequest, steps: HonestSteps) -> None:
        self.work = Workbench.open(request)
        self.manifest = self.work.manifest
        self._steps = steps
        self._store = self.work.store
        prepare_process(request.threads)
        profile = own_profile(self.manifest, this_machine(request.device), request.profile)
        self._trainer = trainer_for(steps.recipe(self.manifest), self.work.shard(), profile, request.device)

    def train(self, request: TrainRequest, progress: Progress) -> Work:
        """Take the unit's inner steps, write the state after every segment, and compress the update.

        Raises:
            NetworkError: a blob to start from is missing or damaged.
            Malformed: one of them is not a file of this run.
            OwnFault: the loss or the update is not finite.
        """
        began = time.process_time()
        manifest = self.manifest
        start = self._start(request)
        residual = None if request.residual is None else self._residual(request.residual)
        assigned = assignment(manifest, request.beacon, request.round, request.number)
        trained = self._steps.batches(manifest, request.beacon, request.round, request.number)
        steps = manifest.verification.segment_steps
        files, losses = [self._put(start, keep=request.keep)], list[float]()
        self._trainer.load(self._steps.start(start))
        for first in range(0, manifest.inner.steps, steps):
            rows, step = trained[first : first + steps], request.round * manifest.inner.steps + first
            losses += self._steps.run(self._trainer, rows, step)
            files.append(self._put(self._trainer.view(), keep=request.keep))
            progress({"step": first + steps, "steps": manifest.inner.steps, "loss": losses[-1]})
        end, moments = self._trainer.state(), files[-1].moments
        if not request.keep:
            moments = self._store.put_pieces(end.moments_pieces(manifest.model))
        change = self._steps.change(start.parameters - end.parameters)
        symbols, rest = compress(manifest.codec, change, self._steps.residual_before(residual))
        container = encode(symbols)
        return Work(
            assignment=assignment_digest(assigned),
            segments=tuple(files),
            moments=moments,
            residual=self._store.put(
                pack(parameter_layout(manifest.model), self._steps.residual_after(rest))
            ),
            symbols=symbols_digest(symbols),
            blob=self._store.put(container),
            blob_bytes=len(container),
            cpu_s=time.process_time() - began,
            loss=fmean(losses),
        )

    def _start(self, request: TrainRequest) -> InnerState:
        model = self.manifest.model
        vector = self.work.parameters(request.parameters).parameters
        if request.moments is None:
            return InnerState.fresh(vector)
        moments = self._store.get(request.moments, max_size=moment_layout(model).file_bytes)
        return InnerState(vector, *read_moments(model, moments))

    def _residual(self, address: str) -> Floats:
        layout = parameter_layout(self.manifest.model)
        return unpack(layout, self._store.get(address, max_size=layout.file_bytes))[0]

    def _put(self, state: InnerState, *, keep: bool) -> Files:
        """Return the addresses of a state; without `keep` its bytes are hashed and not written."""
        model = self.manifest.model
        put = self._store.put_pieces if keep else pieces_digest
        return Files(parameters=put(state.parameters_pieces(model)), moments=put(state.moments_pieces(model)))


class Trainer:
    """Answer the daemon's calls: `load` first, then `train` and `aggregate`."""

    def __init__(self, steps: HonestSteps) -> None:
        self._steps = steps
        self._loaded: Bench | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """Return the methods by the name they are called with."""
        return {"load": self.load, "train": self.train, "aggregate": self.aggregate}

    def load(self, params: Params, progress: Progress) -> Result:
        """Prepare for a run (`TrainerLoadRequest`) and return the program digest that this machine computes."""
        self._loaded = Bench(TrainerLoadRequest.model_validate(params), self._steps)
        return {"program": program_digest()}

    def train(self, params: Params, progress: Progress) -> Result:
        """Make a unit (`TrainRequest`) and return it as `node.unit.Work`."""
        return self._bench.train(TrainRequest.model_validate(params), progress).model_dump(mode="json")

    def aggregate(self, params: Params, progress: Progress) -> Result:
        """Aggregate a round (`AggregateRequest`) and return the next parameters' address."""
        return {"parameters": self._bench.work.aggregate(AggregateRequest.model_validate(params))}

    @property
    def _bench(self) -> Bench:
        if self._loaded is None:
            raise OwnFault("the trainer was not loaded")
        return self._loaded


def main(arguments: list[str]) -> None:
    """Serve until stdin closes. The one argument, if any, names a way to cheat (see `node.cheats`)."""
    serve(Trainer(steps_of(arguments[0] if arguments else None)).methods)


if __name__ == "__main__":
    main(sys.argv[1:])
