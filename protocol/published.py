"""What a unit publishes, as one blob with one identity: its update, and in a run of rollouts those too.

    pre-training    the update's container (`protocol.update`)
    rollouts        bytes u32 of the update's container, little-endian | container | file of `protocol.rollouts`

The identity is of what the blob says, not of its bytes, which are only an encoding.
"""

import struct
from dataclasses import dataclass
from typing import Final

from protocol import rollouts, update
from protocol.canonical import tagged_digest
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.rollouts import Shape, group_digest
from protocol.tensors import parameter_layout
from protocol.update import Symbols, max_update_bytes, symbols_digest

_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True)
class Published:
    """Hold what a unit publishes."""

    symbols: Symbols
    groups: tuple[bytes, ...] = ()  # canonical bytes of each group of rollouts

    @property
    def identity(self) -> str:
        """Return what a unit commits to and reveals: 64 hex digits."""
        return published_identity(symbols_digest(self.symbols), self.groups)


def published_identity(symbols: str, groups: tuple[bytes, ...]) -> str:
    """Return the identity of an update, given by its `symbols_digest`, with the groups published beside it."""
    if not groups:
        return symbols
    return tagged_digest("murmur/published", symbols, *map(group_digest, groups))


def max_published_bytes(manifest: RunManifest) -> int:
    """Return the length of the longest blob that `read_published` reads."""
    largest = max_update_bytes(manifest.codec, parameter_layout(manifest.model).size)
    if manifest.rollouts is None:
        return largest
    return _LENGTH.size + largest + Shape.of(manifest).max_file_bytes


def write_published(manifest: RunManifest, found: Published) -> bytes:
    """Write a unit's blob.

    Raises:
        ValueError: another number of groups than the run's.
    """
    container = update.encode(found.symbols)
    if manifest.rollouts is None:
        return container
    return _LENGTH.pack(len(container)) + container + rollouts.encode(found.groups, Shape.of(manifest))


def read_published(manifest: RunManifest, data: bytes) -> Published:
    """Read a unit's blob; of its groups each still has to pass `protocol.rollouts.decode_group`.

    Raises:
        Malformed: anything but a blob of this run; every length is bounded before anything is allocated.
    """
    container, rest = _split(manifest, data)
    symbols = _symbols(manifest, container)
    if manifest.rollouts is None:
        return Published(symbols)
    return Published(symbols, rollouts.decode(rest, Shape.of(manifest)))


def published_sizes(manifest: RunManifest, data: bytes) -> tuple[int, int]:
    """Return how many bytes of a unit's blob are its update, and how many its rollouts.

    Raises:
        Malformed: it is none of this run.
    """
    container, rest = _split(manifest, data)
    return len(container), len(rest)


def read_update(manifest: RunManifest, data: bytes) -> Symbols:
    """Read the update alone from a unit's blob.

    Raises:
        Malformed: there is none of this run.
    """
    return _symbols(manifest, _split(manifest, data)[0])


def _symbols(manifest: RunManifest, container: bytes) -> Symbols:
    return update.decode(container, codec=manifest.codec, size=parameter_layout(manifest.model).size)


def _split(manifest: RunManifest, data: bytes) -> tuple[bytes, bytes]:
    if len(data) > max_published_bytes(manifest):
        raise Malformed(f"published blob of {len(data)} bytes exceeds {max_published_bytes(manifest)}")
    if manifest.rollouts is None:
        return data, b""
    if len(data) < _LENGTH.size:
        raise Malformed("published blob is truncated")
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if end > len(data):
        raise Malformed("published blob with an update longer than itself")
    return data[_LENGTH.size : end], data[end:]
