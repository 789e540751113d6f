"""The coordinator's work for the jury: it moves every open case of its run on as soon as anybody may."""

import logging

import trio

from contracts.cases import CaseState, Step
from contracts.clerk import due_step, take_step
from contracts.run import ChainRun
from contracts.sender import Sender
from protocol.errors import LedgerError

log = logging.getLogger(__name__)


class Clerk:
    """Look after the cases of one run with one wallet."""

    def __init__(self, chain: ChainRun, sender: Sender) -> None:
        self._chain = chain
        self._sender = sender
        self._busy: set[int] = set()

    def look(self, nursery: trio.Nursery) -> None:
        """Begin what is due and not under way; call it whenever the chain has moved."""
        for case in self._chain.every_case():
            if not case.closed and case.case not in self._busy:
                self._busy.add(case.case)
                nursery.start_soon(self._advance, case)

    async def _advance(self, case: CaseState) -> None:
        try:
            step = await trio.to_thread.run_sync(self._take, case, abandon_on_cancel=True)
            if step is not None:
                log.info("case %d: %s", case.case, step)
        except LedgerError as error:
            # Somebody else may have been quicker; the chain will show it.
            log.info("case %d: %s", case.case, error)
        finally:
            self._busy.discard(case.case)

    def _take(self, case: CaseState) -> Step | None:
        step = due_step(self._chain, case)
        if step is not None:
            take_step(self._chain, self._sender, case, step)
        return step
