"""`murmur run fund` and `murmur run release-bond`: a run's pot, and the bond of its coordinator."""

from typing import Annotated

import typer

from contracts.purse import Purse, with_purse
from contracts.terminal import (
    Amount,
    check_balance,
    format_amount,
    mined,
    parse_amount,
)
from protocol.errors import LedgerError

Run = Annotated[str, typer.Argument(help="Run id.")]


@with_purse
def fund(
    purse: Purse,
    run: Run,
    amount: Amount,
) -> None:
    """Add tokens to a run's pot. Anybody may; what is not earned stays in it."""
    from contracts.plan import fund_steps

    wei = parse_amount(amount)
    found, wallet = purse.ledger, purse.wallet
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check the run id and --ledger")
    check_balance(found, wallet, wei)
    plan = [
        f"pay {format_amount(wei)} tokens into the pot of run {run}, which has received "
        f"{format_amount(info.funded_wei)}; nobody can take them out but by what work earns"
    ]
    sender = purse.confirm(plan, fund_steps(found, wallet, run, wei))
    receipt = found.fund(sender, run, wei)
    purse.show(mined(receipt, run=run, funded_wei=str(info.funded_wei + wei)))


@with_purse
def release_bond(
    purse: Purse,
    run: Run,
) -> None:
    """Take the coordinator's bond of a finished run back, once stake of that time could leave too."""
    from contracts.plan import release_bond_steps
    from contracts.types import RunStatus

    found, wallet = purse.ledger, purse.wallet
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check the run id and --ledger")
    if info.coordinator != wallet:
        raise LedgerError(
            f"the bond of this run is {info.coordinator}'s", hint="name its directory with --dir"
        )
    if info.status is not RunStatus.FINISHED:
        raise LedgerError("the run is not finished", hint="its bond comes back after it is")
    if info.bond_wei == 0:
        raise LedgerError(
            "nothing is left of the bond", hint="it came back before, or an equivocation took it"
        )
    ready = info.active_at + found.unbonding_blocks
    plan = [f"take {format_amount(info.bond_wei)} tokens back to {wallet}; possible from block {ready} on"]
    sender = purse.confirm(plan, release_bond_steps(found, run))
    receipt = found.release_run_bond(sender, run)
    purse.show(mined(receipt, run=run, released_wei=str(info.bond_wei)))
