"""`murmur run plan` as typed: which manifests it takes, which it refuses, and what it shows of the arithmetic."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordinator.cli import run_app
from coordinator.economics import Terms
from coordinator.plan_cli import Refused, check_plan, make_plan, manifest_of, read_fields_or_manifest
from coordinator.suite import BITS, REFUSALS, UNPAID, attack_figures, check_covers
from murmur.measuring import STEP_CHEATS
from protocol.canonical import canonical_json
from protocol.errors import ConfigError, Malformed, MurmurError, ProofRejected, UsageError
from protocol.keys import PeerKey
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, CUDA_FP32, NumericProfile, RunManifest
from protocol.rollout_config import PeopleConfig
from tests.protocol import makers
from training.preset import Signals, preset
from training.recipe import recipe
from verification.calibration import (
    Attack,
    Calibration,
    Chosen,
    Honest,
    MeasuredMachine,
    ProfileCalibration,
    Quantiles,
    SignedCalibration,
    Trials,
    measured_setting,
    packaged_calibration,
)
from verification.cheats import Cheat
from verification.profile import Machine

KEY = PeerKey(b"\x07" * 32)


def manifest(**changes: Any) -> RunManifest:
    """Return a run with the moments that a run of 40 rounds gets."""
    return makers.manifest(**{"inner": recipe(40)["inner"], **changes})


def calibrated(
    segments: int = 3000,
    profile: NumericProfile = CPU_FP32,
    distances: dict[str, float] | None = None,
    **fields: Any,
) -> SignedCalibration:
    """Return a calibration in which all dishonest segments are 0.1 off, except those named."""

    def attack(cheat: Cheat) -> Attack:
        off = (distances or {}).get(cheat.value, 0.1)
        caught = segments if off > profile.tolerance else 0
        spread = Quantiles(segments=segments, q50=off, q90=off, q99=off, max=off)
        trials = Trials(count=caught, tried=segments)
        return Attack(
            name=cheat.value, check="replay", drawn=segments, distance=spread, least=off, caught=trials
        )

    still = Quantiles(segments=segments, q50=1e-7, q90=2e-6, q99=5e-6, max=8e-6)
    honest = [
        Honest(
            moments=moments,
            replayed_under=profile.name,
            drift=still,
            groups=(),
            rejected=Trials(count=0, tried=segments),
        )
        for moments in ("carried", "fresh")
    ]
    beside = still.model_copy(update={"max": max(still.max, profile.slash_tolerance / 10)})
    found = ProfileCalibration(
        profile=profile,
        honest=tuple(honest),
        exact=None if profile.arithmetic == "exact" else beside,
        fresh_exact=None if profile.arithmetic == "exact" else beside,
        attacks=tuple(map(attack, STEP_CHEATS)),
        chosen=Chosen(
            tolerance=profile.tolerance,
            fresh_tolerance=profile.fresh_tolerance,
            slash_tolerance=profile.slash_tolerance,
        ),
    )
    machine = Machine(device="cpu", torch=profile.torch, capability="AVX2", arithmetics=("fp32",), flags=())
    values: dict[str, Any] = {
        "date": datetime(2026, 1, 1, tzinfo=UTC),
        "machine": machine,
        "machines": (MeasuredMachine(name="native", capability="AVX2", differs=0),),
        "model": measured_setting(manifest()),
        "segments": segments,
        "profiles": (found,),
        **fields,
    }
    return SignedCalibration.sign(Calibration(**values), KEY)


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_bytes(calibrated().to_bytes())
    return path


def plan(tmp_path: Path, calibration: Path | None, *options: str, **fields: Any) -> Any:
    path = tmp_path / "fields.json"
    path.write_text(json.dumps(fields))
    named = () if calibration is None else ("--calibration", str(calibration))
    return CliRunner().invoke(run_app, ["plan", str(path), *named, *options], catch_exceptions=True)


def test_the_default_manifest_holds_by_the_packaged_calibration(tmp_path: Path) -> None:
    result = plan(tmp_path, None, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["holds"], told["reasons"]) == (True, [])
    assert told["false_rejection_loss"] <= 0.001
    names = {one["name"].removeprefix("cpu-fp32: ") for one in told["strategies"]}
    assert {cheat.value for cheat in Cheat} <= names


@pytest.mark.parametrize("fields", [{"inner": {"moments": "carried"}}, {"outer": {"delay": 1}}], ids=str)
def test_a_run_whose_moments_are_carried_holds_by_its_own_packaged_calibration(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    result = plan(tmp_path, None, "--json", **fields)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["holds"], told["reasons"]) == (True, [])
    names = {one["name"].removeprefix("cpu-fp32: ") for one in told["strategies"]}
    assert set(Cheat) - names == {Cheat.FORGED_MOMENTS}


def test_a_run_of_muons_steps_holds_by_its_own_packaged_calibration(tmp_path: Path) -> None:
    result = plan(tmp_path, None, "--json", inner={"muon": {}})
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["holds"], told["reasons"]) == (True, [])
    assert told["false_rejection_loss"] <= 0.001


@pytest.mark.parametrize("rounds", [30, 50, 60, 100, 1000])
def test_longer_runs_of_whole_epochs_hold_too(tmp_path: Path, rounds: int) -> None:
    assert plan(tmp_path, None, rounds=rounds).exit_code == 0


def test_a_short_last_epoch_or_a_run_that_is_drawn_too_often_does_not_hold(tmp_path: Path) -> None:
    assert "refuse-opening pays" in plan(tmp_path, None, rounds=41).exception.message
    assert "false rejections and outages may cost" in plan(tmp_path, None, rounds=10).exception.message


def test_by_the_packaged_calibration_a_penalty_of_one_percent_for_refusal_is_refused(tmp_path: Path) -> None:
    result = plan(tmp_path, None, pay={"refusal_percent": 1})
    assert isinstance(result.exception, Refused)
    assert "refuse-opening pays +" in result.exception.message


def test_a_calibration_that_is_named_counts_instead_of_the_packaged_one(tmp_path: Path) -> None:
    assert plan(tmp_path, None).exit_code == 0
    few = tmp_path / "few.json"
    few.write_bytes(calibrated(100).to_bytes())
    assert isinstance(plan(tmp_path, few).exception, Refused)


def test_the_packaged_calibration_vouches_for_no_other_model_or_arithmetic(tmp_path: Path) -> None:
    other = plan(tmp_path, None, inner={"steps": 30})
    assert isinstance(other.exception, ConfigError)
    assert "verifier calibrate --manifest" in other.exception.hint
    renamed = CPU_BF16.model_copy(update={"name": CPU_FP32.name})
    found = plan(tmp_path, None, verification={"profiles": [renamed.model_dump(mode="json")]})
    assert isinstance(found.exception, ConfigError)
    assert "calibrated as another" in found.exception.message
    judged = CPU_FP32.model_copy(update={"judged_by": (CPU_EXACT.name,)})
    both = [one.model_dump(mode="json") for one in (judged, CPU_EXACT)]
    found = plan(tmp_path, None, verification={"profiles": both})
    assert isinstance(found.exception, ConfigError)
    assert "nobody measured its replays under cpu-exact" in found.exception.message


def test_the_manifest_of_a_local_network_holds(tmp_path: Path, calibration: Path) -> None:
    result = plan(tmp_path, calibration)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "the manifest holds"
    told = json.loads(plan(tmp_path, calibration, "--json").stdout)
    assert (told["holds"], told["reasons"]) == (True, [])
    assert told["honest_profit"] == pytest.approx(0.6)
    assert told["false_rejection_loss"] <= 0.001
    names = {one["name"].removeprefix("cpu-fp32: ") for one in told["strategies"]}
    assert {cheat.value for cheat in Cheat} <= names
    assert {f"lazy in {lazy} of 5 segments" for lazy in range(1, 6)} <= names
    assert not any(one["pays"] for one in told["strategies"])


TIERS = [{"steps": 9, "batch": 8}, {"steps": 6, "batch": 4}]


def test_every_tier_of_a_run_is_planned_by_its_own_pay_and_segments(
    tmp_path: Path, calibration: Path
) -> None:
    told = json.loads(plan(tmp_path, calibration, "--json", tiers=TIERS).stdout)
    lines = {one["name"]: one for one in told["strategies"]}
    for tier, segments in enumerate((5, 3, 2)):
        assert f"tier {tier}, cpu-fp32: lazy in {segments} of {segments} segments" in lines
        assert f"tier {tier}, cpu-fp32: lazy in {segments + 1} of {segments + 1} segments" not in lines
    # The same stake is five times as many of the smallest units' pay: it deters more, and honest work risks more.
    for tier, stake in enumerate((100, 500 / 3, 500)):
        assert any(step.startswith(f"tier {tier}: stake S = {stake:g} R") for step in told["steps"])
    invented = [lines[f"tier {tier}, cpu-fp32: wrong-data"]["profit"] for tier in range(3)]
    assert invented == sorted(invented, reverse=True)
    full = json.loads(plan(tmp_path, calibration, "--json").stdout)
    assert told["false_rejection_loss"] > full["false_rejection_loss"]
    assert [one["profit"] for one in told["strategies"][: len(full["strategies"])]] == [
        one["profit"] for one in full["strategies"]
    ]


def test_a_tier_that_earns_little_for_the_stake_is_refused(tmp_path: Path) -> None:
    refused = plan(tmp_path, None, tiers=TIERS).exception
    assert isinstance(refused, Refused)
    assert "refused: tier 2: cpu-fp32: false rejections and outages may cost" in refused.message
    assert plan(tmp_path, None, tiers=TIERS[:1]).exit_code == 0


def test_what_is_wrong_with_every_tier_is_said_once(tmp_path: Path, calibration: Path) -> None:
    told = plan(tmp_path, calibration, "--json", "--cost", "1", tiers=TIERS).stdout
    reasons = [one for one in json.loads(told)["reasons"] if "honest work does not pay" in one]
    assert reasons == ["honest work does not pay: a unit costs 1 of what it earns"]


def test_a_whole_manifest_is_read_like_its_fields(tmp_path: Path, calibration: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest(rounds=40).to_bytes())
    result = CliRunner().invoke(run_app, ["plan", str(path), "--calibration", str(calibration), "--json"])
    told = json.loads(result.stdout)
    assert not told["holds"], "its floor of 5 % is too rare for epochs of ten rounds"
    assert ["refuse-opening" in reason for reason in told["reasons"]].count(True) == 1
    assert isinstance(result.exception, Refused)


def test_a_penalty_of_one_percent_for_refusal_is_refused(tmp_path: Path, calibration: Path) -> None:
    result = plan(tmp_path, calibration, "--explain", pay={"refusal_percent": 1})
    assert isinstance(result.exception, Refused)
    assert (result.exception.exit_code, "--explain" in result.exception.hint) == (1, True)
    assert "refuse-opening pays +" in result.exception.message
    assert "forfeits 1% of the epoch's pay" in result.stdout
    assert result.stdout.splitlines()[-1] == "the manifest is refused"


def test_the_arithmetic_is_shown_line_by_line(tmp_path: Path, calibration: Path) -> None:
    told = plan(tmp_path, calibration, "--explain").stdout
    assert "a unit costs c = 0.4 of its pay R = 1; honest profit 0.6 a unit" in told
    assert "stake S = 100 R, of which a fault costs 100 % and 0.367 of that comes back" in told
    assert "of 3000 drawn segments 3000 proven, 3000 caught" in told
    line = next(line for line in told.splitlines() if line.startswith("cpu-fp32: half-steps"))
    # 0.5 x 0.4 - 0.1624 x 0.05^(1/3000) x (4/9 x 0.855154 x 64.3333 + 4/9)
    assert float(line.split()[2]) == pytest.approx(
        0.2 - 0.1624 * 0.999002 * (4 / 9 * (0.855154 * 64.3333 + 1)), abs=2e-4
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--stake", "0"), "pays"),
        (("--unbonding", "20"), "stake is free before it can be slashed"),
        (("--case-blocks", "1600"), "stake is free before it can be slashed"),
        (("--cost", "1"), "honest work does not pay"),
        (("--cost", "0.9"), "refuse-opening pays"),
        (("--slash-share", "1"), "pays"),
        (("--verifiers", "1"), "pays"),
    ],
)
def test_what_is_assumed_can_break_a_manifest(
    tmp_path: Path, calibration: Path, options: tuple[str, ...], reason: str
) -> None:
    result = plan(tmp_path, calibration, *options)
    assert isinstance(result.exception, Refused)
    assert reason in result.exception.message


def test_few_samples_cannot_vouch_for_honest_operators(tmp_path: Path) -> None:
    path = tmp_path / "few.json"
    path.write_bytes(calibrated(100).to_bytes())
    result = plan(tmp_path, path)
    assert isinstance(result.exception, Refused)
    assert "false rejections and outages may cost an honest operator" in result.stdout


def test_a_saving_that_only_voids_pays(tmp_path: Path) -> None:
    path = tmp_path / "mild.json"
    mild = CPU_FP32.slash_tolerance / 2
    path.write_bytes(calibrated(distances={"half-steps": mild}).to_bytes())
    result = plan(tmp_path, path)
    assert isinstance(result.exception, Refused)
    assert "half-steps pays" in result.exception.message


def test_an_attack_that_no_calibration_measured_is_taken_as_unseen() -> None:
    signed = calibrated().calibration
    silent = signed.profiles[0].model_copy(update={"attacks": ()})
    found = attack_figures(manifest(), signed.model_copy(update={"profiles": (silent,)}))["cpu-fp32"]
    assert next(one for one in found if one.name == "half-steps").tried == 0


def test_every_detection_figure_comes_from_calibration_or_from_construction() -> None:
    """As the table of docs/economics.md says."""
    between = (CPU_FP32.tolerance + CPU_FP32.slash_tolerance) / 2
    calibration = calibrated(distances={Cheat.WRONG_DATA.value: between}).calibration
    suite = {one.name: one for one in attack_figures(manifest(), calibration)["cpu-fp32"]}
    assert {one for one in Cheat if one.value not in suite} == set()
    wrong_data = suite["wrong-data"]
    assert (wrong_data.caught, wrong_data.proven) == (3000, 0)
    for name in ("perturbed-copy", "random-update", "one-forged-segment", "stale-start"):
        assert (suite[name].caught, suite[name].proven) == (3000, 0), name
    assert suite["half-steps"].proven == 3000
    assert {name for name, one in suite.items() if one.exact} == BITS
    assert {name for name, one in suite.items() if one.kind != "measured"} == REFUSALS | UNPAID | {
        Cheat.EQUIVOCATE
    }
    partial = {name for name, one in suite.items() if one.reach < 1 and not name.startswith("lazy")}
    assert partial == {Cheat.STALE_START, Cheat.ONE_FORGED_SEGMENT}
    assert suite["stale-start"].reach == 1 / manifest().segments


def test_where_roots_must_be_equal_a_draw_still_has_to_fall_on_a_dishonest_segment() -> None:
    calibration = calibrated(profile=CPU_EXACT).calibration
    verification = manifest().verification.model_copy(update={"profiles": (CPU_EXACT,)})
    exact = manifest().model_copy(update={"verification": verification})
    suite = {one.name: one for one in attack_figures(exact, calibration)["cpu-exact"]}
    assert all(suite[cheat].exact for cheat in STEP_CHEATS)
    partial = {name for name, one in suite.items() if one.reach < 1 and not name.startswith("lazy")}
    assert partial == {Cheat.STALE_START, Cheat.ONE_FORGED_SEGMENT, Cheat.SKIP_TENTH}


def test_a_profile_that_was_not_measured_is_refused(tmp_path: Path, calibration: Path) -> None:
    both = [CPU_FP32.model_dump(mode="json"), CUDA_FP32.model_dump(mode="json")]
    result = plan(tmp_path, calibration, verification={"profiles": both})
    assert isinstance(result.exception, Refused)
    assert "profile cuda-fp32 is not calibrated" in result.exception.message


def test_a_calibration_of_something_else_is_refused(tmp_path: Path, calibration: Path) -> None:
    wider = plan(tmp_path, calibration, model={"width": 128})
    assert isinstance(wider.exception, ConfigError)
    assert "another model" in wider.exception.message
    tight = CPU_FP32.model_copy(update={"tolerance": 3e-5})
    found = plan(tmp_path, calibration, verification={"profiles": [tight.model_dump(mode="json")]})
    assert isinstance(found.exception, ConfigError)
    assert "tolerance is 3e-05 in the manifest, below" in found.exception.message


def test_a_wider_tolerance_catches_less(tmp_path: Path) -> None:
    path = tmp_path / "mild.json"
    path.write_bytes(calibrated(distances={"half-steps": 0.05}).to_bytes())
    assert plan(tmp_path, path).exit_code == 0
    wide = CPU_FP32.model_copy(update={"slash_tolerance": 0.2})
    found = plan(tmp_path, path, verification={"profiles": [wide.model_dump(mode="json")]})
    assert isinstance(found.exception, Refused)
    assert "cpu-fp32: half-steps pays" in found.stdout


def test_a_forged_or_unreadable_calibration_is_refused(tmp_path: Path, calibration: Path) -> None:
    value = json.loads(calibration.read_text())
    value["calibration"]["segments"] = 2999
    forged = tmp_path / "forged.json"
    forged.write_bytes(canonical_json(value))
    assert isinstance(plan(tmp_path, forged).exception, ProofRejected)
    forged.write_text("{}")
    assert isinstance(plan(tmp_path, forged).exception, Malformed)
    assert isinstance(plan(tmp_path, tmp_path / "none.json").exception, ConfigError)


def test_a_file_that_makes_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fields.json"
    for fields in (
        {"rounds": "many"},
        {"rounds": 0},
        {"colour": 1},
        {"chain_id": 1, "beacon": {"kind": "block"}},
    ):
        path.write_text(json.dumps(fields))
        with pytest.raises(UsageError, match="make no manifest"):
            read_fields_or_manifest(path)
    path.write_text("[]")
    with pytest.raises(ConfigError):
        read_fields_or_manifest(path)


def test_a_run_is_created_only_if_its_plan_holds(tmp_path: Path, calibration: Path) -> None:
    path = tmp_path / "fields.json"
    path.write_text("{}")
    good = read_fields_or_manifest(path)
    terms = Terms(stake_wei=100 * 10**18, unbonding_blocks=3000)
    (told,) = check_plan(good, terms, calibration, unsafe=False)
    assert "no attack pays" in told
    short = Terms(stake_wei=100 * 10**18, unbonding_blocks=20)
    with pytest.raises(Refused):
        check_plan(good, short, calibration, unsafe=False)
    (warned,) = check_plan(good, short, calibration, unsafe=True)
    assert warned.startswith("warning")
    public = manifest(chain_id=1, beacon={"kind": "drand"})
    with pytest.raises(UsageError, match="for the local chain"):
        check_plan(public, terms, calibration, unsafe=True)
    assert issubclass(Refused, MurmurError)


def test_a_policys_preset_is_planned_with_its_own_calibration() -> None:
    manifest = manifest_of(preset("sort").fields())
    measured = packaged_calibration(manifest).calibration
    assert measured.model == measured_setting(manifest)
    check_covers(manifest, measured)
    told = make_plan(manifest, Terms(stake_wei=10**20, unbonding_blocks=3000), None)
    names = {line.name for line in told.lines}
    assert {"cpu-fp32: cherry-picker", "cpu-fp32: reward-liar", "cpu-fp32: skip-steps"} <= names
    # Its tolerance leaves room for honest steps that differ more than those rounded to TF32.
    assert [line.name for line in told.lines if line.pays] == ["cpu-fp32: tf32"]


def test_a_run_that_asks_people_is_planned_with_a_calibration_of_its_own_lag() -> None:
    people = PeopleConfig(addresses=("0x" + "33" * 20,))
    manifest = manifest_of(preset("sort").fields(Signals(people=people, people_weight=0.5)))
    with pytest.raises(ConfigError) as found:
        check_covers(manifest, packaged_calibration(manifest).calibration)
    assert "--kind rollout --env NAME" in found.value.hint
