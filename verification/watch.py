"""A look at every reward root while it can be disputed: recompute it, and say aloud if it is wrong.

A root that nobody disputes becomes final, and a final root cannot be undone; so every verifier's daemon compares. It
does not dispute by itself unless its operator says so: a dispute puts up a bond of tokens, and the hot key that the
daemon holds has none unless somebody sends it some. Only a root that was recomputed and differs is disputed then. That
a message cannot be fetched may be our own network's fault: it is said, and left to a person.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from contracts.events import RewardsProposed
from contracts.types import CaseOutcome
from protocol.errors import LedgerError, MurmurError
from verification.bench import NotServed
from verification.court import Court
from verification.inquiry import Inquiry
from verification.unit import Finding

log = logging.getLogger(__name__)

NEWEST = 8  # roots that the status shows
LOOKS = 12  # at a root of which something is missing, spread over its window

Proposal = tuple[int, bytes, int]
"""Name a proposal: (block, root, total); a reorganisation may give its block to another root."""


@dataclass
class Check:
    """What we know of one proposed root."""

    proposed: RewardsProposed
    finding: Finding | None = None
    missing: str = ""  # why there is none yet
    looked_at: int = 0  # height
    told: str = ""  # the last alert
    disputed: bool = False  # by us, or there is a case already
    tried_at: int = 0  # height of our last attempt


class RootWatch:
    """Compare each pending reward root of a run with what its messages give."""

    def __init__(
        self,
        court: Court,
        inquiry: Inquiry,
        moved: Callable[[], trio.Event],
        *,
        disputes: bool,
    ) -> None:
        """Begin with nothing looked at.

        Args:
            moved: returns an event that is set when chain or messages have moved.
            disputes: dispute a wrong root with the hot key's tokens.
        """
        self._court = court
        self._inquiry = inquiry
        self._moved = moved
        self._disputes = disputes
        self._checks: dict[Proposal, Check] = {}

    async def run(self) -> None:
        """Look whenever something moves, until cancelled."""
        while True:
            moved = self._moved()
            await self.look()
            await moved.wait()

    async def look(self) -> None:
        """Look at the root that is pending, if there is one."""
        pending = self._court.chain.pending()
        if pending is None:
            self._inquiry.recomputes = False
            return
        check = self._checks.setdefault(_name(pending), Check(pending))
        check.proposed = pending  # a jury that is hung opens its window again
        if check.finding is None and self._is_time(check):
            await self._find(check)
        self._inquiry.recomputes = check.finding is None
        alert = self._alert(check)
        if alert and alert != check.told:
            check.told = alert
            log.error("%s", alert)
        open_ = not check.disputed and self._open_until(check) is not None
        if self._disputes and _is_wrong(check) and open_ and self._height > check.tried_at:
            check.tried_at = self._height
            await self._dispute(check)

    def _is_time(self, check: Check) -> bool:
        window = check.proposed.final_at - check.proposed.block
        return not check.looked_at or self._height >= check.looked_at + max(1, window // LOOKS)

    @property
    def _height(self) -> int:
        return self._court.chain.height

    async def _find(self, check: Check) -> None:
        check.looked_at = self._height
        try:
            check.finding = await self._inquiry.judge_proposal(check.proposed)
        except NotServed as error:
            check.missing = error.message
        except MurmurError as error:
            log.warning("the reward root of epoch %d: %s", check.proposed.epoch, error)
            check.missing = error.message
        else:
            check.missing = ""
            if not _is_wrong(check):
                log.info("the reward root of epoch %d is what the rules give", check.proposed.epoch)

    async def _dispute(self, check: Check) -> None:
        def act() -> int | None:
            return self._court.dispute(check.proposed)

        try:
            case = await trio.to_thread.run_sync(act, abandon_on_cancel=True)
        except LedgerError as error:
            log.error("the wrong reward root of epoch %d is not disputed: %s", check.proposed.epoch, error)
            return
        check.disputed = True
        if case is not None:
            log.warning("case %d disputes the reward root of epoch %d", case, check.proposed.epoch)

    def _open_until(self, check: Check) -> int | None:
        """Return the last block in which a root can be disputed; None once it is too late."""
        last = check.proposed.final_at - 1
        return last if self._height < last else None

    def _alert(self, check: Check) -> str:
        """Return what somebody should do something about, or an empty string."""
        one, last = check.proposed, self._open_until(check)
        name = f"the reward root 0x{one.root.hex()} of epoch {one.epoch}, proposed in block {one.block},"
        if _is_wrong(check) and check.finding is not None:
            what, ground = f"is WRONG: {check.finding.reason}", "root"
        elif check.finding is None and 2 * (self._height - one.block) >= one.final_at - one.block:
            what, ground = f"cannot be recomputed: {check.missing}", "data"
        else:
            return ""
        if last is None:
            return f"{name} {what}; it is too late to dispute it"
        command = f"murmur dispute rewards {one.run} --ground {ground}"
        return f"{name} {what}; dispute it by block {last}: `{command}`"

    def alerts(self) -> list[str]:
        """Return what is wrong with the root that is pending."""
        pending = self._court.chain.pending()
        check = None if pending is None else self._checks.get(_name(pending))
        alert = "" if check is None else self._alert(check)
        return [alert] if alert else []

    def status(self) -> list[dict[str, Any]]:
        """Return what the status file shows, as plain JSON data."""
        return [
            {
                "epoch": check.proposed.epoch,
                "block": check.proposed.block,
                "root": check.proposed.root.hex(),
                "total_wei": str(check.proposed.total),
                "final_at": check.proposed.final_at,
                "result": _result(check),
                "reason": check.missing if check.finding is None else check.finding.reason,
            }
            for _, check in sorted(self._checks.items())[-NEWEST:]
        ]


def _name(proposed: RewardsProposed) -> Proposal:
    return proposed.block, proposed.root, proposed.total


def _is_wrong(check: Check) -> bool:
    return check.finding is not None and check.finding.outcome != CaseOutcome.RIGHT


def _result(check: Check) -> str:
    if check.finding is None:
        return "unknown"
    return "wrong" if _is_wrong(check) else "right"
