from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from protocol.errors import ConfigError, UsageError
from protocol.manifest import CPU_BF16, CPU_FP32, RunManifest
from verification.cli import verifier_app

RUNNER = CliRunner()


def test_a_machine_shows_which_pairs_it_can_judge(manifest: RunManifest, tmp_path: Path) -> None:
    other = CPU_BF16.model_copy(update={"torch": "2.12.0", "judged_by": ("cpu-fp32",)})
    alone = CPU_BF16.model_copy(update={"name": "old-bf16", "torch": "2.12.0"})
    verification = manifest.verification.model_copy(update={"profiles": (CPU_FP32, other, alone)})
    run = manifest.model_copy(update={"verification": verification})
    (tmp_path / "manifest.json").write_bytes(run.to_bytes())
    told = json.loads(
        RUNNER.invoke(verifier_app, ["profiles", str(tmp_path / "manifest.json"), "--json"]).stdout
    )
    assert told["computes"] == ["cpu-fp32"]
    assert [one["replay"] for one in told["judges"]] == ["cpu-fp32", "cpu-fp32", None]
    assert told["machine"]["torch"] == CPU_FP32.torch
    by_run = ["profiles", "--run", run.run_id, "--dir", str(tmp_path)]
    shown = RUNNER.invoke(verifier_app, by_run).stdout
    assert "judged under cpu-fp32" in shown
    assert "INCONCLUSIVE: old-bf16 was calibrated with torch 2.12.0" in shown


def test_without_a_run_the_built_in_profiles_are_shown(tmp_path: Path) -> None:
    told = json.loads(RUNNER.invoke(verifier_app, ["profiles", "--json"]).stdout)
    assert told["computes"] == ["cpu-fp32", "cpu-bf16", "cpu-exact"]
    assert told["judges"][-1] == {
        "unit": "cuda-fp32",
        "replay": None,
        "reason": "cuda-fp32 wants device cuda, this is cpu",
    }
    for words, error in (
        (["--run", "ab" * 32], UsageError),
        (["--run", "ab" * 32, "--dir", str(tmp_path)], ConfigError),
        ([str(tmp_path / "none.json")], ConfigError),
        (["--device", "meta"], ConfigError),
    ):
        assert isinstance(RUNNER.invoke(verifier_app, ["profiles", *words]).exception, error)
