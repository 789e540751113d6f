"""What a contributor can leave unsaid, say too late, or say twice."""

from node.honesty import Honesty, Workshop
from node.unit import Unit
from protocol.canonical import tagged_digest
from protocol.messages import Body, Commitment, Opening, Reveal, Signed, sign


class RefuseOpening(Honesty):
    """Skip steps, and show nothing of it when drawn."""

    def __init__(self, trainer_argument: str) -> None:
        self.trainer_arguments = (trainer_argument,)

    async def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening | None:
        """Say nothing."""
        return None


class LateOpening(Honesty):
    """Do the work, and open it after the verifiers have stopped waiting."""

    async def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening | None:
        """Wait for three quarters of the deadline: half of it is the time to open."""
        await shop.blocks(shop.manifest.deadlines.verify * 3 // 4)
        return opening


class WithholdReveal(Honesty):
    """Commit, so that something is on record, and keep the update."""

    async def reveal(self, shop: Workshop, unit: Unit, reveal: Reveal) -> Reveal | None:
        """Say nothing."""
        return None


class Equivocate(Honesty):
    """Commit to one update, and then to another."""

    async def published(self, shop: Workshop, message: Signed[Body]) -> None:
        """Contradict a commitment as soon as it is out."""
        if isinstance(message.body, Commitment):
            await shop.announce(self.contradict(shop, message.round, message.body))

    def contradict(self, shop: Workshop, round_: int, said: Commitment) -> bytes:
        """Return the wire form of a second commitment, which differs in the update only."""
        other = tagged_digest("murmur/equivocate", said.update)
        body = said.model_copy(update={"update": other})
        return sign(shop.key, shop.manifest, round_, "contributor", body).wire
