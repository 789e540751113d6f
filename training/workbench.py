"""What the child processes of node, verifier and coordinator work on: the run's manifest, blobs and token shard.

Nothing here loads torch, so that a child that only aggregates stays small, and the daemons can make the requests.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from protocol.blobs import BlobStore
from protocol.manifest import Digest, Frozen, ProfileName, RunManifest
from protocol.messages import MAX_UNITS
from protocol.tensors import parameter_layout
from protocol.update import decode, max_update_bytes
from training.corpus import Shard, prepare_corpus, shard_path
from training.outer import OuterState, aggregate, load_parameters, outer_layout, parameters_file


def child_environment(threads: int) -> dict[str, str]:
    """Return the variables that must be set before a process that computes starts."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: str(threads) for name in names} | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


class LoadRequest(Frozen):
    """Name what a child works on and with."""

    manifest_path: Path
    store: Path
    data_dir: Path  # token shards
    data: Path | None = None  # text to make the shard of, where it is not there yet; None: the packaged one
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    def params(self) -> dict[str, Any]:
        """Return the request as the daemon sends it."""
        return self.model_dump(mode="json")


class DeviceLoadRequest(LoadRequest):
    """Name what a child that takes inner steps works on and with."""

    device: str = "cpu"


class TrainerLoadRequest(DeviceLoadRequest):
    """Name what a trainer works on and with, and its numeric profile."""

    profile: ProfileName | None = None  # None: the first that the machine computes


class AggregateRequest(Frozen):
    """Name the parameters of a round and the update blobs of its record."""

    parameters: Digest
    updates: tuple[Digest, ...] = Field(max_length=MAX_UNITS)


@dataclass(frozen=True)
class Workbench:
    """Hold what every call of a child works with."""

    request: LoadRequest
    manifest: RunManifest
    store: BlobStore

    @classmethod
    def open(cls, request: LoadRequest) -> Self:
        """Read the manifest and open the store.

        Raises:
            OSError: there is no manifest.
            Malformed: it is not one.
        """
        return cls(request, RunManifest.read(request.manifest_path), BlobStore(request.store))

    def shard(self) -> Shard:
        """Open the token shard, made of its text if need be.

        Raises:
            ConfigError: the text cannot be read, or is not the manifest's dataset.
        """
        dataset, folder = self.manifest.dataset, self.request.data_dir
        if not shard_path(folder, dataset.root).exists():
            prepare_corpus(self.request.data, folder)
        return Shard.open(dataset, folder)

    def parameters(self, address: str) -> OuterState:
        """Read a parameter file of the run.

        Raises:
            NetworkError: it is missing or damaged.
            Malformed: it is not a parameter file of this run.
        """
        file = self.store.get(address, max_size=outer_layout(self.manifest).file_bytes)
        return load_parameters(self.manifest, file)

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
            decode(self.store.get(blob, max_size=limit), codec=manifest.codec, size=size)
            for blob in request.updates
        ]
        state = self.parameters(request.parameters)
        return self.store.put(parameters_file(manifest, aggregate(manifest, state, updates)))
