"""The policy's steps are GRPO's, they replay bit for bit, and exact arithmetic takes the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from protocol.errors import OwnFault
from protocol.manifest import InnerConfig, RunManifest
from protocol.rollout_config import PolicyConfig
from protocol.rollouts import Group
from protocol.tensors import frozen, parameter_layout
from tests.training.episodes import MODEL, SAMPLING, TOKENIZER, Duel, lively, sample_of, scripted, tasks
from training.generate import generate
from training.inner import InnerState
from training.model import Transformer
from training.policy import (
    STD_EPS,
    ExactPolicyTrainer,
    PolicyBatch,
    PolicyTrainer,
    SupervisedBatch,
    advantages,
)
from training.rewards import group_rewards, total_reward

POLICY = PolicyConfig()


@pytest.fixture(scope="module")
def run(make_manifest: Callable[..., RunManifest]) -> RunManifest:
    inner = InnerConfig(steps=4, batch=3, lr=2e-3, warmup_steps=0, weight_decay=0.0)
    return make_manifest(model=MODEL, inner=inner)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """Return samples of older weights, so that ratios are not one."""
    model = Transformer(MODEL, torch.device("cpu"))
    older = lively() + np.random.default_rng(7).normal(0, 0.03, lively().size)
    model.parameters.copy_(torch.from_numpy(older.astype(np.float32)))
    drawn = [one.sample() for one in generate(model, MODEL, tasks(range(3)), SAMPLING, TOKENIZER)]
    size = SAMPLING.group_size
    return [tuple(drawn[first : first + size]) for first in range(0, len(drawn), size)]


@pytest.fixture(scope="module")
def batch(groups: list[Group]) -> PolicyBatch:
    return PolicyBatch.of(groups, [alone(0, 1, 0, 0.5), alone(1, 1, 1, 1), alone(2, 0, 1, 0)])


def alone(*rewards: float) -> np.ndarray:
    """Return the rewards of one player: float64[samples, 1]."""
    return np.array(rewards, np.float64)[:, None]


def trainer(run: RunManifest, temperature: float = 1.0) -> PolicyTrainer:
    found = PolicyTrainer(run, POLICY, temperature)
    found.load(InnerState.fresh(lively()))
    return found


def demonstrations(count: int = 6) -> SupervisedBatch:
    texts = [f"say {letter * (place + 1)}=" + letter + "\n" for place, letter in enumerate("abcabc"[:count])]
    rows: list[tuple[Sequence[int], Sequence[float]]] = []
    for text in texts:
        said = text.index("=") + 1
        rows.append((text.encode(), [0.0] * said + [1.0] * (len(text) - said)))
    return SupervisedBatch.of(rows)


def test_advantages_are_standard_scores_and_equal_rewards_have_none() -> None:
    found = advantages([1.0, 0.0, 0.0, 1.0])
    assert found is not None
    deviation = math.sqrt(4 * 0.25 / 3)
    np.testing.assert_allclose(found, np.array([0.5, -0.5, -0.5, 0.5]) / (deviation + STD_EPS), rtol=1e-6)
    assert advantages([0.3, 0.3, 0.3]) is None


def test_the_order_of_a_group_changes_no_bit_of_its_advantages() -> None:
    rewards = np.random.default_rng(1).normal(0, 1, 16).tolist()
    one, other = advantages(rewards), advantages(rewards[::-1])
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one, other[::-1])


def test_a_reward_is_the_weighted_sum_of_its_components() -> None:
    assert total_reward(np.array([1.0, 0.1, -2.0]), (1.0, 0.5, 0.25)) == pytest.approx(0.55)
    with pytest.raises(ValueError, match="zip"):
        total_reward(np.array([1.0]), (1.0, 2.0))


def test_a_batch_holds_what_the_policy_said_and_drops_groups_without_spread(
    batch: PolicyBatch, groups: list[Group]
) -> None:
    kept = [*groups[0], *groups[2]]
    assert len(batch.tokens) == len(batch.advantages) == len(kept)
    for row, one in enumerate(kept):
        spoken = np.flatnonzero(batch.weights[row]) + 1
        np.testing.assert_array_equal(spoken, one.spoken)
        np.testing.assert_array_equal(batch.tokens[row, spoken], one.tokens[spoken])
        wanted = one.log_probabilities.astype(np.float32)
        np.testing.assert_array_equal(batch.behaviour[row, spoken - 1], wanted)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_the_loss_is_the_clipped_objective(run: RunManifest, batch: PolicyBatch, temperature: float) -> None:
    """Written out a token at a time, in float64."""
    model = Transformer(MODEL, torch.device("cpu"), torch.float64)
    model.parameters.copy_(torch.from_numpy(lively()))
    logits = model.logits(torch.from_numpy(batch.tokens[:, :-1])) / temperature
    worth = logits.log_softmax(-1).detach().numpy()
    total, ratios = 0.0, []
    for row, place in np.argwhere(batch.weights):
        gain = float(batch.advantages[row, place])
        ratio = math.exp(worth[row, place, batch.tokens[row, place + 1]] - batch.behaviour[row, place])
        clipped = min(max(ratio, 1 - POLICY.clip_low), 1 + POLICY.clip_high)
        total += min(min(ratio, POLICY.bound) * gain, clipped * gain)
        ratios.append(ratio)
    loss = float(trainer(run, temperature).backward(batch))
    assert loss == pytest.approx(-total / len(ratios), abs=1e-5)
    assert min(ratios) < 1 - POLICY.clip_low
    assert max(ratios) > 1 + POLICY.clip_high


def test_beyond_the_bound_a_bad_sample_pushes_no_more(run: RunManifest) -> None:
    """A token that the behaviour found all but impossible has a huge ratio: with it, nothing flows."""
    tokens = np.array([[97, 98, 99, 10]] * 2)
    weights = np.array([[0, 0, 1]] * 2, np.float32)
    worth = -float(trainer(run).backward(SupervisedBatch(tokens, weights)))
    gains = np.full((2, 3), -1.0, np.float32)
    for ratio, flows in ((math.exp(20), False), (4.1, False), (3.9, True), (1.1, True), (0.7, False)):
        behaviour = np.full((2, 3), worth - math.log(ratio), np.float32)
        batch = PolicyBatch(tokens, weights, behaviour, gains)
        one = trainer(run)
        loss = float(one.backward(batch))
        assert bool(one.gradient.any()) is flows
        assert loss <= POLICY.bound + 1e-6


@pytest.mark.parametrize(
    ("limit", "gain"),
    [(1 + POLICY.clip_high, 1.0), (1 - POLICY.clip_low, -1.0), (POLICY.bound, -1.0)],
)
def test_at_a_limit_a_gradient_fades_so_that_rounding_decides_nothing(
    run: RunManifest, limit: float, gain: float
) -> None:
    tokens = np.array([[97, 98, 99, 10]])
    weights = np.array([[0, 0, 1]], np.float32)
    worth = -float(trainer(run).backward(SupervisedBatch(tokens, weights)))

    def gradient(ratio: float) -> np.ndarray:
        behaviour = np.full((1, 3), worth - math.log(ratio), np.float32)
        one = trainer(run)
        one.backward(PolicyBatch(tokens, weights, behaviour, np.full((1, 3), gain, np.float32)))
        return one.gradient.numpy().copy()

    size = np.linalg.norm(gradient(limit))
    assert size > 0
    assert np.linalg.norm(gradient(limit * (1 + 1e-5)) - gradient(limit * (1 - 1e-5))) < 0.02 * size
    sides = sorted(np.linalg.norm(gradient(limit + side * POLICY.edge)) for side in (-0.6, 0.6))
    assert sides[0] == 0
    assert sides[1] == pytest.approx(2 * size, rel=0.05)


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_exact_arithmetic_has_the_same_gradient(
    run: RunManifest, batch: PolicyBatch, temperature: float
) -> None:
    for one in (batch, demonstrations()):
        plain = trainer(run, temperature)
        exact = ExactPolicyTrainer(run, POLICY, temperature)
        exact.load(InnerState.fresh(lively()))
        assert float(exact.backward(one)) == pytest.approx(float(plain.backward(one)), abs=1e-5)
        for name, place in parameter_layout(MODEL).slices.items():
            difference = (exact.gradient[place] - plain.gradient[place]).norm()
            assert difference < 1e-4 * plain.gradient[place].norm(), name


@pytest.mark.parametrize("rows", [1, 3])
def test_rows_that_are_taken_in_parts_have_the_gradient_of_the_whole(
    run: RunManifest, batch: PolicyBatch, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (batch, demonstrations()):
        whole, parts = trainer(run), trainer(run)
        loss = float(whole.backward(one))
        longest = int(np.count_nonzero(one.weights, axis=1).max())
        with monkeypatch.context() as patched:
            patched.setattr("training.policy.LOGITS_AT_ONCE", rows * longest * MODEL.vocab)
            assert float(parts.backward(one)) == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(parts.gradient, whole.gradient, atol=1e-6, rtol=1e-4)


def test_a_policy_may_learn_by_its_last_layers_alone(
    make_manifest: Callable[..., RunManifest], batch: PolicyBatch
) -> None:
    inner = InnerConfig(steps=4, batch=3, lr=2e-3, warmup_steps=0, last_layers=1)
    manifest = make_manifest(model=MODEL, inner=inner)
    first = frozen(manifest)
    ends = []
    for one in (PolicyTrainer(manifest, POLICY, 1.0), ExactPolicyTrainer(manifest, POLICY, 1.0)):
        one.load(InnerState.fresh(lively()))
        one.run([batch, demonstrations()], 0)
        ends.append(one.state().parameters)
        np.testing.assert_array_equal(ends[-1][:first], lively()[:first])
        assert (ends[-1][first:] != lively()[first:]).mean() > 0.9
    np.testing.assert_allclose(*ends, atol=1e-3)


def test_segments_replay_bit_for_bit_in_both_arithmetics(run: RunManifest, batch: PolicyBatch) -> None:
    batches = [batch, demonstrations(), batch]
    whole = trainer(run)
    whole.run(batches, 0)
    part = trainer(run)
    part.run(batches[:1], 0)
    again = PolicyTrainer(run, POLICY, 1.0)
    again.load(part.state())
    again.run(batches[1:], 1)
    end = again.state()
    assert end.parameters_file(MODEL) == whole.state().parameters_file(MODEL)
    assert end.moments_file(MODEL) == whole.state().moments_file(MODEL)
    ends = []
    for _ in range(2):
        exact = ExactPolicyTrainer(run, POLICY, 1.0)
        exact.load(InnerState.fresh(lively()))
        exact.run(batches, 0)
        ends.append(exact.state().parameters_file(MODEL))
    assert ends[0] == ends[1]
    np.testing.assert_allclose(exact.state().parameters, end.parameters, atol=1e-3)


def test_a_batch_without_spread_is_a_step_not_taken(run: RunManifest, groups: list[Group]) -> None:
    empty = PolicyBatch.of(groups, [alone(*[1.0] * SAMPLING.group_size)] * len(groups))
    one = trainer(run)
    assert one.run([empty], 0) == [0.0]
    assert one.state().steps == 0
    np.testing.assert_array_equal(one.state().parameters, lively())


def test_steps_raise_the_probability_of_what_was_rewarded(run: RunManifest, groups: list[Group]) -> None:
    rewards = [alone(*(float(index == 0) for index in range(SAMPLING.group_size)))] * len(groups)
    batch = PolicyBatch.of(groups, rewards)
    one = trainer(run)
    losses = one.run([batch] * 6, 0)
    assert losses[-1] < losses[0] - 0.02


def test_fine_tuning_learns_only_what_has_weight(run: RunManifest) -> None:
    batch = demonstrations()
    silent = SupervisedBatch(batch.tokens, batch.weights * 0)
    one = trainer(run)
    assert one.run([silent], 0) == [0.0]
    losses = one.run([batch] * 12, 0)
    assert losses[-1] < losses[0] / 2
    padding = np.zeros((len(batch.tokens), 5), np.int64)
    longer = SupervisedBatch(
        np.concatenate((batch.tokens, padding), 1),
        np.concatenate((batch.weights, padding.astype(np.float32)), 1),
    )
    assert float(trainer(run).backward(longer)) == pytest.approx(
        float(trainer(run).backward(batch)), abs=1e-5
    )


def test_a_diverged_policy_stops(run: RunManifest, batch: PolicyBatch) -> None:
    one = PolicyTrainer(run, POLICY, 1.0)
    one.load(InnerState.fresh(np.full_like(lively(), np.nan)))
    with pytest.raises(OwnFault, match="finite"):
        one.run([batch], 0)


def test_a_bound_inside_the_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="bound"):
        PolicyConfig(clip_high=4.0, bound=4.0)


def test_each_turn_has_the_advantage_of_its_player() -> None:
    """Player 1 got the same everywhere: its turns teach nothing."""
    said = ("ab\nc\nd\n", "abc\nd\n\n", "\n\nab\n")
    group = tuple(sample_of(scripted(5, text, environment=Duel)) for text in said)
    rewards = np.array([[1.0, 0.5], [0.0, 0.5], [0.5, 0.5]])
    batch = PolicyBatch.of([group], [rewards])
    wanted = advantages(rewards[:, 0].tolist())
    assert wanted is not None
    for row, one in enumerate(group):
        for (start, end), player in zip(one.turns.tolist(), one.players.tolist(), strict=True):
            assert (batch.weights[row, start - 1 : end - 1] == (player == 0)).all()
            assert (batch.advantages[row, start - 1 : end - 1] == (0.0 if player else wanted[row])).all()
    other = PolicyBatch.of([group], [rewards[:, ::-1].copy()])
    np.testing.assert_array_equal(
        (batch.weights + other.weights).sum(axis=1), [len(one.spoken) for one in group]
    )


def test_a_groups_rewards_are_each_players_weighted_sums() -> None:
    group = (sample_of(scripted(5, "ab\ncde\nf\n", environment=Duel)),)
    np.testing.assert_array_equal(group_rewards(group, (1.0, -0.5)), [[2.0, 2.5]])


def test_samples_without_turns_teach_nothing() -> None:
    with pytest.raises(ValueError, match="concatenate"):
        replace(sample_of(scripted(5, "a\n")), turns=np.zeros((0, 2), np.uint16)).spoken  # noqa: B018
