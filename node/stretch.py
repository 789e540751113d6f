"""The inner steps of one unit, segment by segment: where they stand, and what came of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from node.honesty import HonestSteps
from node.unit import Ahead, Files
from protocol.manifest import RunManifest
from protocol.tensors import Codes
from protocol.worker import Progress
from training.assignment import Offsets
from training.inner import InnerState, primed
from training.trainer import Trainer


@dataclass
class Stretch:
    """Take a unit's steps segment by segment, and hold what came of them."""

    manifest: RunManifest  # as the unit's tier has it
    steps: HonestSteps
    trainer: Trainer
    rows: Offsets
    first: int  # global step of the unit's first
    put: Callable[..., Files]
    rest: float  # seconds of rest for each of inner steps
    files: list[Files] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    train_s: float = 0.0

    def begin(self, start: InnerState, moments: Codes | None, *, keep: bool) -> None:
        """Start the unit, with the second moments that are public, if any."""
        self.files.append(self.put(start, keep=keep))
        self.trainer.load(self.steps.start(primed(start, moments)))

    def take(self, ahead: Ahead) -> None:
        """Take over what was made of the unit."""
        self.files += ahead.segments
        self.losses += ahead.losses
        self.norms += ahead.gradient_norms
        self.train_s += ahead.train_s

    def advance(self, segments: int, *, keep: bool, progress: Progress) -> None:
        """Take steps until the unit has so many segments."""
        length, total = self.manifest.verification.segment_steps, self.manifest.inner.steps
        for first in range((len(self.files) - 1) * length, segments * length, length):
            stepping = time.perf_counter()
            self.losses += self.steps.run(self.trainer, self.rows[first : first + length], self.first + first)
            stepped = time.perf_counter() - stepping
            self.train_s += stepped
            time.sleep(self.rest * stepped)  # noqa: TID251 - what its owner leaves to other programs
            self.files.append(self.put(self.trainer.view(), keep=keep))
            progress({"step": first + length, "steps": total, "loss": self.losses[-1]})
        self.norms += self.trainer.gradient_norms()
