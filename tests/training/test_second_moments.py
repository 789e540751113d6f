"""Second moments as updates say them: codes, drawn slices, what is kept of several words, and where steps start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import digest
from protocol.errors import Malformed
from protocol.manifest import CodecConfig, InnerConfig, RunManifest
from protocol.tensors import parameter_layout
from protocol.update import SparseSymbols, Symbols
from training.codec import compress
from training.corpus import Shard
from training.exact import ExactTrainer
from training.inner import InnerState, InnerTrainer, primed
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state, load_parameters, parameters_file
from training.second_moments import RISE, check_slice, codes_of, drawn_slice, heard, values_of, with_slice

BEACON = digest(b"beacon")
SLICES = 7


@pytest.fixture
def publishing(make_manifest: Callable[..., RunManifest]) -> RunManifest:
    inner = InnerConfig(steps=4, batch=3, warmup_steps=0, moments="published", slices=SLICES)
    return make_manifest(inner=inner, codec=CodecConfig(chunk=512, k=32))


def update(manifest: RunManifest, number: int, second: float, round_: int = 0) -> Symbols:
    size = parameter_layout(manifest.model).size
    change = np.random.default_rng(number).normal(size=size).astype(np.float32)
    symbols, _ = compress(manifest.codec, change)
    return with_slice(manifest, symbols, np.full(size, second, np.float32), BEACON, round_, number)


@given(st.floats(2.0**-126, 1.5 * 2.0**126, width=32))
def test_a_code_stands_for_the_power_of_two_that_is_nearest_in_ratio(value: float) -> None:
    (found,) = values_of(codes_of(np.array([value], np.float32)))
    assert np.log2(found) == round(np.log2(found))
    assert abs(np.log2(found) - np.log2(value)) <= 0.5 + 1e-6


def test_what_is_not_above_zero_says_nothing_and_what_is_too_large_stays_finite() -> None:
    codes = codes_of(np.array([0.0, -0.0, -1.0, 1e-45, 3.4e38, np.inf], np.float32))
    assert codes.tolist() == [0, 0, 0, 0, 254, 254]
    assert values_of(codes)[:4].tolist() == [0.0] * 4
    assert np.isfinite(values_of(np.arange(255, dtype=np.uint8))).all()


def test_the_beacon_draws_every_slice_about_as_often_for_everybody(publishing: RunManifest) -> None:
    drawn = [drawn_slice(publishing, BEACON, round_, number) for round_ in range(70) for number in range(20)]
    assert min(np.bincount(np.array(drawn, np.int64), minlength=SLICES)) > 140
    others = [drawn_slice(publishing, digest(b"another"), 0, number) for number in range(20)]
    assert others != drawn[:20]


def test_an_update_says_the_drawn_slice_of_its_units_final_moments(publishing: RunManifest) -> None:
    said = update(publishing, 1, 2.0**-9)
    assert isinstance(said, SparseSymbols)
    assert said.moments is not None
    place = drawn_slice(publishing, BEACON, 0, 1)
    assert said.moments.number == place
    assert set(values_of(said.moments.codes)) == {np.float32(2.0**-9)}
    check_slice(publishing, said, BEACON, 0, 1)
    elsewhere = next(one for one in range(1, 99) if drawn_slice(publishing, BEACON, one, 1) != place)
    with pytest.raises(Malformed, match="another slice"):
        check_slice(publishing, said, BEACON, elsewhere, 1)


def test_a_run_that_publishes_none_has_updates_that_say_none(
    make_manifest: Callable[..., RunManifest], publishing: RunManifest
) -> None:
    silent = make_manifest(codec=publishing.codec)
    said = update(silent, 1, 1.0)
    assert isinstance(said, SparseSymbols)
    assert said.moments is None
    check_slice(silent, said, BEACON, 0, 1)
    with pytest.raises(Malformed, match="another slice"):
        check_slice(silent, update(publishing, 1, 1.0), BEACON, 0, 1)
    with pytest.raises(Malformed, match="another slice"):
        check_slice(publishing, said, BEACON, 0, 1)


def test_of_several_words_the_lower_median_counts_in_any_order(publishing: RunManifest) -> None:
    place = drawn_slice(publishing, BEACON, 0, 1)
    same = [number for number in range(1, 99) if drawn_slice(publishing, BEACON, 0, number) == place][:4]
    words = [2.0**-3, 2.0**-9, 2.0**40, 2.0**-10]
    updates = [update(publishing, number, word) for number, word in zip(same, words, strict=True)]
    size = parameter_layout(publishing.model).size
    before = np.full(size, 126, np.uint8)
    found = {heard(publishing, before, list(order)).tobytes() for order in permutations(updates)}
    assert len(found) == 1
    after = np.frombuffer(found.pop(), np.uint8)
    assert set(values_of(after[place::SLICES])) == {np.float32(2.0**-9)}
    spoken = np.zeros(size, bool)
    spoken[place::SLICES] = True
    assert set(after[~spoken]) == {126}, "what nobody speaks of stays"
    two = heard(publishing, before, [updates[0], updates[2]])
    assert set(values_of(two[place::SLICES])) == {np.float32(2.0**-3)}, "one of two cannot raise it"


@pytest.mark.parametrize(
    ("known", "said", "after"),
    [
        (100, 254, 102),
        (100, 101, 101),
        (100, 1, 1),
        (100, 0, 100),
        (254, 254, 254),
        (0, 0, 0),
        (0, 90, 90),
    ],
)
def test_a_word_lowers_an_entry_as_far_as_it_says_and_raises_it_by_two_octaves(
    publishing: RunManifest, known: int, said: int, after: int
) -> None:
    assert _heard(publishing, known, said) == after


def test_the_first_word_rises_from_the_mean_square_of_a_clipped_gradient(publishing: RunManifest) -> None:
    size = parameter_layout(publishing.model).size
    assert abs(_heard(publishing, 0, 254) - (127 - np.log2(size) + RISE)) <= 0.5
    for norm in (1e-200, 1e200):
        inner = publishing.inner.model_copy(update={"clip_norm": norm})
        wild = publishing.model_copy(update={"inner": inner})
        assert _heard(wild, 0, 254) == (2 if norm < 1 else 254)


def _heard(manifest: RunManifest, known: int, said: int) -> int:
    """Return the code of the entries that one update speaks of, after it."""
    spoken = update(manifest, 1, 1.0)
    assert isinstance(spoken, SparseSymbols)
    assert spoken.moments is not None
    moments = replace(spoken.moments, codes=np.full_like(spoken.moments.codes, said))
    before = np.full(parameter_layout(manifest.model).size, known, np.uint8)
    after = heard(manifest, before, [replace(spoken, moments=moments)])
    (found,) = set(after[moments.number :: SLICES].tolist())
    return int(found)


def test_moments_go_through_the_outer_step_and_its_file(publishing: RunManifest) -> None:
    state = initial_state(publishing, initial_parameters(publishing.model, 1))
    assert state.moments is not None
    assert not state.moments.any()
    after = aggregate(publishing, state, [update(publishing, number, 2.0**-9) for number in (1, 2)])
    assert after.moments is not None
    assert after.moments.any()
    data = parameters_file(publishing, after)
    read = load_parameters(publishing, data)
    assert read.moments is not None
    assert read.moments.tobytes() == after.moments.tobytes()
    assert read.parameters.tobytes() == after.parameters.tobytes()
    assert parameters_file(publishing, aggregate(publishing, after, [])) == data
    for broken in (data[: -after.moments.size], data[:-1] + b"\xff"):
        with pytest.raises(Malformed):
            load_parameters(publishing, broken)


def test_steps_start_from_what_was_said_and_from_the_first_gradient_elsewhere(
    publishing: RunManifest, shard: Shard
) -> None:
    start = InnerState.fresh(initial_parameters(publishing.model, 1))
    codes = np.zeros(start.parameters.size, np.uint8)
    codes[::2] = 127  # far above any gradient: what they stand for hardly moves
    for trainer in (InnerTrainer(publishing, shard), ExactTrainer(publishing, shard)):
        ends = []
        for one in (primed(start, None), primed(start, codes)):
            trainer.load(one)
            trainer.run(np.arange(12, dtype=np.int64).reshape(4, 3) * 20, 0)
            ends.append(trainer.state())
        moved = [np.abs(end.parameters - start.parameters) for end in ends]
        assert moved[1][::2].mean() < moved[0][::2].mean() / 20
        assert moved[1][1::2].mean() > moved[0][1::2].mean() / 2
        assert ends[1].exp_avg_sq[::2].min() > 0.95**4 * 0.99


def test_a_liar_cannot_make_steps_longer_than_a_start_from_nothing_does(
    publishing: RunManifest, shard: Shard
) -> None:
    """The module says that too low a start does no harm: AdamW takes a gradient into v before it divides by it."""
    start, trainer = initial_parameters(publishing.model, 1), InnerTrainer(publishing, shard)
    inner = publishing.inner
    trainer.load(primed(InnerState.fresh(start), np.ones(start.size, np.uint8)))
    trainer.run(np.arange(3, dtype=np.int64).reshape(1, 3) * 20, 0)
    longest = np.abs(trainer.state().parameters - start).max()
    rate = inner.lr * (1 - inner.beta1) / np.sqrt(1 - inner.beta2)
    assert longest <= rate * 1.001 + inner.lr * inner.weight_decay * np.abs(start).max()


def test_updates_of_runs_that_publish_none_leave_a_state_without(
    make_manifest: Callable[..., RunManifest],
) -> None:
    silent = make_manifest(codec=CodecConfig(chunk=512, k=32))
    state = OuterState(initial_parameters(silent.model, 1))
    assert aggregate(silent, state, [update(silent, 1, 1.0)]).moments is None
