"""A LLaMA-style byte-level decoder whose parameters are views into one flat float32 vector.

RMSNorm (Zhang and Sennrich, arXiv 1910.07467), rotary positions (Su et al., arXiv 2104.09864), SwiGLU
(Shazeer, arXiv 2002.05202), scaled dot-product attention with grouped queries (Ainslie et al., arXiv 2305.13245).
Hashing, the codec and the optimizer all work on the flat vector, whose order is `protocol.tensors.parameter_layout`.
"""

import math
from typing import Self

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from protocol.model_config import ModelConfig
from protocol.tensors import Floats, parameter_layout


def initial_parameters(model: ModelConfig, seed: int) -> Floats:
    """Draw the parameters a run starts from: float32[P].

    Weights are normal with variance 1 / fan-in, norms one, and projections back into the residual stream zero, so
    that every block starts as the identity (Bachlechner et al., arXiv 2003.04887). At small widths the usual
    deviation of 0.02 spends a third of a short run on a plateau. A manifest names the result by its content
    address, so that other machines need not draw the same normals.
    """
    layout = parameter_layout(model)
    generator = np.random.Generator(np.random.PCG64(seed))
    vector = np.ones(layout.size, np.float32)
    for name, shape in layout.tensors:
        if name.endswith(("attention_out", "down")):
            vector[layout.slices[name]] = 0.0
        elif len(shape) == 2:
            vector[layout.slices[name]] = generator.normal(0.0, 1 / math.sqrt(shape[1]), math.prod(shape))
    return vector


class Cache:
    """Keep the keys and values of tokens seen, so that the next ones need not compute them again.

    Rows advance together: after a first stretch of any length, one token a row at a time.
    """

    def __init__(self, model: ModelConfig, rows: int, tokens: int, device: torch.device) -> None:
        shape = (model.layers, 2, rows, model.keys, tokens, model.head)
        self._seen = torch.zeros(shape, device=device)
        self.length = 0  # tokens seen of every row

    def keep(self, rows: Tensor) -> None:
        """Keep the rows of int64[kept] alone, in this order; a row may be kept more than once."""
        self._seen = self._seen[:, :, rows]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add float32[rows, keys, time, head] of a layer and return all of it so far."""
        end = self.length + key.shape[2]
        self._seen[layer, 0, :, :, self.length : end] = key
        self._seen[layer, 1, :, :, self.length : end] = value
        return self._seen[layer, 0, :, :, :end], self._seen[layer, 1, :, :, :end]


class Transformer:
    """Compute losses and gradients over a flat parameter vector.

    Attributes:
        parameters: float32[P], the vector that every tensor of the model is a view of.
        gradient: float32[P], where `loss(...).backward()` accumulates.

    Both are float64 with `dtype` float64, which is for measuring errors.

    Args:
        frozen: parameters from the first on that get no gradient (`protocol.tensors.frozen`).
    """

    def __init__(
        self,
        model: ModelConfig,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        frozen: int = 0,
    ) -> None:
        layout = parameter_layout(model)
        self._model = model
        self.parameters = torch.zeros(layout.size, device=device, dtype=dtype)
        self.gradient = torch.zeros(layout.size, device=device, dtype=dtype)
        self._tensors: dict[str, Tensor] = {}
        for name, shape in layout.tensors:
            place = layout.slices[name]
            leaf = self.parameters[place].view(shape).detach()
            if place.start >= frozen:
                leaf.requires_grad_()
                leaf.grad = self.gradient[place].view(shape)
            self._tensors[name] = leaf
        self._rotations = _rotations(model, device, dtype)

    @classmethod
    def loaded(cls, model: ModelConfig, parameters: Floats, device: str = "cpu") -> Self:
        """Return a model with a copy of parameters float32[P]."""
        found = cls(model, torch.device(device))
        with torch.no_grad():
            found.parameters.copy_(torch.from_numpy(np.array(parameters, dtype=np.float32)))
        return found

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean next-token loss in nats a token of int64[batch, time + 1], time <= context."""
        logits = self.logits(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def logits(self, tokens: Tensor, cache: Cache | None = None, *, places: Tensor | None = None) -> Tensor:
        """Return float32[batch, time, vocab] for int64[batch, time]. Arguments and errors are those of `hidden`."""
        return self.head(self.hidden(tokens, cache, places=places))

    def head(self, hidden: Tensor) -> Tensor:
        """Return float32[..., vocab], the logits of what `hidden` returned: float32[..., width]."""
        return functional.linear(hidden, self._tensors["embedding" if self._model.tied else "head"])

    def hidden(self, tokens: Tensor, cache: Cache | None = None, *, places: Tensor | None = None) -> Tensor:
        """Return float32[batch, time, width], normed, for int64[batch, time], which go on from what a cache has seen.

        Args:
            places: int64[n] of the flattened batch and time; only theirs are returned, float32[n, width], for the
                head of a large vocabulary costs more than many layers.

        Raises:
            ValueError: more than one token a row after the cache's first stretch, or more than it has room for.
        """
        if cache is not None and cache.length and tokens.shape[1] != 1:
            raise ValueError("a cache goes on by one token a row")
        hidden = functional.embedding(tokens, self._tensors["embedding"])
        for layer in range(self._model.layers):
            hidden = hidden + self._attention(layer, hidden, cache)
            hidden = hidden + self._feed_forward(f"blocks.{layer}.", hidden)
        if cache is not None:
            cache.length += tokens.shape[1]
        if places is not None:
            hidden = hidden.flatten(0, 1).index_select(0, places)
        return self._rms_norm(hidden, "norm")

    def _attention(self, layer: int, hidden: Tensor, cache: Cache | None) -> Tensor:
        block = f"blocks.{layer}."
        seen = 0 if cache is None else cache.length
        batch, time, width = hidden.shape
        heads, keys = self._model.heads, self._model.keys
        normed = self._rms_norm(hidden, block + "attention_norm")
        projected = functional.linear(normed, self._tensors[block + "qkv"]).to(hidden.dtype)
        split = projected.view(batch, time, heads + 2 * keys, self._model.head)
        turned = _rotate(split[:, :, : heads + keys], self._rotations[seen : seen + time]).transpose(1, 2)
        query, key = turned[:, :heads], turned[:, heads:]
        value = split[:, :, heads + keys :].transpose(1, 2)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        # In float32 under autocast too: the bfloat16 kernels of one processor are not there on another.
        with torch.autocast(hidden.device.type, enabled=False):
            mixed = functional.scaled_dot_product_attention(
                query, key, value, is_causal=not seen, enable_gqa=keys != heads
            )
        joined = mixed.transpose(1, 2).reshape(batch, time, width)
        return functional.linear(joined, self._tensors[block + "attention_out"])

    def _feed_forward(self, block: str, hidden: Tensor) -> Tensor:
        normed = self._rms_norm(hidden, block + "feed_forward_norm")
        gate, up = functional.linear(normed, self._tensors[block + "gate_up"]).chunk(2, dim=-1)
        return functional.linear(functional.silu(gate) * up, self._tensors[block + "down"])

    def _rms_norm(self, hidden: Tensor, gain: str) -> Tensor:
        return functional.rms_norm(hidden, (hidden.shape[-1],), self._tensors[gain], self._model.norm_eps)


def _rotations(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the rotary turns as unit complex numbers [context, 1, head / 2]."""
    frequencies = model.rotary_base ** -(torch.arange(0, model.head, 2, dtype=torch.float64) / model.head)
    angles = torch.outer(torch.arange(model.context, dtype=torch.float64), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(device, dtype.to_complex())[:, None]


def _rotate(heads: Tensor, rotations: Tensor) -> Tensor:
    """Turn neighbouring pairs of float32[batch, time, heads, head] by one complex product."""
    pairs = torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotations).flatten(-2)
