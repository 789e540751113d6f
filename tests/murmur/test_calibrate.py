from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from typer.testing import CliRunner

from coordinator.plan_cli import read_fields_or_manifest
from murmur.calibrate import setting
from murmur.cli import program
from murmur.machines import BASE, MACHINES
from murmur.measuring import Samples, measure, quantiles
from murmur.reference import Reference, reference_manifest
from protocol.blobs import BlobStore
from protocol.errors import ConfigError, Malformed, ProofRejected, UsageError
from protocol.keys import PeerKey
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, CUDA_FP32, InnerConfig
from protocol.model_config import ModelConfig
from tests.verification.test_calibration import CALIBRATION
from training.inner import prepare_process
from verification.calibration import SignedCalibration, measured_setting

SMALL = {
    "model": ModelConfig(width=16, layers=1, heads=2, feed_forward=16, context=16),
    "inner": InnerConfig(steps=6, batch=2, warmup_steps=4),
    "rounds": 4,
}
RUNNER = CliRunner()


def test_every_kind_of_figure_is_measured(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    async def run() -> SignedCalibration:
        found = await measure(
            (CPU_FP32, CPU_EXACT),
            4,
            date=datetime(2026, 11, 22, tzinfo=UTC),
            machines=(BASE, MACHINES[-1]),
            say=lambda done, of: told.append((done, of)),
            **SMALL,
        )
        return SignedCalibration.sign(found, PeerKey(b"\x01" * 32))

    signed = trio.run(run)
    assert SignedCalibration.from_bytes(signed.to_bytes()) == signed
    assert told == [(0, 2), (1, 2), (2, 2)]
    found = signed.calibration
    assert {one.name for one in found.machines} == {BASE.name, MACHINES[-1].name}
    fp32, exact = found.of("cpu-fp32"), found.of("cpu-exact")
    assert fp32 is not None
    assert exact is not None
    assert fp32.exact is not None
    assert fp32.fresh_exact is not None
    assert 0 < fp32.exact.max <= fp32.chosen.slash_tolerance / 10
    assert fp32.fresh_exact.max > 0
    for honest in fp32.honest:
        assert honest.drift.max <= fp32.chosen.fresh_tolerance / 5
        assert honest.rejected.count == 0
        assert {"parameters.blocks.qkv", "exp_avg_sq.embedding"} <= {one.group for one in honest.groups}
    attacks = {one.name: one for one in fp32.attacks}
    assert {"skip-steps", "lr-0.99", "wrong-data", "nudge"} <= set(attacks)
    for name in ("half-steps", "wrong-data", "small-batch"):
        caught = attacks[name].caught
        assert attacks[name].drawn >= caught.tried == caught.count > 0
    for honest in exact.honest:
        assert (honest.drift.max, honest.rejected.count) == (0, 0)
    assert exact.chosen.tolerance == exact.chosen.slash_tolerance == 0


def test_segments_are_spread_over_the_run_and_newcomers_start_from_zero(tmp_path: Path) -> None:
    prepare_process(1)
    manifest, shard = reference_manifest(tmp_path, (CPU_FP32,), **SMALL)
    store = BlobStore(tmp_path / "store")
    chunks = list(Reference(manifest, shard, store).chunks(10))
    assert [chunk[0].round for chunk in chunks] == [0, 0, 1, 2, 3]
    everything = [case for chunk in chunks for case in chunk]
    fresh = [case for case in everything if case.fresh]
    assert len(fresh) == 10
    assert len({case.number for case in fresh}) == 10
    assert all(case.segment == 0 for case in fresh)
    # What a peer starts its first round with is no carried moment.
    assert all((case.round, case.segment) != (0, 0) for case in everything if not case.fresh)
    assert all(store.has(case.start.parameters) for case in everything)


def test_a_segment_counts_once_with_its_largest_distance() -> None:
    samples = Samples()
    samples.add([{"parameters.blocks.0.qkv": 1e-6, "parameters.blocks.1.qkv": 3e-6}, {"exp_avg.norm": 2e-6}])
    samples.add([])
    assert samples.worst == [3e-6, 0.0]
    assert samples.groups == {"parameters.blocks.qkv": [3e-6, 0.0], "exp_avg.norm": [2e-6, 0.0]}
    assert quantiles([1.23456e-6] * 3).max == 1.24e-6


def test_a_file_is_checked_and_shown_without_measuring(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_bytes(SignedCalibration.sign(CALIBRATION, PeerKey(b"\x01" * 32)).to_bytes())
    shown = RUNNER.invoke(program(), ["verifier", "calibrate", "--check", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "signature holds" in shown.stdout
    assert "0 of 100 (rate below 0.03)" in shown.stdout
    told = RUNNER.invoke(program(), ["verifier", "calibrate", "--check", str(file), "--json"])
    assert json.loads(told.stdout)["calibration"]["segments"] == 100
    file.write_bytes(file.read_bytes().replace(b'"segments":100', b'"segments":900'))
    assert isinstance(
        RUNNER.invoke(program(), ["verifier", "calibrate", "--check", str(file)]).exception, ProofRejected
    )
    file.write_bytes(b"{}")
    assert isinstance(
        RUNNER.invoke(program(), ["verifier", "calibrate", "--check", str(file)]).exception, Malformed
    )


def test_a_manifest_says_what_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "fields.json"
    twin, gpu = CPU_FP32.model_copy(update={"name": "twin"}), CUDA_FP32
    listed = [one.model_dump(mode="json") for one in (gpu, CPU_BF16, twin)]
    verification = {"segment_steps": 5, "profiles": listed}
    path.write_text(json.dumps({"inner": {"steps": 30}, "verification": verification}))
    profiles, fields = setting(path, None)
    assert profiles == [CPU_BF16, twin]
    assert (fields["inner"].steps, fields["segment_steps"]) == (30, 5)
    measured, _ = reference_manifest(tmp_path, profiles, **fields)
    assert measured_setting(measured) == measured_setting(read_fields_or_manifest(path))
    assert setting(path, ["twin"])[0] == [twin]
    with pytest.raises(UsageError, match="no CPU profile cuda-fp32"):
        setting(path, ["cuda-fp32"])
    path.write_text(json.dumps({"verification": {"profiles": [gpu.model_dump(mode="json")]}}))
    with pytest.raises(UsageError, match="has no CPU profile"):
        setting(path, None)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--check", "c.json", "--out", "d.json"], UsageError),
        (["--check", "c.json", "--manifest", "d.json"], UsageError),
        (["--profiles", "cuda-fp32"], UsageError),
        (["--manifest", "/nowhere/at/all/m.json"], ConfigError),
        (["--out", "/nowhere/at/all/c.json"], ConfigError),
        (["--dir", "/nowhere/at/all"], ConfigError),
    ],
)
def test_words_that_make_no_sense_end_before_anything_is_measured(
    arguments: list[str], error: type[Exception]
) -> None:
    assert isinstance(RUNNER.invoke(program(), ["verifier", "calibrate", *arguments]).exception, error)
