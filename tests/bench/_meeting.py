"""Peers of a bench that give each other their updates: the product's host, gossip and exchange, and nothing else."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from protocol.blobs import BlobStore
from protocol.manifest import RunManifest
from protocol.network import Network, NetworkConfig, open_network
from protocol.published import Published, max_published_bytes, read_update, write_published
from protocol.update import Symbols

DEADLINE_S = 300.0


def say(words: dict[str, Any]) -> None:
    """Answer the parent."""
    print(json.dumps(words), flush=True)


async def hear() -> dict[str, Any] | None:
    """Return the parent's next line; None after its last."""
    line = await trio.to_thread.run_sync(sys.stdin.readline)
    return json.loads(line) if line else None


class Meeting:
    """Announce an update, and fetch those of the others."""

    def __init__(self, number: int, network: Network, store: BlobStore) -> None:
        self._number, self._network, self._store = number, network, store
        self._announced: dict[int, dict[int, tuple[str, str]]] = {}  # by round and number: peer, update
        self._held: list[str] = []
        self._news = trio.Event()
        self.others = 0

    def announce(self, data: bytes) -> None:
        """Take an announcement of somebody else."""
        told = json.loads(data)
        self._announced.setdefault(told["round"], {})[told["number"]] = (told["peer"], told["update"])
        self._news.set()
        self._news = trio.Event()

    async def join(self) -> None:
        """Meet whom the parent names, and wait until all who take part are there."""
        say({"address": self._network.addresses[0]})
        words = await hear()
        assert words is not None
        for address in words["dial"]:
            await self._network.dial(address)
        say({"dialled": True})
        words = await hear()
        assert words is not None
        self.others = words["group"] - 1
        await self._network.wait_for(lambda: len(self._network.subscribers()) >= self.others)
        say({"connected": self.others})

    async def share(self, round_: int, manifest: RunManifest, own: Symbols) -> dict[int, Symbols]:
        """Return the updates of all by number, with one's own, once they are here and decoded."""
        for name in self._held:
            self._store.delete(name)  # of the last round, or this one could find here what it is to fetch
        data = await trio.to_thread.run_sync(write_published, manifest, Published(own))
        digest = self._store.put(data)
        self._held = [digest]
        told = {"round": round_, "number": self._number, "peer": self._network.peer_id, "update": digest}
        await self._network.publish(json.dumps(told).encode())
        found, limit = {self._number: own}, max_published_bytes(manifest)

        async def fetch(number: int, peer: str, name: str) -> None:
            self._held.append(name)
            path = await self._network.fetch(name, max_size=limit, deadline_s=DEADLINE_S, providers=[peer])
            found[number] = await trio.to_thread.run_sync(lambda: read_update(manifest, path.read_bytes()))

        async with trio.open_nursery() as nursery:
            asked: set[int] = set()
            while len(asked) < self.others:
                news = self._news
                for number, (peer, name) in self._announced.get(round_, {}).items():
                    if number not in asked:
                        asked.add(number)
                        nursery.start_soon(fetch, number, peer, name)
                if len(asked) < self.others:
                    await news.wait()
        self._announced.pop(round_, None)
        return found


@asynccontextmanager
async def open_meeting(number: int, address: str, directory: Path) -> AsyncIterator[Meeting]:
    """Take part, at an address of one's own, until the block ends."""
    store = BlobStore(directory / f"blobs-{number}")
    config = NetworkConfig(bytes([number + 1]) * 32, run="bench", listen=f"/ip4/{address}/tcp/0")
    meeting: Meeting

    async def inbox(sender: str, data: bytes) -> None:
        meeting.announce(data)

    async with open_network(config, store=store, inbox=inbox) as network:
        meeting = Meeting(number, network, store)
        await meeting.join()
        yield meeting
