"""Models that others trained compute here what they compute there, and what would not is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protocol.errors import ConfigError, Malformed
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from tests.training import models
from tests.training.models import F32, Q4_1, Q8_0, SHAPE, config, gguf, llama_metadata, llama_tensors, weights
from training import pretrained
from training.gguf import Gguf
from training.model import Cache, Transformer
from training.pretrained import Pretrained, read_pretrained

TOKENS = [5, 17, 17, 80, 2, 9, 44, 95, 0, 31, 31, 7]
TIED = SHAPE.model_copy(update={"tied": True, "key_heads": 1})


def logits(found: Pretrained, tokens: list[int] = TOKENS) -> np.ndarray:
    model = Transformer(found.model, torch.device("cpu"), torch.float64)
    model.parameters.copy_(torch.from_numpy(found.parameters))
    with torch.inference_mode():
        return model.logits(torch.tensor([tokens]))[0].numpy()


@pytest.mark.parametrize("shape", [SHAPE, TIED], ids=["own head", "tied"])
def test_a_checkpoint_computes_what_its_papers_say(tmp_path: Path, shape: ModelConfig) -> None:
    tensors = weights(shape)
    found = read_pretrained(models.write_checkpoint(tmp_path, tensors, config(shape)))
    assert found.model == shape
    np.testing.assert_allclose(logits(found), models.plain_logits(shape, tensors, TOKENS), atol=1e-9)


def test_shards_are_one_model(tmp_path: Path) -> None:
    tensors = weights()
    whole = read_pretrained(models.write_checkpoint(tmp_path / "whole", tensors))
    parts = read_pretrained(models.write_checkpoint(tmp_path / "parts", tensors, shards=3))
    np.testing.assert_array_equal(whole.parameters, parts.parameters)


def test_a_gguf_file_is_the_same_model(tmp_path: Path) -> None:
    tensors = weights()
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf(llama_metadata(), llama_tensors(tensors)))
    found = read_pretrained(path)
    same = read_pretrained(models.write_checkpoint(tmp_path / "one", tensors))
    assert found.model == same.model == SHAPE
    np.testing.assert_array_equal(found.parameters, same.parameters)


@pytest.mark.parametrize(("kind", "error"), [(Q4_1, 0.06), (Q8_0, 0.003)])
def test_a_quantised_file_is_nearly_the_same_model(tmp_path: Path, kind: int, error: float) -> None:
    tensors = weights()
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf(llama_metadata(), llama_tensors(tensors, matrices=kind)))
    found = read_pretrained(path).parameters
    same = read_pretrained(models.write_checkpoint(tmp_path / "one", tensors)).parameters
    assert 0 < np.abs(found - same).max() < error


def test_a_cache_shares_keys_between_queries(tmp_path: Path) -> None:
    found = read_pretrained(models.write_checkpoint(tmp_path, weights()))
    model = Transformer(found.model, torch.device("cpu"))
    model.parameters.copy_(torch.from_numpy(found.parameters))
    tokens = torch.tensor([TOKENS, TOKENS[::-1]])
    with torch.inference_mode():
        cache = Cache(found.model, 2, 12, torch.device("cpu"))
        parts = [model.logits(tokens[:, :5], cache)]
        parts += [model.logits(tokens[:, at : at + 1], cache) for at in range(5, 12)]
        torch.testing.assert_close(torch.cat(parts, 1), model.logits(tokens), atol=1e-4, rtol=0)


def test_what_was_learned_goes_back_to_where_it_came_from(tmp_path: Path) -> None:
    tensors = weights()
    found = read_pretrained(models.write_checkpoint(tmp_path / "one", tensors))
    pretrained.write_checkpoint(tmp_path / "other", found.model, found.parameters + np.float32(0.01))
    again = read_pretrained(tmp_path / "other")
    assert len({path.stat().st_mode for path in (tmp_path / "other").iterdir()}) == 1, (
        "who may read one may both"
    )
    assert again.model == found.model
    np.testing.assert_array_equal(again.parameters, found.parameters + np.float32(0.01))
    shifted = {name: tensor + np.float32(0.01) for name, tensor in tensors.items()}
    np.testing.assert_allclose(logits(again), models.plain_logits(SHAPE, shifted, TOKENS), atol=1e-9)


def test_a_shorter_context_is_taken_and_a_longer_refused(tmp_path: Path) -> None:
    source = models.write_checkpoint(tmp_path, weights())
    assert read_pretrained(source, context=16).model.context == 16
    with pytest.raises(ConfigError, match="context of 33 exceeds the 32"):
        read_pretrained(source, context=33)


UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "another type": ({"model_type": "gpt2"}, "model_type"),
    "biases": ({"attention_bias": True}, "biases in attention"),
    "biases further in": ({"mlp_bias": True}, "biases in the feed-forward"),
    "another activation": ({"hidden_act": "gelu"}, "activation gelu"),
    "scaled positions": ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "scaled rotary"),
    "scaled positions as before": ({"rope_scaling": {"type": "linear", "factor": 8}}, "scaled rotary"),
    "scaled positions as later": ({"rope_parameters": {"rope_type": "yarn"}}, "scaled rotary"),
    "wide heads": ({"head_dim": 32}, "heads of a width of their own"),
    "a large vocabulary": ({"vocab_size": 128_256}, "vocabulary of 128256 exceeds 65536"),
    "heads that do not divide": ({"num_attention_heads": 3, "head_dim": None}, "does not fit"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "no width": ({"hidden_size": None}, "hidden_size"),
}


@pytest.mark.parametrize(("fields", "reason"), UNLIKE.values(), ids=UNLIKE)
def test_a_model_of_another_family_is_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    source = models.write_checkpoint(tmp_path, {"x": np.zeros(1, np.float32)}, config(**fields))
    with pytest.raises(ConfigError, match=reason) as caught:
        read_pretrained(source)
    assert caught.value.hint


def test_theta_is_found_where_later_libraries_write_it(tmp_path: Path) -> None:
    settings = config(rope_parameters={"rope_type": "default", "rope_theta": 5e4})
    assert read_pretrained(models.write_checkpoint(tmp_path, weights(), settings)).model.rotary_base == 5e4


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    settings = config(model_type="mistral", sliding_window=20)
    assert read_pretrained(models.write_checkpoint(tmp_path, weights(), settings)).model.context == 20


@pytest.mark.parametrize(
    "case", ["missing", "more", "shape", "infinite", "garbage", "cut", "index", "config"]
)
def test_a_broken_checkpoint_is_refused(tmp_path: Path, case: str) -> None:
    tensors = weights()
    if case == "missing":
        del tensors["model.norm.weight"]
    elif case == "more":
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    elif case == "shape":
        tensors["lm_head.weight"] = tensors["lm_head.weight"][:-1]
    elif case == "whole":
        tensors["model.norm.weight"] = np.ones(64, np.int32)  # type: ignore[assignment]
    elif case == "infinite":
        tensors["model.norm.weight"][3] = np.inf
    source = models.write_checkpoint(tmp_path, tensors)
    file = source / "model.safetensors"
    if case == "garbage":
        file.write_bytes(b"\xff" * 64)
    elif case == "cut":
        file.write_bytes(file.read_bytes()[:-4])
    elif case == "index":
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../a"}}))
    elif case == "config":
        (source / "config.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(Malformed):
        read_pretrained(source)


def test_what_is_not_there_says_what_should_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        read_pretrained(tmp_path)
    assert "GGUF" in caught.value.hint
    models.write_checkpoint(tmp_path, weights())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="weights"):
        read_pretrained(tmp_path)


GGUF_UNLIKE: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "another architecture": ({"general.architecture": "gemma3"}, ConfigError, "gemma3"),
    "scaled positions": ({"llama.rope.scaling.type": "yarn"}, ConfigError, "scaled rotary"),
    "experts": ({"llama.expert_count": 8}, ConfigError, "experts"),
    "wide heads": ({"llama.attention.key_length": 32}, ConfigError, "width of their own"),
    "a width that is text": ({"llama.embedding_length": "64"}, Malformed, "embedding_length"),
    "more layers than tensors": ({"llama.block_count": 3}, Malformed, "without tensor"),
    "fewer layers than tensors": ({"llama.block_count": 1}, Malformed, "does not have"),
    "layers without end": ({"llama.block_count": 2**31}, ConfigError, "does not fit"),
    "no heads": ({"llama.attention.head_count": 0}, ConfigError, "width of their own"),
}


@pytest.mark.parametrize(("fields", "error", "reason"), GGUF_UNLIKE.values(), ids=GGUF_UNLIKE)
def test_a_gguf_file_of_another_family_is_refused(
    tmp_path: Path, fields: dict[str, object], error: type[Exception], reason: str
) -> None:
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf(llama_metadata() | fields, llama_tensors(weights())))
    with pytest.raises(error, match=reason):
        read_pretrained(path)


def test_a_gguf_file_with_frequencies_of_its_own_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors(weights()) | {"rope_freqs.weight": (F32, (8,), bytes(32))}
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf(llama_metadata(), tensors))
    with pytest.raises(ConfigError, match="scaled rotary"):
        read_pretrained(path)


def test_nothing_is_allocated_for_shapes_that_do_not_match(tmp_path: Path) -> None:
    """A small file may announce the largest model there is: its tensors are compared first."""
    path = tmp_path / "one.gguf"
    largest = {"llama.embedding_length": 16_384, "llama.feed_forward_length": 65_536}
    path.write_bytes(
        gguf(llama_metadata() | largest | {"llama.rope.dimension_count": 4096}, llama_tensors(weights()))
    )
    with pytest.raises(Malformed, match="has shape"):
        read_pretrained(path)
    assert Gguf.open(path).shapes["output_norm.weight"] == (64,)
    assert parameter_layout(SHAPE).size < 1 << 20
