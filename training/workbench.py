"""What the child processes of node, verifier and coordinator work on: the run's manifest, blobs and token shard.

Nothing here loads torch, so that a child that only aggregates stays small, and the daemons can make the requests.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from protocol.blobs import BlobStore
from protocol.errors import ProofRejected
from protocol.frozen import Digest, Frozen, ProfileName
from protocol.joint import max_joint_bytes, read_joint
from protocol.manifest import MAX_WEIGHT, RunManifest
from protocol.messages import MAX_UNITS, Number, Round
from protocol.published import max_published_bytes, read_update
from protocol.update import SparseSymbols, Symbols, encode
from training.corpus import Shard, prepare_corpus, shard_path
from training.environments.pinned import check_environment
from training.joint import is_joint_of, merge, share_of
from training.merging import Merit
from training.outer import (
    Contribution,
    OuterState,
    aggregate,
    fitting,
    load_parameters,
    outer_layout,
    parameters_file,
)


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
    cpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the time, in which inner steps are taken


class MovingUpdates(Frozen):
    """Name the blobs of the updates that move the parameters in a round, and the weight of each."""

    updates: tuple[Digest, ...] = Field(max_length=MAX_UNITS)
    weights: tuple[Annotated[int, Field(ge=1, le=MAX_WEIGHT)], ...] = Field(max_length=MAX_UNITS)


class RetractedRound(MovingUpdates):
    """Name the updates of a round of which some are taken back: all that moved the parameters, and their places."""

    taken: tuple[Annotated[int, Field(ge=0, lt=MAX_UNITS)], ...] = Field(max_length=MAX_UNITS)
    joint: Digest | None = None  # what moved the parameters in their place

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return every blob that is needed."""
        return self.updates if self.joint is None else (*self.updates, self.joint)


class AggregateRequest(MovingUpdates):
    """Name the parameters of a round, the updates that move them, and what is taken back, oldest first.

    Where a joint update moves them, it is held against the updates that are named beside it, if any are, and is made of
    them where it is missing.
    """

    parameters: Digest
    joint: Digest | None = None
    retracted: tuple[RetractedRound, ...] = Field(default=(), max_length=MAX_UNITS)

    @property
    def blobs(self) -> tuple[str, ...]:
        """Return every blob that is needed, each once."""
        old = (blob for round_ in self.retracted for blob in round_.blobs)
        joint = () if self.joint is None else (self.joint,)
        return tuple(dict.fromkeys((self.parameters, *joint, *self.updates, *old)))


class MergedUnit(Frozen):
    """Name what a merged unit is judged by."""

    number: Number
    salt: Digest  # of its reveal
    score: int | None  # of its peer, before the round


class WeighRequest(AggregateRequest):
    """Name a round's merged updates, which are to be judged, and what waits to be taken back."""

    round: Round
    units: tuple[MergedUnit, ...] = Field(max_length=MAX_UNITS)  # of the updates, in their order


Judge = Callable[[OuterState, Sequence[Symbols]], tuple[Merit, ...]]


@dataclass(frozen=True)
class Weighing:
    """Say what a round's merged updates are worth, in their order, and how much of what waits it takes back."""

    merits: tuple[Merit, ...]
    count: int
    joint: str | None = None  # address of the round's joint update, which is in the store


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
            ConfigError: this machine lacks the run's environment.
        """
        manifest = RunManifest.read(request.manifest_path)
        check_environment(manifest)
        return cls(request, manifest, BlobStore(request.store))

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
        """Take the outer step over the updates, and back what is retracted; return the next parameters' address.

        Raises:
            NetworkError: a blob is missing or damaged.
            Malformed: one of them is not a file or update of this run, or more is taken back than the round's
                bound allows.
            ProofRejected: the joint update is not that of the updates named beside it.
        """
        manifest, state = self.manifest, self.parameters(request.parameters)
        updates, shares = self._updates(request.updates), self._shares(request.retracted)
        if request.joint is None:
            after = aggregate(manifest, state, updates, shares, request.weights)
        else:
            if updates and not self.store.has(request.joint):
                # Nobody serves it: whoever has the updates makes it again, and serves it to the others.
                self.store.put(encode(merge(manifest, updates, request.weights)))
            joint = self._joint(request.joint)
            if updates and not is_joint_of(manifest, joint, updates, request.weights):
                raise ProofRejected(f"{request.joint} is not the joint update of the round's updates")
            after = aggregate(manifest, state, (joint,), shares)
        return self.store.put(parameters_file(manifest, after))

    def weigh(self, request: WeighRequest, judge: Judge) -> Weighing:
        """Judge a round's updates, merge them where the run does, and find out how much of what waits it takes back.

        Args:
            judge: says what updates are worth that start from a state (`training.gate.judge_round`).

        Raises:
            NetworkError: a blob is missing or damaged.
            Malformed: one of them is not a file or update of this run.
        """
        updates, state = self._updates(request.updates), self.parameters(request.parameters)
        merits = judge(state, updates)
        passed = [place for place, one in enumerate(merits) if one.passed]
        moving, joint = [updates[place] for place in passed], None
        if moving and self.manifest.merging.joint_k:
            one = merge(self.manifest, moving, [request.weights[place] for place in passed])
            moving, joint = [one], self.store.put(encode(one))
        return Weighing(merits, fitting(moving, self._shares(request.retracted)), joint)

    def _updates(self, blobs: Iterable[str]) -> list[Symbols]:
        limit = max_published_bytes(self.manifest)
        return [read_update(self.manifest, self.store.get(blob, max_size=limit)) for blob in blobs]

    def _shares(self, retracted: Iterable[RetractedRound]) -> list[Contribution]:
        found = []
        for round_ in retracted:
            updates = self._updates(round_.updates)
            joint = None if round_.joint is None else self._joint(round_.joint)
            found += [share_of(updates, index, round_.weights, joint) for index in round_.taken]
        return found

    def _joint(self, address: str) -> SparseSymbols:
        return read_joint(self.manifest, self.store.get(address, max_size=max_joint_bytes(self.manifest)))
