"""Somebody who holds the messages of a played run, and looks at its chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from protocol.beacons import SignatureFiles
from protocol.merkle import reward_tree
from protocol.messages import Body, Signed
from protocol.peer import Peer, PeerConfig
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from tests.verification.simchain import SimChain
from tests.verification.testbed import Testbed
from verification.bench import ReplayBench
from verification.inquiry import Inquiry
from verification.rewards import DueRoot, KnownRun, due_root, judge_root, known_run
from verification.unit import Finding

NOBODY = "0x" + "00" * 20


@dataclass
class Anybody:
    """Somebody's messages of the played run, and its own copy of the chain."""

    bed: Testbed
    chain: SimChain
    messages: list[Signed[Body]]

    @property
    def pool(self) -> MessagePool:
        cases = {case.label for round_ in range(3) for case in self.chain.cases(round_)}
        pool = MessagePool(self.bed.manifest, partial(speaker_of, self.chain), lambda round_: cases)
        pool.round = self.bed.manifest.rounds
        for message in self.messages:
            pool.add(message)
        return pool

    def known(self, block: int | None = None, proposer: str = NOBODY) -> KnownRun:
        before = self.chain.as_of(self.chain.height if block is None else block)
        return known_run(self.bed.manifest, before, self.pool, SignatureFiles(Path("beacons")), proposer)

    def due(self, epoch: int, block: int | None = None, proposer: str = NOBODY) -> DueRoot | None:
        return due_root(self.known(block, proposer), epoch)

    def find(self, epoch: int, root: bytes, total: int) -> Finding:
        proposed = self.chain.propose(epoch, root, total)
        return judge_root(self.known(proposed.block - 1), proposed)

    def lose(self, kind: type[Body], round_: int) -> Signed[Body]:
        """Lose the first message of a kind that was said in a round."""
        lost = next(one for one in self.messages if isinstance(one.body, kind) and one.round == round_)
        self.messages.remove(lost)
        return lost

    def abandon(self) -> None:
        """Let the coordinator vanish before it has closed the run."""
        self.chain.final, self.chain.rewards = None, {}
        self.chain.claimed = []
        self.chain.height = max(self.chain.anchors.values()) + 20


def said(anybody: Anybody, epoch: int) -> tuple[bytes, int]:
    """Return the root and the total of an epoch's table, as its coordinator said it."""
    entries = anybody.bed.settlement.rewards[epoch].body.entries
    return reward_tree(entries).root, sum(one.cumulative_wei for one in entries)


class Duty(Inquiry):
    """A juror's inquiry over messages and a chain that are given."""

    def __init__(self, anybody: Anybody, directory: Path) -> None:
        self.peer = SimpleNamespace(
            manifest=anybody.bed.manifest,
            chain=anybody.chain,
            pool=anybody.pool,
            config=PeerConfig(directory, anybody.bed.run),
            ask_since=None,
        )
        super().__init__(cast("Peer", self.peer), cast("ReplayBench", None), anybody.chain)
