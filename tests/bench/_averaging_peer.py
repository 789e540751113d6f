"""One of our peers that average: the product's host, gossip, exchange, codec and outer step, and nothing else.

`python -m tests.bench._averaging_peer ADDRESS VECTOR DIRECTORY NUMBER`. Asked by its parent, it compresses its vector,
stores and announces the update, fetches those of the others, decodes all and takes the mean as an outer step of rate
one from zero.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio

from protocol.blobs import BlobStore
from protocol.manifest import CodecConfig, RunManifest
from protocol.network import Network, NetworkConfig, open_network
from protocol.tensors import Floats
from protocol.update import Symbols, decode, encode, max_update_bytes
from training.codec import compress, decode_dense
from training.outer import OuterState, aggregate

RUN = "averaging"


class Peer:
    """Average with others, round by round."""

    def __init__(self, number: int, vector: Floats, directory: Path) -> None:
        self._number, self._vector = number, vector
        self._store = BlobStore(directory / f"blobs-{number}")
        self._directory = directory
        self._held: list[str] = []
        self._announced: dict[str, dict[int, tuple[str, str]]] = {}
        self._manifest = RunManifest.model_validate_json((directory / "manifest.json").read_bytes())
        self._news = trio.Event()

    async def hear(self, sender: str, data: bytes) -> None:
        """Take an announcement."""
        told = json.loads(data)
        self._announced.setdefault(told["round"], {})[told["number"]] = (told["peer"], told["update"])
        self._news.set()
        self._news = trio.Event()

    async def run(self, address: str) -> None:
        """Answer the parent's lines until they end."""
        secret = bytes([self._number + 1]) * 32
        config = NetworkConfig(secret=secret, run=RUN, listen=f"/ip4/{address}/tcp/0")
        async with open_network(config, store=self._store, inbox=self.hear) as network:
            say({"address": network.addresses[0]})
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                words = json.loads(line)
                if "dial" in words:
                    for other in words["dial"]:
                        await network.dial(other)
                    say({"dialled": True})
                elif "codec" not in words:
                    others = words["group"] - 1
                    await network.wait_for(lambda: len(network.subscribers()) >= others)  # noqa: B023
                    say({"connected": others})
                else:
                    say(await self.average(network, words))

    async def average(self, network: Network, words: dict[str, Any]) -> dict[str, Any]:
        """Average once; tell when each part was done and what the update weighed."""
        codec, peers, round_ = CodecConfig.model_validate(words["codec"]), words["group"], words["round"]
        for name in self._held:
            self._store.delete(name)  # of the last round, or this one would find here what it is to fetch
        own, _ = await trio.to_thread.run_sync(compress, codec, self._vector)
        data = await trio.to_thread.run_sync(encode, own)
        digest = self._store.put(data)
        self._held = [digest]
        compressed = time.monotonic()
        told = {"round": round_, "number": self._number, "peer": network.peer_id, "update": digest}
        await network.publish(json.dumps(told).encode())
        symbols, limit = {self._number: own}, max_update_bytes(codec, self._vector.size)

        async def fetch(number: int, peer: str, name: str) -> None:
            self._held.append(name)
            path = await network.fetch(name, max_size=limit, deadline_s=300, providers=[peer])
            symbols[number] = await trio.to_thread.run_sync(
                lambda: decode(path.read_bytes(), codec=codec, size=self._vector.size)
            )

        async with trio.open_nursery() as nursery:
            asked: set[int] = {self._number}
            while len(asked) < peers:
                news = self._news
                for number, (peer, name) in self._announced.get(round_, {}).items():
                    if number not in asked:
                        asked.add(number)
                        nursery.start_soon(fetch, number, peer, name)
                if len(asked) < peers:
                    await news.wait()
        fetched = time.monotonic()
        zero = OuterState(np.zeros_like(self._vector))
        updates = [symbols[number] for number in sorted(symbols)]
        end = await trio.to_thread.run_sync(aggregate, self._manifest, zero, updates)
        done = time.monotonic()
        return {
            "done": done,
            "group": len(updates),
            "fetch_s": fetched - compressed,
            "result": self._save("ours", -end.parameters),
            "plain": self._save("plain", mean(updates)),
        }

    def _save(self, name: str, vector: Floats) -> str:
        path = self._directory / f"{name}-{self._number}.npy"
        np.save(path, vector)
        return str(path)


def mean(updates: Sequence[Symbols]) -> Floats:
    """Return the mean of what updates say, none of them clipped."""
    total = np.zeros(updates[0].size)
    for update in updates:
        total += decode_dense(update, update.size)
    return (total / len(updates)).astype(np.float32)


def say(words: dict[str, Any]) -> None:
    """Answer the parent."""
    print(json.dumps(words), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Take part until stdin ends."""
    address, vector, directory, number = arguments
    peer = Peer(int(number), np.load(vector, allow_pickle=False), Path(directory))
    trio.run(peer.run, address)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
