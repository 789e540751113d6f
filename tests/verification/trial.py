"""A unit of `tests.verification.testbed` while it is made, and what a cheat may do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.manifest import RunManifest
from protocol.tensors import Floats
from training.inner import InnerState
from training.trainer import Trainer, trainer_for

if TYPE_CHECKING:
    from tests.verification.testbed import Testbed

Cheat = Callable[["Trial"], Any]


@dataclass
class Trial:
    """A unit under way, where a cheat may lay its hands on it."""

    bed: Testbed
    round: int
    number: int
    trainer: Trainer
    offsets: np.ndarray[tuple[int, int], np.dtype[np.int64]]
    states: list[InnerState]
    start: Floats
    final: Floats
    residual_before: Floats | None
    view: RunManifest  # the run as the unit has it
    symbols: object = None
    residual: Floats | None = None
    stage: str = "start"

    def run(self, segment: int, manifest: RunManifest | None = None) -> None:
        """Take the steps of one segment, under another manifest if given."""
        k = self.bed.manifest.verification.segment_steps
        first = segment * k
        trainer = self.trainer
        if manifest is not None:
            trainer = trainer_for(manifest, self.bed.shard, manifest.verification.profiles[0])
            trainer.load(self.trainer.state())
        offsets = self.offsets[first : first + k]
        trainer.run(offsets, self.round * self.view.inner.steps + first)
        if trainer is not self.trainer:
            self.trainer.load(trainer.state())
        self.states.append(self.trainer.state())
