"""Read LLaMA-family models that others trained, and write what a run made of them.

A source is a GGUF file, or a directory with a Hugging Face checkpoint: config.json and model.safetensors, whole or in
shards. Both become a `ModelConfig` and one flat vector, and from there on nothing knows where a model came from. What
differs from the family (biases, scaled positions, sliding windows, experts) is refused, for it would compute
something else without a word.
"""

import json
import math
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from protocol.errors import ConfigError, Malformed
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, parameter_layout
from training.gguf import Gguf

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_INDEX_BYTES: Final = 1 << 24
MAX_VOCAB: Final = 2**16
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

# Our tensors, and what they are made of: parts one below the other.
_BLOCK: Final[Mapping[str, Sequence[str]]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "attention_norm": ("input_layernorm",),
    "feed_forward_norm": ("post_attention_layernorm",),
}
_WHOLE: Final = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_GGUF_NAMES: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Hold a model that somebody trained."""

    model: ModelConfig
    parameters: Floats  # [P], in the order of `parameter_layout`


def read_pretrained(source: Path, *, context: int | None = None) -> Pretrained:
    """Read a model from a GGUF file or from a directory with a Hugging Face checkpoint.

    Args:
        context: tokens that the model has to handle; None: as many as it was made for.

    Raises:
        ConfigError: there is no such source, or a model that is not of the family, or too large for the wire.
        Malformed: a file that breaks its format, lacks a tensor or has one too many, or holds what is not finite.
    """
    if source.is_dir():
        return _read_checkpoint(source, context)
    return _read_gguf(Gguf.open(source), context)


# ---------------------------------------------------------------- Hugging Face


class _Llama(BaseModel):
    """Take from config.json what shapes a model, with the defaults of the `transformers` library."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["llama", "mistral"]
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int | None = None
    intermediate_size: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    head_dim: int | None = None
    sliding_window: int | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"


def _read_checkpoint(directory: Path, context: int | None) -> Pretrained:
    try:
        read = _Llama.model_validate_json(_small_file(directory / CONFIG, MAX_CONFIG_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{directory / CONFIG}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}",
            hint="models of type llama and mistral are read",
        ) from error
    theta, positions = read.rope_theta, read.max_position_embeddings
    rope = read.rope_parameters or {}
    if isinstance(rope.get("rope_theta"), int | float):
        theta = float(rope["rope_theta"])
    scaling = {**(read.rope_scaling or {}), **rope}
    if read.sliding_window is not None:
        positions = min(positions, read.sliding_window)
    _refuse(
        {
            "biases in attention": read.attention_bias,
            "biases in the feed-forward network": read.mlp_bias,
            f"activation {read.hidden_act}": read.hidden_act != "silu",
            "scaled rotary positions": scaling.get("rope_type", scaling.get("type", "default")) != "default",
            "heads of a width of their own": read.head_dim
            not in (
                None,
                read.hidden_size // read.num_attention_heads,
            ),
        }
    )
    model = _model(
        context,
        positions,
        vocab=read.vocab_size,
        width=read.hidden_size,
        layers=read.num_hidden_layers,
        heads=read.num_attention_heads,
        key_heads=read.num_key_value_heads,
        feed_forward=read.intermediate_size,
        rotary_base=theta,
        norm_eps=read.rms_norm_eps,
        tied=read.tie_word_embeddings,
    )
    return Pretrained(model, _assemble(model, _Checkpoint(directory, model)))


class _Source(Protocol):
    """Give the tensors of a file under Hugging Face's names, queries and keys with neighbouring pairs."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Floats: ...


class _Checkpoint:
    def __init__(self, directory: Path, model: ModelConfig) -> None:
        self._model = model
        try:
            opened: list[Any] = [safe_open(path, framework="pt") for path in _shards(directory)]
            owners = [(name, file) for file in opened for name in file.keys()]  # noqa: SIM118
            self._owner = dict(owners)
            self.shapes = {
                _bare(name): tuple(file.get_slice(name).get_shape())
                for name, file in owners
                # Old checkpoints carry the angles' frequencies, and tied ones the embedding a second time.
                if not name.endswith("rotary_emb.inv_freq") and not (model.tied and name == "lm_head.weight")
            }
        except OSError as error:
            raise ConfigError(f"cannot read the weights in {directory}: {error}") from error
        except SafetensorError as error:
            raise Malformed(f"weights that are no safetensors: {error}") from error
        if len(self._owner) != len(owners):
            raise Malformed("a checkpoint with a tensor in two of its files")

    def read(self, name: str) -> Floats:
        tensor: torch.Tensor = self._owner[f"{name}.weight"].get_tensor(f"{name}.weight")
        if not tensor.is_floating_point():
            raise Malformed(f"tensor {name} holds {tensor.dtype}")
        found: Floats = tensor.float().numpy()
        if name.endswith("q_proj"):
            return _to_pairs(found, self._model.heads)
        return _to_pairs(found, self._model.keys) if name.endswith("k_proj") else found


def _shards(directory: Path) -> list[Path]:
    if not (directory / INDEX).exists():
        return [directory / WEIGHTS]
    try:
        index = json.loads(_small_file(directory / INDEX, MAX_INDEX_BYTES))
        names = sorted(set(index["weight_map"].values()))
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("a shard outside of the directory")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"{INDEX} is not an index of shards: {error}") from error
    return [directory / name for name in names]


def _to_pairs(weight: Floats, heads: int) -> Floats:
    """Bring rows of rotated halves, as Hugging Face has them, to neighbouring pairs."""
    return weight.reshape(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def _to_halves(weight: Floats, heads: int) -> Floats:
    """Undo `_to_pairs`."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def _small_file(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            hint=f"a model is a GGUF file, or a directory with {CONFIG} and {WEIGHTS}",
        ) from error
    if len(data) > most:
        raise Malformed(f"{path.name} is larger than {most} bytes")
    return data


# ---------------------------------------------------------------- GGUF


def _read_gguf(file: Gguf, context: int | None) -> Pretrained:
    known = file.metadata
    if known.get("general.architecture") != "llama":
        raise ConfigError(
            f"a model of architecture {known.get('general.architecture')!r:.40}", hint="llama alone is read"
        )

    def number(key: str, default: float | None = None) -> Any:
        value = known.get(f"llama.{key}", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Malformed(f"GGUF file without a number llama.{key}")
        return value

    shapes = {_bare(name): shape for name, shape in file.shapes.items()}
    heads, width = number("attention.head_count"), number("embedding_length")
    own = width // max(1, heads)
    _refuse(
        {
            "scaled rotary positions": known.get("llama.rope.scaling.type", "none") != "none"
            or "rope_freqs" in shapes,
            "experts": number("expert_count", 0) != 0,
            "heads of a width of their own": {
                number("attention.key_length", own),
                number("attention.value_length", own),
                number("rope.dimension_count", own),
            }
            != {own},
        }
    )
    model = _model(
        context,
        number("context_length"),
        vocab=shapes.get("token_embd", (0,))[0],
        width=width,
        layers=number("block_count"),
        heads=heads,
        key_heads=number("attention.head_count_kv", heads),
        feed_forward=number("feed_forward_length"),
        rotary_base=float(number("rope.freq_base", 10_000.0)),
        # Stored as float32 of a decimal number.
        norm_eps=float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
        tied="output" not in shapes,
    )
    return Pretrained(model, _assemble(model, _Renamed(file, shapes, model.layers)))


class _Renamed:
    def __init__(self, file: Gguf, shapes: Mapping[str, tuple[int, ...]], layers: int) -> None:
        self._file = file
        names = {_GGUF_NAMES[whole]: whole for whole in _WHOLE.values()}
        for layer in range(layers):
            for part in (part for parts in _BLOCK.values() for part in parts):
                names[f"blk.{layer}.{_GGUF_NAMES[part]}"] = f"model.layers.{layer}.{part}"
        self._names = {names.get(name, name): name for name in shapes}
        if len(self._names) != len(shapes):
            raise Malformed("GGUF file with a tensor under two names")
        self.shapes = {ours: shapes[theirs] for ours, theirs in self._names.items()}

    def read(self, name: str) -> Floats:
        return self._file.read(f"{self._names[name]}.weight")


# ---------------------------------------------------------------- both


def _bare(name: str) -> str:
    if not name.endswith(".weight"):
        raise Malformed(f"a model with tensor {name!r:.80}, which the family does not have")
    return name.removesuffix(".weight")


def _refuse(reasons: Mapping[str, bool]) -> None:
    for reason, true in reasons.items():
        if true:
            raise ConfigError(
                f"a model with {reason}, which would compute something else here",
                hint="plain models of the LLaMA family are read",
            )


def _model(context: int | None, positions: int, **shape: Any) -> ModelConfig:
    if shape["vocab"] > MAX_VOCAB:
        raise ConfigError(
            f"a vocabulary of {shape['vocab']} exceeds {MAX_VOCAB}: rollouts carry two bytes a token",
            hint="take a model with a smaller vocabulary",
        )
    if context is not None and context > positions:
        raise ConfigError(f"a context of {context} exceeds the {positions} that the model was made for")
    if shape["key_heads"] == shape["heads"]:
        shape["key_heads"] = None
    try:
        return ModelConfig(context=context or positions, **shape)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"a model that does not fit: {'.'.join(map(str, first['loc'])) or 'its shape'}: {first['msg']}",
            hint="a shorter context, if that is it; else another model",
        ) from error


def _parts(model: ModelConfig) -> Iterable[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Yield our tensors' names, each with the names and shapes of what it is made of."""
    rows = {
        "self_attn.q_proj": model.width,
        "self_attn.k_proj": model.keys * model.head,
        "self_attn.v_proj": model.keys * model.head,
        "mlp.gate_proj": model.feed_forward,
        "mlp.up_proj": model.feed_forward,
    }
    for name, shape in parameter_layout(model).tensors:
        if name in _WHOLE:
            yield name, [(_WHOLE[name], shape)]
            continue
        _, layer, tensor = name.split(".")
        yield (
            name,
            [
                (f"model.layers.{layer}.{part}", (rows.get(part, shape[0]), *shape[1:]))
                for part in _BLOCK[tensor]
            ],
        )


def _assemble(model: ModelConfig, source: _Source) -> Floats:
    """Return the flat vector; shapes are compared before anything is allocated."""
    wanted = {part: shape for _, parts in _parts(model) for part, shape in parts}
    for name, shape in wanted.items():
        if name not in source.shapes:
            raise Malformed(f"a model without tensor {name}")
        if source.shapes[name] != shape:
            raise Malformed(f"tensor {name} has shape {source.shapes[name]}, not {shape}")
    if more := sorted(set(source.shapes) - set(wanted)):
        raise Malformed(f"a model with tensor {more[0]!r:.80}, which the family does not have")
    layout = parameter_layout(model)
    vector = np.empty(layout.size, np.float32)
    for name, parts in _parts(model):
        at = layout.slices[name].start
        for part, shape in parts:
            end = at + math.prod(shape)
            vector[at:end] = source.read(part).ravel()
            at = end
    if not np.isfinite(vector).all():
        raise Malformed("a model with values that are not finite")
    return vector


def write_checkpoint(directory: Path, model: ModelConfig, parameters: Floats) -> None:
    """Write config.json and model.safetensors in float32, which `transformers` and others load.

    Raises:
        ConfigError: the directory cannot be written.
    """
    layout, tensors = parameter_layout(model), {}
    for name, parts in _parts(model):
        at = layout.slices[name].start
        for part, shape in parts:
            end = at + math.prod(shape)
            tensor = np.asarray(parameters[at:end], np.float32).reshape(shape)
            if part.endswith(("q_proj", "k_proj")):
                tensor = _to_halves(tensor, model.heads if part.endswith("q_proj") else model.keys)
            tensors[f"{part}.weight"] = tensor
            at = end
    config = {
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
        "hidden_act": "silu",
        "torch_dtype": "float32",
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        # The library makes it its owner's alone; who may read one file may read both.
        (directory / WEIGHTS).chmod(stat.S_IMODE((directory / CONFIG).stat().st_mode))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot write a model into {directory}: {error}") from error
