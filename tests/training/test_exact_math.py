"""Exact arithmetic gives the same bits in any order and on any machine, and is as near the truth as float32 can be."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from protocol.errors import OwnFault
from tests.golden.exact import PATH, tensor, vectors
from training.exact_math import (
    Fixed,
    cosine,
    exact_sum,
    exp,
    matmul,
    power,
    rotation_table,
    scatter_sum,
    sigmoid,
    sqrt,
)

SCRIPT = Path(__file__).parents[1] / "golden" / "exact.py"
NO_VECTORS = "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX2_Usable,-FMA,-FMA_Usable"
OLDEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "GLIBC_TUNABLES": NO_VECTORS}
MACHINES = {
    "ATen avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "no vectors in glibc": {"GLIBC_TUNABLES": NO_VECTORS},
    "no vectors in numpy": {"NPY_DISABLE_CPU_FEATURES": "AVX512F,AVX2,FMA3"},
}


def computed_by(environment: dict[str, str], threads: int) -> object:
    """Return the vectors that a process in another environment computes."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--print", str(threads)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
        check=True,
        capture_output=True,
    )
    return json.loads(done.stdout)


def test_this_machine_computes_the_golden_vectors() -> None:
    assert vectors() == json.loads(PATH.read_bytes())


def test_a_machine_without_vector_units_and_with_two_threads_computes_them_too() -> None:
    assert computed_by(OLDEST, 2) == json.loads(PATH.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_every_instruction_set_computes_the_golden_vectors(machine: str) -> None:
    threads = 1 + list(MACHINES).index(machine) % 2
    assert computed_by(MACHINES[machine], threads) == json.loads(PATH.read_bytes())


def test_a_product_does_not_depend_on_the_order_of_its_sum_where_float32_does() -> None:
    one, other = tensor("one", 50, 700), tensor("other", 700, 60)
    order = torch.arange(700).flip(0)
    exact = matmul(Fixed.of(one), Fixed.of(other))
    assert torch.equal(exact, matmul(Fixed.of(one[:, order]), Fixed.of(other[order])))
    assert not torch.equal(one @ other, one[:, order] @ other[order])


@pytest.mark.parametrize("inner", [1, 64, 2048, 5000])
def test_a_product_is_nearer_the_truth_than_a_float32_product(inner: int) -> None:
    one, other = tensor("one", 20, inner), tensor("other", inner, 30)
    truth = one.double() @ other.double()
    exact = (matmul(Fixed.of(one), Fixed.of(other)) - truth).norm() / truth.norm()
    assert exact < 5e-8
    assert exact <= (one @ other - truth).norm() / truth.norm()


def test_a_batched_and_transposed_product_is_the_plain_one() -> None:
    one, other = tensor("one", 3, 2, 5, 7), tensor("other", 3, 2, 9, 7)
    found = matmul(Fixed.of(one), Fixed.of(other).mT)
    assert torch.allclose(found, one @ other.mT, atol=1e-6)


def test_products_of_extreme_and_zero_operands_are_right() -> None:
    tiny = Fixed.of(torch.full((2, 3), 2.0**-120))
    huge = Fixed.of(torch.full((3, 2), 2.0**120))
    assert torch.equal(matmul(tiny, huge), torch.full((2, 2), 3.0))
    assert torch.equal(matmul(Fixed.of(torch.zeros(2, 3)), huge), torch.zeros(2, 2))


def test_sums_are_exact_in_any_order() -> None:
    values = tensor("sum", 4, 3001).double()
    total = exact_sum(values, -1)
    assert torch.equal(total, exact_sum(values.flip(-1), -1))
    truth = [math.fsum(row) for row in values.tolist()]
    assert total[:, 0].tolist() == pytest.approx(truth, rel=1e-9)
    assert exact_sum(torch.zeros(5, 1, dtype=torch.float64), 0).item() == 0.0


def test_scattered_rows_add_up() -> None:
    rows, places = tensor("rows", 500, 8), torch.arange(500) % 3
    found = scatter_sum(rows, places, 5)
    truth = torch.stack([rows.double()[places == place].sum(0) for place in range(5)])
    assert torch.allclose(found, truth, rtol=0, atol=1e-9)
    order = torch.arange(500).flip(0)
    assert torch.equal(found, scatter_sum(rows[order], places[order], 5))


def test_exponentials_are_within_two_units_of_the_last_place() -> None:
    values = torch.linspace(-80, 0, 20_001)
    truth = values.double().exp()
    assert ((exp(values) - truth) / truth).abs().max() < 2.4e-7
    assert torch.equal(exp(torch.tensor([-math.inf, -1e30])), exp(torch.tensor([-80.0, -80.0])))
    wide = torch.linspace(-60, 60, 10_001)
    assert torch.allclose(sigmoid(wide).double(), wide.double().sigmoid(), rtol=4e-7, atol=0)


def test_roots_powers_and_tables_agree_with_the_library() -> None:
    values = tensor("root", 999).abs()
    assert torch.allclose(sqrt(values), values.sqrt(), rtol=1e-7)
    assert power(0.95, 1234) == pytest.approx(0.95**1234, rel=1e-12)
    assert power(0.9, 0) == 1.0
    for step in (0, 1, 7, 599, 600, 900, 1300):
        assert cosine(step, 600) == pytest.approx(math.cos(math.pi * step / 600), abs=1e-15)
    cos, sin = rotation_table(100, 8, 10_000)
    angles = torch.outer(torch.arange(100.0).double(), 10_000.0 ** -(torch.arange(0, 8, 2).double() / 8))
    assert torch.allclose(cos.double(), angles.cos(), atol=1e-7)
    assert torch.allclose(sin.double(), angles.sin(), atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_every_operation(bad: float) -> None:
    values = torch.tensor([[1.0, bad]])
    for operation in (
        lambda: Fixed.of(values),
        lambda: exact_sum(values.double(), -1),
        lambda: scatter_sum(values, torch.tensor([0]), 1),
    ):
        with pytest.raises(OwnFault, match="finite"):
            operation()
