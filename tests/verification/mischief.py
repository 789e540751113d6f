"""Ways to cheat in a `tests.verification.testbed` run, by the stage at which they happen."""

from __future__ import annotations

import dataclasses

import numpy as np

from protocol.tensors import parameter_layout
from tests.verification.testbed import Cheat, Trial
from training.codec import compress


def skip_a_step(segment: int) -> dict[str, Cheat]:
    """Take one step less in a segment and claim all."""

    def cheat(trial: Trial) -> None:
        k = trial.bed.manifest.verification.segment_steps
        first = segment * k
        trial.trainer.run(
            trial.offsets[first : first + k - 1], trial.round * trial.bed.manifest.inner.steps + first
        )
        state = trial.trainer.state()
        trial.states.append(dataclasses.replace(state, steps=state.steps + 1))
        trial.trainer.load(trial.states[-1])

    return {f"segment{segment}": cheat}


def other_data(segment: int) -> dict[str, Cheat]:
    """Train a segment on batches of its own choice."""

    def cheat(trial: Trial) -> None:
        trial.offsets = trial.offsets.copy()
        k = trial.bed.manifest.verification.segment_steps
        trial.offsets[segment * k : (segment + 1) * k] = 7
        trial.run(segment)

    return {f"segment{segment}": cheat}


def other_rate(segment: int, factor: float) -> dict[str, Cheat]:
    """Train a segment with another learning rate."""

    def cheat(trial: Trial) -> None:
        inner = trial.bed.manifest.inner
        changed = inner.model_copy(update={"lr": inner.lr * factor})
        trial.run(segment, trial.bed.manifest.model_copy(update={"inner": changed}))

    return {f"segment{segment}": cheat}


def nudge(segment: int, tensor: str, relative: float) -> dict[str, Cheat]:
    """Move one tensor at the end of a segment by a share of the segment's change."""

    def cheat(trial: Trial) -> None:
        trial.run(segment)
        before, end = trial.states[-2], trial.states[-1]
        place = parameter_layout(trial.bed.manifest.model).slices[tensor]
        vector = end.parameters.copy()
        vector[place] += relative * (end.parameters - before.parameters)[place]
        trial.states[-1] = dataclasses.replace(end, parameters=vector)
        trial.trainer.load(trial.states[-1])

    return {f"segment{segment}": cheat}


def forged_residual(trial: Trial) -> None:
    assert trial.residual is not None
    residual = trial.residual.copy()
    residual[3] += np.float32(1e-6)
    trial.residual = residual


def forged_symbols(trial: Trial) -> None:
    trial.symbols, _ = compress(trial.bed.manifest.codec, (trial.start - trial.final)[::-1].copy(), None)
