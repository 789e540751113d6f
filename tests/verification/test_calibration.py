from __future__ import annotations

import json
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import canonical_json
from protocol.errors import ConfigError, Malformed, ProofRejected
from protocol.keys import PeerKey
from protocol.manifest import BUILT_IN_PROFILES, CPU_FP32, CPU_PROFILES
from tests.protocol.makers import manifest
from tests.verification.rollout_run import rollout_manifest
from training import distance
from verification.calibration import (
    MAX_CALIBRATION_BYTES,
    Attack,
    Calibration,
    GroupDrift,
    Honest,
    MeasuredMachine,
    ProfileCalibration,
    Quantiles,
    SignedCalibration,
    Trials,
    choose,
    measured_setting,
    packaged_calibration,
    round_up,
)
from verification.profile import Machine

KEY, OTHER = PeerKey(b"\x01" * 32), PeerKey(b"\x02" * 32)
DRIFT = Quantiles(segments=100, q50=1e-6, q90=2e-6, q99=5e-6, max=8e-6)
PLAIN = rollout_manifest().model_copy(update={"rollouts": None})
MACHINE = Machine(device="cpu", torch="2.13.0", capability="AVX2", arithmetics=("fp32",), flags=())
HONEST = Honest(
    moments="carried",
    replayed_under="cpu-fp32",
    drift=DRIFT,
    groups=(GroupDrift(group="parameters.norm", drift=DRIFT),),
    rejected=Trials(count=0, tried=100),
)
ATTACK = Attack(
    name="skip-steps",
    check="replay",
    drawn=80,
    distance=DRIFT,
    least=1e-6,
    caught=Trials(count=60, tried=60),
)
CALIBRATION = Calibration(
    date=datetime(2026, 11, 22, tzinfo=UTC),
    machine=MACHINE,
    machines=(MeasuredMachine(name="this machine", capability="AVX2", differs=0),),
    model="ab" * 32,
    segments=100,
    profiles=(
        ProfileCalibration(
            profile=CPU_FP32,
            honest=(HONEST,),
            exact=DRIFT,
            fresh_exact=DRIFT,
            attacks=(ATTACK,),
            chosen=choose("fp32", 8e-6, 8e-5, 8e-6, 1e-4),
        ),
    ),
)


def test_a_signed_file_comes_back_as_it_was(tmp_path: Path) -> None:
    signed = SignedCalibration.sign(CALIBRATION, KEY)
    (tmp_path / "c.json").write_bytes(signed.to_bytes())
    again = SignedCalibration.read(tmp_path / "c.json")
    assert again == signed
    assert again.verifier == KEY.address
    assert again.calibration.of("cpu-fp32") == CALIBRATION.profiles[0]
    assert again.calibration.of("cpu-bf16") is None


def changed(**parts: Any) -> bytes:
    return canonical_json({**SignedCalibration.sign(CALIBRATION, KEY).model_dump(mode="json"), **parts})


def test_a_changed_figure_or_another_signer_breaks_the_signature() -> None:
    told = CALIBRATION.model_dump(mode="json")
    told["segments"] += 1
    with pytest.raises(ProofRejected, match="is signed by"):
        SignedCalibration.from_bytes(changed(calibration=told))
    with pytest.raises(ProofRejected, match="is signed by"):
        SignedCalibration.from_bytes(changed(verifier=OTHER.address))
    with pytest.raises(ProofRejected, match="calibration"):
        SignedCalibration.from_bytes(changed(signature="ff" * 65))


def test_the_signature_is_good_for_nothing_but_calibrations() -> None:
    body = canonical_json(CALIBRATION.model_dump(mode="json"))
    assert CALIBRATION.digest().hex() not in {SignedCalibration.sign(CALIBRATION, KEY).signature, body.hex()}
    assert b"murmur/calibration" not in body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b" " + changed(),
        changed(more=1),
        changed(signature="00"),
        changed(calibration={}),
        b"x" * (MAX_CALIBRATION_BYTES + 1),
    ],
)
def test_what_is_not_a_calibration_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        SignedCalibration.from_bytes(data)


def test_a_long_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"x" * (4 * MAX_CALIBRATION_BYTES))
    with pytest.raises(Malformed):
        SignedCalibration.read(tmp_path / "long")
    with pytest.raises(ConfigError, match="cannot read"):
        SignedCalibration.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("segments",), 0),
        (("profiles", 0, "honest", 0, "drift", "q99"), 1.0),
        (("profiles", 0, "honest", 0, "rejected", "count"), 101),
        (("profiles", 0, "attacks", 0, "least"), -1.0),
        (("profiles", 0, "attacks", 0, "drawn"), 59),
        (("profiles", 0, "chosen", "tolerance"), 1.0),
    ],
)
def test_impossible_figures_are_malformed(path: tuple[str | int, ...], value: object) -> None:
    told = json.loads(changed())
    place = told["calibration"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Malformed, match="calibration"):
        SignedCalibration.from_bytes(canonical_json(told))


def test_counts_bound_rates_by_their_sample_sizes() -> None:
    assert Trials(count=0, tried=300).upper_bound == pytest.approx(0.01)
    assert Trials(count=0, tried=2).upper_bound == 1.0
    assert Trials(count=300, tried=300).lower_bound == pytest.approx(0.99)
    few = Trials(count=5, tried=100)
    assert 0.05 < few.upper_bound < 0.12
    assert 0.0 < few.lower_bound < 0.05


@given(st.integers(1, 10_000).flatmap(lambda tried: st.tuples(st.integers(0, tried), st.just(tried))))
def test_bounds_lie_on_both_sides_of_the_rate(counts: tuple[int, int]) -> None:
    trials = Trials(count=counts[0], tried=counts[1])
    rate = trials.count / trials.tried
    assert 0.0 <= trials.lower_bound <= rate + 1e-12
    assert rate - 1e-12 <= trials.upper_bound <= 1.0


def test_tolerances_follow_from_the_largest_honest_distances() -> None:
    small = choose("fp32", 1e-6, 2e-6, 3e-6, 3e-6)
    assert (small.tolerance, small.fresh_tolerance, small.slash_tolerance) == (1e-4, 1e-4, 2e-4)
    real = choose("fp32", 4.1e-5, 8.8e-5, 1.3e-4, 1.4e-4)
    assert (real.tolerance, real.fresh_tolerance, real.slash_tolerance) == (2.1e-4, 4.4e-4, 1.3e-3)
    assert choose("exact", 0, 0, 0, 0).slash_tolerance == 0
    assert choose("bf16", 0.9, 0.9, 0.9, 0.9).tolerance < 1


@given(*[st.floats(1e-7, 1e-3)] * 4)
def test_slash_tolerances_are_ten_times_the_largest_honest_distance_from_exact_ends(
    carried: float, fresh: float, exact: float, fresh_exact: float
) -> None:
    found = choose("fp32", carried, fresh, exact, fresh_exact)
    profile = CPU_FP32.model_copy(update=found.model_dump())
    assert profile.slash_bound(fresh=False) >= 10 * exact * (1 - 1e-9)
    assert profile.slash_bound(fresh=True) >= 10 * fresh_exact * (1 - 1e-9)
    assert profile.slash_tolerance >= 2 * profile.tolerance


def test_the_packaged_calibration_is_signed_and_vouches_for_the_built_in_cpu_profiles() -> None:
    signed = packaged_calibration(PLAIN)
    signed.check()
    found = signed.calibration
    assert found.segments >= 600
    for profile in CPU_PROFILES:
        measured = found.of(profile.name)
        assert measured is not None
        # Its own tolerances were those before the measurement.
        same = {"tolerance", "fresh_tolerance", "slash_tolerance"}
        assert measured.profile.model_dump(exclude=same) == profile.model_dump(exclude=same)
        assert {one.moments for one in measured.honest} == {"carried", "fresh"}
        assert all(one.rejected.count == 0 for one in measured.honest)
        chosen = measured.chosen
        assert chosen.tolerance <= profile.tolerance
        assert chosen.fresh_tolerance <= profile.fresh_tolerance
        assert chosen.slash_tolerance <= profile.slash_tolerance
        for fresh, exact in ((False, measured.exact), (True, measured.fresh_exact)):
            assert exact is None or 10 * exact.max <= profile.slash_bound(fresh)
    assert len(found.profiles) == len(CPU_PROFILES)


def test_the_packaged_calibration_tells_nothing_of_who_measured_but_the_kernels() -> None:
    told = packaged_calibration(PLAIN).calibration
    texts = [*told.machine.model_dump().values(), *[one.name for one in told.machines]]
    flat = [text for value in texts for text in (value if isinstance(value, tuple) else (value,))]
    names = {platform.node(), socket.gethostname()} - {""}
    assert not [text for text in flat if "/" in text or text in names]


@pytest.mark.parametrize("floor", ["PARAMETER_FLOOR", "MOMENT_FLOOR"])
def test_what_a_distance_is_belongs_to_what_was_measured(floor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured_setting(manifest())
    assert measured_setting(manifest(rounds=7)) == before
    monkeypatch.setattr(distance, floor, 2 * getattr(distance, floor))
    assert measured_setting(manifest()) != before


@given(st.floats(1e-12, 1e6))
def test_rounding_up_never_rounds_down(value: float) -> None:
    assert value * (1 - 1e-8) <= round_up(value) <= 10 * value


def test_built_in_profiles_leave_room_between_their_tolerances() -> None:
    for profile in BUILT_IN_PROFILES:
        for fresh in (False, True):
            assert profile.bound(fresh) <= profile.slash_bound(fresh) / 2 or profile.arithmetic == "exact"
