"""Units that hold rollouts, made by the trainer's own code and put to every check of the network."""

from __future__ import annotations

import pytest

from contracts.types import CaseOutcome
from murmur.laboratory import ATTACKER, Laboratory, laboratory_manifest
from protocol.errors import OwnFault
from protocol.manifest import UNJUDGED, CodecConfig, InnerConfig, VerificationConfig
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from protocol.published import read_published
from protocol.rollout_config import SamplingConfig
from tests.verification.rollout_run import MODEL, parameters, rollout_config
from training.preset import PROFILE
from verification.cheats import PolicyCheat
from verification.judge import grade, is_disputed, is_fresh
from verification.opening import needed_files

ROUNDS = 3


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    sampling = SamplingConfig(groups=6, group_size=8, turns=8, turn_tokens=8, tokens=60)
    directory = tmp_path_factory.mktemp("rollouts")
    manifest = laboratory_manifest(
        directory,
        start=parameters(),
        model=MODEL,
        inner=InnerConfig(steps=4, batch=2, lr=1e-3, warmup_steps=0, weight_decay=0.0),
        codec=CodecConfig(chunk=512, k=32),
        verification=VerificationConfig(segment_steps=2, profiles=(PROFILE,)),
        merging=UNJUDGED,
        rollouts=rollout_config("nim", lag=1, sampling=sampling),
    )
    return Laboratory.open(directory, manifest, rounds=ROUNDS)


def test_an_honest_unit_merges_and_passes_at_every_segment(laboratory: Laboratory) -> None:
    trial = laboratory.try_cheat(None)
    assert trial.public == []
    assert [one.outcome for one in trial.drawn.values()] == [PASSED, PASSED], trial.drawn
    assert trial.unit is not None
    blob = laboratory.store.get(trial.unit.work.blob, max_size=1 << 20)
    found = read_published(laboratory.manifest, blob)
    assert (len(found.groups), found.identity) == (6, trial.unit.work.symbols)
    for segment in range(laboratory.manifest.segments):
        unit, opening = laboratory.drawn(trial.unit, segment)
        needed = needed_files(laboratory.manifest, unit, opening.body)
        files = {one.address: laboratory.store.get(one.address, max_size=one.bytes) for one in needed}
        found_by_juror = laboratory.replays.find(laboratory.manifest, unit, opening.body, files)
        assert (found_by_juror.outcome, found_by_juror.reason) == (CaseOutcome.RIGHT, "")
    losses = [unit.work.loss for unit in laboratory.units[ATTACKER]]
    assert losses[0] == 0.0, "there is nothing to learn from in the first round"
    assert any(losses[1:])


def test_who_learns_from_nothing_still_publishes_something_of_its_own(laboratory: Laboratory) -> None:
    first = {units[0].work.symbols for units in laboratory.units.values() if units}
    assert len(first) == 2


def test_who_claims_a_reward_is_merged_by_nobody_and_proven_false(laboratory: Laboratory) -> None:
    trial = laboratory.try_cheat(PolicyCheat.REWARD_LIAR)
    assert [one.check for one in trial.public] == ["reveal"]
    assert "claims" in trial.public[0].reason
    # A group in which the worst sample did everything right leaves nothing to claim.
    assert {one.outcome for one in trial.drawn.values()} == {PROVEN_FALSE}


def test_who_keeps_the_best_samples_is_proven_false_by_a_verdict_that_counts(laboratory: Laboratory) -> None:
    trial = laboratory.try_cheat(PolicyCheat.CHERRY_PICKER)
    assert trial.public == [], "its samples are plays of its tasks, rewarded as they should be"
    assert trial.unit is not None
    for segment, found in trial.drawn.items():
        profile, fresh = laboratory.profile, is_fresh(laboratory.manifest, trial.unit.commitment, segment)
        assert (found.check, found.outcome) == ("replay", PROVEN_FALSE)
        assert "regret" in found.reason
        report = found.report
        assert report is not None
        assert report.fingerprint, "it can be sealed"
        assert is_disputed(profile, report.distance, fresh=fresh)
        assert report.exact is not None
        assert grade(profile, report.exact_distance, fresh=fresh) == report.outcome


def test_where_an_environment_fails_nobody_is_paid_and_nobody_loses_stake(
    laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OwnFault("division by zero")

    unit = laboratory.honest_unit()
    for module in ("merge", "opened"):
        monkeypatch.setattr(f"verification.{module}.check_rollouts", fail)
    trial = laboratory.try_cheat(None)
    assert [one.reason for one in trial.public] == ["rollouts that cannot be played: division by zero"]
    assert {one.outcome for one in trial.drawn.values()} == {REJECTED}
    drawn, opening = laboratory.drawn(unit, 0)
    needed = needed_files(laboratory.manifest, drawn, opening.body)
    files = {one.address: laboratory.store.get(one.address, max_size=one.bytes) for one in needed}
    found = laboratory.replays.find(laboratory.manifest, drawn, opening.body, files)
    assert (found.outcome, "division by zero" in found.reason) == (CaseOutcome.VOID, True)
