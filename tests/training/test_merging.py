"""Updates are judged by what they do: honest ones pass, those that harm or point away do not."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from math import isqrt

import numpy as np
import pytest

from protocol.canonical import ZERO_DIGEST
from protocol.manifest import UNJUDGED, CodecConfig, DatasetConfig, MergingConfig, OuterConfig, RunManifest
from protocol.messages import SCORE_UNIT
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, parameter_layout
from protocol.update import Symbols
from training.codec import compress
from training.merging import MAX_RELATIVE, Merit, cosines, judge_updates
from training.outer import Clipped, OuterState, initial_state

GATED = MergingConfig(gate_windows=1, similarity=0)
COMPARED = MergingConfig(gate_windows=0, similarity=0.25)


def manifest(merging: MergingConfig, codec: CodecConfig | None = None) -> RunManifest:
    return RunManifest(
        name="merging",
        chain_id=31337,
        ledger="0x" + "00" * 20,
        coordinator="0x" + "00" * 20,
        rounds=3,
        model=ModelConfig(vocab=256, width=16, layers=1, heads=2, feed_forward=16, context=8),
        outer=OuterConfig(lr=2.0),
        codec=codec or CodecConfig(kind="dense", bits=8),
        merging=merging,
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=10_000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


class Bowl:
    """A loss whose minimum is at one vector: half the squared distance, in units of 2**-32."""

    def __init__(self, manifest_: RunManifest, seed: int = 1) -> None:
        self.size = parameter_layout(manifest_.model).size
        self._random = np.random.default_rng(seed)
        self.bottom = self._random.normal(0, 0.1, self.size)

    def __call__(self, parameters: Floats) -> int:
        return int(2**31 * float(np.sum((parameters.astype(np.float64) - self.bottom) ** 2)))

    def start(self, manifest_: RunManifest) -> OuterState:
        return initial_state(manifest_, np.zeros(self.size, np.float32))

    def descent(self, noise: float = 0.1) -> Floats:
        """Return what an honest peer shows from the start: start minus end, of a tenth of the way and noise."""
        noisy = -0.1 * self.bottom + self._random.normal(0, 0.01 * noise, self.size)
        return noisy.astype(np.float32)


def symbols_of(manifest_: RunManifest, deltas: list[Floats]) -> list[Symbols]:
    return [compress(manifest_.codec, delta)[0] for delta in deltas]


def judged(
    deltas: list[Floats],
    bowl: Bowl,
    run: RunManifest,
    scores: list[int | None],
    weights: list[int] | None = None,
) -> tuple[Merit, ...]:
    return judge_updates(
        run, bowl.start(run), symbols_of(run, deltas), weights or [1] * len(deltas), scores, bowl
    )


def test_honest_updates_pass_and_gain_a_score() -> None:
    run = manifest(GATED)
    bowl = Bowl(run)
    merits = judged([bowl.descent() for _ in range(4)], bowl, run, [None] * 4)
    assert all(one.passed and one.score is not None and one.score > 0 for one in merits)


@pytest.mark.parametrize("factor", [-1, -10, -1000])
def test_a_flipped_update_has_no_weight_however_long_it_is(factor: int) -> None:
    run = manifest(GATED)
    bowl = Bowl(run)
    deltas = [bowl.descent() for _ in range(4)]
    deltas[2] = np.float32(factor) * deltas[2]
    merits = judged(deltas, bowl, run, [None] * 4)
    assert [one.passed for one in merits] == [True, True, False, True]
    assert "loss" in merits[2].reason


def test_liars_who_agree_do_not_turn_the_others_out() -> None:
    """Of eight, three send the exact opposite of the honest mean, as long as an honest update."""
    run = manifest(MergingConfig(gate_windows=1, similarity=0.25))
    bowl = Bowl(run)
    honest = [bowl.descent(noise=3.0) for _ in range(5)]
    mean = np.mean(honest, axis=0)
    opposite = -mean / np.linalg.norm(mean) * np.linalg.norm(honest[0])
    merits = judged([*honest, *[opposite.astype(np.float32)] * 3], bowl, run, [None] * 8)
    assert [one.passed for one in merits] == [True] * 5 + [False] * 3


def test_one_bad_window_does_not_cost_a_good_score() -> None:
    run = manifest(GATED)
    bowl = Bowl(run)
    deltas = [bowl.descent() for _ in range(4)]
    deltas[0] = -deltas[0]
    good = SCORE_UNIT
    first, *_ = judged(deltas, bowl, run, [good] * 4)
    assert first.score is not None
    assert (first.passed, first.score < good) == (True, True)
    for _ in range(3):
        first, *_ = judged(deltas, bowl, run, [first.score, good, good, good])
    assert not first.passed


def test_great_harm_is_refused_whatever_the_score() -> None:
    run = manifest(GATED)
    bowl = Bowl(run)
    deltas = [bowl.descent() * np.float32(0.01) for _ in range(4)]
    deltas[0] = (-1000 * deltas[0]).astype(np.float32)

    def steep(parameters: Floats) -> int:
        """Fall as the bowl does, and rise ten times as steeply."""
        rise = bowl(parameters) - bowl(np.zeros_like(parameters))
        return rise if rise <= 0 else 10 * rise

    run_scores: list[int | None] = [MAX_RELATIVE] * 4
    merits = judge_updates(run, bowl.start(run), symbols_of(run, deltas), [1] * 4, run_scores, steep)
    assert [one.passed for one in merits] == [False, True, True, True]
    assert merits[0].reason == "it raises the loss"


def test_a_score_stays_within_its_bounds() -> None:
    run = manifest(GATED)
    bowl = Bowl(run)
    deltas = [bowl.descent() * np.float32(scale) for scale in (1, 1e-4, 1e-4, 1e-4, 1e-4)]
    merits = judged(deltas, bowl, run, [MAX_RELATIVE, None, None, None, None])
    assert all(one.score is not None and abs(one.score) <= MAX_RELATIVE for one in merits)


def test_an_update_is_judged_at_its_weight() -> None:
    """Long steps overshoot: what harms as half of the mean may help as a tenth of it."""
    run = manifest(GATED)
    bowl = Bowl(run)
    deltas = [bowl.descent() * np.float32(64) for _ in range(2)]
    heavy, *_ = judged(deltas, bowl, run, [None] * 2, [1, 1])
    light, other = judged(deltas, bowl, run, [None] * 2, [1, 9])
    assert (heavy.passed, light.passed, other.passed) == (True, True, False)


def compared(deltas: list[Floats], bowl: Bowl, run: RunManifest) -> list[bool]:
    """Return who passes where nothing but directions is judged."""
    merits = judge_updates(
        run, bowl.start(run), symbols_of(run, deltas), [1] * len(deltas), [None] * len(deltas), None
    )
    for one in merits:
        assert (one.reason, one.score) == ("" if one.passed else "it points away from the others", None)
    return [one.passed for one in merits]


def noise_like(delta: Floats, random: np.random.Generator) -> Floats:
    """Return noise as long as an update."""
    noise = random.normal(0, 1, delta.size)
    return (noise / np.linalg.norm(noise) * np.linalg.norm(delta)).astype(np.float32)


def opposite_of(honest: list[Floats]) -> Floats:
    """Return what points away from the mean of all, as long as one of them."""
    mean = np.mean(honest, axis=0)
    return (-mean / np.linalg.norm(mean) * np.linalg.norm(honest[0])).astype(np.float32)


Liars = Callable[[list[Floats], int, np.random.Generator], list[Floats]]
AGREEING: dict[str, Liars] = {
    "copies of one": lambda honest, count, random: [np.float32(0.99) * honest[0]] * count,
    "copies of two": lambda honest, count, random: [
        np.float32(0.99) * honest[place % 2] for place in range(count)
    ],
    "copies with a tenth of noise": lambda honest, count, random: [
        honest[0] + np.float32(0.1) * noise_like(honest[0], random) for _ in range(count)
    ],
    "copies with a third of noise": lambda honest, count, random: [
        honest[0] + np.float32(0.3) * noise_like(honest[0], random) for _ in range(count)
    ],
    "the honest mean": lambda honest, count, random: [-opposite_of(honest)] * count,
}
STRAYING: dict[str, Liars] = {
    "noise": lambda honest, count, random: [noise_like(honest[0], random) for _ in range(count)],
    "the same noise": lambda honest, count, random: [noise_like(honest[0], random)] * count,
    "the opposite": lambda honest, count, random: [opposite_of(honest)] * count,
    "flipped ones": lambda honest, count, random: [-one for one in honest[:count]],
}


def late_round(size: int, liars: Liars, count: int) -> tuple[Bowl, RunManifest, list[Floats]]:
    """Return the updates of a late round, in which honest ones have cosines of a tenth, and liars stand last."""
    run = manifest(COMPARED)
    bowl = Bowl(run)
    honest = [bowl.descent(noise=3.0) for _ in range(size - count)]
    return bowl, run, [*honest, *liars(honest, count, np.random.default_rng(5))]


@pytest.mark.parametrize("kind", [*AGREEING, *STRAYING])
@pytest.mark.parametrize(("size", "count"), [(3, 1), (4, 1), (5, 2), (7, 3), (8, 3), (17, 8)])
def test_fewer_than_half_turn_no_honest_update_out(size: int, count: int, kind: str) -> None:
    bowl, run, deltas = late_round(size, (AGREEING | STRAYING)[kind], count)
    assert compared(deltas, bowl, run)[: size - count] == [True] * (size - count)


@pytest.mark.parametrize("kind", STRAYING)
@pytest.mark.parametrize(("size", "count"), [(4, 1), (5, 1), (7, 2), (8, 3)])
def test_who_points_elsewhere_is_found(size: int, count: int, kind: str) -> None:
    bowl, run, deltas = late_round(size, STRAYING[kind], count)
    assert compared(deltas, bowl, run) == [True] * (size - count) + [False] * count


def test_half_who_agree_turn_the_others_out() -> None:
    """What no median withstands: with the copied one they are more than half."""
    bowl, run, deltas = late_round(8, AGREEING["copies of one"], 4)
    assert compared(deltas, bowl, run) == [True] + [False] * 3 + [True] * 4


def test_of_two_neither_is_the_odd_one_out() -> None:
    run = manifest(COMPARED)
    bowl = Bowl(run)
    delta = bowl.descent()
    merits = judge_updates(run, bowl.start(run), symbols_of(run, [delta, -delta]), [1] * 2, [None] * 2, None)
    assert all(one.passed for one in merits)


def test_without_judging_everything_passes() -> None:
    run = manifest(UNJUDGED)
    bowl = Bowl(run)
    delta = bowl.descent()
    merits = judge_updates(
        run, bowl.start(run), symbols_of(run, [delta, -delta, -delta]), [1] * 3, [None] * 3, None
    )
    assert merits == (Merit(passed=True, reason=""),) * 3
    assert judge_updates(run, bowl.start(run), [], [], [], None) == ()


def test_the_order_of_updates_changes_no_merit() -> None:
    run = manifest(MergingConfig(gate_windows=1, similarity=0.25), CodecConfig(chunk=512, k=64))
    bowl = Bowl(run)
    deltas = [bowl.descent(noise) for noise in (0.1, 1.0, 3.0)] + [-bowl.descent()]
    known = dict(enumerate(judged(deltas, bowl, run, [None] * 4)))
    for order in permutations(range(4)):
        merits = judged([deltas[place] for place in order], bowl, run, [None] * 4)
        assert dict(zip(order, merits, strict=True)) == known


def test_updates_of_zeros_are_judged_too() -> None:
    run = manifest(MergingConfig(gate_windows=1, similarity=0.25))
    bowl = Bowl(run)
    nothing = np.zeros(bowl.size, np.float32)
    merits = judged([nothing] * 3, bowl, run, [None] * 3)
    assert [one.score for one in merits] == [0] * 3
    assert not any(one.passed for one in merits), "who shows nothing has shown no use"


def test_cosines_are_those_of_floats() -> None:
    run = manifest(COMPARED, CodecConfig(chunk=512, k=128))
    bowl = Bowl(run)
    updates = symbols_of(run, [bowl.descent(noise) for noise in (0.1, 1.0, 3.0, 10.0)])
    clipped = Clipped(updates)
    dense = np.zeros((4, bowl.size))
    for place, update in enumerate(updates):
        dense[place, update.positions] = clipped.values(place).astype(np.float64)
    lengths = np.linalg.norm(dense, axis=1)
    exact = dense @ dense.T / np.outer(lengths, lengths)
    assert np.array(cosines(updates, clipped, range(4))) / 2**32 == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("compared_at_once", [1, 10_000, 2**23])
@pytest.mark.parametrize("codec", [CodecConfig(kind="dense", bits=8), CodecConfig(chunk=512, k=128)])
def test_cosines_are_those_of_integers(
    codec: CodecConfig, compared_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.merging._COMPARED", compared_at_once)
    run = manifest(COMPARED, codec)
    bowl = Bowl(run)
    updates = symbols_of(run, [bowl.descent(noise) * np.float32(noise) for noise in (0.1, 1.0, 3.0, 10.0)])
    clipped = Clipped(updates)
    dense = np.zeros((4, bowl.size), dtype=object)
    for place, update in enumerate(updates):
        dense[place, update.positions] = clipped.values(place) >> 24
    products = [[int(one @ other) for other in dense] for one in dense]
    assert cosines(updates, clipped, range(4)) == [
        [
            (products[one][other] << 32) // isqrt(products[one][one] * products[other][other])
            for other in range(4)
        ]
        for one in range(4)
    ]


def test_the_longest_updates_are_compared_exactly() -> None:
    """As many and as aligned as a record can hold."""
    run = manifest(COMPARED)
    bowl = Bowl(run)
    (loudest,) = symbols_of(run, [np.full(bowl.size, 60_000, np.float32)])
    few = [replace(loudest)] * 512
    assert cosines(few, Clipped(few), range(512)) == [[2**32] * 512] * 512
