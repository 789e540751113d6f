"""Model FLOPs follow PaLM's formula, and a peak is what the machine shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from protocol.manifest import InnerConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from training.flops import training_flops, utilisation
from training.model import Transformer
from training.peak import measured_peak

MODEL = ModelConfig(vocab=256, width=64, layers=3, heads=4, feed_forward=192, context=64)


def palm(model: ModelConfig) -> int:
    """Return 6 N + 12 L H Q T, with the parameters of all matrices that are multiplied by."""
    matrices = sum(shape[0] * shape[1] for _, shape in parameter_layout(model).tensors if len(shape) == 2)
    table = 0 if model.tied else model.vocab * model.width
    return 6 * (matrices - table) + 12 * model.layers * model.heads * model.head * model.context


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("key_heads", [None, 2])
def test_a_token_costs_what_the_formula_says(
    make_manifest: Callable[..., RunManifest], tied: bool, key_heads: int | None
) -> None:
    model = MODEL.model_copy(update={"tied": tied, "key_heads": key_heads})
    assert training_flops(make_manifest(model=model)) == palm(model)


def test_the_formula_counts_what_torch_counts(make_manifest: Callable[..., RunManifest]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = Transformer(MODEL, torch.device("cpu"))
    tokens = torch.zeros((2, MODEL.context + 1), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens).backward()  # type: ignore[no-untyped-call]
    counted = sum(
        flops for name, flops in counter.get_flop_counts()["Global"].items() if "attention" not in str(name)
    )
    attention = 12 * MODEL.layers * MODEL.width * MODEL.context
    assert counted == 2 * MODEL.context * (training_flops(make_manifest(model=MODEL)) - attention)


def test_frozen_layers_are_only_gone_through_forwards(make_manifest: Callable[..., RunManifest]) -> None:
    whole = make_manifest(model=MODEL)
    part = make_manifest(model=MODEL, inner=InnerConfig(steps=6, batch=4, last_layers=1))
    layer = 64 * (3 * 64) + 64 * 64 + 64 * (2 * 192) + 192 * 64
    # Two layers without 4 FLOPs a parameter and 8 T W of attention, the tied head without its own gradient.
    saved = 2 * (4 * layer + 8 * 64 * 64) + 2 * 256 * 64
    assert training_flops(whole) - training_flops(part) == saved


def test_utilisation_is_a_share_of_the_peak() -> None:
    assert utilisation(50e9, 2.0, 100e9) == 0.25


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16", "exact"])
def test_a_peak_is_measured(arithmetic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from training import peak

    monkeypatch.setattr(peak, "_CPU_SIZE", 64)
    assert 1e3 < measured_peak("cpu", arithmetic=arithmetic) < 1e18
