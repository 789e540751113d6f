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
from protocol.errors import ConfigError, MurmurError, ProofRejected

MAX_DOCUMENT_BYTES = 4 << 20
MAX_FILES = 16
MAX_BUNDLE_BYTES = 64 << 30
BLOCK = 512
_NAME = re.compile(rb"(bundle\.json|files/[0-9a-f]{64})\0+")
_SIZE = re.compile(rb"([0-7]{11})\0")


@dataclass(frozen=True)
class Contents:
    """Hold the document and the files by content address; each file hashes to its address."""

    document: bytes
    files: Mapping[str, bytes]


def header_of(name: str, size: int) -> bytes:
    """Return the one header that a member of this name and length has."""
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
                out.write(header_of(name, len(data)))
                out.write(data)
                out.write(bytes(-len(data) % BLOCK))
            out.write(bytes(2 * BLOCK))
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
            size = path.stat().st_size
            if size > MAX_BUNDLE_BYTES:
                raise ProofRejected(f"bundle of {size} bytes exceeds {MAX_BUNDLE_BYTES}")
            return read_contents(source, size, file_limit)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def read_contents(source: BinaryIO, size: int, file_limit: Callable[[bytes], int]) -> Contents:
    """Read a bundle of `size` bytes from an open file; see `read_bundle`."""
    document: bytes | None = None
    limit = MAX_DOCUMENT_BYTES
    files: dict[str, bytes] = {}
    last = ""
    while (header := source.read(BLOCK)) != bytes(BLOCK):
        name, length = parse_header(header, _NAME, ProofRejected, "a bundle")
        if name <= last:
            raise ProofRejected("bundle with members out of order or twice")
        last = name
        if length > limit or length > size:
            raise ProofRejected(f"bundle whose member {name[:20]} claims {length} bytes")
        data = source.read(length)
        if len(data) != length or source.read(-length % BLOCK) != bytes(-length % BLOCK):
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
    if document is None or source.read(BLOCK + 1) != bytes(BLOCK):
        raise ProofRejected("bundle without a document, or with something after its end")
    return Contents(document, files)


def parse_header(
    header: bytes, names: re.Pattern[bytes], error: type[MurmurError], what: str
) -> tuple[str, int]:
    """Return name and length of a member, if its header is spelled as `header_of` spells it.

    Args:
        names: matches the name field of a member that is allowed; its first group is the name.
        error: raised if the header is another.
    """
    name, size = names.fullmatch(header[:100]), _SIZE.fullmatch(header[124:136])
    if name is None or size is None:
        raise error(f"not {what}: a member has another name or length than {what}'s")
    found, length = name[1].decode(), int(size[1], 8)
    if header_of(found, length) != header:
        raise error(f"{what} with a header that {what} does not have")
    return found, length
