"""A small run over a synthetic text, quick enough for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protocol.canonical import ZERO_DIGEST
from protocol.manifest import CodecConfig, InnerConfig, OuterConfig, RunManifest, VerificationConfig
from protocol.model_config import ModelConfig
from training.corpus import Shard, dataset_config, prepare_corpus
from training.inner import prepare_process

WORDS = ["the", "peers", "speak", "little", "and", "the", "flock", "moves", "together"]


@pytest.fixture(autouse=True, scope="session")
def _deterministic() -> None:
    prepare_process(1)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def shard(directory: Path) -> Shard:
    words = np.random.default_rng(5).choice(WORDS, 6000)
    text = directory / "flock.txt"
    text.write_text(" ".join(words))
    return Shard.read(prepare_corpus(text, directory))


@pytest.fixture(scope="session")
def make_manifest(shard: Shard) -> Callable[..., RunManifest]:
    """Return a function that builds the small run with fields replaced."""

    def build(**fields: object) -> RunManifest:
        default: dict[str, object] = {
            "name": "small",
            "chain_id": 31337,
            "ledger": "0x" + "11" * 20,
            "coordinator": "0x" + "22" * 20,
            "rounds": 6,
            "model": ModelConfig(width=32, layers=2, heads=2, feed_forward=48, context=16),
            "inner": InnerConfig(steps=4, batch=3, warmup_steps=3),
            "outer": OuterConfig(lr=1.0),
            "codec": CodecConfig(chunk=512, k=32),
            "dataset": dataset_config("flock", shard.path),
            "verification": VerificationConfig(segment_steps=2),
            "initial_parameters": ZERO_DIGEST,
            "program": ZERO_DIGEST,
        }
        return RunManifest.model_validate({**default, **fields})

    return build


@pytest.fixture(scope="session")
def manifest(make_manifest: Callable[..., RunManifest]) -> RunManifest:
    return make_manifest()
