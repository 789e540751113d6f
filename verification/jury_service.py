"""A juror's work beside a verifier's: find out, vote, reveal, and the steps that nobody else took."""

import logging
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from contracts.cases import OUTCOMES, CaseState
from contracts.reverts import LedgerRevert
from contracts.types import CaseStage
from protocol.errors import LedgerError, MurmurError
from verification.bench import NotServed
from verification.court import Court, Standing
from verification.inquiry import Finder
from verification.journal import VerdictJournal
from verification.juror import (
    Find,
    RevealVote,
    SealVote,
    SeatKey,
    Task,
    Vote,
    own_seats,
    subject_of,
    task_key,
    tasks,
    vote_of,
)
from verification.unit import Finding, not_opened

log = logging.getLogger(__name__)

LOOK_S = 10.0  # between two looks at what the chain holds of us
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 10.0
AT_ONCE = 4  # cases that are looked into at the same time
# What the jury says when somebody, or an earlier life of this process, was there before us.
DONE_BEFORE = {"AlreadyVoted", "WrongStage", "WindowClosed", "WindowOpen"}
NEWEST = 16  # closed cases that the status shows


class JuryDuty:
    """Serve one juror of a run's jury; a verifier without slots has nothing to do."""

    def __init__(
        self,
        court: Court,
        journal: VerdictJournal,
        finder: Finder,
        nursery: trio.Nursery,
        moved: Callable[[], trio.Event],
        touch: Callable[[], None],
    ) -> None:
        """Take the votes back that are on disk.

        Args:
            moved: returns an event that is set when chain or messages have moved.
            touch: makes that happen.
        """
        self._court = court
        self._journal = journal
        self._finder = finder
        self._nursery = nursery
        self._moved = moved
        self._touch = touch
        self._run = court.chain.run
        self._votes: dict[SeatKey, Vote] = {vote.key: vote for vote in journal.votes(self._run)}
        self._active: dict[tuple[str, SeatKey], Task] = {}
        self._looked_since: dict[tuple[int, bool], int] = {}  # height of our first look at a case
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._standing: Standing | None = None
        self._standing_at = -LOOK_S
        self._warned: list[str] = []
        self.trouble: MurmurError | None = None

    @property
    def _cases(self) -> tuple[CaseState, ...]:
        return self._court.chain.every_case()

    @property
    def _height(self) -> int:
        return self._court.chain.height

    async def run(self) -> None:
        """Do what is due until cancelled."""
        while True:
            moved = self._moved()
            await self._look()
            for task in self._due():
                key = task_key(task)
                if key not in self._active:
                    self._active[key] = task
                    self._nursery.start_soon(self._attend, task)
            await self._finder.ask_back(one.case for one in self._active.values() if isinstance(one, Find))
            await moved.wait()

    def _due(self) -> list[Task]:
        slots = self._standing is not None and self._standing.info.slots > 0
        court = self._court
        found = tasks(self._cases, self._height, court.terms, court.number, self._votes, holds_slots=slots)
        return list(found)

    async def _look(self) -> None:
        """Read what the chain holds of us, now and then."""
        if trio.current_time() - self._standing_at < LOOK_S:
            return
        self._standing_at = trio.current_time()
        try:
            self._standing = await trio.to_thread.run_sync(self._court.standing, abandon_on_cancel=True)
        except LedgerError as error:
            log.warning("the jury does not answer: %s", error)
            self.trouble = error
            return
        warnings = self.warnings()
        if warnings != self._warned:
            self._warned = warnings
            for warning in warnings:
                log.warning("%s", warning)

    async def _attend(self, task: Task) -> None:
        """Do a task, again and again with growing pauses while it is due and fails."""
        key, pause = task_key(task), FIRST_PAUSE_S
        try:
            while (current := next((one for one in self._due() if task_key(one) == key), None)) is not None:
                moved = self._moved()
                try:
                    await self._do(current)
                except LedgerRevert as error:
                    log.info("case %d: %s", current.case.case, error)
                    if error.name not in DONE_BEFORE:
                        self.trouble = error
                    await moved.wait()
                except MurmurError as error:
                    log.warning("case %d: %s", current.case.case, error)
                    self.trouble = error
                    await self._wait(current, pause)
                    pause = min(2 * pause, PAUSE_MAX_S)
                else:
                    self.trouble, pause = None, FIRST_PAUSE_S
                    if any(task_key(one) == key for one in self._due()):
                        await moved.wait()
        finally:
            del self._active[key]
            self._touch()

    async def _wait(self, task: Task, pause: float) -> None:
        """Wait so long, or until what is missing counts as not opened."""
        with trio.move_on_after(pause):
            while task in self._due() or not isinstance(task, Find):
                await self._moved().wait()

    async def _do(self, task: Task) -> None:
        if isinstance(task, Find):
            async with self._limiter:
                finding = await self._find(task)
            self._vote(task, finding)
            return
        act = partial(self._court.act, task)
        receipt = await trio.to_thread.run_sync(act, abandon_on_cancel=True)
        if receipt is None:
            return
        said = {SealVote: "sealed our vote", RevealVote: "revealed our vote"}.get(type(task), "moved on")
        log.info("case %d: %s in block %d", task.case.case, said, receipt.block)
        while self._height < receipt.block:
            await self._moved().wait()

    # what to vote for

    async def _find(self, task: Find) -> Finding:
        """Return what to vote for.

        Raises:
            MurmurError: nothing yet; it may still come, or is our own fault, of which nobody is found guilty.
        """
        case = task.case
        since = self._looked_since.setdefault((case.case, case.second), self._height)
        holders = {seat.juror for seat in case.seats} - {self._court.number}
        try:
            return await self._finder.find(case, sorted(holders))
        except NotServed as error:
            patience = max(1, self._court.terms.vote_blocks // 12)
            if not task.overdue or self._height < since + patience:
                raise
            self._finder.check_connection()
            return not_opened(error.message)

    def _vote(self, task: Find, finding: Finding) -> None:
        """Write our votes down, from which moment on they stand."""
        case = task.case
        log.info("case %d: %s %s", case.case, OUTCOMES[finding.outcome], finding.reason)
        for seat in task.seats:
            vote = Vote(
                case=case.case,
                second=case.second,
                seat=seat,
                subject=subject_of(case),
                outcome=finding.outcome,
                result=finding.result,
                salt=secrets.token_bytes(32),
            )
            stored = self._journal.vote(self._run, vote)
            self._votes[stored.key] = stored

    # what others see

    def open_cases(self) -> tuple[CaseState, ...]:
        """Return the open cases on whose juries we sit; their files are held for the other jurors."""
        return tuple(case for case in self._cases if not case.closed and own_seats(case, self._court.number))

    def warnings(self) -> list[str]:
        """Return what the operator should do something about."""
        standing, found = self._standing, list[str]()
        if standing is None:
            return found
        if standing.needs_coin:
            found.append(
                f"the hot key {self._court.address} holds {standing.coin_wei} wei of coin, and votes need gas: "
                f"send it {standing.gas_wei} wei or more"
            )
        if standing.owes_wei > 0:
            found.append(
                f"{standing.owes_wei} wei are owed for silence, and no slot is drawn before they are paid: "
                "`murmur jury join --slots 0` makes it up"
            )
        for case in self.open_cases():
            seats = own_seats(case, self._court.number)
            if any(seat.sealed and vote_of(case, seat, self._votes) is None for seat in seats):
                found.append(f"case {case.case}: a vote was sealed that this journal does not hold")
        return found

    def status(self) -> dict[str, Any]:
        """Return what the status file shows, as plain JSON data."""
        standing, mine = self._standing, list[dict[str, Any]]()
        for case in self._cases:
            if own_seats(case, self._court.number):
                mine.append(self._case(case))
        outcomes = Counter(OUTCOMES[vote.outcome] for vote in self._votes.values())
        return {
            "slots": None if standing is None else standing.info.slots,
            "serving": None if standing is None else standing.info.serving,
            "bonded_wei": None if standing is None else str(standing.info.bonded_wei),
            "owes_wei": None if standing is None else str(standing.owes_wei),
            "coin_wei": None if standing is None else str(standing.coin_wei),
            "cases": [one for one in mine if one["stage"] != "closed"],
            "closed": [one for one in mine if one["stage"] == "closed"][-NEWEST:],
            "votes": dict(outcomes),
            "warnings": self.warnings(),
            "error": None if self.trouble is None else self.trouble.message,
        }

    def _case(self, case: CaseState) -> dict[str, Any]:
        stage, _ = case.stage_at(self._height, self._court.terms)
        return {
            "case": case.case,
            "kind": case.kind.name.lower(),
            "round": case.round,
            "number": case.number,
            "segment": case.segment,
            "stage": stage.name.lower(),
            "until_block": case.last_block(self._height, self._court.terms),
            "second": case.second,
            "ruling": OUTCOMES[case.outcome] if case.stage in (CaseStage.RULED, CaseStage.CLOSED) else None,
            "seats": [
                {
                    "seat": seat.index,
                    "vote": None
                    if (vote := vote_of(case, seat, self._votes)) is None
                    else OUTCOMES[vote.outcome],
                    "sealed": seat.sealed,
                    "revealed": seat.outcome > 0,
                }
                for seat in own_seats(case, self._court.number)
            ],
        }
