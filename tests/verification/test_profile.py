from __future__ import annotations

import pytest

from protocol.errors import ConfigError
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, CUDA_FP32, NumericProfile, RunManifest
from training.inner import prepare_process
from verification.profile import (
    Machine,
    computable,
    describe,
    judging_pair,
    judging_pairs,
    obstacle,
    own_profile,
    this_machine,
)

CPU = Machine(
    device="cpu",
    torch=CPU_FP32.torch,
    capability="AVX2",
    arithmetics=("fp32", "bf16", "exact"),
    flags=("deterministic", "no-tf32"),
)
GPU = CPU.model_copy(update={"device": "cuda", "arithmetics": ("fp32", "bf16")})


def run_with(manifest: RunManifest, *profiles: NumericProfile) -> RunManifest:
    verification = manifest.verification.model_copy(update={"profiles": profiles})
    return manifest.model_copy(update={"verification": verification})


def test_this_machine_is_what_it_says_once_it_is_set_up() -> None:
    prepare_process(None)
    machine = this_machine("cpu")
    assert machine.device == "cpu"
    assert machine.torch == CPU_FP32.torch
    assert not obstacle(machine, CPU_FP32)
    assert set(CPU_FP32.flags) <= set(machine.flags)
    with pytest.raises(ConfigError, match="cannot be used"):
        this_machine("meta")


@pytest.mark.parametrize(
    ("machine", "profile", "reason"),
    [
        (CPU, CPU_FP32.model_copy(update={"torch": "2.12.1"}), "torch 2.12.1"),
        (CPU, CUDA_FP32, "device cuda"),
        (GPU, CPU_FP32, "device cpu"),
        (GPU, CPU_EXACT.model_copy(update={"device": "cuda"}), "exact arithmetic"),
        (CPU.model_copy(update={"flags": ("no-tf32",)}), CPU_FP32, "wants deterministic"),
        (CPU, CPU_FP32.model_copy(update={"flags": ("deterministic", "sdpa-math")}), "wants sdpa-math"),
    ],
)
def test_whatever_differs_from_the_profile_is_an_obstacle_with_a_reason(
    machine: Machine, profile: NumericProfile, reason: str
) -> None:
    assert reason in obstacle(machine, profile)


def test_a_unit_is_judged_under_its_own_profile_or_one_that_it_names(manifest: RunManifest) -> None:
    named = CUDA_FP32.model_copy(update={"judged_by": ("cpu-fp32",)})
    run = run_with(manifest, CPU_FP32, CPU_BF16, named)
    pairs = judging_pairs(run, CPU)
    assert [(one.unit.name, one.replay and one.replay.name) for one in pairs] == [
        ("cpu-fp32", "cpu-fp32"),
        ("cpu-bf16", "cpu-bf16"),
        ("cuda-fp32", "cpu-fp32"),
    ]
    assert describe(pairs) == "cpu-fp32 by cpu-fp32, cpu-bf16 by cpu-bf16, cuda-fp32 by cpu-fp32"
    assert judging_pair(run, GPU, named).replay == named


def test_a_profile_that_names_nobody_else_is_inconclusive_elsewhere(manifest: RunManifest) -> None:
    run = run_with(manifest, CPU_FP32, CUDA_FP32)
    pair = judging_pair(run, CPU, CUDA_FP32)
    assert pair.replay is None
    assert "device cuda" in pair.reason
    assert pair.to_json() == {"unit": "cuda-fp32", "replay": None, "reason": pair.reason}
    stranger = CPU.model_copy(update={"torch": "9.9.9"})
    assert describe(judging_pairs(run, stranger)) == "none"
    assert computable(run, stranger) == ()


def test_a_contributor_takes_the_first_profile_that_fits_or_the_one_it_names(manifest: RunManifest) -> None:
    run = run_with(manifest, CUDA_FP32, CPU_FP32, CPU_BF16)
    assert own_profile(run, CPU) == CPU_FP32
    assert own_profile(run, GPU) == CUDA_FP32
    assert own_profile(run, CPU, "cpu-bf16") == CPU_BF16
    with pytest.raises(ConfigError, match="device cuda"):
        own_profile(run, CPU, "cuda-fp32")
    with pytest.raises(ConfigError, match="no profile tpu"):
        own_profile(run, CPU, "tpu")
    with pytest.raises(ConfigError, match="under no profile of the run"):
        own_profile(run_with(manifest, CPU_FP32), GPU)
