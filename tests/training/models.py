"""Small files of models as others write them, and what such a model computes, written out plainly."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from protocol.model_config import ModelConfig
from protocol.tensors import Floats

SHAPE = ModelConfig(
    vocab=96,
    width=64,
    layers=2,
    heads=4,
    key_heads=2,
    feed_forward=96,
    context=32,
    rotary_base=1e5,
    norm_eps=1e-6,
    tied=False,
)
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
CONTROL = 3


def config(model: ModelConfig = SHAPE, **fields: Any) -> dict[str, Any]:
    """Return a config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab,
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.keys,
        "intermediate_size": model.feed_forward,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rotary_base,
        "tie_word_embeddings": model.tied,
        **fields,
    }


def weights(model: ModelConfig = SHAPE, seed: int = 1) -> dict[str, Floats]:
    """Draw the tensors of a checkpoint, under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    keys = model.keys * model.head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (model.vocab, model.width),
        "model.norm.weight": (model.width,),
    }
    if not model.tied:
        shapes["lm_head.weight"] = (model.vocab, model.width)
    for layer in range(model.layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "self_attn.q_proj": (model.width, model.width),
                "self_attn.k_proj": (keys, model.width),
                "self_attn.v_proj": (keys, model.width),
                "self_attn.o_proj": (model.width, model.width),
                "mlp.gate_proj": (model.feed_forward, model.width),
                "mlp.up_proj": (model.feed_forward, model.width),
                "mlp.down_proj": (model.width, model.feed_forward),
                "input_layernorm": (model.width,),
                "post_attention_layernorm": (model.width,),
            }.items()
        }
    return {
        name: (rng.normal(0, 0.15, shape) + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_checkpoint(
    directory: Path, tensors: Mapping[str, Floats], settings: Mapping[str, Any] | None = None, shards: int = 1
) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(settings or config()))
    if shards == 1:
        save_file(dict(tensors), directory / "model.safetensors")
        return directory
    names = sorted(tensors)
    parts = {f"model-{part}.safetensors": names[part::shards] for part in range(shards)}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, directory / file)
    index = {"weight_map": {name: file for file, own in parts.items() for name in own}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def plain_logits(model: ModelConfig, tensors: Mapping[str, Floats], tokens: Sequence[int]) -> np.ndarray:
    """Compute a checkpoint's logits float64[time, vocab] as its papers say, with rotated halves, head by head."""
    own = {name.removesuffix(".weight"): tensor.astype(np.float64) for name, tensor in tensors.items()}
    time, half = len(tokens), model.head // 2
    angles = np.outer(np.arange(time), model.rotary_base ** (-np.arange(half) / half))
    cos, sin = np.cos(angles), np.sin(angles)

    def norm(rows: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return rows / np.sqrt((rows**2).mean(-1, keepdims=True) + model.norm_eps) * gain

    def rotate(rows: np.ndarray) -> np.ndarray:
        one, other = rows[:, :half], rows[:, half:]
        return np.concatenate((one * cos - other * sin, other * cos + one * sin), axis=1)

    hidden = own["model.embed_tokens"][list(tokens)]
    for block in (f"model.layers.{layer}." for layer in range(model.layers)):
        normed = norm(hidden, own[block + "input_layernorm"])
        query, key, value = (normed @ own[f"{block}self_attn.{part}_proj"].T for part in "qkv")
        heads = []
        for head in range(model.heads):
            shared = head * model.keys // model.heads
            mine = slice(head * model.head, (head + 1) * model.head)
            theirs = slice(shared * model.head, (shared + 1) * model.head)
            scores = rotate(query[:, mine]) @ rotate(key[:, theirs]).T / math.sqrt(model.head)
            powers = np.exp(np.where(np.tri(time, dtype=bool), scores, -np.inf))
            heads.append(powers / powers.sum(-1, keepdims=True) @ value[:, theirs])
        hidden = hidden + np.concatenate(heads, axis=1) @ own[block + "self_attn.o_proj"].T
        normed = norm(hidden, own[block + "post_attention_layernorm"])
        gate, up = (normed @ own[f"{block}mlp.{part}_proj"].T for part in ("gate", "up"))
        hidden = hidden + gate / (1 + np.exp(-gate)) * up @ own[block + "mlp.down_proj"].T
    head = "model.embed_tokens" if model.tied else "lm_head"
    return norm(hidden, own["model.norm"]) @ own[head].T


# ---------------------------------------------------------------- GGUF


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(value: object) -> bytes:
    """Return a metadata value with its kind."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    assert isinstance(value, list)
    inner = 8 if isinstance(value[0], str) else 5
    items = [text(one) if isinstance(one, str) else struct.pack("<i", one) for one in value]
    return struct.pack("<IIQ", 9, inner, len(value)) + b"".join(items)


def gguf(metadata: Mapping[str, object], tensors: Mapping[str, tuple[int, Sequence[int], bytes]]) -> bytes:
    """Write a file of tensors: kind, shape with rows first, bytes."""
    heads, body = b"", b""
    for name, (kind, shape, data) in tensors.items():
        body += bytes(-len(body) % 32)
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        heads += text(name) + dimensions + struct.pack("<IQ", kind, len(body))
        body += data
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + entry(value) for key, value in metadata.items()) + heads
    return head + bytes(-len(head) % 32) + body


def blocks(kind: int, values: Floats) -> bytes:
    """Quantise values as the format says, a block of 32 at a time."""
    flat = values.astype(np.float32).ravel()
    if kind == F32:
        return flat.astype("<f4").tobytes()
    found = b""
    for block in flat.reshape(-1, 32):
        if kind == Q8_0:
            scale = np.float16(np.abs(block).max() / 127)
            found += scale.tobytes() + np.rint(block / np.float32(scale)).astype(np.int8).tobytes()
            continue
        low = np.float16(block.min())
        scale = np.float16((block.max() - np.float32(low)) / 15)
        steps = np.rint((block - np.float32(low)) / np.float32(scale)).clip(0, 15).astype(np.uint8)
        found += scale.tobytes() + low.tobytes() + (steps[:16] | steps[16:] << 4).tobytes()
    return found


def pairs(weight: Floats, heads: int) -> Floats:
    """Bring rows of rotated halves to neighbouring pairs, row by row, as converters to GGUF do."""
    found, size = np.empty_like(weight), len(weight) // heads
    for head in range(heads):
        for row in range(size // 2):
            found[head * size + 2 * row] = weight[head * size + row]
            found[head * size + 2 * row + 1] = weight[head * size + size // 2 + row]
    return found


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def llama_metadata(model: ModelConfig = SHAPE, **fields: object) -> dict[str, object]:
    own = {
        "general.architecture": "llama",
        "llama.block_count": model.layers,
        "llama.context_length": model.context,
        "llama.embedding_length": model.width,
        "llama.feed_forward_length": model.feed_forward,
        "llama.attention.head_count": model.heads,
        "llama.attention.head_count_kv": model.keys,
        "llama.rope.freq_base": model.rotary_base,
        "llama.attention.layer_norm_rms_epsilon": model.norm_eps,
        "llama.rope.dimension_count": model.head,
    }
    return own | fields


def llama_tensors(
    tensors: Mapping[str, Floats], model: ModelConfig = SHAPE, matrices: int = F32
) -> dict[str, tuple[int, Sequence[int], bytes]]:
    """Return a checkpoint's tensors as a GGUF file has them."""
    found = {}
    for name, tensor in tensors.items():
        own = tensor
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            own = pairs(tensor, model.heads if "q_proj" in name else model.keys)
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        kind = matrices if own.ndim == 2 else F32
        found[name] = (kind, own.shape, blocks(kind, own))
    return found


def vocabulary() -> tuple[list[str], list[str]]:
    """Return the tokens and merges of a byte-level vocabulary: printable letters, a few words, three that steer."""
    letters = [chr(code) for code in range(0x21, 0x7F)] + ["Ġ", "Ċ"]
    merges = ["1 2", "u s", "us e", "use r"]
    return [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *letters,
        *(merge.replace(" ", "") for merge in merges),
    ], merges


def vocabulary_metadata(**fields: object) -> dict[str, object]:
    tokens, merges = vocabulary()
    own: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * 3 + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": merges,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{m}}<|im_end|>{% endfor %}",
    }
    return own | {f"tokenizer.{key}": value for key, value in fields.items()}
