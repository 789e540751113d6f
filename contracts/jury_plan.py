"""The transactions of `murmur dispute` and `murmur jury`, as `contracts.plan` quotes them."""

from collections.abc import Sequence

from eth_utils.address import to_checksum_address

from contracts.cases import Step as Chore
from contracts.client import Ledger
from contracts.docket import SECOND
from contracts.jury import run_bytes
from contracts.plan import Step, approve_steps
from contracts.types import JurorInfo

# Ceilings for what cannot be estimated before its allowance is mined; tests hold the jury to them.
OPEN_CASE_GAS = 340_000
APPEAL_GAS = 200_000
JOIN_GAS = 120_000
SLOT_GAS = 40_000
NO_EVIDENCE = bytes(32)


def accuse_steps(
    ledger: Ledger, wallet: str, run: str, round_: int, number: int, segment: int, finder: str
) -> list[Step]:
    """Return what accuses a segment of a unit."""
    account = to_checksum_address(finder)
    call = ledger.jury.contract.functions.accuse(
        run_bytes(run), round_, number, segment, account, NO_EVIDENCE, False
    )
    return _bonded(ledger, wallet, Step("accuse", call, OPEN_CASE_GAS), ledger.jury.terms.case_bond)


def contest_steps(ledger: Ledger, wallet: str, run: str, round_: int, segment: int) -> list[Step]:
    """Return what contests a segment of the wallet's own unit."""
    call = ledger.jury.contract.functions.contest(run_bytes(run), round_, segment, NO_EVIDENCE)
    return _bonded(ledger, wallet, Step("contest", call, OPEN_CASE_GAS), ledger.jury.terms.case_bond)


def dispute_steps(ledger: Ledger, wallet: str, run: str, ground: int) -> list[Step]:
    """Return what disputes the pending reward root of a run."""
    call = ledger.jury.contract.functions.disputeRewards(run_bytes(run), ground, NO_EVIDENCE)
    return _bonded(ledger, wallet, Step("dispute", call, OPEN_CASE_GAS), ledger.jury.terms.case_bond)


def appeal_steps(ledger: Ledger, wallet: str, case: int) -> list[Step]:
    """Return what calls a second jury."""
    call = ledger.jury.contract.functions.appeal(case)
    return _bonded(ledger, wallet, Step("appeal", call, APPEAL_GAS), SECOND * ledger.jury.terms.case_bond)


def chore_steps(ledger: Ledger, case: int, chore: Chore, proof: bytes) -> list[Step]:
    """Return what moves a case on."""
    functions = ledger.jury.contract.functions
    match chore:
        case "draw":
            call = functions.draw(case, proof)
        case "rule":
            call = functions.rule(case)
        case "close":
            call = functions.close(case)
    return [Step(chore, call)]


def equivocation_steps(
    ledger: Ledger,
    run: str,
    round_: int,
    a: tuple[bytes, bytes],
    b: tuple[bytes, bytes],
    finder: str,
    *,
    record: bool,
) -> list[Step]:
    """Return what proves that one key signed two statements; `a` and `b` are body digest and signature."""
    account = to_checksum_address(finder)
    call = ledger.jury.contract.functions.proveEquivocation(run_bytes(run), round_, record, a, b, account)
    return [Step("prove the equivocation", call)]


def credit_steps(ledger: Ledger, account: str) -> list[Step]:
    """Return what pays an account what it was credited with."""
    return [Step("withdraw", ledger.jury.contract.functions.withdrawCredit(to_checksum_address(account)))]


def join_cost(ledger: Ledger, juror: JurorInfo, count: int) -> int:
    """Return the wei that taking so many slots costs, debts for silence included."""
    return (juror.slots + count) * ledger.jury.terms.slot_stake - juror.bonded_wei


def join_steps(ledger: Ledger, wallet: str, juror: JurorInfo, count: int) -> list[Step]:
    """Return what takes slots."""
    call = ledger.jury.contract.functions.join(count)
    step = Step("take slots", call, JOIN_GAS + count * SLOT_GAS)
    return _bonded(ledger, wallet, step, join_cost(ledger, juror, count))


def resign_steps(ledger: Ledger, indices: Sequence[int]) -> list[Step]:
    """Return what gives slots up by their indices."""
    call = ledger.jury.contract.functions.resign(sorted(indices, reverse=True))
    return [Step("give slots up", call)]


def leave_steps(ledger: Ledger) -> list[Step]:
    """Return what pays the stake of slots that were given up."""
    return [Step("withdraw", ledger.jury.contract.functions.withdraw())]


def _bonded(ledger: Ledger, wallet: str, step: Step, amount: int) -> list[Step]:
    approve = approve_steps(ledger, wallet, amount, jury=True)
    # The ceiling stands in only where nothing can be estimated before the allowance is mined.
    return [*approve, step if approve else Step(step.what, step.call)]
