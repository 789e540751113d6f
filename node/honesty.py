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
from protocol.messages import Body, Opening, Reveal, Signed
from protocol.pool import MessagePool
from protocol.tensors import Floats
from training.assignment import Offsets, assignment

if TYPE_CHECKING:  # the daemon's process never loads torch
    from protocol.rollouts import Group
    from training.inner import InnerState
    from training.judging import Charge, Docket
    from training.sampler import Sampler
    from training.trainer import Trainer


class HonestSteps:
    """Take the inner steps of a unit and make its update, in the trainer's process."""

    def recipe(self, manifest: RunManifest) -> RunManifest:
        """Return the manifest whose model and optimizer settings the steps follow."""
        return manifest

    def batches(self, manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
        """Return where the samples trained on start in the shard: int64[steps, batch]."""
        return assignment(manifest, beacon, round_, number)

    def groups(self, sampler: "Sampler", seeds: Sequence[int]) -> "tuple[Group, ...]":
        """Return the groups sampled from the round's policy, one for each task seed."""
        return sampler.groups(seeds)

    def scores(self, judge: "Sampler", docket: "Docket", charges: "Sequence[Charge]") -> "tuple[Group, ...]":
        """Return a judge's answers about each group that the unit is to judge."""
        asked = [docket.environments(charge) for charge in charges]
        return judge.sample([charge.seed for charge in charges], lambda place, index: asked[place][index])

    def start(self, state: "InnerState") -> "InnerState":
        """Return the state that the first step really starts from."""
        return state

    def run(self, trainer: "Trainer", offsets: Offsets, first_step: int) -> list[float]:
        """Take a segment's steps and return their losses.

        Args:
            offsets: int64[segment steps, batch].
            first_step: global step of the first row.
        """
        return trainer.run(offsets, first_step)

    def change(self, change: Floats) -> Floats:
        """Return the pseudo-gradient float32[P] that is compressed, given start minus end of the unit."""
        return change

    def second_moments(self, second: Floats) -> Floats:
        """Return the final second moments float32[P] that the update says a slice of."""
        return second

    def residual_before(self, residual: Floats | None) -> Floats | None:
        """Return the residual that is added to it, given the one carried in; None stands for zeros."""
        return residual

    def residual_after(self, residual: Floats) -> Floats:
        """Return the residual that is committed and carried on, given what the symbols leave out."""
        return residual


class Workshop(Protocol):
    """Offer what a contributor works with, in the daemon's process."""

    @property
    def manifest(self) -> RunManifest:
        """The run's."""

    @property
    def run(self) -> str:
        """Run id."""

    @property
    def number(self) -> int:
        """Our registration number."""

    @property
    def key(self) -> PeerKey:
        """What we sign with."""

    @property
    def pool(self) -> MessagePool:
        """What was heard."""

    @property
    def store(self) -> BlobStore:
        """What we hold."""

    async def train(self, job: Train) -> Work:
        """Have the trainer make a unit."""

    async def announce(self, data: bytes) -> None:
        """Send bytes as they are to the run's gossip."""

    async def blocks(self, count: int) -> None:
        """Wait until the chain is so many blocks longer."""


class Honesty:
    """Make units, reveal and open them, and say nothing else."""

    trainer_arguments: Sequence[str] = ()
    """Given to the trainer's command line."""

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Make the unit that a commitment will bind."""
        return await shop.train(job)

    async def reveal(self, shop: Workshop, unit: Unit, reveal: Reveal) -> Reveal | None:
        """Return what is said once the unit is listed; None says nothing."""
        return reveal

    async def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening | None:
        """Return what is said when the unit is drawn; None says nothing."""
        return opening

    async def published(self, shop: Workshop, message: Signed[Body]) -> None:
        """Do whatever else follows a statement of ours: nothing."""

    async def round_begins(self, shop: Workshop, round_: int) -> None:
        """Do whatever else belongs to a round: nothing."""
