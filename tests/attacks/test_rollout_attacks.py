"""Every way to cheat with rollouts or as a judge is caught by a check, honest work never, and the table says so."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from murmur.cli import program
from murmur.judging_laboratory import JudgingLaboratory
from murmur.rollout_attacks import (
    RolloutAttackReport,
    RolloutAttackResult,
    measure_honest_judgments,
    measure_honest_rollouts,
    measure_rollout_attacks,
    rollout_markdown,
)
from murmur.rollout_laboratory import RolloutLaboratory
from protocol.errors import UsageError
from protocol.manifest import CPU_BF16, CPU_EXACT
from protocol.model_config import ModelConfig
from training.preset import preset
from training.tuning import TuningConfig
from verification.cheats import Fate
from verification.rollout_cheats import JudgeCheat, RolloutCheat

OUTCOMES = {
    Fate.SLASHED: {"proven false"},
    Fate.CAUGHT: {"proven false", "void"},
    Fate.VOID: {"void"},
    Fate.UNPAID: {"refused"},
}


@pytest.fixture(scope="module")
def laboratory() -> RolloutLaboratory:
    whole = preset("sort")
    small = whole.model_copy(
        update={
            "sampling": whole.sampling.model_copy(update={"groups": 4, "group_size": 4}),
            "model": ModelConfig(vocab=128, width=32, layers=2, heads=2, feed_forward=64, context=24),
        }
    )
    tuning = TuningConfig(demonstrations=256, steps=60, batch=32, observation_weight=0.0)
    return RolloutLaboratory.open(tuning=tuning, chosen=small)


@pytest.fixture(scope="module")
def judges(laboratory: RolloutLaboratory) -> JudgingLaboratory:
    tuning = TuningConfig(demonstrations=384, steps=40, batch=32, observation_weight=0.0)
    return JudgingLaboratory.open(laboratory, tuning)


@pytest.fixture(scope="module")
def results(laboratory: RolloutLaboratory, judges: JudgingLaboratory) -> dict[str, RolloutAttackResult]:
    found = measure_rollout_attacks(laboratory, RolloutCheat) + measure_rollout_attacks(judges, JudgeCheat)
    return {one.name: one for one in found}


@pytest.mark.parametrize("cheat", [*RolloutCheat, *JudgeCheat])
def test_a_cheat_meets_its_fate(
    cheat: RolloutCheat | JudgeCheat, results: dict[str, RolloutAttackResult]
) -> None:
    found = results[cheat]
    assert found.caught
    assert found.check
    assert found.reason
    assert found.outcome in OUTCOMES[cheat.kind.fate]
    if found.outcome != "refused":
        assert found.ratio is not None
        assert found.ratio > 1
        assert found.detection > 0


def test_only_regret_sees_how_tokens_were_picked(results: dict[str, RolloutAttackResult]) -> None:
    for cheat in ("greedy", "cooler", "re-roll", "best-of-n", "edited-token", "right-answer"):
        assert results[cheat].check == "regret"
        assert results[cheat].exact_regret is not None
        assert results[cheat].exact_regret > 0.01


def test_only_regret_sees_how_a_judge_picked_its_answers(results: dict[str, RolloutAttackResult]) -> None:
    for cheat in ("flattered-answer", "greedy-judge", "copied-judgments", "other-judge"):
        assert results[cheat].check == "regret"
        assert (results[cheat].exact_regret or 0.0) > 0.01


def test_whoever_merges_says_which_judgment_is_wrong(results: dict[str, RolloutAttackResult]) -> None:
    assert "judgment of group 0 of number 2: claims score 1" in results["invented-score"].reason
    for cheat in ("other-prompt", "other-sample"):
        assert "the environment says something else" in results[cheat].reason
    assert "3 judgments, and not of the 4 groups" in results["missing-judgment"].reason


def test_a_cheat_in_one_group_is_found_by_draws_of_its_segment_alone(
    laboratory: RolloutLaboratory, results: dict[str, RolloutAttackResult]
) -> None:
    assert results["edited-token"].detection == 1 / laboratory.manifest.segments
    assert "group 0, sample 0" in results["edited-token"].reason


def test_honest_rollouts_pass_under_every_profile(laboratory: RolloutLaboratory) -> None:
    for one in (laboratory, laboratory.under(CPU_BF16), laboratory.under(CPU_EXACT)):
        found = measure_honest_rollouts(one)
        assert not found.caught
        assert (found.outcome, found.detection, found.reason) == ("passed", 0.0, "")
        assert found.ratio is not None
        assert found.ratio < 0.2


def test_honest_judgments_pass_under_every_profile(judges: JudgingLaboratory) -> None:
    for one in (judges, judges.under(CPU_BF16), judges.under(CPU_EXACT)):
        found = measure_honest_judgments(one)
        assert not found.caught
        assert (found.name, found.outcome, found.reason) == ("honest judge", "passed", "")
        assert found.ratio is not None
        assert found.ratio < 0.2


def test_the_report_holds_only_if_all_attacks_and_no_honest_unit_were_caught(
    results: dict[str, RolloutAttackResult],
) -> None:
    attack = results["greedy"]
    honest = attack.model_copy(update={"name": "honest", "caught": False, "outcome": "passed"})
    report = RolloutAttackReport(
        profile="cpu-fp32", attacks=list(results.values()), honest=[honest], indistinguishable=[honest]
    )
    assert report.holds
    assert not report.model_copy(update={"honest": [attack]}).holds
    missed = report.model_copy(update={"attacks": [honest]})
    assert not missed.holds
    assert "| `honest` | **no** |" in rollout_markdown(missed)
    lines = rollout_markdown(report).splitlines()
    assert len([line for line in lines if line.startswith("| `")]) == len(results) + 1
    assert "bfloat16 rounds as much itself" in lines[-1]


@pytest.mark.parametrize("arguments", [("--only", "skip-steps"), ("--report", "--json")])
def test_a_command_that_makes_no_sense_is_refused(arguments: tuple[str, ...]) -> None:
    found = CliRunner().invoke(program(), ["verifier", "attacks", "--kind", "rollout", *arguments])
    assert isinstance(found.exception, UsageError)


@pytest.mark.slow
def test_the_command_measures_one_attack() -> None:
    arguments = ["verifier", "attacks", "--kind", "rollout", "--only", "re-roll", "--json"]
    found = CliRunner().invoke(program(), arguments)
    assert found.exit_code == 0
    [attack] = json.loads(found.stdout)["attacks"]
    assert attack["outcome"] == "proven false"
    assert attack["ratio"] > 1000
