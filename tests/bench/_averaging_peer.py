"""One of our peers that average: the product's host, gossip, exchange, codec and outer step, and nothing else.

`python -m tests.bench._averaging_peer ADDRESS VECTOR DIRECTORY NUMBER`. Asked by its parent, it compresses its vector,
gives the update to the others (`_meeting`), and takes the mean of all as an outer step of rate one from zero.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio

from protocol.manifest import CodecConfig, RunManifest
from protocol.tensors import Floats
from protocol.update import Symbols
from tests.bench._meeting import Meeting, hear, open_meeting, say
from training.codec import compress, decode_dense
from training.outer import OuterState, aggregate


class Peer:
    """Average with others, round by round."""

    def __init__(self, vector: Floats, directory: Path, number: int) -> None:
        self._vector, self._directory, self._number = vector, directory, number
        self._end, self._updates = vector, list[Symbols]()
        self._manifest = RunManifest.model_validate_json((directory / "manifest.json").read_bytes())

    async def run(self, address: str) -> None:
        """Answer the parent's lines until they end."""
        async with open_meeting(self._number, address, self._directory) as meeting:
            while (words := await hear()) is not None:
                say(await self._average(meeting, words["round"], CodecConfig.model_validate(words["codec"])))
                await hear()  # what follows is not measured
                say(
                    {
                        "result": self._save("ours", -self._end),
                        "plain": self._save("plain", mean(self._updates)),
                    }
                )

    async def _average(self, meeting: Meeting, round_: int, codec: CodecConfig) -> dict[str, Any]:
        own, _ = await trio.to_thread.run_sync(compress, codec, self._vector)
        compressed = time.monotonic()
        symbols = await meeting.share(round_, self._manifest.model_copy(update={"codec": codec}), own)
        fetched = time.monotonic()
        zero = OuterState(np.zeros_like(self._vector))
        updates = [symbols[number] for number in sorted(symbols)]
        end = await trio.to_thread.run_sync(aggregate, self._manifest, zero, updates)
        done = time.monotonic()
        self._end, self._updates = end.parameters, updates
        return {"done": done, "group": len(updates), "fetch_s": fetched - compressed}

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


def main(arguments: Sequence[str]) -> int:
    """Take part until stdin ends."""
    address, vector, directory, number = arguments
    peer = Peer(np.load(vector, allow_pickle=False), Path(directory), int(number))
    trio.run(peer.run, address)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
