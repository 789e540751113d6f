"""What a unit's rollouts say (samples in groups) and how they travel (the file).

What is committed and drawn is a group's canonical bytes; the file's are only an encoding, since zstd's output differs
between versions. Little-endian:

    group     tokens u16 a sample | turns u8 a sample | start u16, end u16 a turn | player u8 a turn
              | u8 or u16 a token (u8 where the vocabulary is no larger than 256) | log-probability u8 a token of a
              turn | f64 a component of a player's reward of a sample | f32 a projection of a sample's activations
    file      magic 4s | version u8 | groups u16 | group size u16 | players u8 | components u8 | token bytes u8
              | bytes u32 a group | length u32 | one zstd frame of all groups | BLAKE3 of everything before it

A log-probability is a code c that stands for -(2**(c / 28) - 1) / 16 nats: steps of 0.0015 near zero, of a fortieth of
the value far from it, down to -34.4.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import zstandard
from blake3 import blake3

from protocol.canonical import DIGEST_BYTES, tagged_digest
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.rollout_config import MAX_PLAYERS, RolloutConfig, SamplingConfig
from protocol.tensors import Floats

MAGIC: Final = b"MURG"
VERSION: Final = 1
MAX_COMPONENTS: Final = 16
MAX_REWARD: Final = 1e6
PROJECTIONS: Final = 2
"""Of a sample's activations: a group of eight shows its distance in 16 random directions."""
MAX_PROJECTION: Final = 1e9

_HEADER: Final = struct.Struct("<4sBHHBBB")
_LENGTH: Final = struct.Struct("<I")
_CODES: Final = 256
_CODES_A_DOUBLING: Final = 28
_LINEAR: Final = 16
_DIGITS: Final = 50

Words = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Hold one episode: all its tokens, and what the policy said of them."""

    tokens: Words  # [tokens]
    turns: Words  # [turns, 2], [start, end) of each turn of the policy, in order; the last ends the sample
    players: Bytes  # [turns], whose turn each is
    codes: Bytes  # [tokens of turns], quantised log-probabilities at the temperature sampled with
    rewards: Doubles  # [players, components]
    fingerprint: Floats  # [PROJECTIONS] of the policy's last activations (`training.activations`)

    @property
    def spoken(self) -> npt.NDArray[np.int64]:
        """Return where the policy's tokens lie: int64[tokens of turns]."""
        return np.concatenate([np.arange(start, end, dtype=np.int64) for start, end in self.turns.tolist()])

    @property
    def log_probabilities(self) -> Doubles:
        """Return what the codes stand for: float64[tokens of turns], in nats."""
        found: Doubles = _values()[self.codes]
        return found


Group = tuple[Sample, ...]


@dataclass(frozen=True)
class Shape:
    """Say what a run's samples look like; everything read is bounded by it."""

    sampling: SamplingConfig
    components: int  # of a reward
    vocab: int
    players: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.components <= MAX_COMPONENTS:
            raise ValueError(f"a reward has 1 to {MAX_COMPONENTS} components")
        if not 1 <= self.players <= MAX_PLAYERS:
            raise ValueError(f"an episode has 1 to {MAX_PLAYERS} players")

    @classmethod
    def of(cls, manifest: RunManifest) -> Self:
        """Return what a run's samples look like.

        Raises:
            ValueError: its units hold no rollouts.
        """
        rollouts = rollouts_of(manifest)
        vocab, players = manifest.model.vocab, rollouts.environment.players
        return cls(rollouts.sampling, len(rollouts.rewards), vocab, players)

    @property
    def token_bytes(self) -> int:
        """Return the bytes a token."""
        return 1 if self.vocab <= 256 else 2

    @property
    def max_group_bytes(self) -> int:
        """Return the length of the longest group."""
        one = self.sampling
        tokens = one.tokens * (self.token_bytes + 1)
        rewards = 8 * self.components * self.players
        return one.group_size * (2 + 1 + 5 * one.turns + tokens + rewards + 4 * PROJECTIONS)

    @property
    def max_file_bytes(self) -> int:
        """Return the length of the longest file of a whole unit that `decode` reads."""
        raw = self.sampling.groups * self.max_group_bytes
        fixed = _HEADER.size + _LENGTH.size * (self.sampling.groups + 1) + DIGEST_BYTES
        return fixed + raw + (raw >> 8) + 1024  # above ZSTD_COMPRESSBOUND for every size


def rollouts_of(manifest: RunManifest) -> RolloutConfig:
    """Return how a run's rollouts are made.

    Raises:
        ValueError: its units hold none.
    """
    if manifest.rollouts is None:
        raise ValueError("the run's units hold no rollouts")
    return manifest.rollouts


def quantise(log_probabilities: Doubles) -> Bytes:
    """Return the nearest codes of log-probabilities in nats: uint8, of the same shape."""
    codes: Bytes = np.searchsorted(-_edges(), -log_probabilities, side="left").astype(np.uint8)
    return codes


def deviation(codes: Bytes, log_probabilities: Doubles) -> Doubles:
    """Return how far values lie outside of what codes stand for, in nats: zero for all that `quantise` gives."""
    edges = _edges()
    upper = np.concatenate(([np.inf], edges))[codes]
    lower = np.concatenate((edges, [-np.inf]))[codes]
    found: Doubles = np.maximum(0.0, np.maximum(log_probabilities - upper, lower - log_probabilities))
    return found


def encode_group(group: Group, shape: Shape) -> bytes:
    """Write a group's canonical bytes.

    Raises:
        ValueError: not a group of this shape.
    """
    columns = (
        np.array([sample.tokens.size for sample in group], "<u2").tobytes(),
        np.array([len(sample.turns) for sample in group], np.uint8).tobytes(),
        *(sample.turns.astype("<u2").tobytes() for sample in group),
        *(sample.players.astype("u1").tobytes() for sample in group),
        *(sample.tokens.astype(f"<u{shape.token_bytes}").tobytes() for sample in group),
        *(sample.codes.tobytes() for sample in group),
        *((sample.rewards + 0.0).astype("<f8").tobytes() for sample in group),  # + 0.0: zero has one sign
        *(sample.fingerprint.astype("<f4").tobytes() for sample in group),
    )
    data = b"".join(columns)
    try:
        read = decode_group(data, shape)
    except Malformed as error:
        raise ValueError(f"not a group of this run: {error.message}") from error
    if not all(map(_same, group, read)):
        raise ValueError("a group with values that its bytes do not hold")
    return data


def decode_group(data: bytes, shape: Shape) -> Group:
    """Read a group's canonical bytes.

    Raises:
        Malformed: anything but what `encode_group` writes for a group of this shape.
    """
    if len(data) > shape.max_group_bytes:
        raise Malformed(f"group of {len(data)} bytes exceeds {shape.max_group_bytes}")
    reader = _Reader(data)
    size = shape.sampling.group_size
    lengths, turn_counts = reader.take("<u2", size), reader.take("u1", size)
    if not lengths.all() or int(lengths.max()) > shape.sampling.tokens:
        raise Malformed("group with a sample that is empty or too long")
    if not turn_counts.all() or int(turn_counts.max()) > shape.sampling.turns:
        raise Malformed("group with a sample of no turn or too many")
    turns = [reader.take("<u2", 2 * int(count)).reshape(-1, 2) for count in turn_counts]
    spoken = [_check_turns(own, int(length), shape) for own, length in zip(turns, lengths, strict=True)]
    players = [reader.take("u1", int(count)) for count in turn_counts]
    if any(int(own.max()) >= shape.players for own in players):
        raise Malformed("group with a turn of a player who does not exist")
    tokens = [reader.take(f"<u{shape.token_bytes}", int(length)).astype(np.uint16) for length in lengths]
    if any(int(own.max()) >= shape.vocab for own in tokens):
        raise Malformed("group with a token outside the vocabulary")
    codes = [reader.take("u1", count) for count in spoken]
    each = shape.players * shape.components
    rewards = reader.take("<f8", size * each).reshape(size, shape.players, shape.components)
    fingerprints = reader.take("<f4", size * PROJECTIONS).reshape(size, PROJECTIONS)
    reader.close()
    if not (np.abs(rewards) <= MAX_REWARD).all():
        raise Malformed("group with a reward that is not finite or too large")
    if (np.signbit(rewards) & (rewards == 0)).any():
        raise Malformed("group with a negative zero")
    if not (np.abs(fingerprints) <= MAX_PROJECTION).all():
        raise Malformed("group with a fingerprint that is not finite or too large")
    columns = zip(tokens, turns, players, codes, rewards, fingerprints, strict=True)
    return tuple(Sample(*parts) for parts in columns)


def group_digest(data: bytes) -> str:
    """Return the identity of a group from its canonical bytes: 64 hex digits."""
    return tagged_digest("murmur/group", data)


def encode(groups: Sequence[bytes], shape: Shape) -> bytes:
    """Write a file from groups' canonical bytes. `decode` gives the same bytes back.

    Raises:
        ValueError: more groups than a unit of the run has.
    """
    if len(groups) > shape.sampling.groups:
        raise ValueError(f"{len(groups)} groups, and a unit has {shape.sampling.groups}")
    frame = zstandard.ZstdCompressor(write_content_size=True).compress(b"".join(groups))
    lengths = b"".join(_LENGTH.pack(len(one)) for one in (*groups, frame))
    body = _header(shape, len(groups)) + lengths + frame
    return body + blake3(body).digest()


def decode(data: bytes, shape: Shape, groups: int | None = None) -> tuple[bytes, ...]:
    """Read a file: every group's canonical bytes, of which each still has to pass `decode_group`.

    Args:
        groups: how many it holds, at most the run's; None: as many as a unit of the run has.

    Raises:
        Malformed: not a file of this shape; every length is bounded before anything is allocated.
    """
    count = shape.sampling.groups if groups is None else groups
    if len(data) > shape.max_file_bytes:
        raise Malformed(f"rollouts of {len(data)} bytes exceed {shape.max_file_bytes}")
    start = _HEADER.size + _LENGTH.size * (count + 1)
    if len(data) < start + DIGEST_BYTES:
        raise Malformed("rollouts are truncated")
    if not data.startswith(_header(shape, count)):
        raise Malformed("not rollouts of this run")
    *lengths, frame_bytes = (one for (one,) in _LENGTH.iter_unpack(data[_HEADER.size : start]))
    if len(data) != start + frame_bytes + DIGEST_BYTES:
        raise Malformed("rollouts of a length that their header does not give")
    if max(lengths, default=0) > shape.max_group_bytes:
        raise Malformed("rollouts with a group that is too long")
    if blake3(memoryview(data)[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise Malformed("rollouts with a wrong checksum")
    raw = _decompress(data[start:-DIGEST_BYTES], sum(lengths))
    ends = np.cumsum(lengths, dtype=np.int64).tolist()
    return tuple(raw[end - length : end] for length, end in zip(lengths, ends, strict=True))


def _same(one: Sample, other: Sample) -> bool:
    columns = ("tokens", "turns", "players", "codes", "rewards", "fingerprint")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


class _Reader:
    """Cut columns off bytes whose length bounds every one of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, kind: str, count: int) -> npt.NDArray[Any]:
        wanted = np.dtype(kind).itemsize * count
        if self._at + wanted > len(self._data):
            raise Malformed("group is truncated")
        column: npt.NDArray[Any] = np.frombuffer(self._data, kind, count, self._at)
        self._at += wanted
        return column

    def close(self) -> None:
        if self._at != len(self._data):
            raise Malformed("group with bytes beyond its end")


def _check_turns(turns: Words, length: int, shape: Shape) -> int:
    """Check one sample's turns and return how many tokens they hold."""
    starts, ends = turns[:, 0].astype(np.int64), turns[:, 1].astype(np.int64)
    # A sample opens with what the environment says, and ends with a turn.
    if starts[0] < 1 or ends[-1] != length or (starts >= ends).any() or (ends[:-1] > starts[1:]).any():
        raise Malformed("group with turns out of order")
    if ((ends - starts) > shape.sampling.turn_tokens).any():
        raise Malformed("group with a turn that is too long")
    return int((ends - starts).sum())


def _header(shape: Shape, groups: int) -> bytes:
    sizes = (groups, shape.sampling.group_size, shape.players, shape.components, shape.token_bytes)
    return _HEADER.pack(MAGIC, VERSION, *sizes)


def _decompress(frame: bytes, expected: int) -> bytes:
    try:
        parameters = zstandard.get_frame_parameters(frame)
        # zstandard ignores max_output_size when the frame names a content size: that name is checked first.
        if parameters.content_size != expected or parameters.dict_id:
            raise Malformed("rollouts with a frame of another size than their groups'")
        raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed("rollouts with a broken frame") from error
    if len(raw) != expected:
        raise Malformed("rollouts with a frame of another length than it names")
    return raw


def _magnitudes(codes: Sequence[Decimal]) -> Doubles:
    with localcontext(Context(prec=_DIGITS)):
        powers = [Decimal(2) ** (code / _CODES_A_DOUBLING) for code in codes]
        return np.array([-float((power - 1) / _LINEAR) for power in powers])


@cache
def _values() -> Doubles:
    """Return what each code stands for, in nats, correctly rounded: everybody learns from the same numbers."""
    return _magnitudes([Decimal(code) for code in range(_CODES)]) + 0.0


@cache
def _edges() -> Doubles:
    """Return where one code's values end and the next one's begin: float64[codes - 1], falling."""
    return _magnitudes([Decimal(code) + Decimal("0.5") for code in range(_CODES - 1)])
