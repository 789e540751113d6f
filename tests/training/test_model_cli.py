"""`murmur model`: from somebody's checkpoint into a run, and from a run out again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from protocol.errors import ConfigError, UsageError
from protocol.manifest import UNJUDGED, RunManifest
from protocol.model_config import ModelConfig
from protocol.rollout_config import EnvironmentConfig, RewardWeight, RolloutConfig, SamplingConfig
from protocol.tensors import parameter_layout, unpack
from tests.training import models
from training.model_cli import FIELDS, PARAMETERS, model_app
from training.pretrained import read_pretrained
from training.rollout import ByteTokenizer
from training.tokenizer import ChatTokenizer, tokenizer_of

SHAPE = models.SHAPE.model_copy(update={"vocab": len(models.vocabulary()[0])})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MURMUR_CACHE_DIR", str(tmp_path / "cache"))
    tokenizer_of.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "one.gguf"
    known = models.llama_metadata(SHAPE) | models.vocabulary_metadata()
    path.write_bytes(models.gguf(known, models.llama_tensors(models.weights(SHAPE), SHAPE)))
    return path


@pytest.fixture
def run_on(make_manifest: Callable[..., RunManifest]) -> Callable[..., RunManifest]:
    def build(tokenizer: str | None, end_token: int = 2, model: ModelConfig = SHAPE) -> RunManifest:
        rollouts = RolloutConfig(
            environment=EnvironmentConfig(name="echo", version="1", settings_hash="00" * 32),
            tokenizer=tokenizer,
            sampling=SamplingConfig(tokens=16, end_token=end_token),
            rewards=(RewardWeight(component="same", weight=1.0),),
        )
        return make_manifest(model=model, merging=UNJUDGED, rollouts=rollouts)

    return build


def run(*words: object) -> Result:
    return CliRunner().invoke(model_app, [str(word) for word in words])


def imported(*words: object) -> Any:
    result = run("import", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_becomes_what_run_create_takes(source: Path, tmp_path: Path) -> None:
    found = imported(source, "--out", tmp_path / "out", "--context", 16)
    model = ModelConfig(**json.loads((tmp_path / "out" / FIELDS).read_text())["model"])
    assert model == SHAPE.model_copy(update={"context": 16})
    vector, _ = unpack(parameter_layout(model), (tmp_path / "out" / PARAMETERS).read_bytes())
    np.testing.assert_array_equal(vector, read_pretrained(source).parameters)
    assert (found["end_token"], found["parameters"]) == (2, vector.size)


def test_whoever_joins_keeps_the_tokenizer_alone(
    source: Path, cache: Path, run_on: Callable[..., RunManifest]
) -> None:
    found = imported(source)
    assert "model" not in found
    tokenizer = tokenizer_of(run_on(found["tokenizer"]))
    assert isinstance(tokenizer, ChatTokenizer)
    assert tokenizer.encode("go") == ChatTokenizer.open(source).encode("go")
    assert {path.parent for path in cache.rglob("*.json")} == {Path(found["kept"])}
    assert "rollouts.tokenizer" in run("import", source).stdout


def test_without_a_pinned_tokenizer_bytes_are_tokens(run_on: Callable[..., RunManifest]) -> None:
    assert tokenizer_of(run_on(None)) == ByteTokenizer(SHAPE.vocab)


def test_another_tokenizer_than_the_pinned_one_is_refused(
    source: Path, cache: Path, run_on: Callable[..., RunManifest]
) -> None:
    with pytest.raises(ConfigError, match="not here") as caught:
        tokenizer_of(run_on("ab" * 32))
    assert "murmur model import" in caught.value.hint
    address = imported(source)["tokenizer"]
    with pytest.raises(ConfigError, match="ends turns with 3"):
        tokenizer_of(run_on(address, end_token=3))
    with pytest.raises(ConfigError, match="has 64 tokens"):
        tokenizer_of(run_on(address, model=SHAPE.model_copy(update={"vocab": 64})))
    (kept,) = cache.rglob("chat.json")
    kept.write_text(kept.read_text().replace("assistant", "somebody"))
    with pytest.raises(ConfigError, match="holds another tokenizer"):
        tokenizer_of(run_on(address))


def test_what_a_run_learned_is_exported(
    source: Path, tmp_path: Path, run_on: Callable[..., RunManifest]
) -> None:
    address = imported(source, "--out", tmp_path / "in")["tokenizer"]
    (tmp_path / "manifest.json").write_bytes(run_on(address).to_bytes())
    words = ("export", tmp_path / "in" / PARAMETERS, "--manifest", tmp_path / "manifest.json", "--out")
    result = run(*words, tmp_path / "out")
    assert result.exit_code == 0, result.output
    again = read_pretrained(tmp_path / "out")
    assert again.model == SHAPE
    np.testing.assert_array_equal(again.parameters, read_pretrained(source).parameters)
    assert ChatTokenizer.open(tmp_path / "out").address == address
    assert isinstance(run(*words, tmp_path / "out").exception, UsageError), "nothing is overwritten"


def test_what_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    assert isinstance(run("import", tmp_path / "none.gguf").exception, ConfigError)
    words = ("export", source, "--manifest", tmp_path / "none.json", "--out", tmp_path)
    error = run(*words).exception
    assert isinstance(error, ConfigError)
    assert "none.json" in error.message
