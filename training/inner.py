"""Inner steps: AdamW on one peer's assigned batches, or Muon for matrices of blocks and AdamW for the rest.

`InnerTrainer.run` is the step that a verifier replays. On one machine and one build of torch it is
deterministic, whatever the number of threads; between instruction sets it differs by rounding only.

A manifest says what becomes of AdamW's moments between rounds. *Carried*, a peer takes them along, so that its next
round follows from its own history. *Fresh* or *published*, a round follows from what is public alone, and three things
make up for what it does not remember:

* The second moment starts as what updates said of it last (*published*, `training.second_moments`). Where none said
  anything it starts as the squares of the round's first gradient, smoothed to rank one a matrix and to their mean in a
  vector (Adafactor's estimate, Shazeer and Stern, arXiv 1804.04235), instead of zero.
* The first moment starts as zero and is not corrected for that, so that no single gradient decides the first steps;
  nor is the second, which needs no correction.
* The round's last step is 1 / (1 - beta1) times as long. That is what all later steps together would take of the
  first moment if no further gradient came, so every gradient of the round has moved the parameters as far as any.

Without the last of these a gradient of a round's end is lost for its larger part: `tests/bench/notes` has figures.
Muon has one moment, the momentum, which starts as zero likewise (`training.muon`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import torch
from torch.optim.adamw import adamw

from protocol.errors import ConfigError, OwnFault
from protocol.manifest import InnerConfig, MuonConfig, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import Codes, Floats, Layout, frozen, moment_layout, parameter_layout, pieces, unpack
from training.assignment import Offsets, batch
from training.corpus import Shard
from training.model import Transformer
from training.muon import NORM_EPS, Places, adamw_places, muon_places, orthogonalised, step_length
from training.second_moments import values_of

CLIP_EPS: Final = 1e-6
"""Added to a gradient's norm before dividing by it, as torch.nn.utils.clip_grad_norm_ does."""


UNCORRECTED: Final = 2.0**40
"""A step count at which AdamW's corrections for a start from zero are one, whatever the decay."""

Total = Callable[[torch.Tensor, int], torch.Tensor]
"""Sum float64 values over one dimension, which stays with length one."""


@dataclass(frozen=True, eq=False)
class InnerState:
    """Hold what one inner step leads from and to."""

    parameters: Floats  # [P]
    exp_avg: Floats  # [P], AdamW's first moment
    exp_avg_sq: Floats  # [P], AdamW's second moment
    steps: int  # AdamW steps since the moments were zero

    @classmethod
    def fresh(cls, parameters: Floats) -> Self:
        """Start from parameters with zero moments."""
        zeros = np.zeros_like(parameters)
        return cls(parameters, zeros, zeros, 0)

    @classmethod
    def from_files(cls, model: ModelConfig, parameters: bytes, moments: bytes | None) -> Self:
        """Read the files that `parameters_file` and `moments_file` write; no moments are zero moments.

        Raises:
            Malformed: not files of this model's layouts.
        """
        vector, _ = unpack(parameter_layout(model), parameters)
        return cls.fresh(vector) if moments is None else cls(vector, *read_moments(model, moments))

    def parameters_file(self, model: ModelConfig) -> bytes:
        """Return the canonical parameter file."""
        return b"".join(self.parameters_pieces(model))

    def moments_file(self, model: ModelConfig) -> bytes:
        """Return the canonical file of both moments and the step count."""
        return b"".join(self.moments_pieces(model))

    def parameters_pieces(self, model: ModelConfig) -> tuple[bytes | memoryview, ...]:
        """Return the canonical parameter file in pieces that share our memory."""
        return pieces(parameter_layout(model), (self.parameters,))

    def moments_pieces(self, model: ModelConfig) -> tuple[bytes | memoryview, ...]:
        """Return the canonical file of both moments and the step count in pieces that share our memory."""
        return pieces(moment_layout(model), (self.exp_avg, self.exp_avg_sq), self.steps)


def primed(start: InnerState, codes: Codes | None) -> InnerState:
    """Return the state that a round's steps start from: with the second moments that are public.

    Args:
        start: with moments of zero, as it is committed to.
        codes: uint8[P], the round's (`training.second_moments`); None: the run publishes none.
    """
    return start if codes is None else replace(start, exp_avg_sq=values_of(codes))


def read_moments(model: ModelConfig, data: bytes) -> tuple[Floats, Floats, int]:
    """Read a moments file: exp_avg [P], exp_avg_sq [P] and the step count.

    Raises:
        Malformed: not a file of this model's moment layout.
    """
    vector, steps = unpack(moment_layout(model), data)
    size = parameter_layout(model).size
    return vector[:size], vector[size:], steps


def learning_rate(inner: InnerConfig, step: int, total_steps: int) -> float:
    """Return a global step's rate: linear warm-up times a cosine over the run, down to min_lr_fraction."""
    warmup = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    cosine = 0.5 * (1 + math.cos(math.pi * step / total_steps))
    return inner.lr * warmup * (inner.min_lr_fraction + (1 - inner.min_lr_fraction) * cosine)


def last_stretch(inner: InnerConfig, step: int) -> float:
    """Return how many times as long AdamW's step is as its rate says: fresh moments end with a long one."""
    return 1.0 / (1.0 - inner.beta1) if ends_round(inner, step) else 1.0


def ends_round(inner: InnerConfig, step: int) -> bool:
    """Tell whether a global step is the last of a round whose moments nobody carries on."""
    return inner.fresh and (step + 1) % inner.steps == 0


def smoothed_squares(gradient: torch.Tensor, layout: Layout, first: int, total: Total) -> torch.Tensor:
    """Return what a fresh second moment starts from: float64[P - first], of rank one in every matrix.

    Args:
        gradient: float64[P - first], of the parameters from `first` on, where a tensor of the layout starts.
        total: sums in float64; whoever wants the same bits everywhere passes `training.exact_math.exact_sum`.
    """
    found = gradient * gradient
    for name, shape in layout.tensors:
        place = layout.slices[name]
        if place.start < first:
            continue
        squares = found[place.start - first : place.stop - first].view(*shape)
        if len(shape) == 1:
            squares.copy_((total(squares, 0) / shape[0]).expand(shape))
            continue
        rows, columns = total(squares, 1), total(squares, 0)
        whole = total(rows, 0).clamp(min=torch.finfo(torch.float64).tiny)
        torch.mul(rows, columns / whole, out=squares)
    return found


def prepare_process(threads: int | None) -> None:
    """Set this process up for repeatable training: threads, deterministic kernels, full-precision products.

    `threads` None leaves their number as it is, which changes no result. On CUDA the environment must also hold
    CUBLAS_WORKSPACE_CONFIG=:4096:8 before the process starts.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # As torch.use_deterministic_algorithms(True), which would first import the whole compiler: 2 s of every process.
    torch.set_deterministic_debug_mode("error")
    # Filling costs a twentieth of a step, and no kernel here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # Its backward pass adds in no fixed order; float32 then takes the plain kernel. CUDA only.
    torch.backends.cuda.enable_mem_efficient_sdp(False)


def check_vocabulary(manifest: RunManifest, shard: Shard) -> None:
    """Refuse a shard whose tokens the model has no embedding for.

    Raises:
        ConfigError: there are such tokens.
    """
    if manifest.model.vocab < 256 and int(shard.tokens.max()) >= manifest.model.vocab:
        raise ConfigError(f"the dataset has tokens beyond the vocabulary of {manifest.model.vocab}")


class Descent:
    """Hold a run's model and AdamW's state on one device, and take its steps, whatever the gradient is of.

    Args:
        autocast: compute the model's products in bfloat16; attention, parameters, gradients and moments stay float32.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(self, manifest: RunManifest, device: str = "cpu", *, autocast: bool = False) -> None:
        self._manifest = manifest
        self._frozen = frozen(manifest)
        try:
            self._model = Transformer(manifest.model, torch.device(device), frozen=self._frozen)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"device {device} cannot be used: {error}", hint="choose --device cpu"
            ) from error
        self._autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast)
        # One flat tensor: the fused kernel walks it once a step instead of once a layer.
        self._leaf = self._model.parameters.detach().requires_grad_()
        self._exp_avg = torch.zeros_like(self._leaf)
        self._exp_avg_sq = torch.zeros_like(self._leaf)
        self._steps = torch.zeros((), device=self._leaf.device)
        self._norms: list[torch.Tensor] = []
        self._matrices = muon_places(manifest)
        self._others = adamw_places(manifest)

    def load(self, state: InnerState) -> None:
        """Take over a state; its arrays are copied."""
        device = self._leaf.device
        self._norms = []
        with torch.no_grad():
            self._leaf.copy_(_to_tensor(state.parameters))
        self._steps = torch.tensor(float(state.steps), device=device)
        self._exp_avg = _to_tensor(state.exp_avg).to(device)
        self._exp_avg_sq = _to_tensor(state.exp_avg_sq).to(device)

    def state(self) -> InnerState:
        """Return a copy of the state reached."""
        return copy_state(self.view())

    def view(self) -> InnerState:
        """Return the state reached, in the trainer's own memory where it can: the next step changes it."""
        vectors = (self._leaf.detach(), self._exp_avg, self._exp_avg_sq)
        parameters, exp_avg, exp_avg_sq = (vector.cpu().numpy() for vector in vectors)
        return InnerState(parameters, exp_avg, exp_avg_sq, int(self._steps))

    @property
    def gradient(self) -> torch.Tensor:
        """Return the gradient that the next step takes, float32[P]; writing to it changes the step.

        What is frozen has zeros, and the step does not touch it.
        """
        return self._model.gradient

    def gradient_norms(self) -> list[float]:
        """Return the norms of the gradients since the state was loaded, before clipping, one a step taken."""
        return [float(norm) for norm in torch.stack(self._norms).tolist()] if self._norms else []

    def descend(self, step: int) -> None:
        """Clip the gradient and take the step of a global step's rate: AdamW's, and Muon's where the run has it."""
        self._clip()
        inner, fresh = self._manifest.inner, self._manifest.inner.fresh
        if fresh and not self._steps:
            self._guess()
        stretch = last_stretch(inner, step)
        rate = learning_rate(inner, step, self._manifest.total_steps)
        counted = torch.full_like(self._steps, UNCORRECTED) if fresh else self._steps
        # The function under torch.optim.AdamW: the class first imports the whole compiler, 2 s of every process.
        with torch.no_grad():
            adamw(
                [self._leaf[place] for place in self._others],
                [self._model.gradient[place] for place in self._others],
                [self._exp_avg[place] for place in self._others],
                [self._exp_avg_sq[place] for place in self._others],
                [],
                [counted.clone() for _ in self._others],
                fused=True,
                amsgrad=False,
                beta1=inner.beta1,
                beta2=inner.beta2,
                lr=rate * stretch,
                weight_decay=inner.weight_decay / stretch,
                eps=inner.eps,
                maximize=False,
            )
            if inner.muon is not None:
                for shape, places in self._matrices.items():
                    self._take_muon(inner.muon, shape, places, step, rate * inner.muon.lr / inner.lr)
        self._steps += 1

    def _take_muon(
        self, muon: MuonConfig, shape: tuple[int, ...], places: Places, step: int, rate: float
    ) -> None:
        """Take Muon's step of all matrices of one shape, at a rate of its own."""
        gradient, held = (
            torch.stack([vector[place].view(shape) for place in places])
            for vector in (self._model.gradient, self._exp_avg)
        )
        held.mul_(muon.momentum).add_(gradient)
        ahead = (held * muon.momentum).add_(gradient)  # Nesterov's
        norms = torch.linalg.vector_norm(ahead, dim=(1, 2), keepdim=True, dtype=torch.float64)
        steps = orthogonalised(ahead.div_(norms.add_(NORM_EPS).float()), torch.matmul)
        inner = self._manifest.inner
        length = rate * step_length(shape, last=ends_round(inner, step))
        for place, momentum, taken in zip(places, held, steps, strict=True):
            self._exp_avg[place] = momentum.flatten()
            self._leaf[place].mul_(1 - rate * inner.weight_decay).sub_(taken.flatten(), alpha=length)

    def _guess(self) -> None:
        """Start second moments that nobody has said anything of from the round's first gradient."""
        gradient = self._model.gradient[self._frozen :].double()
        layout = parameter_layout(self._manifest.model)
        guessed = smoothed_squares(gradient, layout, self._frozen, _total).float()
        for place in self._others:
            known = self._exp_avg_sq[place]
            there = guessed[place.start - self._frozen :][: known.numel()]
            self._exp_avg_sq[place] = torch.where(known > 0, known, there)

    def _clip(self) -> None:
        """Scale the gradient down to the manifest's norm if it is longer.

        The norm is summed in float64: in float32 its error grows with the model (3e-4 at three million parameters)
        and with the instruction set, and it scales every moment.
        """
        gradient = self._model.gradient[self._frozen :]
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        self._norms.append(norm)  # read together later: one at a time would wait for the device in every step
        gradient.mul_((self._manifest.inner.clip_norm / (norm + CLIP_EPS)).clamp_(max=1.0).float())


class InnerTrainer(Descent):
    """Take inner steps on a token shard (`training.trainer.Trainer`).

    Raises:
        ConfigError: the shard holds tokens outside the model's vocabulary, or the device is not there.
    """

    def __init__(
        self, manifest: RunManifest, shard: Shard, device: str = "cpu", *, autocast: bool = False
    ) -> None:
        check_vocabulary(manifest, shard)
        super().__init__(manifest, device, autocast=autocast)
        self._shard = shard

    def run(self, offsets: Offsets, first_step: int) -> list[float]:
        """Take one step a row of `offsets` int64[steps, batch]; return each step's loss in nats a token.

        Args:
            first_step: global step of the first row, round * inner.steps + step; sets the learning rate.

        Raises:
            OwnFault: the loss stopped being finite.
        """
        losses = [self._step(row, first_step + index) for index, row in enumerate(offsets)]
        values = torch.stack(losses).tolist() if losses else []
        if not all(map(math.isfinite, values)):
            raise OwnFault("the loss is no longer finite", hint="lower inner.lr in the next run")
        return [float(value) for value in values]

    def backward(self, offsets: Offsets) -> torch.Tensor:
        """Leave the gradient of one batch int64[batch] in `gradient` and return its loss."""
        tokens = torch.from_numpy(batch(self._shard, offsets, self._manifest.model.context))
        self._model.gradient[self._frozen :].zero_()
        with self._autocast:
            loss = self._model.loss(tokens.to(self._leaf.device))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _step(self, offsets: Offsets, step: int) -> torch.Tensor:
        loss = self.backward(offsets)
        self.descend(step)
        return loss


def replay(
    manifest: RunManifest,
    shard: Shard,
    state: InnerState,
    offsets: Offsets,
    first_step: int,
    device: str = "cpu",
) -> InnerState:
    """Repeat a segment's inner steps from its opened start with the code that trains.

    Args:
        offsets: int64[segment steps, batch], the segment's rows of the unit's assignment.
        first_step: global step of the first row.
    """
    trainer = InnerTrainer(manifest, shard, device)
    trainer.load(state)
    trainer.run(offsets, first_step)
    return trainer.state()


def _total(values: torch.Tensor, dim: int) -> torch.Tensor:
    return values.sum(dim, keepdim=True)


def _to_tensor(vector: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(vector, dtype=np.float32))


def copy_state(state: InnerState) -> InnerState:
    """Return a state that shares no memory with another."""
    vectors = (state.parameters, state.exp_avg, state.exp_avg_sq)
    parameters, exp_avg, exp_avg_sq = (np.array(vector, dtype=np.float32) for vector in vectors)
    return InnerState(parameters, exp_avg, exp_avg_sq, state.steps)
