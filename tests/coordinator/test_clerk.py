"""The coordinator before a real jury: it accuses what verifiers proved false, and moves every case on."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from contracts.run import ChainRun
from contracts.types import CaseOutcome, CaseStage, Role
from coordinator import sending
from coordinator.clerk import Clerk
from coordinator.sending import Sending
from coordinator.state import Accuse
from coordinator.store import Store
from coordinator.tables import DATABASE_FILE
from protocol.beacon_config import BlockBeacon
from tests.contracts.conftest import JURY, LADDER, MIN_STAKE, RUN, Network, chain, deployed, network
from tests.contracts.court import ballot, court, look

__all__ = ["chain", "deployed", "network"]

EVIDENCE = "e1" * 32


def follow(network: Network) -> ChainRun:
    """Return a view of the run of its own."""
    run = ChainRun(network.ledger, RUN)
    run.follow_beacon(BlockBeacon(), None)
    run.refresh()
    return run


async def attend(*clerks: Clerk) -> None:
    """Let clerks look once, and wait until they have done what they found."""
    async with trio.open_nursery() as nursery:
        for clerk in clerks:
            clerk.look(nursery)


def accuse(network: Network) -> int:
    accuser, finder = network.person("accuser"), network.person("finder").address
    return network.ledger.jury.accuse(accuser, RUN, 0, 1, 2, finder).case


async def test_the_clerk_draws_rules_and_closes_in_turn(network: Network) -> None:
    run, jurors = court(network)
    run.follow_beacon(BlockBeacon(), None)
    clerk, case = Clerk(run, network.person("coordinator")), accuse(network)
    look(run, case)
    await attend(clerk)
    assert look(run, case).stage is CaseStage.CALLED, "the beacon that draws the jury is still to come"
    network.chain.mine(3)
    look(run, case)
    await attend(clerk)
    assert look(run, case).stage is CaseStage.VOTING
    ballot(network, run, case, jurors, CaseOutcome.FALSE)
    look(run, case)
    await attend(clerk)
    assert look(run, case).stage is CaseStage.RULED
    network.chain.mine(JURY.appeal_blocks + 1)
    look(run, case)
    await attend(clerk)
    assert look(run, case).closed
    height = run.height
    await attend(clerk)
    run.refresh()
    assert run.height == height, "nothing is left to do"


async def test_a_refusal_because_somebody_else_was_quicker_is_no_trouble(
    network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    run, _ = court(network)
    jury, finder = network.ledger.jury, network.person("finder").address
    cases = [jury.accuse(network.person("accuser"), RUN, 0, 1, segment, finder).case for segment in range(2)]
    network.chain.mine(3)
    ours, others = follow(network), follow(network)
    jury.draw(network.person("stranger"), cases[0])
    clerks = Clerk(ours, network.person("coordinator")), Clerk(others, network.person("another"))
    with caplog.at_level(logging.INFO, "coordinator.clerk"):
        await attend(*clerks)  # they see neither the stranger's draw nor each other's
        await attend(*clerks)
    assert len(caplog.records) == 8, "all tried, and none was stuck"
    assert {one.levelname for one in caplog.records} == {"INFO"}
    for case in cases:
        found = look(run, case)
        assert (found.stage, len(found.seats)) == (CaseStage.VOTING, JURY.seats)


# Accusations


class Accuser:
    """Send accusations as the coordinator's service does, with its database."""

    def __init__(self, network: Network, run: ChainRun, store: Store, directory: Path) -> None:
        self._store, self._database = store, directory / DATABASE_FILE
        self._sending = Sending(run, network.person("coordinator"), self._write, lambda event: None)
        self.finder = network.person("finder").address

    async def _write(self, change: Callable[[Any], Any]) -> Any:
        with self._store.write() as tx:
            return change(tx)

    @property
    def trouble(self) -> dict[Any, str]:
        """What the status shows."""
        return self._sending.trouble

    async def accuse(self, segment: int = 2) -> None:
        await self._sending.perform(Accuse(0, 1, segment, self.finder, EVIDENCE))
        assert self.trouble == {}

    def rows(self) -> list[tuple[str, int, int, str]]:
        """Return what became of the transactions."""
        connection = sqlite3.connect(self._database)
        try:
            return [
                tuple(row)
                for row in connection.execute("SELECT kind, round, number, state FROM transactions")
            ]
        finally:
            connection.close()


@pytest.fixture
def accuser(network: Network, world: Any, folder: Path) -> Iterator[tuple[Accuser, ChainRun]]:
    network.register("alice")
    network.open_run()
    network.play_round(0)
    network.register("vera", Role.VERIFIER)
    run = follow(network)
    with Store.open(folder, world.manifest, clock=lambda: 0.0) as store:
        yield Accuser(network, run, store, folder), run


async def test_what_verifiers_proved_false_is_accused_with_finder_and_evidence(
    network: Network, accuser: tuple[Accuser, ChainRun]
) -> None:
    coordinator, run = accuser
    network.ledger.jury.join(network.person("vera"), JURY.seats)
    await coordinator.accuse()
    run.refresh()
    (case,) = run.every_case()
    assert (case.round, case.number, case.segment) == (0, 1, 2)
    assert (case.appellant, case.evidence.hex()) == (network.person("coordinator").address, EVIDENCE)
    info = network.ledger.jury.case(case.case)
    assert info is not None
    assert info.finder == coordinator.finder
    assert [(one.contests, one.outcome) for one in run.cases(0)] == [(False, None)]
    assert coordinator.rows() == [("accuse", 0, 1, "mined")]
    assert run.slashed() == {}
    operator = network.ledger.operator(1)
    assert operator is not None
    assert operator.stake_wei == MIN_STAKE


async def test_no_second_case_is_opened_whether_or_not_the_first_was_seen(
    network: Network, accuser: tuple[Accuser, ChainRun]
) -> None:
    coordinator, run = accuser
    network.ledger.jury.join(network.person("vera"), JURY.seats)
    case = accuse(network)
    await coordinator.accuse()
    assert coordinator.rows() == [("accuse", 0, 1, "done before")], "the ledger refused it"
    run.refresh()
    await coordinator.accuse()
    assert len(coordinator.rows()) == 1, "it was not even tried"
    assert [one.case for one in run.every_case()] == [case]
    await coordinator.accuse(segment=3)
    run.refresh()
    assert len(run.every_case()) == 2, "another segment is another case"


async def test_an_accusation_is_tried_again_until_it_can_be_made(
    network: Network, accuser: tuple[Accuser, ChainRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator, _ = accuser
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.01)
    refused = trio.Event()
    monkeypatch.setattr(sending.log, "warning", lambda *args: refused.set())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(coordinator.accuse)
        await refused.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert ["NoJurors" in one for one in coordinator.trouble.values()] == [True]
        await trio.to_thread.run_sync(network.ledger.jury.join, network.person("vera"), JURY.seats)
    assert coordinator.rows() == [("accuse", 0, 1, "mined")]


async def test_an_accusation_after_the_window_is_given_up(
    network: Network, accuser: tuple[Accuser, ChainRun]
) -> None:
    coordinator, run = accuser
    network.ledger.jury.join(network.person("vera"), JURY.seats)
    network.chain.mine(LADDER.window_blocks + 1)
    await coordinator.accuse()
    run.refresh()
    assert run.every_case() == ()
    assert coordinator.rows() == [("accuse", 0, 1, "refused")]
