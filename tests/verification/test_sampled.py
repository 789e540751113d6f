"""A segment's groups pass only as the public parameters and the tasks' noise sample them; exact arithmetic decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from protocol.errors import ConfigError
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, NumericProfile
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from protocol.rollouts import Group, quantise
from protocol.tensors import Floats
from tests.verification.rollout_run import Unit, honest_unit, parameters, policy, rollout_manifest, weights_of
from training.environments.pinned import open_environment_of
from training.generate import sample_groups
from verification.rollouts import check_groups
from verification.sampled import GroupsReport, IndexedGroup, Sampling, find_groups, judge_groups


def sampling(unit: Unit, vector: Floats, groups: Sequence[IndexedGroup]) -> Sampling:
    return Sampling("rollouts", unit.manifest, vector, weights_of(vector), groups, unit.seeds)


def judged(unit: Unit, own: NumericProfile = CPU_FP32, profile: NumericProfile = CPU_FP32) -> GroupsReport:
    vector = parameters()
    groups = list(enumerate(unit.groups))
    return judge_groups(sampling(unit, vector, groups), profile, own)


def found(unit: Unit) -> GroupsReport:
    vector = parameters()
    groups = list(enumerate(unit.groups))
    return find_groups(sampling(unit, vector, groups), CPU_FP32)


def drawn(vector_seed: int = 3, weights: str = "", noise: float = 0.0, **changes: object) -> Unit:
    """Sample an honest unit's tasks in another way."""
    unit = honest_unit()
    assert unit.manifest.rollouts is not None
    config = unit.manifest.rollouts
    other = unit.manifest
    vector = parameters(vector_seed)
    if noise:
        vector = (vector + np.random.default_rng(1).normal(0, noise, vector.size)).astype(np.float32)
    if changes:
        changed = config.sampling.model_copy(update=changes)
        other = unit.manifest.model_copy(update={"rollouts": config.model_copy(update={"sampling": changed})})
    # The noise of the honest run: only the policy or its temperature is another.
    groups = sample_groups(
        other,
        policy(vector),
        weights or weights_of(parameters()),
        unit.seeds,
        lambda *_: open_environment_of(config).another(),
    )
    return Unit(unit.manifest, groups)


@pytest.mark.parametrize("name", ["sort", "shop", "nim"])
def test_an_honest_segment_passes_under_every_arithmetic_of_its_class(name: str) -> None:
    unit = honest_unit(name)
    reports = [judged(unit), judged(unit, CPU_EXACT), found(unit)]
    for report in reports:
        assert report.outcome == PASSED
        assert report.measured.failed is None
        assert report.exact is None
        assert len(report.measured.values) == 4
        assert len(report.measured.best) == 64
    assert len({report.measured.best for report in reports}) == 1


def test_some_of_the_groups_are_judged_with_their_own_tasks() -> None:
    unit = honest_unit()
    vector = parameters()
    for chosen in ([2], [0, 2], []):
        groups = [(index, unit.groups[index]) for index in chosen]
        report = judge_groups(sampling(unit, vector, groups), CPU_FP32, CPU_FP32)
        assert report.outcome == PASSED
    wrong = [(0, unit.groups[1])]
    report = judge_groups(sampling(unit, vector, wrong), CPU_FP32, CPU_FP32)
    assert report.outcome == PROVEN_FALSE


CHEATS: dict[str, Callable[[], Unit]] = {
    "greedy": partial(drawn, temperature=0.01),
    "cooler": partial(drawn, temperature=0.7),
    "noise of its own": partial(drawn, weights="ee" * 32),
    "another model": partial(drawn, vector_seed=4),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_other_tokens_are_proven_false_by_their_regret(cheat: str) -> None:
    unit = CHEATS[cheat]()
    check_groups(unit.manifest, enumerate(unit.groups), unit.seeds)  # all is well but how tokens were chosen
    report = judged(unit)
    assert report.outcome == PROVEN_FALSE
    assert report.exact is not None
    assert report.exact.regret > 0.1
    assert report.reason.startswith("group ")
    assert "token" in report.reason
    juror = found(unit)
    assert juror.outcome == PROVEN_FALSE
    assert juror.measured.best == report.exact.best


def test_weights_almost_the_right_ones_show_in_the_activations() -> None:
    report = judged(drawn(noise=1e-5))
    assert report.measured.failed is not None
    assert report.measured.failed.check == "fingerprint"
    assert report.outcome == REJECTED
    assert report.measured.regret < 1e-3


def test_an_invented_log_probability_or_fingerprint_is_void_and_never_proven_false() -> None:
    unit = honest_unit()
    codes = unit.sample(1, 2).codes.copy()
    codes[-1] = quantise(np.array([-9.0]))[0]
    one = judged(unit.changed(1, 2, codes=codes))
    last = unit.sample(1, 2).spoken[-1]
    assert one.outcome == REJECTED
    assert one.reason.startswith(f"group 1, sample 2, token {last}: log-probability")
    shown = unit.sample(2, 0).fingerprint + 1
    other = judged(unit.changed(2, 0, fingerprint=shown.astype(np.float32)))
    assert other.outcome == REJECTED
    assert other.reason.startswith("group 2: fingerprint")
    assert found(unit.changed(2, 0, fingerprint=shown.astype(np.float32))).outcome == REJECTED


def test_many_small_lies_about_log_probabilities_show_in_the_median() -> None:
    unit = honest_unit()
    group: Group = unit.groups[0]
    for place, sample in enumerate(group):
        lower = quantise(sample.log_probabilities - 0.05)
        unit = unit.changed(0, place, codes=lower)
    report = judged(unit)
    assert report.outcome == REJECTED
    medians = {one.check: one for one in report.measured.values}
    assert medians["median"].ratio > 10
    assert medians["median"].where == "group 0"


def test_a_profile_without_tolerance_cannot_be_judged() -> None:
    with pytest.raises(ConfigError, match="cpu-bf16"):
        judged(honest_unit(), CPU_BF16, CPU_BF16)


def test_samples_of_another_version_are_found_even_with_its_noise() -> None:
    """Whoever goes on with last round's parameters has another key, and other tokens."""
    manifest = rollout_manifest()
    vector = parameters()
    older = (vector - np.random.default_rng(2).normal(0, 1e-3, vector.size)).astype(np.float32)
    assert manifest.rollouts is not None
    seeds = honest_unit().seeds
    another = open_environment_of(manifest.rollouts).another
    stale = Unit(
        manifest, sample_groups(manifest, policy(older), weights_of(older), seeds, lambda *_: another())
    )
    assert judged(stale).outcome == PROVEN_FALSE
