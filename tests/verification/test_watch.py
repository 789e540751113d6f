"""A verifier's look at reward roots while they can be disputed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import trio

from contracts.events import RewardsProposed
from protocol.errors import LedgerError
from protocol.messages import RoundRecord
from tests.verification.anybody import Anybody, Duty, said
from tests.verification.simchain import SimChain
from verification.court import Court
from verification.watch import RootWatch


@dataclass
class Bench:
    """A court that notes what is disputed."""

    chain: SimChain
    disputed: list[int] = field(default_factory=list)
    trouble: str = ""

    def dispute(self, proposed: RewardsProposed) -> int:
        if self.trouble:
            raise LedgerError(self.trouble)
        self.disputed.append(proposed.block)
        return 7


@dataclass
class Look:
    anybody: Anybody
    bench: Bench
    duty: Duty
    watch: RootWatch

    @classmethod
    def of(cls, anybody: Anybody, directory: Path, *, disputes: bool = False) -> Look:
        anybody.chain.rewards = {}
        bench, duty = Bench(anybody.chain), Duty(anybody, directory)
        watch = RootWatch(cast("Court", bench), duty, trio.Event, disputes=disputes)
        return cls(anybody, bench, duty, watch)


async def test_a_right_root_is_looked_at_once_and_nobody_is_alarmed(anybody: Anybody, tmp_path: Path) -> None:
    look = Look.of(anybody, tmp_path, disputes=True)
    await look.watch.look()
    assert look.watch.status() == []
    anybody.chain.propose(0, *said(anybody, 0))
    for _ in range(2):
        await look.watch.look()
    (shown,) = look.watch.status()
    assert (shown["epoch"], shown["result"], shown["reason"]) == (0, "right", "")
    assert (look.watch.alerts(), look.bench.disputed, look.duty.recomputes) == ([], [], False)


async def test_a_root_that_a_reorganisation_puts_in_the_others_place_is_looked_at_too(
    anybody: Anybody, tmp_path: Path
) -> None:
    look = Look.of(anybody, tmp_path)
    proposed = anybody.chain.propose(0, *said(anybody, 0))
    await look.watch.look()
    assert look.watch.alerts() == []
    anybody.chain.proposed[0] = replace(proposed, root=bytes([7]) * 32)
    await look.watch.look()
    assert "is WRONG" in look.watch.alerts()[0]


async def test_a_wrong_root_is_told_with_the_command_that_disputes_it(
    anybody: Anybody, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    look = Look.of(anybody, tmp_path)
    proposed = anybody.chain.propose(0, bytes([7]) * 32, 1)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await look.watch.look()
    (alert,) = look.watch.alerts()
    assert [one.message for one in caplog.records] == [alert], "once"
    assert "is WRONG: the rules give the root " + said(anybody, 0)[0].hex() in alert
    assert (
        f"by block {proposed.final_at - 1}: `murmur dispute rewards {anybody.bed.run} --ground root`" in alert
    )
    assert look.watch.status()[0]["result"] == "wrong"
    assert look.bench.disputed == [], "nobody said that it may"
    anybody.chain.proposed.clear()
    assert look.watch.alerts() == [], "it was cancelled"


async def test_a_wrong_root_is_disputed_once_where_the_operator_says_so(
    anybody: Anybody, tmp_path: Path
) -> None:
    look = Look.of(anybody, tmp_path, disputes=True)
    look.bench.trouble = "the hot key holds no tokens"
    proposed = anybody.chain.propose(0, bytes([7]) * 32, 1)
    await look.watch.look()
    assert look.bench.disputed == []
    look.bench.trouble = ""
    await look.watch.look()
    assert look.bench.disputed == [], "once a block"
    anybody.chain.height += 1
    for _ in range(2):
        await look.watch.look()
        anybody.chain.height += 1
    assert look.bench.disputed == [proposed.block]


async def test_nothing_is_disputed_when_it_is_too_late(anybody: Anybody, tmp_path: Path) -> None:
    look = Look.of(anybody, tmp_path, disputes=True)
    proposed = anybody.chain.propose(0, bytes([7]) * 32, 1)
    anybody.chain.height = proposed.final_at - 1
    await look.watch.look()
    assert "too late to dispute it" in look.watch.alerts()[0]
    assert look.bench.disputed == []


async def test_missing_messages_are_asked_for_and_told_in_time_but_never_disputed_by_itself(
    anybody: Anybody, tmp_path: Path
) -> None:
    lost = anybody.lose(RoundRecord, 1)
    look = Look.of(anybody, tmp_path, disputes=True)
    proposed = anybody.chain.propose(0, *said(anybody, 0))
    await look.watch.look()
    assert (look.watch.alerts(), look.duty.recomputes) == ([], True)
    look.duty.peer.pool.round = 40
    await look.duty.ask_back([])
    assert look.duty.peer.ask_since == 1
    anybody.chain.height += 3
    await look.watch.look()
    (alert,) = look.watch.alerts()
    assert "cannot be recomputed: nobody delivers the record of round 1" in alert
    assert "--ground data" in alert
    assert look.bench.disputed == []
    look.duty.peer.pool.add(lost)
    anybody.chain.height += 1
    await look.watch.look()
    assert look.watch.status()[0]["result"] == "right"
    assert (look.duty.recomputes, look.watch.alerts()) == (False, [])
    anybody.chain.proposed[0] = replace(proposed, final_at=proposed.final_at + 50)  # a jury was hung
    await look.watch.look()
    assert look.watch.status()[0]["final_at"] == proposed.final_at + 50
