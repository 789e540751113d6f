"""The bundle's file: a tar archive with exactly one possible spelling.

Each 512-byte header is rebuilt from the member's name and length and compared, so no field of a hostile header is
ever interpreted: no links, devices, sparse files, extended headers or paths. Names are `bundle.json` and
`files/<64 hex>`, in that order, rising.
"""

import re
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from protocol.canonical import digest
from protocol.errors import ConfigError, ProofRejected

MAX_DOCUMENT_BYTES = 4 << 20
MAX_FILES = 16
_BLOCK = 512
_NAME = re.compile(rb"(bundle\.json|files/[0-9a-f]{64})\0+")
_SIZE = re.compile(rb"([0-7]{11})\0")


@dataclass(frozen=True)
class Contents:
    """Hold the document and the files by content address; each file hashes to its address."""

    document: bytes
    files: Mapping[str, bytes]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def write_bundle(path: Path, document: bytes, files: Mapping[str, bytes]) -> None:
    """Write a bundle; the same contents give the same bytes.

    Raises:
        ConfigError: the file cannot be written.
    """
    members = [("bundle.json", document)] + [(f"files/{name}", files[name]) for name in sorted(files)]
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("wb") as out:
            for name, data in members:
                out.write(_header(name, len(data)))
                out.write(data)
                out.write(bytes(-len(data) % _BLOCK))
            out.write(bytes(2 * _BLOCK))
        scratch.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def read_bundle(path: Path, file_limit: Callable[[bytes], int]) -> Contents:
    """Read a bundle from anyone.

    Args:
        file_limit: returns the largest file, in bytes, that may follow a document; it may raise ProofRejected.

    Raises:
        ConfigError: there is no such file.
        ProofRejected: it is not spelled as `write_bundle` spells it, a member is too large, or bytes do not hash to
            their name.
    """
    try:
        with path.open("rb") as source:
            return _read(source, path.stat().st_size, file_limit)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _read(source: BinaryIO, size: int, file_limit: Callable[[bytes], int]) -> Contents:
    document: bytes | None = None
    limit = MAX_DOCUMENT_BYTES
    files: dict[str, bytes] = {}
    last = ""
    while (header := source.read(_BLOCK)) != bytes(_BLOCK):
        name, length = _parse(header)
        if name <= last:
            raise ProofRejected("bundle with members out of order or twice")
        last = name
        if length > limit or length > size:
            raise ProofRejected(f"bundle whose member {name[:20]} claims {length} bytes")
        data = source.read(length)
        if len(data) != length or source.read(-length % _BLOCK) != bytes(-length % _BLOCK):
            raise ProofRejected("bundle is truncated or padded with something")
        if name == "bundle.json":
            document, limit = data, file_limit(data)
            continue
        address = name.removeprefix("files/")
        if document is None or len(files) >= MAX_FILES:
            raise ProofRejected("bundle without a document at its start, or with too many files")
        if digest(data) != address:
            raise ProofRejected(f"file {address[:16]} of the bundle does not hash to its name")
        files[address] = data
    if document is None or source.read(_BLOCK + 1) != bytes(_BLOCK):
        raise ProofRejected("bundle without a document, or with something after its end")
    return Contents(document, files)


def _parse(header: bytes) -> tuple[str, int]:
    name, size = _NAME.fullmatch(header[:100]), _SIZE.fullmatch(header[124:136])
    if name is None or size is None:
        raise ProofRejected("not a bundle: a member has another name or length than a bundle's")
    found, length = name[1].decode(), int(size[1], 8)
    if _header(found, length) != header:
        raise ProofRejected("bundle with a header that a bundle does not have")
    return found, length
