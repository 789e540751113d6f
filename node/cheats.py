"""Dishonest contributors for demonstrations and tests: the same node with only its dishonest part replaced."""

import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import trio

from node.events import Train
from node.honesty import HonestSteps, Honesty, Workshop
from node.unit import Files, Unit, Work
from protocol.blobs import BlobStore
from protocol.canonical import tagged_digest
from protocol.errors import NetworkError
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import MAX_MESSAGE_BYTES, Body, Commitment, Opening, Reveal, sign
from protocol.tensors import moment_layout, pack
from training.assignment import assignment, assignment_digest

if TYPE_CHECKING:
    from training.assignment import Offsets
    from training.inner import InnerTrainer

log = logging.getLogger(__name__)

SKIPPING = 3  # one step of so many is taken
FIRST_HEARD = 4  # malformed messages of one peer that are read before its score silences it for a while


class Cheat(StrEnum):
    """Name the ways to cheat."""

    SKIP_STEPS = "skip-steps"
    WRONG_DATA = "wrong-data"
    COPYCAT = "copycat"
    GARBAGE = "garbage"


class SkippedSteps(HonestSteps):
    """Take one of every three steps, and count as if all had been taken."""

    def run(self, trainer: "InnerTrainer", offsets: "Offsets", first_step: int) -> list[float]:
        """Take fewer steps and write the expected count over the state."""
        expected = trainer.state().steps + len(offsets)
        losses = trainer.run(offsets[::SKIPPING], first_step)
        trainer.load(replace(trainer.state(), steps=expected))
        return losses


class WrongData(HonestSteps):
    """Train on the batches that somebody else was assigned."""

    def batches_of(self, number: int) -> int:
        """Return another registration number."""
        return number + 1


class CheatingTrainer(Honesty):
    """Cheat in the trainer's process; everything here is honest."""

    def __init__(self, cheat: Cheat) -> None:
        self.trainer_arguments = (cheat.value,)


class Copycat(Honesty):
    """Commit to what another peer revealed in the round before, and train nothing.

    Round 0 has nothing to copy and is trained. States are invented, so that an opening finds no bytes for them.
    """

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Return a unit around somebody else's update, or none while there is nothing to copy."""
        if job.round == 0:
            return await shop.train(job)
        reveals = shop.pool.reveals(job.round - 1)
        victims = [reveals[number].body for number in sorted(reveals) if number != shop.number]
        if not victims:
            await trio.sleep_forever()
        return self.copy(shop, job, victims[0])

    def copy(self, shop: Workshop, job: Train, victim: Reveal) -> Work:
        """Return the unit that claims a victim's update."""

        def invented(index: int, what: int) -> str:
            return tagged_digest("murmur/copycat", shop.run, job.round, shop.number, index, what)

        segments = [
            Files(parameters=invented(index, 0), moments=invented(index, 1))
            for index in range(shop.manifest.segments + 1)
        ]
        return Work(
            assignment=assignment_digest(assignment(shop.manifest, job.beacon, job.round, shop.number)),
            segments=tuple(segments),
            moments=segments[-1].moments,
            residual=invented(0, 2),
            symbols=victim.symbols,
            blob=victim.blob,
            blob_bytes=victim.blob_bytes,
            cpu_s=victim.train_cpu_s,
            loss=0.0,
        )

    def opening(self, shop: Workshop, unit: Unit, opening: Opening) -> Opening:
        """Open a copied unit with the bytes there are: the public parameters, and moments of zero."""
        if unit.round == 0:
            return opening
        layout = moment_layout(shop.manifest.model)
        zeros = shop.store.put(pack(layout, np.zeros(layout.size, np.float32), 0))
        places = ("start", "end", "final")
        parameters = {f"{place}_parameters": unit.commitment.parameters for place in places}
        return opening.model_copy(update=parameters | {f"{place}_moments": zeros for place in places})


class Garbage(Honesty):
    """Register, say ready, and then send only what nobody should accept: a bounded number of messages a round."""

    async def work(self, shop: Workshop, job: Train) -> Work:
        """Make no unit."""
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def round_begins(self, shop: Workshop, round_: int) -> None:
        """Send one of each kind of garbage, each round beginning elsewhere: peers soon stop listening."""
        kinds = list(garbage(shop, round_))
        first = FIRST_HEARD * round_ % len(kinds)
        for data in kinds[first:] + kinds[:first]:
            try:
                await shop.announce(data)
            except NetworkError as error:
                log.info("our own network refused garbage: %s", error)


def garbage(shop: Workshop, round_: int) -> Iterator[bytes]:
    """Yield malformed and lying gossip of one round, about twenty messages; plants blobs that lie as well."""
    manifest, number = shop.manifest, shop.number
    nothing = tagged_digest("murmur/garbage", shop.run, round_, number)
    commitment = _commitment(shop, nothing)
    other_run = manifest.model_copy(update={"name": "another run"})
    stranger = PeerKey(bytes.fromhex(nothing))

    def say(
        body: Body, *, of: RunManifest = manifest, in_round: int = round_, key: PeerKey = shop.key
    ) -> bytes:
        return sign(key, of, in_round, "contributor", body).wire

    wire = say(commitment)
    yield b"\x00\xff" * 64
    yield b"{}"
    yield b"[" * 10_000
    yield b"x" * (MAX_MESSAGE_BYTES + 1)
    yield wire[: len(wire) // 2]
    yield b" " + wire
    yield wire.replace(b'"number":%d' % number, b'"number":NaN')
    yield wire.replace(b'"round":%d' % round_, b'"round":%d' % (round_ + 1))
    yield say(commitment, in_round=manifest.rounds)
    yield say(commitment, of=other_run)
    yield say(commitment, key=stranger)
    yield say(commitment.model_copy(update={"number": number + 1}))
    yield wire
    yield say(commitment.model_copy(update={"update": shop.run}))
    commitment_id = sign(shop.key, manifest, round_, "contributor", commitment).id
    yield say(_reveal(number, commitment_id, nothing, _plant_liar(shop.store, nothing), len(_NOT_NUMBERS)))
    yield say(_reveal(number, commitment_id, nothing, shop.store.put(_NOT_NUMBERS), 2**39))
    yield say(_opening(number, commitment_id, nothing))


_NOT_NUMBERS = b"MURU" + struct.pack("<f", float("nan")) * 256


def _plant_liar(store: BlobStore, address: str) -> str:
    """Put a file into the store whose bytes do not hash to its name."""
    path = store.root / address[:2] / address
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_NOT_NUMBERS)
    return address


def _commitment(shop: Workshop, nothing: str) -> Commitment:
    return Commitment(
        number=shop.number,
        profile=shop.manifest.verification.profiles[0].name,
        parameters=nothing,
        assignment=nothing,
        moments_before=nothing,
        moments_after=nothing,
        residual_before=nothing,
        residual_after=nothing,
        segments=(nothing, nothing),
        update=nothing,
    )


def _reveal(number: int, commitment: str, nothing: str, blob: str, size: int) -> Reveal:
    return Reveal(
        number=number,
        commitment=commitment,
        symbols=nothing,
        salt=nothing,
        blob=blob,
        blob_bytes=size,
        train_cpu_s=0.0,
    )


def _opening(number: int, commitment: str, nothing: str) -> Opening:
    return Opening(
        number=number,
        commitment=commitment,
        segment=0,
        start_parameters=nothing,
        start_moments=nothing,
        end_parameters=nothing,
        end_moments=nothing,
        final_parameters=nothing,
        final_moments=nothing,
        residual_before=None,
        residual_after=nothing,
        symbols=nothing,
        salt=nothing,
    )


def steps_of(cheat: str | None) -> HonestSteps:
    """Return how the trainer takes its steps.

    Raises:
        ValueError: no such cheat.
    """
    match None if cheat is None else Cheat(cheat):
        case Cheat.SKIP_STEPS:
            return SkippedSteps()
        case Cheat.WRONG_DATA:
            return WrongData()
        case _:
            return HonestSteps()


def honesty_of(cheat: Cheat | None) -> Honesty:
    """Return how the daemon behaves."""
    match cheat:
        case None:
            return Honesty()
        case Cheat.COPYCAT:
            return Copycat()
        case Cheat.GARBAGE:
            return Garbage()
        case _:
            return CheatingTrainer(cheat)
