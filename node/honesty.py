"""The points at which a contributor could cheat, each with what an honest one does there.

Honest code calls these hooks and knows of nothing else; `node.cheats` overrides one part at a time.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from node.events import Train
from node.unit import Unit, Work
from protocol.blobs import BlobStore
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Opening
from protocol.pool import MessagePool

if TYPE_CHECKING:  # the daemon's process never loads torch
    from training.assignment import Offsets
    from training.inner import InnerTrainer


class HonestSteps:
    """Take the inner steps of a unit, in the trainer's process."""

    def batches_of(self, number: int) -> int:
        """Return the registration number whose batches are trained on."""
        return number

    def run(self, trainer: "InnerTrainer", offsets: "Offsets", first_step: int) -> list[float]:
        """Take a segment's steps and return their losses.

        Args:
            offsets: int64[segment steps, batch].
            first_step: global step of the first row.
        """
        return trainer.run(offsets, first_step)


class Workshop(Protocol):
    """Offer what a contributor works with, in the daemon's process."""

    manifest: RunManifest
    run: str
    number: int
    key: PeerKey
    pool: MessagePool
    store: BlobStore

    async def train(self, job: Train) -> Work:
        """Have the trainer make a unit."""

    async def announce(self, data: bytes) -> None:
        """Send bytes as they are to the run's gossip."""


class Honesty:
    """Make units, open them, and say nothing else."""

    trainer_arguments: Sequence[str] = ()
    """Given to the trainer's command line."""

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Make the unit that a commitment will bind."""
        return await shop.train(job)

    def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening:
        """Return what is said when a unit is drawn."""
        return opening

    async def round_begins(self, shop: Workshop, round_: int) -> None:
        """Do whatever else belongs to a round: nothing."""
