"""What an operator sets decides under which profile a node computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import NodeConfig
from protocol.errors import ConfigError
from protocol.manifest import CPU_EXACT, CPU_FP32, CUDA_FP32, RunManifest
from tests.node.conftest import Place


@pytest.fixture
def manifest(place: Place) -> RunManifest:
    profiles = (CUDA_FP32, CPU_FP32, CPU_EXACT)
    verification = place.manifest.verification.model_copy(update={"profiles": profiles})
    return place.manifest.model_copy(update={"verification": verification})


def config(manifest: RunManifest, **changes: str) -> NodeConfig:
    fields = {"directory": Path("node"), "run": manifest.run_id, "rpc": "http://127.0.0.1:1"}
    return NodeConfig.model_validate(fields | {"ledger": manifest.ledger} | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "cpu-fp32"),
        ({"device": "cuda:1"}, "cuda-fp32"),
        ({"profile": "cpu-exact"}, "cpu-exact"),
    ],
)
def test_the_first_profile_of_the_device_is_taken_unless_another_is_named(
    manifest: RunManifest, changes: dict[str, str], expected: str
) -> None:
    assert config(manifest, **changes).profile_in(manifest).name == expected


@pytest.mark.parametrize(
    "changes",
    [{"device": "mps"}, {"profile": "cpu-bf16"}, {"device": "cuda", "profile": "cpu-exact"}],
    ids=["no such device", "no such profile", "a profile of another device"],
)
def test_a_run_without_a_fitting_profile_is_refused_with_what_it_has(
    manifest: RunManifest, changes: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="cuda-fp32 on cuda, cpu-fp32 on cpu") as caught:
        config(manifest, **changes).profile_in(manifest)
    assert "--profile" in caught.value.hint
