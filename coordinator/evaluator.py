"""The evaluator: a child process that aggregates rounds and measures them, `python -m coordinator.evaluator`.

It speaks `protocol.worker`'s JSON lines; tensors pass as canonical files through blob stores, by content address. The
service runs two: one aggregates and is needed for every round, the other measures at low priority and is waited for by
nobody. Torch is loaded by the first call that needs it, so the aggregating one stays small.

The control group answers what a peer would reach alone: the same start, batches, learning rates and carried moments as
its units in the run, but nothing is exchanged and no outer step is taken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from protocol.blobs import BlobStore
from protocol.errors import ConfigError, OwnFault
from protocol.manifest import MAX_MANIFEST_BYTES, Digest, Frozen, RunManifest
from protocol.messages import MAX_UNITS, Number, Round
from protocol.tensors import moment_layout, pack, parameter_layout
from protocol.update import decode, max_update_bytes
from protocol.worker import Method, Params, Progress, Result, serve
from training.assignment import assignment
from training.corpus import Shard, prepare_corpus, shard_path
from training.outer import aggregate, load_parameters, outer_layout, parameters_file
from training.program import program_digest


class LoadRequest(Frozen):
    """Name what the child works on and with."""

    manifest_path: Path
    store: Path  # of parameters and updates
    control: Path  # store of the control group's states
    data_dir: Path  # token shards
    data: Path | None = None  # text to make the shard of, where it is not there yet; None: the packaged one
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class AggregateRequest(Frozen):
    """Name the parameters of a round and the update blobs of its record, in its order."""

    parameters: Digest
    updates: tuple[Digest, ...] = Field(max_length=MAX_UNITS)


class HeldoutRequest(Frozen):
    """Name the parameters to measure."""

    parameters: Digest


class LocalRequest(Frozen):
    """Ask for one round of a peer that trains alone."""

    round: Round
    number: Number
    beacon: Digest  # assignment beacon of the round
    parameters: Digest | None  # where it stands; None: the run's initial parameters
    moments: Digest | None  # None: nothing carried
    measure: bool  # also return the held-out loss of the end


@dataclass(frozen=True)
class Loaded:
    """What every call works with."""

    manifest: RunManifest
    store: BlobStore
    control: BlobStore
    request: LoadRequest

    def shard(self) -> Shard:
        """Open the token shard, made of its text if need be.

        Raises:
            ConfigError: the text is not the manifest's dataset.
        """
        root, folder = self.manifest.dataset.root, self.request.data_dir
        if not shard_path(folder, root).exists():
            prepare_corpus(self.request.data, folder)
        return Shard.open(self.manifest.dataset, folder)

    def parameters(self, address: str) -> bytes:
        """Read a parameter file of the run."""
        return self.store.get(address, max_size=outer_layout(self.manifest).file_bytes)


def aggregated(loaded: Loaded, request: AggregateRequest) -> Result:
    """Take the outer step and return the address of the next round's parameters.

    Raises:
        NetworkError: a blob is missing or damaged.
        Malformed: one of them is not a file or update of this run.
    """
    manifest = loaded.manifest
    size = parameter_layout(manifest.model).size
    limit = max_update_bytes(manifest.codec, size)
    updates = [
        decode(loaded.store.get(blob, max_size=limit), codec=manifest.codec, size=size)
        for blob in request.updates
    ]
    state = load_parameters(manifest, loaded.parameters(request.parameters))
    return {"parameters": loaded.store.put(parameters_file(manifest, aggregate(manifest, state, updates)))}


def heldout(loaded: Loaded, request: HeldoutRequest) -> Result:
    """Return the held-out loss of the run's parameters, in nats a byte."""
    from training.evaluate import heldout_loss
    from training.inner import prepare_process

    prepare_process(loaded.request.threads)
    vector = load_parameters(loaded.manifest, loaded.parameters(request.parameters)).parameters
    return {"loss": heldout_loss(loaded.manifest, vector, loaded.shard())}


def local(loaded: Loaded, request: LocalRequest) -> Result:
    """Train a peer of the control group for one round; return its state, and its held-out loss if asked."""
    from training.evaluate import heldout_loss
    from training.inner import InnerState, InnerTrainer, prepare_process

    manifest, model = loaded.manifest, loaded.manifest.model
    prepare_process(loaded.request.threads)
    if request.parameters is None:
        initial = loaded.parameters(manifest.initial_parameters)
        start = InnerState.fresh(load_parameters(manifest, initial).parameters)
    else:
        limit = parameter_layout(model).file_bytes
        parameters = loaded.control.get(request.parameters, max_size=limit)
        moments = None
        if request.moments is not None:
            moments = loaded.control.get(request.moments, max_size=moment_layout(model).file_bytes)
        start = InnerState.from_files(model, parameters, moments)
    shard = loaded.shard()
    trainer = InnerTrainer(manifest, shard)
    trainer.load(start)
    offsets = assignment(manifest, request.beacon, request.round, request.number)
    trainer.run(offsets, request.round * manifest.inner.steps)
    end = trainer.state()
    return {
        "parameters": loaded.control.put(pack(parameter_layout(model), end.parameters)),
        "moments": loaded.control.put(end.moments_file(model)),
        "loss": heldout_loss(manifest, end.parameters, shard) if request.measure else None,
    }


def methods() -> dict[str, Method]:
    """Return the calls that the child answers."""
    here: list[Loaded] = []

    def load(params: Params, progress: Progress) -> Result:
        request = LoadRequest.model_validate(params)
        with request.manifest_path.open("rb") as file:
            manifest = RunManifest.from_bytes(file.read(MAX_MANIFEST_BYTES + 1))
        here[:] = [Loaded(manifest, BlobStore(request.store), BlobStore(request.control), request)]
        program = program_digest()
        if program != manifest.program:
            raise ConfigError(
                f"this machine computes program {program}, the run demands {manifest.program}",
                hint="install the release that the run was made with",
            )
        return {"program": program}

    def loaded() -> Loaded:
        if not here:
            raise OwnFault("the evaluator was called before it was loaded")
        return here[0]

    def call_aggregate(params: Params, progress: Progress) -> Result:
        return aggregated(loaded(), AggregateRequest.model_validate(params))

    def call_heldout(params: Params, progress: Progress) -> Result:
        return heldout(loaded(), HeldoutRequest.model_validate(params))

    def call_local(params: Params, progress: Progress) -> Result:
        return local(loaded(), LocalRequest.model_validate(params))

    return {
        "load": load,
        "aggregate": call_aggregate,
        "heldout": call_heldout,
        "local": call_local,
    }


def load_params(request: LoadRequest) -> dict[str, Any]:
    """Return a load request as the parent sends it."""
    return request.model_dump(mode="json")


if __name__ == "__main__":
    serve(methods())
