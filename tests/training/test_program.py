"""Peers agree on roots byte for byte, whatever their instruction set, their libraries' settings and their threads."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training.program import program_digest

GOLDEN = Path(__file__).parent.parent / "golden" / "outer.py"
NO_VECTORS = "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V3 X86_V4"
MACHINES = {
    "ATen avx512, MKL compatible": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "COMPATIBLE"},
    "ATen avx2, two threads": {"ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    "ATen default": {"ATEN_CPU_CAPABILITY": "default"},
    "NumPy without vectors": {"NPY_DISABLE_CPU_FEATURES": NO_VECTORS},
    "BLAS of another processor, two threads": {
        "OPENBLAS_CORETYPE": "Prescott",
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    },
    "C library without vectors": {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F"},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads(GOLDEN.with_suffix(".json").read_text())
    return vectors


def test_the_program_digest_is_the_frozen_one(golden: dict[str, Any]) -> None:
    assert program_digest() == golden["program"]


def test_golden_roots_are_reproduced_here(golden: dict[str, Any]) -> None:
    assert runpy.run_path(str(GOLDEN))["vectors"]() == golden


@pytest.mark.parametrize("machine", MACHINES)
def test_golden_roots_are_reproduced_on_another_machine(machine: str, golden: dict[str, Any]) -> None:
    environment = MACHINES[machine]
    # As in a trainer, torch is there before the first root, where its settings of the processor are the case.
    load = "import torch; " if any(name.startswith(("ATEN", "MKL")) for name in environment) else ""
    run = f"runpy.run_path({str(GOLDEN)!r}, run_name='__main__')"
    script = f"{load}import runpy, sys; sys.argv[1:] = ['--print']; {run}"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environment},
        cwd=GOLDEN.parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == golden
