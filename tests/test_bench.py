"""Measurements run on request; these keep what they share in working order."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.honesty import HonestSteps
from protocol.canonical import digest
from protocol.manifest import CodecConfig, InnerConfig
from protocol.model_config import ModelConfig
from protocol.update import SecondMoments
from tests.bench import attacks_merge, step
from tests.bench._attacks import ATTACKS, RULES, STALE_ROUNDS, Attackers, said
from tests.bench._clock import Clock
from tests.bench._keep import Kept
from tests.bench._swarm import Swarm, UncorrectedTrainer, manifest_of
from tests.bench.dishonest import Inverter
from tests.bench.generation import measure
from tests.bench.wire import Rounds, log2_choices, summary, wire_manifest
from training.corpus import Shard
from training.inner import InnerState
from training.model import initial_parameters
from training.policy import PolicyBatch, PolicyTrainer
from training.preset import Preset, preset
from training.program import program_digest

SORT = preset("sort")
SMALL: Preset = SORT.model_copy(
    update={
        "rounds": 2,
        "inner": SORT.inner.model_copy(update={"steps": 2, "batch": 2}),
        "sampling": SORT.sampling.model_copy(update={"groups": 2, "group_size": 4}),
    }
)


@pytest.mark.parametrize("verified", [True, False])
def test_a_liar_is_left_out_where_rollouts_are_checked(verified):
    swarm = Swarm(SMALL, (HonestSteps(), Inverter()), lag=0, verified=verified)
    rounds = list(swarm.play(initial_parameters(SMALL.model, 0), Clock()))
    merged = (1,) if verified else (1, 2)
    assert [one.merged for one in rounds] == [merged] * SMALL.rounds
    assert all(len(one.files) == len(one.updates) == len(merged) for one in rounds)


def test_no_correction_is_that_of_samples_from_the_present_weights():
    manifest = manifest_of(SMALL, "uncorrected")
    policy, temperature = manifest.rollouts.policy, manifest.rollouts.sampling.temperature
    start = InnerState.fresh(initial_parameters(SMALL.model, 0))
    random = np.random.default_rng(0)
    old = PolicyBatch(
        random.integers(1, 127, (4, 9)),
        np.ones((4, 8), np.float32),
        random.normal(-5, 2, (4, 8)).astype(np.float32),
        random.normal(0, 1, (4, 8)).astype(np.float32),
    )
    present = replace(old, behaviour=np.full((4, 8), np.nan, np.float32))
    gradients = []
    for batch in (old, present):
        trainer = UncorrectedTrainer(manifest, policy, temperature)
        trainer.load(start)
        trainer.backward(batch)
        gradients.append(trainer.gradient.clone())
    corrected = PolicyTrainer(manifest, policy, temperature)
    corrected.load(start)
    corrected.backward(old)
    assert gradients[0].isfinite().all()
    assert gradients[0].equal(gradients[1])
    assert not gradients[0].allclose(corrected.gradient)


def test_every_part_of_making_and_checking_a_unit_is_measured():
    manifest = manifest_of(SMALL, "measured")
    found = measure(manifest, initial_parameters(SMALL.model, 0), digest(b"beacon"))
    assert found.groups == 2
    assert found.drawn_groups * manifest.segments == found.groups
    assert all(spent > 0 for spent in found.seconds.values())


def wire_rounds(keep: Path | None, rounds: int = 3, k: int = 8) -> Rounds:
    tokens = np.random.default_rng(0).zipf(1.3, 20_000).clip(max=300).astype(np.uint16)
    model = ModelConfig(vocab=301, width=32, layers=1, heads=2, feed_forward=32, context=16)
    codec = CodecConfig(kind="sparse", chunk=512, k=k)
    manifest = wire_manifest(tokens, rounds, model, InnerConfig(steps=3, batch=2), codec)
    return Rounds(manifest, Shard(Path("pairs"), tokens), 0, 2, keep)


def test_layouts_of_an_update_weigh_what_they_must():
    found = summary(wire_rounds(None).play())
    table = {row["layout"]: row for row in found["table"]}
    assert (
        table["Murmur"]["bits_per_parameter"] == found["bits_per_parameter"] == sorted(found["by_round"])[1]
    )
    assert [table[name]["bits_per_index"] for name in ("9-bit indices, 2-bit values", "Elias-Fano")] == [9, 8]
    assert table["bound: uniform"]["bits_per_index"] == pytest.approx(log2_choices(512, 8) / 8, rel=0.01)
    assert table["9-bit indices, a byte a value"]["dense_ratio"] == pytest.approx(32 * 64 / 17, rel=0.01)
    assert all(found[name] > 0 for name in ("encode_mb_s", "decode_mb_s", "aggregate_mb_s"))
    assert found["encode_memory"] >= 1


def test_log2_choices_counts_choices():
    assert log2_choices(10, 3) == pytest.approx(math.log2(120))


def test_an_interrupted_measurement_goes_on_with_the_same_figures(tmp_path, monkeypatch):
    whole = summary(wire_rounds(None).play())
    interrupted = wire_rounds(tmp_path)
    monkeypatch.setattr("tests.bench.wire.aggregate", stop_in_round(2))
    with pytest.raises(KeyboardInterrupt):
        interrupted.play()
    monkeypatch.undo()
    resumed = wire_rounds(tmp_path)
    assert len(resumed.found) == 1
    assert summary(resumed.play())["table"] == whole["table"]
    with pytest.raises(SystemExit, match="other settings"):
        wire_rounds(tmp_path, k=9)


def stop_in_round(number):
    from training.outer import aggregate

    calls = []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise KeyboardInterrupt
        return aggregate(*arguments)

    return stopping


def honest_and_opposite():
    """Return six updates of one direction with noise, and two of the opposite one: float32[8, 200]."""
    random = np.random.default_rng(3)
    direction = random.normal(0, 1, 200)
    honest = direction + random.normal(0, 0.3, (6, 200))
    return np.concatenate((honest, [-direction] * 2)).astype(np.float32), direction


@pytest.mark.parametrize("rule", ["krum", "multi-krum", "centred clip"])
def test_rules_of_others_follow_the_majority(rule):
    updates, direction = honest_and_opposite()
    merged = RULES[rule](updates, 2)
    cosine = merged @ direction / np.linalg.norm(merged) / np.linalg.norm(direction)
    assert cosine > 0.9
    assert np.linalg.norm(merged) > 0.5 * np.linalg.norm(direction)


def test_a_trimmed_mean_leaves_the_extremes_out():
    updates = np.array([[1.0], [2.0], [3.0], [1000.0]], np.float32)
    assert RULES["trimmed mean"](updates, 1) == 2.5
    assert RULES["mean"](updates, 1) == 251.5


def test_attackers_show_what_their_names_say():
    honest, _ = honest_and_opposite()
    honest = honest[:6]
    bias = np.full(200, 1 / math.sqrt(200), np.float32)
    attackers = Attackers(np.random.default_rng(0), bias)
    own, length = honest[0], np.median(np.linalg.norm(honest, axis=1))
    shown = {name: attack(attackers, 7, own, honest) for name, attack in ATTACKS.items()}
    assert all(one.dtype == np.float32 and one.shape == own.shape for one in shown.values())
    np.testing.assert_array_equal(shown["x10"], -10 * own)
    np.testing.assert_array_equal(shown["backdoor"], own)
    for name in ("noise", "collusion"):
        assert np.linalg.norm(shown[name]) == pytest.approx(length, rel=1e-5)
    assert shown["collusion"] @ honest.mean(axis=0) < 0
    np.testing.assert_array_equal(shown["stale"], own)
    for _ in range(STALE_ROUNDS + 1):
        late = ATTACKS["stale"](attackers, 7, 2 * own, honest)
    np.testing.assert_array_equal(late, 2 * own)


def test_who_lies_about_second_moments_says_the_largest_or_the_smallest():
    learned = SecondMoments(slices=3, number=1, codes=np.array([90, 0, 101], np.uint8))
    assert said("rest", learned).codes.tolist() == [254] * 3
    assert said("rush", learned).codes.tolist() == [1] * 3
    assert said("flip", learned) is learned
    assert said("rest", None) is None


def test_figures_are_computed_once_and_kept(tmp_path, capsys):
    cell = attacks_merge.Cell(attack="flip", attackers=2, rule="ours", rounds=1, seed=0)
    other = cell.model_copy(update={"seed": 1})
    for _ in range(2):
        kept = Kept(tmp_path, "some")
        assert kept.figures(cell, lambda: {"loss": 1.5})["loss"] == 1.5
        assert (kept.has(cell), kept.has(other)) == (True, False)
    assert kept.figures(cell, lambda: pytest.fail("it is kept"))["loss"] == 1.5
    kept.warn([cell])
    assert capsys.readouterr().err == ""
    path = tmp_path / "some.jsonl"
    path.write_text(path.read_text().replace(program_digest(), "00" * 32))
    kept = Kept(tmp_path, "some")
    kept.figures(other, lambda: {"loss": 2.0})
    kept.warn([cell, other])
    assert "different programs" in capsys.readouterr().err


def test_a_run_under_attack_counts_whom_our_merging_doubted(tmp_path):
    cell = attacks_merge.Cell(attack="flip", attackers=2, rule="ours", rounds=1, seed=0, batch=1, windows=4)
    found = attacks_merge.train(cell, tmp_path)
    assert (found["honest"], found["dishonest"]) == (0, 2)
    assert 2.0 < found["loss"] < 8.0


def test_steps_of_both_kinds_are_timed(tmp_path):
    times = step.milliseconds(tmp_path, "0.17M", batch=1, units=1)
    assert len(times) == 2
    assert all(0 < one < float("inf") for one in times)
