"""The trainer: a child process that makes units and aggregates rounds, `python -m node.trainer`.

It speaks `protocol.worker`'s JSON lines; tensors pass as canonical files through the daemon's blob store, by content
address. Its only state between calls is the program loaded, so killing it costs the call and nothing else.
"""

import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Annotated

from pydantic import Field

from node.cheats import steps_of
from node.honesty import HonestSteps
from node.unit import Files, Work
from protocol.blobs import BlobStore
from protocol.errors import OwnFault
from protocol.manifest import MAX_MANIFEST_BYTES, Digest, Frozen, RunManifest
from protocol.messages import MAX_UNITS, Number, Round
from protocol.tensors import Floats, moment_layout, pack, parameter_layout, unpack
from protocol.update import decode, encode, max_update_bytes, symbols_digest
from protocol.worker import Method, Params, Progress, Result, serve
from training.assignment import assignment, assignment_digest
from training.codec import compress
from training.corpus import Shard, prepare_corpus, shard_path
from training.inner import InnerState, InnerTrainer, prepare_process, read_moments
from training.outer import aggregate, load_parameters, outer_layout, parameters_file
from training.program import program_digest


class LoadRequest(Frozen):
    """Name what the child works on and with."""

    manifest_path: Path
    store: Path
    data_dir: Path  # token shards
    data: Path | None = None  # text to make the shard of, where it is not there yet; None: the packaged one
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class TrainRequest(Frozen):
    """Name one unit and the blobs it starts from."""

    round: Round
    number: Number
    beacon: Digest
    parameters: Digest
    moments: Digest | None
    residual: Digest | None


class AggregateRequest(Frozen):
    """Name the parameters of a round and the update blobs of its record."""

    parameters: Digest
    updates: tuple[Digest, ...] = Field(max_length=MAX_UNITS)


class Bench:
    """Hold what one run needs for its units: manifest, store, shard and the inner trainer."""

    def __init__(self, request: LoadRequest, steps: HonestSteps) -> None:
        data = request.manifest_path.read_bytes()[: MAX_MANIFEST_BYTES + 1]
        self.manifest = RunManifest.from_bytes(data)
        self._steps = steps
        self._store = BlobStore(request.store)
        prepare_process(request.threads)
        if not shard_path(request.data_dir, self.manifest.dataset.root).exists():
            prepare_corpus(request.data, request.data_dir)
        shard = Shard.open(self.manifest.dataset, request.data_dir)
        self._trainer = InnerTrainer(self.manifest, shard, request.device)

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
        trained = assignment(manifest, request.beacon, request.round, self._steps.batches_of(request.number))
        steps = manifest.verification.segment_steps
        files, losses = [self._put(start)], list[float]()
        self._trainer.load(start)
        for first in range(0, manifest.inner.steps, steps):
            rows, step = trained[first : first + steps], request.round * manifest.inner.steps + first
            losses += self._steps.run(self._trainer, rows, step)
            files.append(self._put(self._trainer.state()))
            progress({"step": first + steps, "steps": manifest.inner.steps, "loss": losses[-1]})
        end = self._trainer.state()
        symbols, rest = compress(manifest.codec, start.parameters - end.parameters, residual)
        container = encode(symbols)
        return Work(
            assignment=assignment_digest(assigned),
            segments=tuple(files),
            moments=files[-1].moments,
            residual=self._store.put(pack(parameter_layout(manifest.model), rest)),
            symbols=symbols_digest(symbols),
            blob=self._store.put(container),
            blob_bytes=len(container),
            cpu_s=time.process_time() - began,
            loss=fmean(losses),
        )

    def aggregate(self, request: AggregateRequest) -> str:
        """Take the outer step over the updates and return the address of the next round's parameters.

        Raises:
            NetworkError: a blob is missing or damaged.
            Malformed: one of them is not a file or update of this run.
        """
        manifest = self.manifest
        size = parameter_layout(manifest.model).size
        limit = max_update_bytes(manifest.codec, size)
        updates = [
            decode(self._store.get(blob, max_size=limit), codec=manifest.codec, size=size)
            for blob in request.updates
        ]
        state = load_parameters(manifest, self._parameters(request.parameters))
        return self._store.put(parameters_file(manifest, aggregate(manifest, state, updates)))

    def _start(self, request: TrainRequest) -> InnerState:
        model = self.manifest.model
        vector = load_parameters(self.manifest, self._parameters(request.parameters)).parameters
        if request.moments is None:
            return InnerState.fresh(vector)
        moments = self._store.get(request.moments, max_size=moment_layout(model).file_bytes)
        return InnerState(vector, *read_moments(model, moments))

    def _parameters(self, address: str) -> bytes:
        return self._store.get(address, max_size=outer_layout(self.manifest).file_bytes)

    def _residual(self, address: str) -> Floats:
        layout = parameter_layout(self.manifest.model)
        return unpack(layout, self._store.get(address, max_size=layout.file_bytes))[0]

    def _put(self, state: InnerState) -> Files:
        model = self.manifest.model
        return Files(
            parameters=self._store.put(state.parameters_file(model)),
            moments=self._store.put(state.moments_file(model)),
        )


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
        """Prepare for a run (`LoadRequest`) and return the program digest that this machine computes."""
        self._loaded = Bench(LoadRequest.model_validate(params), self._steps)
        return {"program": program_digest()}

    def train(self, params: Params, progress: Progress) -> Result:
        """Make a unit (`TrainRequest`) and return it as `node.unit.Work`."""
        return self._bench.train(TrainRequest.model_validate(params), progress).model_dump(mode="json")

    def aggregate(self, params: Params, progress: Progress) -> Result:
        """Aggregate a round (`AggregateRequest`) and return the next parameters' address."""
        return {"parameters": self._bench.aggregate(AggregateRequest.model_validate(params))}

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
