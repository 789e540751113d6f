"""The outer step is the same bytes for everyone: whatever the order, the magnitudes, or what one peer sends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.manifest import CodecConfig, OuterConfig, RunManifest
from protocol.tensors import parameter_layout
from protocol.update import MAGNITUDES, MAX_EXPONENT, MIN_EXPONENT, DenseSymbols, SparseSymbols, Symbols
from training.codec import compress, decode_dense
from training.model import initial_parameters
from training.outer import (
    Contribution,
    OuterState,
    aggregate,
    contribution,
    fitting,
    initial_state,
    load_parameters,
    lower_median,
    parameters_file,
    squared_norms,
)


@pytest.fixture
def size(manifest: RunManifest) -> int:
    return parameter_layout(manifest.model).size


@pytest.fixture
def state(manifest: RunManifest) -> OuterState:
    return initial_state(manifest, initial_parameters(manifest.model, 0))


def updates_of(manifest: RunManifest, count: int, scales: list[float] | None = None) -> list[Symbols]:
    size = parameter_layout(manifest.model).size
    made = []
    for number in range(count):
        delta = np.random.default_rng(number).normal(size=size) * 1e-3 * (scales or [1.0] * count)[number]
        made.append(compress(manifest.codec, delta.astype(np.float32))[0])
    return made


def plain_mean(updates: list[Symbols], size: int) -> np.ndarray:
    """Compute the clipped mean in float64."""
    vectors = [decode_dense(update, size).astype(np.float64) for update in updates]
    norms = [np.linalg.norm(vector) for vector in vectors]
    limit = sorted(norms)[(len(norms) - 1) // 2]
    return sum(v * min(1, limit / n) if n else v for v, n in zip(vectors, norms, strict=True)) / len(vectors)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_step_is_the_clipped_mean(
    manifest: RunManifest, state: OuterState, size: int, count: int
) -> None:
    updates = updates_of(manifest, count, [1.0, 0.5, 2.0, 3.0, 0.1][:count])
    after = aggregate(manifest, state, updates)
    expected = state.parameters - manifest.outer.lr * plain_mean(updates, size)
    np.testing.assert_allclose(after.parameters, expected, rtol=1e-6, atol=1e-9)
    assert (after.parameters != state.parameters).any()


def test_any_order_gives_the_same_bytes(manifest: RunManifest, state: OuterState) -> None:
    updates = updates_of(manifest, 4, [1.0, 7.0, 1e-5, 300.0])
    files = {
        parameters_file(manifest, aggregate(manifest, state, list(order))) for order in permutations(updates)
    }
    assert len(files) == 1


def test_no_updates_change_nothing(manifest: RunManifest, state: OuterState) -> None:
    assert parameters_file(manifest, aggregate(manifest, state, [])) == parameters_file(manifest, state)


def test_an_update_a_thousand_times_too_large_weighs_like_the_others(
    manifest: RunManifest, state: OuterState, size: int
) -> None:
    honest = updates_of(manifest, 4)
    loud = updates_of(manifest, 4, [1.0, 1.0, 1.0, 1000.0])
    one = aggregate(manifest, state, honest).parameters - state.parameters
    other = aggregate(manifest, state, loud).parameters - state.parameters
    np.testing.assert_allclose(other, one, rtol=0.05, atol=2e-5)
    assert np.linalg.norm(other) < 1.05 * np.linalg.norm(one)


def test_half_of_the_peers_cannot_raise_the_clip(manifest: RunManifest, state: OuterState) -> None:
    loud = updates_of(manifest, 4, [1.0, 1.0, 1000.0, 1000.0])
    squares = squared_norms(loud)
    assert lower_median(squares) == max(squares[:2])
    step = aggregate(manifest, state, loud).parameters - state.parameters
    assert np.linalg.norm(step) < 2 * manifest.outer.lr * np.linalg.norm(decode_dense(loud[0], step.size))


LARGEST = MAGNITUDES.size - 1


def extreme(size: int, exponent: int, level: int, chunk: int = 512, k: int = 512) -> SparseSymbols:
    chunks = -(-size // chunk)
    indices = (np.arange(size) % chunk).astype(np.uint16)
    return SparseSymbols(
        size, chunk, k, exponent, indices, np.full(size, 2, np.uint8), np.full((chunks, 2), level, np.uint8)
    )


@given(
    exponents=st.lists(st.integers(MIN_EXPONENT, MAX_EXPONENT), min_size=1, max_size=5),
    levels=st.lists(st.sampled_from([0, 1, 2, 196, LARGEST]), min_size=5, max_size=5),
)
def test_extreme_exponents_stay_exact(manifest: RunManifest, exponents: list[int], levels: list[int]) -> None:
    size = parameter_layout(manifest.model).size
    updates = [extreme(size, e, level) for e, level in zip(exponents, levels, strict=False)]
    zero = OuterState(np.zeros(size, np.float32))
    after = aggregate(manifest, zero, updates)
    # Every entry of an update is equal, so the clipped mean is one number.
    values = [MAGNITUDES[level] * 2.0**e for e, level in zip(exponents, levels, strict=False)]
    limit = sorted(values)[(len(values) - 1) // 2]
    expected = -sum(min(value, limit) for value in values) / len(values) * manifest.outer.lr
    np.testing.assert_allclose(after.parameters, expected, rtol=1e-6, atol=abs(limit) * 1e-9)


def test_a_full_round_of_the_largest_updates_does_not_overflow(manifest: RunManifest) -> None:
    size = parameter_layout(manifest.model).size
    largest = extreme(size, MAX_EXPONENT, LARGEST)
    single = SparseSymbols(
        size,
        512,
        1,
        MAX_EXPONENT,
        np.zeros(-(-size // 512), np.uint16),
        np.zeros(-(-size // 512), np.uint8),
        np.full((-(-size // 512), 2), LARGEST, np.uint8),
    )
    zero = OuterState(np.zeros(size, np.float32))
    for update in (largest, single):
        many = aggregate(manifest, zero, [update] * 300)
        np.testing.assert_array_equal(many.parameters, aggregate(manifest, zero, [update]).parameters)
        assert many.parameters.min() == pytest.approx(-MAGNITUDES[LARGEST], rel=1e-6)


def test_dense_and_sparse_norms_are_exact(size: int) -> None:
    codes = np.full(size, -127, np.int8)
    dense = DenseSymbols(size, 64, 8, MIN_EXPONENT, codes, np.full(-(-size // 64), 65_535, np.uint16))
    assert squared_norms([dense]) == [size * (127 * 65_535) ** 2]
    assert squared_norms([extreme(size, MIN_EXPONENT + 3, LARGEST)]) == [
        size * int(MAGNITUDES[LARGEST]) ** 2 * 64
    ]


def test_updates_of_another_size_are_refused(manifest: RunManifest, state: OuterState) -> None:
    good = updates_of(manifest, 1)[0]
    with pytest.raises(Malformed, match="size"):
        aggregate(manifest, state, [good, replace(good, size=good.size + 1)])


@pytest.fixture
def nesterov(make_manifest: Callable[..., RunManifest]) -> RunManifest:
    return make_manifest(outer=OuterConfig(lr=0.7, momentum=0.6))


def test_momentum_is_nesterov(nesterov: RunManifest, size: int) -> None:
    state = initial_state(nesterov, initial_parameters(nesterov.model, 0))
    parameters, momentum = state.parameters.astype(np.float64), np.zeros(size)
    for round_ in range(3):
        updates = updates_of(nesterov, 3, [1.0 + round_, 1.0, 2.0])
        state = aggregate(nesterov, state, updates)
        gradient = plain_mean(updates, size)
        momentum = 0.6 * momentum + gradient
        parameters = parameters - 0.7 * (gradient + 0.6 * momentum)
    np.testing.assert_allclose(state.parameters, parameters, rtol=1e-5, atol=1e-7)


def test_a_joiner_continues_from_the_file_with_its_momentum(nesterov: RunManifest) -> None:
    state = initial_state(nesterov, initial_parameters(nesterov.model, 0))
    state = aggregate(nesterov, state, updates_of(nesterov, 2))
    joined = load_parameters(nesterov, parameters_file(nesterov, state))
    again = updates_of(nesterov, 3)
    one, other = (parameters_file(nesterov, aggregate(nesterov, s, again)) for s in (state, joined))
    assert one == other


def test_without_momentum_the_file_is_the_bare_parameters(manifest: RunManifest, state: OuterState) -> None:
    data = parameters_file(manifest, state)
    assert len(data) == parameter_layout(manifest.model).file_bytes
    np.testing.assert_array_equal(load_parameters(manifest, data).parameters, state.parameters)


def test_a_file_without_the_momentum_is_refused(
    manifest: RunManifest, nesterov: RunManifest, state: OuterState
) -> None:
    with pytest.raises(Malformed):
        load_parameters(nesterov, parameters_file(manifest, state))


def dense(share: Contribution, size: int) -> np.ndarray:
    """Return a share as float64[size]."""
    vector = np.zeros(size)
    vector[share.positions] = np.ldexp(share.integers.astype(np.float64), share.grid)
    return vector


def test_the_shares_of_a_round_sum_to_its_mean(manifest: RunManifest, state: OuterState, size: int) -> None:
    updates = updates_of(manifest, 5, [1.0, 0.5, 2.0, 300.0, 1e-4])
    shares = [contribution(updates, index) for index in range(5)]
    zero = OuterState(np.zeros(size, np.float32))
    mean = -aggregate(manifest, zero, updates).parameters.astype(np.float64) / manifest.outer.lr
    unit = 2.0 ** shares[0].grid
    total = sum(dense(share, size) for share in shares)
    assert np.abs(total - mean).max() <= 6 * unit + np.abs(mean).max() * 2**-24
    for share in shares:
        # Norms are in units of 2**(-96 - 32), and an entry is cut by at most one unit of the grid.
        assert np.linalg.norm(dense(share, size)) <= share.norm * 2.0**-128 * (1 + 1e-12)


def test_what_a_round_takes_back_of_itself_is_gone_to_the_last_bit(
    manifest: RunManifest, state: OuterState
) -> None:
    (update,) = updates_of(manifest, 1)
    after = aggregate(manifest, state, [update], [contribution([update], 0)])
    assert after.parameters.tobytes() == state.parameters.tobytes()


def test_a_bad_update_taken_back_later_leaves_what_the_others_gave(
    manifest: RunManifest, state: OuterState, size: int
) -> None:
    first, second = updates_of(manifest, 4, [1.0, 1.5, 50.0, 0.5]), updates_of(manifest, 3)
    share = contribution(first, 2)
    after = aggregate(manifest, aggregate(manifest, state, first), second, [share])
    kept = plain_mean(first, size) - dense(share, size) + plain_mean(second, size)
    expected = state.parameters - manifest.outer.lr * kept
    np.testing.assert_allclose(after.parameters, expected, rtol=1e-6, atol=1e-8)
    never = aggregate(manifest, aggregate(manifest, state, first), second)
    assert np.linalg.norm(never.parameters - expected) > 1e4 * np.linalg.norm(after.parameters - expected)


def test_retractions_are_the_same_bytes_in_any_order_of_the_updates(
    manifest: RunManifest, state: OuterState
) -> None:
    first, second = updates_of(manifest, 3, [1.0, 9.0, 1e-3]), updates_of(manifest, 3, [2.0, 1.0, 0.1])
    files = set()
    for order in permutations(range(3)):
        old = [first[one] for one in order]
        taken = [contribution(old, order.index(number)) for number in (0, 1)]
        new = [second[one] for one in order]
        files.add(parameters_file(manifest, aggregate(manifest, state, new, taken)))
    assert len(files) == 1


@settings(max_examples=40)
@given(
    scales=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=6),
    waiting=st.lists(st.tuples(st.integers(0, 3), st.floats(1e-3, 1e3)), max_size=6),
)
def test_a_round_takes_back_the_oldest_within_its_bound(
    manifest: RunManifest, scales: list[float], waiting: list[tuple[int, float]]
) -> None:
    state = OuterState(np.zeros(parameter_layout(manifest.model).size, np.float32))
    now = updates_of(manifest, len(scales), scales)
    shares = [contribution(updates_of(manifest, 4, [size] * 4), index) for index, size in waiting]
    bound = lower_median(squared_norms(now)) ** 0.5 * 2.0**32
    taken = fitting(now, shares)
    assert taken == (0 if not shares else max(1, taken))
    assert taken <= 1 or sum(share.norm for share in shares[:taken]) <= bound * (1 + 1e-12)
    if taken < len(shares):
        assert sum(share.norm for share in shares[: taken + 1]) >= bound * (1 - 1e-12)
        with pytest.raises(Malformed, match="norm bound"):
            aggregate(manifest, state, now, shares)
    step = aggregate(manifest, state, now, shares[:taken]).parameters
    first = shares[0].norm if shares else 0
    limit = manifest.outer.lr * 2.0**-128 * (bound + max(bound, first))
    assert np.linalg.norm(step) <= limit * (1 + 1e-6)


def test_a_round_without_updates_takes_nothing_back(manifest: RunManifest, state: OuterState) -> None:
    share = contribution(updates_of(manifest, 2), 1)
    assert fitting([], [share]) == 0
    with pytest.raises(Malformed, match="norm bound"):
        aggregate(manifest, state, [], [share])


def test_a_share_of_another_size_is_refused(manifest: RunManifest, state: OuterState) -> None:
    updates = updates_of(manifest, 2)
    share = replace(contribution(updates, 1), size=state.parameters.size + 1)
    with pytest.raises(Malformed, match="size"):
        aggregate(manifest, state, updates, [share])


def test_with_momentum_a_share_fades_once_it_is_taken_back(nesterov: RunManifest, size: int) -> None:
    zero = initial_state(nesterov, np.zeros(size, np.float32))
    first, calm = updates_of(nesterov, 3, [1.0, 1.0, 20.0]), updates_of(nesterov, 2)
    share = contribution(first, 2)
    moved = dense(share, size) * nesterov.outer.lr / (1 - nesterov.outer.momentum)
    left = []
    for retracted in ([], [share]):
        state = aggregate(nesterov, zero, first)
        for round_ in range(20):
            state = aggregate(nesterov, state, calm, retracted if round_ == 1 else [])
        left.append(state.parameters.astype(np.float64))
    np.testing.assert_allclose(left[1] - left[0], moved, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("codec", [CodecConfig(chunk=100, k=7), CodecConfig(kind="dense", bits=4, block=64)])
@pytest.mark.parametrize("block", [1, 300, 2**18], ids=["the least", "some", "whole"])
def test_blocks_change_no_bit(
    make_manifest: Callable[..., RunManifest], monkeypatch: pytest.MonkeyPatch, codec: CodecConfig, block: int
) -> None:
    manifest = make_manifest(codec=codec, outer=OuterConfig(lr=0.7, momentum=0.6))
    state = initial_state(manifest, initial_parameters(manifest.model, 1))
    updates, weights = updates_of(manifest, 4), (1, 3, 1, 2)
    shares = [contribution(updates, 1, weights)]
    expected = parameters_file(manifest, aggregate(manifest, state, updates, shares, weights))
    monkeypatch.setattr("training.outer._BLOCK", block)
    assert parameters_file(manifest, aggregate(manifest, state, updates, shares, weights)) == expected
    update, start = updates[0], updates[0].span
    whole, part = decode_dense(update, update.size), update.part(start, 3 * start)
    np.testing.assert_array_equal(decode_dense(part, part.size), whole[start : 3 * start])
