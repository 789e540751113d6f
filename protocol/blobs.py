"""Content-addressed files: what is read back is what its BLAKE3 digest names, or it is not read at all.

Layout: `<root>/<first 2 hex>/<64 hex>` for whole blobs, `<root>/partial/<64 hex>` for downloads that may
resume. Several processes may share a root: files appear by atomic rename, and only this process's pins bind
its own eviction.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from blake3 import blake3

from protocol.errors import NetworkError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


class BlobMissing(NetworkError):
    """Report a blob that this store does not hold."""


class BlobCorrupt(NetworkError):
    """Report bytes that do not hash to their name; they have been deleted."""


class BlobTooLarge(NetworkError):
    """Report a blob beyond the size its caller allows."""


def check_digest(digest: str) -> str:
    """Return the digest if it is 64 lowercase hex digits, so that no name can leave the store's root.

    Raises:
        ValueError: it is not.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"not a blob digest: {digest[:80]!r}")
    return digest


def pieces_digest(pieces: Iterable[bytes | memoryview]) -> str:
    """Return the digest of the bytes of all pieces, one after the other."""
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


class Partial:
    """A download in progress: bytes are appended, hashed as they come, and become a blob only if the hash agrees.

    `offset` counts the bytes already there, those of an earlier attempt included.
    """

    def __init__(self, store: "BlobStore", digest: str) -> None:
        self._store = store
        self._path = store.root / "partial" / digest
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.digest = digest
        self.offset = 0
        self._hasher = blake3()
        self._file = self._path.open("a+b")
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            self._hasher.update(piece)
            self.offset += len(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.abort()

    def append(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add the next bytes."""
        self._file.write(chunk)
        self._hasher.update(chunk)
        self.offset += len(chunk)

    def restart(self) -> None:
        """Drop everything received so far."""
        self._file.truncate(0)
        self._hasher = blake3()
        self.offset = 0

    def finish(self) -> Path:
        """Verify and move the file into the store; return its path.

        Raises:
            BlobCorrupt: the bytes are not those the digest names; the partial file is gone.
        """
        self._file.close()
        if self._hasher.hexdigest() != self.digest:
            self._path.unlink(missing_ok=True)
            raise BlobCorrupt(
                f"received bytes hash to {self._hasher.hexdigest()[:16]}, not {self.digest[:16]}"
            )
        return self._store._adopt(self._path, self.digest)

    def abort(self) -> None:
        """Close the file and keep it, so that a later attempt resumes here."""
        self._file.close()


class BlobStore:
    """A directory of blobs under an optional size limit; the least recently used unpinned blobs make room."""

    def __init__(self, root: Path, *, max_bytes: int | None = None) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._pins: set[str] = set()
        self.withheld: frozenset[str] = frozenset()  # held, and given to nobody else for now
        root.mkdir(parents=True, exist_ok=True)
        self._total = sum(path.stat().st_size for path in self._files())

    def put(self, data: bytes | bytearray | memoryview) -> str:
        """Store bytes and return their digest."""
        digest = blake3(data).hexdigest()
        if not self.has(digest):
            scratch = self._scratch()
            scratch.write_bytes(data)
            self._adopt(scratch, digest)
        return digest

    def put_pieces(self, pieces: Sequence[bytes | memoryview]) -> str:
        """Store the bytes of all pieces, one after the other, and return their digest."""
        digest = pieces_digest(pieces)
        if not self.has(digest):
            scratch = self._scratch()
            with scratch.open("wb") as writer:
                writer.writelines(pieces)
            self._adopt(scratch, digest)
        return digest

    def put_file(self, source: Path) -> str:
        """Store a copy of a file of any size and return its digest."""
        scratch = self._scratch()
        hasher = blake3()
        with source.open("rb") as reader, scratch.open("wb") as writer:
            while piece := reader.read(_PIECE):
                hasher.update(piece)
                writer.write(piece)
        digest = hasher.hexdigest()
        if self.has(digest):
            scratch.unlink()
        else:
            self._adopt(scratch, digest)
        return digest

    def has(self, digest: str) -> bool:
        """Tell whether the blob is here."""
        return self._at(digest).is_file()

    def path(self, digest: str) -> Path:
        """Return the blob's file and mark it as used. Its bytes were verified when they came in, not now.

        Raises:
            BlobMissing: it is not here.
        """
        path = self._at(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            raise BlobMissing(f"blob {digest[:16]} is not in the store") from None
        return path

    def size(self, digest: str) -> int:
        """Return the blob's size in bytes.

        Raises:
            BlobMissing: it is not here.
        """
        return self.path(digest).stat().st_size

    def get(self, digest: str, *, max_size: int) -> bytes:
        """Read a blob and verify it.

        Raises:
            BlobMissing: it is not here.
            BlobTooLarge: it has more than `max_size` bytes; nothing was read.
            BlobCorrupt: the disk gave other bytes; the file is deleted.
        """
        path = self.path(digest)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_size:
                raise BlobTooLarge(f"blob {digest[:16]} has {size} bytes, more than {max_size}")
            data = file.read(max_size + 1)
        if blake3(data).hexdigest() != digest:
            self.delete(digest)
            raise BlobCorrupt(f"blob {digest[:16]} was damaged on disk and has been deleted")
        return data

    def offers(self, digest: str) -> bool:
        """Tell whether a blob is here and not withheld from others."""
        return digest not in self.withheld and self.has(digest)

    def pin(self, digest: str) -> None:
        """Keep a blob, here or to come, from eviction."""
        self._pins.add(check_digest(digest))

    def unpin(self, digest: str) -> None:
        """Let eviction take a blob again."""
        self._pins.discard(digest)

    def delete(self, digest: str) -> None:
        """Delete a blob and its partial download, if they are here."""
        path = self._at(digest)
        try:
            size = path.stat().st_size
            path.unlink()
            self._total -= size
        except FileNotFoundError:
            pass
        (self.root / "partial" / digest).unlink(missing_ok=True)

    def begin(self, digest: str) -> Partial:
        """Open a download of this blob, resuming what an earlier one left."""
        return Partial(self, check_digest(digest))

    def _at(self, digest: str) -> Path:
        return self.root / check_digest(digest)[:2] / digest

    def _scratch(self) -> Path:
        path = self.root / "scratch" / uuid4().hex
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _files(self) -> Iterator[Path]:
        return (path for path in self.root.glob("[0-9a-f][0-9a-f]/*") if _DIGEST.fullmatch(path.name))

    def _adopt(self, source: Path, digest: str) -> Path:
        target = self._at(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = source.stat().st_size
        known = target.is_file()
        source.replace(target)
        if not known:
            self._total += size
        if self._max_bytes is not None and self._total > self._max_bytes:
            self._evict(keep=digest)
        return target

    def _evict(self, *, keep: str) -> None:
        # Another process may have added or removed files, so the count starts from the disk.
        entries = []
        for path in self._files():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            entries.append((status.st_mtime_ns, status.st_size, path.name))
        self._total = sum(size for _, size, _ in entries)
        for _, _, digest in sorted(entries):
            if self._max_bytes is None or self._total <= self._max_bytes:
                return
            if digest != keep and digest not in self._pins:
                self.delete(digest)
