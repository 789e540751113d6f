"""Somebody who only sends what nobody should accept."""

import logging
import struct
from collections.abc import Iterator

import trio

from node.events import Train
from node.honesty import Honesty, Workshop
from node.unit import Work
from protocol.blobs import BlobStore
from protocol.canonical import tagged_digest
from protocol.errors import NetworkError
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import MAX_MESSAGE_BYTES, Body, Commitment, Opening, Reveal, sign

log = logging.getLogger(__name__)

FIRST_HEARD = 4  # malformed messages of one peer that are read before its score silences it for a while


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
