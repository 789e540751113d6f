"""What anybody may do for a case, done: draw its jury, count its votes, close it."""

from contracts.cases import CaseState, Step
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import Receipt


def due_step(chain: ChainRun, case: CaseState) -> Step | None:
    """Return what is due for a case at the newest block read. May ask a drand endpoint; raises `LedgerError`."""
    terms = chain.ledger.jury.terms
    step = case.next_step(chain.height, terms, drawable=True)
    if step == "draw" and chain.seed_proof(case) is None:
        return None
    return step


def take_step(chain: ChainRun, sender: Sender, case: CaseState, step: Step) -> Receipt:
    """Send the transaction of a step and wait until it is mined. Blocks; raises `LedgerError`."""
    jury = chain.ledger.jury
    match step:
        case "draw":
            return jury.draw(sender, case.case, chain.seed_proof(case) or b"")
        case "rule":
            return jury.rule(sender, case.case)
        case "close":
            return jury.close(sender, case.case)
