"""Checkpoints: a run's global parameters by round, as files of their own that outlive the blobs of a round.

Layout: `<directory>/<round, 7 digits>-<root, 64 hex>.safetensors`. A file has its name only when its bytes hash to the
root and are on the disk, so the directory is the whole index and a kill at any moment leaves a right one. Where the
file system can, a checkpoint and its blob are two names of the same bytes, and deleting the blob frees nothing.
"""

import contextlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Final

from blake3 import blake3

from protocol.blobs import BlobCorrupt, BlobMissing, BlobTooLarge

CHECKPOINTS_DIRECTORY: Final = "checkpoints"
CHECKPOINTS_MIB: Final = 8192
"""Disk that checkpoints may take unless the operator says otherwise, in MiB."""

MAX_ROUND: Final = 10**7
_NAME = re.compile(r"([0-9]{7})-([0-9a-f]{64})\.safetensors")
_PART = ".part"
_PIECE = 1 << 20


@dataclass(frozen=True, order=True)
class Checkpoint:
    """Name the global parameters at the start of a round; those of the round after the last are the run's result."""

    round: int
    root: str  # content address of the file
    bytes: int


def spared(rounds: Collection[int], room: int) -> frozenset[int]:
    """Return the rounds whose checkpoints stay when there is room for so many.

    The first and the last stay even beyond it. Of the others the one goes first whose neighbours are closest on a
    logarithmic scale, so that those that stay are spread evenly over it, as training curves are read (Biderman et al.,
    arXiv 2304.01373). Asked anew every round, the choice is close to what would have been made at the end.
    """
    order = sorted(set(rounds))
    kept, surplus = set(order), len(order) - max(room, 2)
    before, after = {b: a for a, b in pairwise(order)}, dict(pairwise(order))

    def gap(round_: int) -> float:
        return log((after[round_] + 1) / (before[round_] + 1))

    closest = [(gap(round_), round_) for round_ in order[1:-1]] if surplus > 0 else []
    heapify(closest)
    while surplus > 0:
        width, round_ = heappop(closest)
        if round_ not in kept or width != gap(round_):
            continue  # told before a neighbour went
        kept.remove(round_)
        surplus -= 1
        low, high = before[round_], after[round_]
        after[low], before[high] = high, low
        for one in (low, high):
            if one not in (order[0], order[-1]):
                heappush(closest, (gap(one), one))
    return frozenset(kept)


class Checkpoints:
    """Keep, list and prune the checkpoints of one run. One process writes; any number may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def kept(self) -> list[Checkpoint]:
        """Return what is here, by round."""
        found = []
        for entry in self._entries():
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                with contextlib.suppress(FileNotFoundError):  # pruned meanwhile
                    found.append(Checkpoint(int(match[1]), match[2], entry.stat().st_size))
        return sorted(found)

    def path(self, checkpoint: Checkpoint) -> Path:
        """Return the file of a checkpoint, here or to come."""
        return self._at(checkpoint.round, checkpoint.root)

    def read(self, checkpoint: Checkpoint, *, max_bytes: int) -> bytes:
        """Read a checkpoint and verify it.

        Raises:
            BlobMissing: it is not here.
            BlobTooLarge: it has more than `max_bytes`.
            BlobCorrupt: the disk gave other bytes.
        """
        return read_verified(self.path(checkpoint), checkpoint.root, max_bytes=max_bytes)

    def add(self, round_: int, root: str, blob: Path) -> bool:
        """Keep a round's parameters, given their blob, in place of any others of that round.

        Tell whether they were not here yet.

        Raises:
            BlobMissing: there is no such blob.
            BlobCorrupt: it does not hash to the root; nothing was kept.
            OSError: the disk does not take it.
        """
        if not 0 <= round_ < MAX_ROUND:
            raise ValueError(f"no round {round_}")
        target = self._at(round_, root)
        if target.exists():
            return False
        self.directory.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + _PART)
        part.unlink(missing_ok=True)
        try:
            _take(blob, part)
            _persist(part, root)
            part.replace(target)
        except FileNotFoundError as error:
            raise BlobMissing(f"the blob {root[:16]} of round {round_} is not here") from error
        finally:
            part.unlink(missing_ok=True)
        _persist_names(self.directory)
        for one in self.kept():
            if one.round == round_ and one.root != root:  # of blocks that the chain took back
                self.path(one).unlink(missing_ok=True)
        return True

    def prune(self, max_bytes: int) -> list[Checkpoint]:
        """Delete checkpoints beyond a cap and return them; delete what killed writers left, too."""
        for entry in self._entries():
            if entry.name.endswith(_PART):
                Path(entry.path).unlink(missing_ok=True)
        kept = self.kept()
        each = max((one.bytes for one in kept), default=1)
        stay = spared([one.round for one in kept], max_bytes // max(each, 1))
        gone = [one for one in kept if one.round not in stay]
        for one in gone:
            self.path(one).unlink(missing_ok=True)
        return gone

    def _at(self, round_: int, root: str) -> Path:
        return self.directory / f"{round_:07d}-{root}.safetensors"

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.directory) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def read_verified(path: Path, root: str, *, max_bytes: int) -> bytes:
    """Read a file that has to hash to a root.

    Raises:
        BlobMissing: it is not there, or cannot be read.
        BlobTooLarge: it has more than `max_bytes`.
        BlobCorrupt: it does not.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise BlobMissing(f"cannot read {path}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise BlobTooLarge(f"{path} has more than {max_bytes} bytes")
    if blake3(data).hexdigest() != root:
        raise BlobCorrupt(f"{path} does not hash to {root[:16]}", hint="delete it; another checkpoint may do")
    return data


def _take(blob: Path, part: Path) -> None:
    """Give a blob a second name, or copy it where the file system has no such thing."""
    try:
        os.link(blob, part)
    except FileNotFoundError:
        raise
    except OSError:
        with blob.open("rb") as reader, part.open("wb") as writer:
            while piece := reader.read(_PIECE):
                writer.write(piece)


def _persist(part: Path, root: str) -> None:
    """Make sure that a file's bytes are those of a root, and on the disk.

    Raises:
        BlobCorrupt: they are others.
    """
    hasher = blake3()
    with part.open("rb") as reader:
        while piece := reader.read(_PIECE):
            hasher.update(piece)
        os.fsync(reader.fileno())
    if hasher.hexdigest() != root:
        raise BlobCorrupt(f"the blob {root[:16]} was damaged on disk and is not kept")


def _persist_names(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
