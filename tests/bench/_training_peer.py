"""One of our peers that train, without coordinator, chain and verifiers: what is left is the work and the exchange.

`python -m tests.bench._training_peer ADDRESS DIRECTORY NUMBER PEERS`. The product's inner steps, codec, host, gossip,
exchange and outer step; nobody gates or judges updates. A peer among one trains alone and sends nothing.
"""

import json
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
from training.codec import compress
from training.corpus import Shard
from training.inner import InnerState, InnerTrainer, prepare_process
from training.outer import OuterState, aggregate, initial_state


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


class Peer:
    """Train round by round, as a contributor does."""

    def __init__(self, directory: Path, number: int) -> None:
        self._manifest = RunManifest.model_validate_json((directory / "run.json").read_bytes())
        self._offsets = np.load(directory / f"offsets-{number}.npy", allow_pickle=False)
        self._start = np.load(directory / "start.npy", allow_pickle=False)
        self._trainer = InnerTrainer(self._manifest, Shard.open(self._manifest.dataset, directory))
        self._number = number
        self._course = Course(directory, f"ours-{number}")

    async def rounds(self, meeting: Meeting) -> dict[str, Any]:
        """Play all rounds with others."""
        manifest, inner = self._manifest, self._manifest.inner
        state, carried = initial_state(manifest, self._start), InnerState.fresh(self._start)
        residual: Floats | None = None
        for round_ in range(manifest.rounds):
            begun = InnerState(state.parameters, carried.exp_avg, carried.exp_avg_sq, carried.steps)
            carried = await trio.to_thread.run_sync(self._train, begun, round_ * inner.steps, inner.steps)
            change = state.parameters - carried.parameters
            own, residual = await trio.to_thread.run_sync(compress, manifest.codec, change, residual)
            updates = await meeting.share(round_, manifest.codec, own)
            ordered = [updates[number] for number in sorted(updates)]
            state = await trio.to_thread.run_sync(aggregate, manifest, state, ordered)
            self._note((round_ + 1) * inner.steps, state)
        return {"course": self._course.taken, "done": time.monotonic()}

    def alone(self) -> dict[str, Any]:
        """Take the steps of all rounds and exchange nothing."""
        state, inner = InnerState.fresh(self._start), self._manifest.inner
        for first in range(0, self._manifest.total_steps, inner.steps):
            state = self._train(state, first, inner.steps)
            self._course.note(first + inner.steps, state.parameters)
        return {"course": self._course.taken, "done": time.monotonic()}

    def _train(self, start: InnerState, first: int, steps: int) -> InnerState:
        self._trainer.load(start)
        self._trainer.run(self._offsets[first : first + steps], first)
        return self._trainer.state()

    def _note(self, steps: int, state: OuterState) -> None:
        if self._number == 0:  # all have the same
            self._course.note(steps, state.parameters)


async def with_others(peer: Peer, address: str, directory: Path, number: int) -> None:
    """Train with others when the parent says so."""
    async with open_meeting(number, address, directory) as meeting:
        while await hear() is not None:
            say(await peer.rounds(meeting))


def main(arguments: Sequence[str]) -> int:
    """Take part until stdin ends."""
    address, directory, number, peers = arguments
    prepare_process(1)
    peer = Peer(Path(directory), int(number))
    if int(peers) > 1:
        trio.run(with_others, peer, address, Path(directory), int(number))
        return 0
    say({"ready": True})
    while sys.stdin.readline():
        print(json.dumps(peer.alone()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
