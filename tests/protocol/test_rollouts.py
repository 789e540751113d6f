"""Groups survive their bytes and files unchanged, and bytes that lie about anything are refused."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.rollout_config import SamplingConfig
from protocol.rollouts import (
    MAX_PROJECTION,
    MAX_REWARD,
    PROJECTIONS,
    Group,
    Sample,
    Shape,
    decode,
    decode_group,
    deviation,
    encode,
    encode_group,
    group_digest,
    quantise,
)

SMALL = Shape(SamplingConfig(groups=2, group_size=3, turns=3, turn_tokens=6, tokens=24), 2, 256, players=2)
HEADER = 12
CHECKSUM = 32

shapes = st.builds(
    Shape,
    st.builds(
        SamplingConfig,
        groups=st.integers(1, 4),
        group_size=st.integers(2, 6),
        turns=st.integers(1, 5),
        turn_tokens=st.integers(1, 9),
        tokens=st.integers(2, 70),
    ),
    st.integers(1, 3),
    st.sampled_from([2, 200, 256, 257, 2**16]),
    st.integers(1, 3),
)


def any_sample(rng: np.random.Generator, shape: Shape) -> Sample:
    config = shape.sampling
    turns, at = [], int(rng.integers(1, config.tokens))
    while True:
        end = at + int(rng.integers(1, min(config.turn_tokens, config.tokens - at) + 1))
        turns.append((at, end))
        at = end + int(rng.integers(0, 4))
        if len(turns) == config.turns or at >= config.tokens or rng.random() < 0.3:
            break
    spoken = sum(end - start for start, end in turns)
    return Sample(
        rng.integers(0, shape.vocab, turns[-1][1]).astype(np.uint16),
        np.array(turns, np.uint16),
        rng.integers(0, shape.players, len(turns)).astype(np.uint8),
        rng.integers(0, 256, spoken).astype(np.uint8),
        rng.normal(0, 10, (shape.players, shape.components)),
        rng.normal(0, 100, PROJECTIONS).astype(np.float32),
    )


def any_group(rng: np.random.Generator, shape: Shape) -> Group:
    return tuple(any_sample(rng, shape) for _ in range(shape.sampling.group_size))


def groups(seed: int = 1, shape: Shape = SMALL) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [encode_group(any_group(rng, shape), shape) for _ in range(shape.sampling.groups)]


def resealed(body: bytes) -> bytes:
    return body + blake3(body).digest()


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 2**32))
def test_a_units_groups_survive_their_file(shape: Shape, seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = [any_group(rng, shape) for _ in range(shape.sampling.groups)]
    data = [encode_group(group, shape) for group in units]
    file = encode(data, shape)
    assert len(file) <= shape.max_file_bytes
    assert list(decode(file, shape)) == data
    for group, raw in zip(units, data, strict=True):
        assert len(raw) <= shape.max_group_bytes
        read = decode_group(raw, shape)
        assert encode_group(read, shape) == raw
        for one, other in zip(group, read, strict=True):
            for name in ("tokens", "turns", "players", "codes", "rewards", "fingerprint"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_hostile_groups_are_refused_or_canonical(data: st.DataObject) -> None:
    """Whatever is done to a group's bytes, they are refused, or are the only spelling of what is read."""
    raw = bytearray(groups()[0])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    hostile = bytes(raw[: data.draw(st.integers(0, len(raw)))]) if data.draw(st.booleans()) else bytes(raw)
    try:
        read = decode_group(hostile, SMALL)
    except Malformed:
        return
    assert encode_group(read, SMALL) == hostile


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_file_changed_anywhere_is_refused(data: st.DataObject) -> None:
    file = bytearray(encode(groups(), SMALL))
    file[data.draw(st.integers(0, len(file) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed):
        decode(bytes(file), SMALL)
    body = bytes(file[:-CHECKSUM])
    try:
        found = decode(resealed(body), SMALL)
    except Malformed:
        return
    assert all(len(one) <= SMALL.max_group_bytes for one in found)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data, SMALL)
    with pytest.raises(Malformed):
        decode_group(data[:5], SMALL)


def test_a_frame_that_expands_beyond_its_groups_is_refused_unread() -> None:
    data = groups()
    for content in (b"\0" * 10_000_000, b"".join(data)[:-1]):
        frame = zstandard.ZstdCompressor().compress(content)
        lengths = struct.pack("<III", *map(len, data), len(frame))
        body = encode(data, SMALL)[:HEADER] + lengths + frame
        with pytest.raises(Malformed, match="another size"):
            decode(resealed(body), SMALL)


def test_a_group_longer_than_any_is_refused_before_it_is_unpacked() -> None:
    data = groups()
    frame = zstandard.ZstdCompressor().compress(b"\0" * 2**20)
    lengths = struct.pack("<III", 2**20 - 5, 5, len(frame))
    with pytest.raises(Malformed, match="too long"):
        decode(resealed(encode(data, SMALL)[:HEADER] + lengths + frame), SMALL)
    with pytest.raises(Malformed, match="exceed"):
        decode(b"\0" * (SMALL.max_file_bytes + 1), SMALL)
    with pytest.raises(Malformed, match="exceed"):
        decode_group(b"\0" * (SMALL.max_group_bytes + 1), SMALL)


def test_a_file_of_another_run_is_refused() -> None:
    file = encode(groups(), SMALL)
    for other in (replace(SMALL, components=1), replace(SMALL, vocab=300), replace(SMALL, players=1)):
        with pytest.raises(Malformed, match="not rollouts of this run"):
            decode(file, other)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"turns": np.array([[0, 5]], np.uint16)}, "out of order"),
        ({"turns": np.array([[2, 4]], np.uint16)}, "out of order"),
        ({"turns": np.array([[2, 4], [3, 5]], np.uint16)}, "out of order"),
        ({"turns": np.array([[5, 5]], np.uint16)}, "out of order"),
        ({"turns": np.array([[1, 2], [2, 3], [3, 4], [4, 5]], np.uint16)}, "no turn or too many"),
        ({"turns": np.zeros((0, 2), np.uint16)}, "no turn or too many"),
        ({"tokens": np.zeros(0, np.uint16)}, "empty or too long"),
        ({"tokens": np.zeros(25, np.uint16)}, "empty or too long"),
        ({"tokens": np.array([1, 2, 3, 4, 300], np.uint16)}, "do not hold"),
        ({"codes": np.zeros(9, np.uint8)}, "beyond its end"),
        ({"codes": np.zeros(2, np.uint8)}, "truncated"),
        ({"players": np.array([2], np.uint8)}, "does not exist"),
        ({"rewards": np.array([[np.nan, 0.0], [0.0, 0.0]])}, "reward that is not finite"),
        ({"rewards": np.array([[0.0, 0.0], [0.0, 2 * MAX_REWARD]])}, "too large"),
        ({"rewards": np.zeros((1, 2))}, "truncated"),
        ({"fingerprint": np.array([0.0, np.nan], np.float32)}, "fingerprint that is not finite"),
        ({"fingerprint": np.full(PROJECTIONS, 2 * MAX_PROJECTION, np.float32)}, "too large"),
    ],
)
def test_what_is_not_a_group_is_not_written(changes: dict[str, np.ndarray], why: str) -> None:
    plain = Sample(
        np.arange(5, dtype=np.uint16),
        np.array([[2, 5]], np.uint16),
        np.zeros(1, np.uint8),
        np.zeros(3, np.uint8),
        np.array([[1.0, -0.0], [0.0, 0.5]]),
        np.zeros(PROJECTIONS, np.float32),
    )
    encode_group((plain,) * 3, SMALL)
    with pytest.raises(ValueError, match=why):
        encode_group((plain, replace(plain, **changes), plain), SMALL)


def test_tokens_outside_the_vocabulary_and_a_second_zero_are_refused() -> None:
    raw = groups()[0]
    with pytest.raises(Malformed, match="vocabulary"):
        decode_group(raw, replace(SMALL, vocab=2))
    behind = SMALL.sampling.group_size * PROJECTIONS * 4
    zeroed = raw[: -8 - behind] + struct.pack("<d", -0.0) + raw[-behind:]
    with pytest.raises(Malformed, match="negative zero"):
        decode_group(zeroed, SMALL)


def test_a_group_of_another_number_and_a_unit_of_too_many_are_not_written() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="not a group"):
        encode_group(any_group(rng, SMALL)[:2], SMALL)
    with pytest.raises(ValueError, match="a unit has 2"):
        encode((*groups(), groups()[0]), SMALL)


def test_a_file_of_another_number_of_groups_is_read_only_where_it_is_asked_for() -> None:
    for some in ((), groups()[:1]):
        file = encode(some, SMALL)
        assert decode(file, SMALL, len(some)) == tuple(some)
        with pytest.raises(Malformed, match=r"truncated|not rollouts of this run"):
            decode(file, SMALL)


def test_each_group_has_its_own_address() -> None:
    assert len({group_digest(raw) for raw in (*groups(1), *groups(2))}) == 4


def test_codes_are_near_what_they_stand_for() -> None:
    values = -np.concatenate(([0.0], np.logspace(-6, np.log10(34), 5000)))
    codes = quantise(values)
    stood = replace(any_sample(np.random.default_rng(1), SMALL), codes=codes).log_probabilities
    assert (np.abs(stood - values) <= 0.0008 + 0.0125 * -values).all()
    np.testing.assert_array_equal(quantise(stood), codes)
    assert not deviation(codes, values).any()
    assert quantise(np.array([-1e9]))[0] == 255


def test_a_value_outside_its_code_deviates_by_the_distance() -> None:
    code = quantise(np.array([-2.0]))
    assert deviation(code, np.array([-3.0]))[0] == pytest.approx(1.0, abs=0.03)
    assert deviation(code, np.array([-0.5]))[0] == pytest.approx(1.5, abs=0.05)
    assert deviation(np.array([255], np.uint8), np.array([-500.0]))[0] == 0.0
    assert deviation(np.array([0], np.uint8), np.array([1e-9]))[0] == 0.0
