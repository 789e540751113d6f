"""A flatterer answers as an honest judge does, but for the worst sample of each group: only a draw can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from node.cheats.casting import check_cheat, steps_of
from node.cheats.rollouts import flattered_answers
from protocol.errors import ConfigError
from protocol.judging import judging
from protocol.manifest import CPU_FP32
from protocol.messages import PROVEN_FALSE
from tests.node.world import manifest
from tests.verification.judged_run import NUMBERS, Judged, honest_judge, judge_parameters, judged_manifest
from tests.verification.rollout_run import rollout_manifest
from training.sampler import Sampler
from verification.cheats import Cheat, PolicyCheat
from verification.rollouts import check_judgments
from verification.sampled import judge_groups


@pytest.fixture(scope="module")
def flatterer() -> Judged:
    round_, number = honest_judge().round, NUMBERS[0]
    docket, config = round_.docket(), judging(round_.manifest)
    judge = Sampler(config, judge_parameters(), config.initial_parameters, CPU_FP32)
    groups = steps_of("flatterer").scores(judge, docket, docket.charges(number))
    return Judged(round_, number, groups)


def test_it_gives_the_worst_sample_the_best_ones_answer(flatterer: Judged) -> None:
    changed = 0
    for honest, lying in zip(honest_judge().groups, flatterer.groups, strict=True):
        scores = [float(one.rewards[0, 0]) for one in honest]
        worst, best = scores.index(min(scores)), honest[scores.index(max(scores))]
        for place, (one, other) in enumerate(zip(honest, lying, strict=True)):
            start = int(one.turns[0, 0])
            assert np.array_equal(one.tokens[:start], other.tokens[:start]), "it was asked the same"
            said = best if place == worst and max(scores) > min(scores) else one
            assert np.array_equal(other.tokens[other.spoken], said.tokens[said.spoken])
            assert float(other.rewards[0, 0]) == float(said.rewards[0, 0])
            changed += said is not one
    assert changed


def test_everybody_merges_it_and_a_draw_proves_it_false(flatterer: Judged) -> None:
    check_judgments(flatterer.round.docket(), flatterer.number, flatterer.judgments)
    found = judge_groups(flatterer.sampling(), CPU_FP32, CPU_FP32)
    assert found.outcome == PROVEN_FALSE
    assert "regret" in found.reason


def test_where_all_are_equally_good_there_is_nothing_to_flatter() -> None:
    group = honest_judge().groups[0]
    same = tuple(replace(one, rewards=np.zeros_like(one.rewards)) for one in group)
    assert flattered_answers(same) is same


def test_a_cheat_that_a_run_leaves_nothing_to_do_is_refused() -> None:
    check_cheat(judged_manifest(), PolicyCheat.FLATTERER)
    check_cheat(manifest(), Cheat.SKIP_STEPS)
    check_cheat(manifest(), None)
    with pytest.raises(ConfigError, match="flatterer lies about what the run's judge says"):
        check_cheat(rollout_manifest(), PolicyCheat.FLATTERER)
    with pytest.raises(ConfigError, match="cheats with rollouts"):
        check_cheat(manifest(), PolicyCheat.REWARD_LIAR)
