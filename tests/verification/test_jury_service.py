"""Jurors' daemons on a real chain with the real jury; only what they find is given to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from contracts.anvil import request, set_coin
from contracts.cases import CaseState
from contracts.jury import vote_digest
from contracts.run import ChainRun
from contracts.types import CaseOutcome, CaseStage, Role
from protocol.beacon_config import BlockBeacon
from protocol.errors import LedgerError, NetworkError
from tests.contracts.conftest import JURY, MIN_STAKE, RUN, TOKEN, Network, chain, deployed, network
from verification.bench import NotServed
from verification.court import Court
from verification.journal import VerdictJournal
from verification.juror import SealVote, Task, Vote, subject_of
from verification.jury_service import JuryDuty
from verification.unit import Finding

__all__ = ["chain", "deployed", "network"]

NAMES = ("vera", "vito", "vic")
FALSE = Finding(CaseOutcome.FALSE, bytes([9]) * 32, "segment 2 is far away")
RIGHT = Finding(CaseOutcome.RIGHT, bytes([8]) * 32)


@dataclass
class Given:
    """Finds what a test says; what it raises stands for a segment that is not open."""

    finding: Finding | Exception
    cut_off: bool = False
    asked: list[int] = field(default_factory=list)

    async def find(self, case: CaseState, holders: Iterable[int]) -> Finding:
        self.asked.append(case.case)
        if isinstance(self.finding, Exception):
            raise self.finding
        return self.finding

    def check_connection(self) -> None:
        if self.cut_off:
            raise NetworkError("no peer is connected")

    async def ask_back(self, cases: Iterable[CaseState]) -> None:
        """Nobody is there to be asked."""


class Duty(JuryDuty):
    """A juror's duty that counts what it has under way."""

    busy = 0

    async def _do(self, task: Task) -> None:
        self.busy += 1
        try:
            await super()._do(task)
        finally:
            self.busy -= 1


@dataclass
class Juror:
    """One juror's daemon, as far as the jury is concerned; `duty` is there while it runs."""

    name: str
    number: int
    court: Court
    finder: Given
    directory: Path
    duty: Duty | None = None
    moved: trio.Event = field(default_factory=trio.Event)

    def touch(self) -> None:
        self.moved.set()
        self.moved = trio.Event()

    @property
    def chain(self) -> ChainRun:
        return self.court.chain

    async def live(self) -> None:
        path = self.directory / f"{self.name}.sqlite"
        with VerdictJournal.open(path, self.court.address) as journal:
            async with trio.open_nursery() as nursery:
                self.duty = Duty(self.court, journal, self.finder, nursery, lambda: self.moved, self.touch)
                await self.duty._look()
                await self.duty.run()


@dataclass
class Trial:
    """A ledger with one anchored round, an accusation, and its jurors."""

    network: Network
    jurors: list[Juror]
    number: int = 0

    def accuse(self) -> int:
        accuser = self.network.person("accuser")
        opened = self.network.ledger.jury.accuse(accuser, RUN, 0, 1, 2, accuser.address)
        self.number = opened.case
        return self.number

    def case(self) -> CaseState:
        run = self.jurors[0].chain
        run.refresh()
        return next(one for one in run.every_case() if one.case == self.number)

    async def play(self, until: Callable[[CaseState], bool], jurors: list[Juror]) -> CaseState:
        """Let daemons work and make a block whenever all of them wait, until the case is as wanted."""
        async with trio.open_nursery() as nursery:
            for juror in jurors:
                nursery.start_soon(juror.live)
            while not until(case := await trio.to_thread.run_sync(self.case)):
                for juror in jurors:
                    await trio.to_thread.run_sync(juror.chain.refresh)
                    juror.touch()
                await trio.testing.wait_all_tasks_blocked()
                if not any(juror.duty is None or juror.duty.busy for juror in jurors):
                    self.network.chain.mine(1)
            nursery.cancel_scope.cancel()
        for juror in jurors:
            juror.chain.refresh()
        return case


@pytest.fixture
def trial(network: Network, tmp_path: Path) -> Iterator[Trial]:
    network.register("alice")
    jurors = []
    for name in NAMES:
        number = network.register(name, Role.VERIFIER)
        network.ledger.jury.join(network.person(name), 1)
        set_coin(network.chain.w3, network.peer(name).address, TOKEN)
        run = ChainRun(network.ledger, RUN)
        run.follow_beacon(BlockBeacon(), None)
        court = Court.open(run, tmp_path / name, network.peer(name), number)
        jurors.append(Juror(name, number, court, Given(FALSE), tmp_path))
    network.open_run()
    network.play_round(0)
    yield Trial(network, jurors)
    for juror in jurors:
        juror.court.close()


def draw(trial: Trial) -> CaseState:
    trial.network.chain.mine(3)
    trial.network.ledger.jury.draw(trial.network.treasury, trial.number)
    return trial.case()


async def test_jurors_bring_an_accusation_to_its_end_with_their_hot_keys(trial: Trial) -> None:
    trial.accuse()
    ended = await trial.play(lambda case: case.closed, trial.jurors)
    assert (ended.outcome, ended.vote) == (CaseOutcome.FALSE, vote_digest(3, FALSE.result))
    assert all(seat.outcome == 3 for seat in ended.seats)
    ledger = trial.network.ledger
    assert trial.jurors[0].chain.slashed() == {1: MIN_STAKE}
    seated = {seat.juror for seat in ended.seats}
    for juror in trial.jurors:
        earned = ledger.jury.credit(trial.network.person(juror.name).address)
        assert (earned > 0) == (juror.number in seated), "pay goes to the wallet"
        assert ledger.jury.credit(juror.court.address) == 0
        assert juror.duty is not None
        status = juror.duty.status()
        assert status["slots"] == 1
        assert [one["stage"] for one in status["closed"]] == ["closed"] * (juror.number in seated)
        assert (status["cases"], status["warnings"], status["error"]) == ([], [], None)
        assert juror.finder.asked in ([], [trial.number])


async def test_a_juror_restarted_between_sealing_and_revealing_reveals_what_it_sealed(trial: Trial) -> None:
    trial.accuse()
    first = draw(trial).seats[0].juror
    one = next(juror for juror in trial.jurors if juror.number == first)
    others = [juror for juror in trial.jurors if juror is not one]

    def has_sealed(case: CaseState) -> bool:
        return all(seat.sealed for seat in case.seats if seat.juror == first)

    await trial.play(has_sealed, [one])
    one.finder = Given(RIGHT)  # what it would find now
    again = [one, *others]
    ended = await trial.play(lambda case: case.stage is CaseStage.RULED, again)
    assert {seat.outcome for seat in ended.seats} == {CaseOutcome.FALSE}
    assert {seat.result for seat in ended.seats} == {FALSE.result}
    assert one.finder.asked == []


def test_a_vote_that_was_sent_before_a_kill_is_not_sent_again(trial: Trial) -> None:
    trial.accuse()
    case = draw(trial)
    seat = case.seats[0]
    one = next(juror for juror in trial.jurors if juror.number == seat.juror)
    salt, w3 = bytes([5]) * 32, trial.network.chain.w3
    vote = Vote(case.case, False, seat.index, subject_of(case), FALSE.outcome, FALSE.result, salt)
    before = w3.eth.get_transaction_count(one.court.address)
    request(w3, "evm_setAutomine", False)
    try:
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(one.court.act, SealVote(case, vote))
            while w3.eth.get_transaction_count(one.court.address, "pending") == before:
                assert not sent.done(), sent.result()
            one.court.close()
            with pytest.raises(LedgerError, match="stays in its outbox"):
                sent.result()
        again = Court.open(one.chain, one.directory / one.name, trial.network.peer(one.name), one.number)
    finally:
        request(w3, "evm_setAutomine", True)
    trial.network.chain.mine(1)
    try:
        receipt = again.act(SealVote(case, vote))
        assert receipt is not None
        assert w3.eth.get_transaction_count(one.court.address) == before + 1
        assert trial.case().seats[seat.index].sealed
    finally:
        again.close()


def test_a_hot_key_with_tokens_disputes_a_root_once(trial: Trial) -> None:
    network, court, other = trial.network, trial.jurors[0].court, trial.jurors[1].court
    coordinator, ledger = network.person("coordinator"), network.ledger
    ledger.propose_rewards(coordinator, RUN, 0, bytes(32), bytes([3]) * 32, 1)
    court.chain.refresh()
    proposed = court.chain.pending()
    assert proposed is not None
    with pytest.raises(LedgerError, match="holds 0 wei of tokens"):
        court.dispute(proposed)
    ledger.transfer(network.treasury, court.address, JURY.case_bond)
    assert court.dispute(proposed) == 1
    assert ledger.balance_of(court.address) == 0
    assert other.dispute(proposed) is None, "it is disputed"
    pending = ledger.pending_rewards(RUN)
    assert pending is not None
    assert pending.open == 1


async def test_a_silent_juror_pays_and_is_told_so(trial: Trial) -> None:
    trial.accuse()
    case = draw(trial)
    number = case.seats[0].juror
    silent = next(juror for juror in trial.jurors if juror.number == number)
    seats = sum(seat.juror == number for seat in case.seats)
    await trial.play(lambda case: case.closed, [one for one in trial.jurors if one is not silent])
    info = trial.network.ledger.jury.juror(number)
    assert info.bonded_wei == JURY.slot_stake - seats * JURY.silent_penalty
    await trial.play(
        lambda case: silent.duty is not None and bool(silent.duty.status()["warnings"]), [silent]
    )
    assert silent.duty is not None
    assert f"{seats * JURY.silent_penalty} wei are owed" in silent.duty.warnings()[0]


async def test_what_nobody_opens_is_voted_unavailable_late_but_never_by_who_is_cut_off(trial: Trial) -> None:
    trial.accuse()
    case = draw(trial)
    number = case.seats[0].juror
    for juror in trial.jurors:
        juror.finder = Given(NotServed("nothing was opened"), cut_off=juror.number == number)
    ended = await trial.play(lambda case: case.stage is CaseStage.RULED, trial.jurors)
    votes = {seat.juror: (seat.outcome, seat.result) for seat in ended.seats}
    assert votes.pop(number) == (0, b"")
    assert set(votes.values()) <= {(CaseOutcome.UNAVAILABLE, bytes(32))}
    assert all(len(juror.finder.asked) > 1 for juror in trial.jurors if juror.number in votes)


def test_only_a_juror_without_coin_needs_some(trial: Trial) -> None:
    one, other, third = trial.jurors
    jury = trial.network.ledger.jury
    jury.resign(trial.network.person(one.name), [0])
    set_coin(trial.network.chain.w3, other.court.address, 0)
    standing = one.court.standing()
    assert (standing.info.slots, standing.needs_coin) == (0, False)
    assert other.court.standing().needs_coin
    assert not third.court.standing().needs_coin
