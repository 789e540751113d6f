"""One of our peers that train, without coordinator, chain and verifiers: what is left is the work and the exchange.

`python -m tests.bench._training_peer ADDRESS DIRECTORY NUMBER PEERS SEED`. The product's inner steps, codec, second
moments, host, gossip, exchange and outer step; nobody gates or judges updates. A peer among one trains alone and sends
nothing.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trio

from protocol.manifest import RunManifest
from protocol.tensors import Floats
from tests.bench._meeting import Meeting, hear, open_meeting, say
from tests.bench._peers import Peer, alone
from training.corpus import Shard
from training.inner import prepare_process
from training.outer import aggregate, initial_state


class Course:
    """Keep what the parameters were, and since when."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._taken: list[dict[str, Any]] = []

    def note(self, steps: int, parameters: Floats) -> None:
        """Keep parameters after so many of a peer's own steps."""
        now = time.monotonic()
        path = self._directory / f"{self._name}-{len(self._taken)}.npy"
        np.save(path, parameters)
        self._taken.append({"at": now, "steps": steps, "parameters": str(path)})

    @property
    def taken(self) -> list[dict[str, Any]]:
        """Return every note: at, steps, parameters."""
        return self._taken


class Member:
    """Train round by round, as a contributor does."""

    def __init__(self, directory: Path, number: int, seed: int) -> None:
        self._manifest = RunManifest.model_validate_json((directory / "run.json").read_bytes())
        self._shard = Shard.open(self._manifest.dataset, directory)
        self._start = np.load(directory / "start.npy", allow_pickle=False)
        self._number, self._seed = number, seed
        self._course = Course(directory, f"ours-{number}")

    async def rounds(self, meeting: Meeting) -> dict[str, Any]:
        """Play all rounds with others."""
        manifest, peer = self._manifest, self._peer(self._manifest)
        state = initial_state(manifest, self._start)
        for round_ in range(manifest.rounds):
            own = await trio.to_thread.run_sync(peer.update, self._seed, round_, state)
            updates = await meeting.share(round_, manifest, own)
            ordered = [updates[number] for number in sorted(updates)]
            state = await trio.to_thread.run_sync(aggregate, manifest, state, ordered)
            if self._number == 0:  # all have the same
                self._note(round_, state.parameters)
        return {"course": self._course.taken, "done": time.monotonic()}

    def alone(self) -> dict[str, Any]:
        """Take the steps of all rounds and exchange nothing."""
        peer, parameters = self._peer(alone(self._manifest)), self._start
        for round_ in range(self._manifest.rounds):
            parameters, _ = peer.unit(self._seed, round_, parameters)
            self._note(round_, parameters)
        return {"course": self._course.taken, "done": time.monotonic()}

    def _peer(self, manifest: RunManifest) -> Peer:
        return Peer(manifest, self._shard, self._number + 1)

    def _note(self, round_: int, parameters: Floats) -> None:
        self._course.note((round_ + 1) * self._manifest.inner.steps, parameters)


async def with_others(member: Member, address: str, directory: Path, number: int) -> None:
    """Train with others when the parent says so."""
    async with open_meeting(number, address, directory) as meeting:
        while await hear() is not None:
            say(await member.rounds(meeting))


def main(arguments: Sequence[str]) -> int:
    """Take part until stdin ends."""
    address, directory, number, peers, seed = arguments
    prepare_process(1)
    member = Member(Path(directory), int(number), int(seed))
    if int(peers) > 1:
        trio.run(with_others, member, address, Path(directory), int(number))
        return 0
    say({"ready": True})
    while sys.stdin.readline():
        say(member.alone())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
