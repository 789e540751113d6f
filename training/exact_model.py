"""The model of `training.model` in exact arithmetic: its loss and gradient, written out without autograd.

Activations are float32 between layers, as they are there; products and sums are `training.exact_math`'s, so a
gradient has the same bits on every machine. Making a piece runs it forward; `d_x` is the gradient of x.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from training.exact_math import Fixed, exact_sum, exp, log, matmul, rotation_table, scatter_sum, sigmoid, sqrt

_LOSS_BITS: Final = 32
_WORST_LOSS: Final = 128.0  # nats a token, so that 2**22 tokens sum up in 64 bits
Gradients = dict[str, Tensor]
Objective = Callable[[Tensor], tuple[float, Tensor]]


class ExactTransformer:
    """Compute losses and gradients over a flat parameter vector.

    Args:
        frozen: parameters from the first on whose gradient is zero (`protocol.tensors.frozen`).
    """

    def __init__(self, model: ModelConfig, *, frozen: int = 0) -> None:
        self._model = model
        self._frozen = frozen
        self._layout = parameter_layout(model)
        self._rotation = _Rotation(model)

    @torch.no_grad()
    def loss_and_gradient(self, parameters: Tensor, tokens: Tensor) -> tuple[float, Tensor]:
        """Return the mean next-token loss of int64[batch, time + 1] and its gradient, both float32[P].

        The loss is for reading: its last bits may differ between machines.

        Raises:
            OwnFault: a value is not finite.
        """
        return self.gradient_of(
            parameters, tokens[:, :-1], partial(_cross_entropy, targets=tokens[:, 1:].flatten())
        )

    @torch.no_grad()
    def summed_loss(self, parameters: Tensor, tokens: Tensor) -> int:
        """Return the summed next-token loss of int64[batch, time + 1] in units of 2**-32 nats: the same everywhere.

        No token counts for more than 128 nats.

        Raises:
            OwnFault: a value is not finite.
        """
        logits = self._forward(parameters, tokens[:, :-1]).head.out
        shifted, _, total = _shifted(logits)
        rows = torch.arange(len(shifted))
        losses = log(total)[:, 0] - shifted[rows, tokens[:, 1:].flatten()].double()
        return int((losses.clamp_(max=_WORST_LOSS) * 2.0**_LOSS_BITS).round_().long().sum())

    @torch.no_grad()
    def gradient_of(self, parameters: Tensor, inputs: Tensor, objective: Objective) -> tuple[float, Tensor]:
        """Return what an objective makes of the logits of int64[batch, time], and its gradient float32[P].

        Args:
            objective: takes float32[batch * time, vocab] and returns a loss and the logits' gradient.

        Raises:
            OwnFault: a value is not finite.
        """
        run = self._forward(parameters, inputs)
        loss, d_logits = objective(run.head.out)
        return loss, self._backward(run, inputs, d_logits)

    @torch.no_grad()
    def activations(self, parameters: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed hidden states float32[time, width] and logits float32[time, vocab] of int64[time].

        One alone: operands are split in units that the largest of a batch sets, so its company would change its bits.

        Raises:
            OwnFault: a value is not finite.
        """
        run = self._forward(parameters, tokens[None])
        return run.norm.out, run.head.out

    def _forward(self, parameters: Tensor, inputs: Tensor) -> "_Run":
        tensors = {
            name: parameters[self._layout.slices[name]].view(shape) for name, shape in self._layout.tensors
        }
        hidden = tensors["embedding"][inputs.flatten()]  # [batch * time, width]
        branches: list[tuple[str, _Attention | _FeedForward]] = []
        for layer in range(self._model.layers):
            block = f"blocks.{layer}."
            own = {name.removeprefix(block): t for name, t in tensors.items() if name.startswith(block)}
            attention = _Attention(own, hidden, self._rotation, inputs.shape[0], self._model)
            hidden = hidden + attention.out
            feed_forward = _FeedForward(own, hidden, self._model.norm_eps)
            hidden = hidden + feed_forward.out
            branches += [(block, attention), (block, feed_forward)]
        norm = _RmsNorm(hidden, tensors["norm"], self._model.norm_eps)
        head = tensors["embedding" if self._model.tied else "head"]
        return _Run(branches, norm, _Linear(norm.out, head))

    def _backward(self, run: "_Run", inputs: Tensor, d_logits: Tensor) -> Tensor:
        gradients: Gradients = {}
        d_normed, d_head = run.head.backward(d_logits)
        d_hidden, gradients["norm"] = run.norm.backward(d_normed)
        for block, branch in reversed(run.branches):
            if self._layout.slices[f"{block}qkv"].start < self._frozen:
                break
            d_branch, found = branch.backward(d_hidden)
            d_hidden = d_hidden + d_branch
            gradients |= {block + name: gradient for name, gradient in found.items()}
        if not self._model.tied:
            gradients["head"] = d_head
        if not self._frozen:
            d_rows = scatter_sum(d_hidden, inputs.flatten(), self._model.vocab)
            gradients["embedding"] = (d_rows.add_(d_head) if self._model.tied else d_rows).float()
        learning = [gradients[name].flatten() for name, _ in self._layout.tensors if name in gradients]
        return torch.cat([torch.zeros(self._frozen), *learning])


@dataclass(frozen=True, eq=False)
class _Run:
    """Hold the pieces of one pass forward, which the pass back goes through in reverse."""

    branches: "list[tuple[str, _Attention | _FeedForward]]"
    norm: "_RmsNorm"
    head: "_Linear"


class _Linear:
    """Multiply float32[rows, inputs] by the transpose of a weight float32[outputs, inputs]."""

    def __init__(self, inputs: Tensor, weight: Tensor) -> None:
        self._inputs, self._weight = Fixed.of(inputs), Fixed.of(weight)
        self.out = matmul(self._inputs, self._weight.mT)

    def backward(self, d_out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of inputs and weight."""
        gradient = Fixed.of(d_out)
        return matmul(gradient, self._weight), matmul(gradient.mT, self._inputs)


class _RmsNorm:
    """Scale float32[rows, width] to root mean square one, times a gain; float64 inside, rounded once."""

    def __init__(self, hidden: Tensor, gain: Tensor, eps: float) -> None:
        wide = hidden.double()
        mean = exact_sum(wide * wide, -1).div_(hidden.shape[-1])
        self._inverse = 1.0 / sqrt(mean.add_(eps))
        self._unit = wide.mul_(self._inverse)
        self._gain = gain.double()
        self.out = (self._unit * self._gain).float()

    def backward(self, d_out: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of hidden and gain."""
        wide = d_out.double()
        d_gain = exact_sum(wide * self._unit, 0).float()
        d_unit = wide * self._gain
        along = exact_sum(d_unit * self._unit, -1).div_(d_out.shape[-1])
        return d_unit.sub_(self._unit * along).mul_(self._inverse).float(), d_gain


class _Rotation:
    """Turn neighbouring pairs of float32[..., time, head] by their position's angles, or back."""

    def __init__(self, model: ModelConfig) -> None:
        self._cos, self._sin = rotation_table(model.context, model.head, model.rotary_base)

    def turn(self, heads: Tensor, *, back: bool = False) -> Tensor:
        time = heads.shape[-2]
        cos, sin = self._cos[:time], -self._sin[:time] if back else self._sin[:time]
        even, odd = heads[..., 0::2], heads[..., 1::2]
        turned = torch.empty_like(heads)
        torch.sub(even * cos, odd * sin, out=turned[..., 0::2])
        torch.add(even * sin, odd * cos, out=turned[..., 1::2])
        return turned


class _Attention:
    """Add what causal attention over the normed hidden float32[batch * time, width] gives.

    The queries that share a key lie one after the other in one longer row of places, so that sums over them are part
    of the products.
    """

    def __init__(
        self, own: Gradients, hidden: Tensor, rotation: _Rotation, batch: int, model: ModelConfig
    ) -> None:
        rows, width = hidden.shape
        heads, keys, time = model.heads, model.keys, rows // batch
        self._rotation, self._shared = rotation, heads // keys
        self._split = (batch, time, heads + 2 * keys, model.head)
        self._places = (batch, keys, self._shared * time, model.head)
        self._norm = _RmsNorm(hidden, own["attention_norm"], model.norm_eps)
        self._qkv = _Linear(self._norm.out, own["qkv"])
        parts = self._qkv.out.view(self._split).transpose(1, 2)
        query, key, value = (
            part.contiguous() for part in (parts[:, :heads], parts[:, heads:-keys], parts[:, -keys:])
        )
        self._query = Fixed.of(rotation.turn(query).view(self._places))
        self._key = Fixed.of(rotation.turn(key))
        self._value = Fixed.of(value)
        self._scale = 1.0 / math.sqrt(model.head)
        self._weights = _causal_softmax(matmul(self._query, self._key.mT).mul_(self._scale), self._shared)
        self._fixed_weights = Fixed.of(self._weights)
        mixed = matmul(self._fixed_weights, self._value).view(batch, heads, time, model.head)
        self._output = _Linear(mixed.transpose(1, 2).reshape(rows, width), own["attention_out"])
        self.out = self._output.out

    def backward(self, d_out: Tensor) -> tuple[Tensor, Gradients]:
        """Return the gradients of hidden and of the weights."""
        batch, time, _, head = self._split
        d_joined, d_output = self._output.backward(d_out)
        d_heads = d_joined.view(batch, time, -1, head).transpose(1, 2).contiguous()
        d_mixed = Fixed.of(d_heads.view(self._places))
        d_weights = matmul(d_mixed, self._value.mT)
        along = exact_sum(d_weights.double().mul_(self._weights), -1).float()
        d_scores = Fixed.of(d_weights.sub_(along).mul_(self._weights).mul_(self._scale))
        d_query = matmul(d_scores, self._key).view(batch, -1, time, head)
        d_parts = (
            self._rotation.turn(d_query, back=True),
            self._rotation.turn(matmul(d_scores.mT, self._query), back=True),
            matmul(self._fixed_weights.mT, d_mixed),
        )
        d_projected = torch.cat(d_parts, 1).transpose(1, 2).reshape(batch * time, -1)
        d_normed, d_qkv = self._qkv.backward(d_projected)
        d_hidden, d_gain = self._norm.backward(d_normed)
        return d_hidden, {"attention_norm": d_gain, "qkv": d_qkv, "attention_out": d_output}


class _FeedForward:
    """Add what SwiGLU over the normed hidden float32[rows, width] gives."""

    def __init__(self, own: Gradients, hidden: Tensor, eps: float) -> None:
        self._norm = _RmsNorm(hidden, own["feed_forward_norm"], eps)
        self._gate_up = _Linear(self._norm.out, own["gate_up"])
        self._gate, self._up = self._gate_up.out.chunk(2, dim=-1)
        self._open = sigmoid(self._gate)
        self._silu = self._gate * self._open
        self._down = _Linear(self._silu * self._up, own["down"])
        self.out = self._down.out

    def backward(self, d_out: Tensor) -> tuple[Tensor, Gradients]:
        """Return the gradients of hidden and of the weights."""
        d_inner, d_down = self._down.backward(d_out)
        slope = (1.0 - self._open).mul_(self._silu).add_(self._open)  # of x sigmoid(x)
        d_gate_up = torch.cat((d_inner * self._up * slope, d_inner * self._silu), dim=-1)
        d_normed, d_gate_up_weight = self._gate_up.backward(d_gate_up)
        d_hidden, d_gain = self._norm.backward(d_normed)
        return d_hidden, {"feed_forward_norm": d_gain, "gate_up": d_gate_up_weight, "down": d_down}


def _causal_softmax(scores: Tensor, shared: int) -> Tensor:
    """Return weights float32[..., shared * time, time] over each place's own and earlier ones."""
    time = scores.shape[-1]
    seen = torch.ones(time, time, dtype=torch.bool).tril_().repeat(shared, 1)
    scores = scores.masked_fill_(~seen, -math.inf)
    powers = exp(scores.sub_(scores.amax(-1, keepdim=True))).mul_(seen)
    return powers.div_(exact_sum(powers.double(), -1).float())


def _shifted(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits less each row's largest and their exponentials, float32[rows, vocab], and sums float64[rows, 1]."""
    shifted = logits - logits.amax(-1, keepdim=True)
    powers = exp(shifted)
    return shifted, powers, exact_sum(powers.double(), -1)


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """Return the mean loss of float32[rows, vocab] at int64[rows], and the logits' gradient."""
    shifted, powers, total = _shifted(logits)
    rows = torch.arange(len(targets))
    loss = float((torch.log(total)[:, 0] - shifted[rows, targets]).mean())
    d_logits = powers.div_(total.float())
    d_logits[rows, targets] -= 1.0  # each place once
    return loss, d_logits.mul_(1.0 / len(targets))
