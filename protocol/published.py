"""What a unit publishes, as one blob with one identity: its update, and in a run of rollouts those too.

    pre-training    the update's container (`protocol.update`)
    rollouts        bytes u32 of the update's container, little-endian | container | file of `protocol.rollouts`
    with a judge    the same two, each after its bytes u32 | file of `protocol.judging`

The identity is of what the blob says, not of its bytes, which are only an encoding.
"""

import struct
from dataclasses import dataclass
from typing import Final

from protocol import judging, rollouts, update
from protocol.canonical import tagged_digest
from protocol.errors import Malformed
from protocol.judging import Judgment, max_judgments_bytes
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
    judgments: tuple[Judgment, ...] = ()  # of groups of the round before

    @property
    def identity(self) -> str:
        """Return what a unit commits to and reveals: 64 hex digits."""
        return published_identity(symbols_digest(self.symbols), self.groups, self.judgments)


def published_identity(symbols: str, groups: tuple[bytes, ...], judgments: tuple[Judgment, ...] = ()) -> str:
    """Return the identity of an update, given by its `symbols_digest`, with what is published beside it."""
    if not groups:
        return symbols
    found = tagged_digest("murmur/published", symbols, *map(group_digest, groups))
    return tagged_digest("murmur/judged", found, *(one.digest for one in judgments)) if judgments else found


def max_published_bytes(manifest: RunManifest) -> int:
    """Return the length of the longest blob that `read_published` reads."""
    size = parameter_layout(manifest.model).size
    largest = max_update_bytes(manifest.codec, size, manifest.moment_slices)
    if manifest.rollouts is None:
        return largest
    largest += _LENGTH.size + Shape.of(manifest).max_file_bytes
    return largest if manifest.judge is None else largest + _LENGTH.size + max_judgments_bytes(manifest)


def write_published(manifest: RunManifest, found: Published) -> bytes:
    """Write a unit's blob.

    Raises:
        ValueError: another number of groups than the run's, or more judgments than a unit may have.
    """
    container = update.encode(found.symbols)
    if manifest.rollouts is None:
        return container
    if len(found.groups) != manifest.rollouts.sampling.groups:
        raise ValueError(f"{len(found.groups)} groups, and a unit has {manifest.rollouts.sampling.groups}")
    parts = [container, rollouts.encode(found.groups, Shape.of(manifest))]
    if manifest.judge is not None:
        parts.append(judging.encode(manifest, found.judgments))
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts[:-1]) + parts[-1]


def read_published(manifest: RunManifest, data: bytes) -> Published:
    """Read a unit's blob; of its groups each still has to pass `protocol.rollouts.decode_group`.

    Raises:
        Malformed: anything but a blob of this run; every length is bounded before anything is allocated.
    """
    container, *rest = _split(manifest, data)
    symbols = _symbols(manifest, container)
    if manifest.rollouts is None:
        return Published(symbols)
    groups = rollouts.decode(rest[0], Shape.of(manifest))
    return Published(symbols, groups, judging.decode(manifest, rest[1]) if len(rest) > 1 else ())


def read_rollouts(manifest: RunManifest, data: bytes) -> tuple[bytes, ...]:
    """Read the rollouts alone from a unit's blob: every group's canonical bytes.

    Raises:
        Malformed: there are none of this run.
        ValueError: its units hold none.
    """
    return rollouts.decode(_split(manifest, data)[1], Shape.of(manifest))


def read_judgments(manifest: RunManifest, data: bytes) -> tuple[Judgment, ...]:
    """Read the judgments alone from a unit's blob; none where the run has no judge.

    Raises:
        Malformed: there are none of this run.
    """
    _, *rest = _split(manifest, data)
    return judging.decode(manifest, rest[1]) if len(rest) > 1 else ()


def published_sizes(manifest: RunManifest, data: bytes) -> tuple[int, int]:
    """Return how many bytes of a unit's blob are its update, and how many its rollouts and judgments.

    Raises:
        Malformed: it is none of this run.
    """
    container, *rest = _split(manifest, data)
    return len(container), sum(map(len, rest))


def read_update(manifest: RunManifest, data: bytes) -> Symbols:
    """Read the update alone from a unit's blob.

    Raises:
        Malformed: there is none of this run.
    """
    return _symbols(manifest, _split(manifest, data)[0])


def _symbols(manifest: RunManifest, container: bytes) -> Symbols:
    size = parameter_layout(manifest.model).size
    return update.decode(container, codec=manifest.codec, size=size, slices=manifest.moment_slices)


def _split(manifest: RunManifest, data: bytes) -> list[bytes]:
    """Return the parts: the update's container, and in a run of rollouts those, and in one with a judge its file."""
    if len(data) > max_published_bytes(manifest):
        raise Malformed(f"published blob of {len(data)} bytes exceeds {max_published_bytes(manifest)}")
    parts: list[bytes] = []
    if manifest.rollouts is not None:
        for _ in range(1 if manifest.judge is None else 2):
            if len(data) < _LENGTH.size:
                raise Malformed("published blob is truncated")
            (length,) = _LENGTH.unpack_from(data)
            end = _LENGTH.size + length
            if end > len(data):
                raise Malformed("published blob with a part longer than itself")
            parts.append(data[_LENGTH.size : end])
            data = data[end:]
    return [*parts, data]
