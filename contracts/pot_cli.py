"""`murmur run fund` and `murmur run release-bond`: a run's pot, and the bond of its coordinator."""

from typing import Annotated

import typer

from contracts.terminal import (
    Amount,
    Directory,
    DryRun,
    Json,
    LedgerAddress,
    NetworkName,
    Owner,
    PasswordFile,
    Rpc,
    Yes,
    confirm_transactions,
    connect_ledger,
    format_amount,
    mined,
    open_sender,
    parse_amount,
    show,
    wallet_address,
)
from protocol.errors import LedgerError

Run = Annotated[str, typer.Argument(help="Run id.")]


def fund(
    run: Run,
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    amount: Amount,
    owner: Owner = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Add tokens to a run's pot. Anybody may; what is not earned stays in it."""
    from contracts.plan import fund_steps, quote

    wei = parse_amount(amount)
    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=dry_run)
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check the run id and --ledger")
    balance = found.balance_of(wallet)
    if balance < wei:
        raise LedgerError(
            f"wallet {wallet} holds {format_amount(balance)} tokens, not {format_amount(wei)}",
            hint="send it tokens first",
        )
    plan = [
        f"pay {format_amount(wei)} tokens into the pot of run {run}, which has received "
        f"{format_amount(info.funded_wei)}; nobody can take them out but by what work earns"
    ]
    quoted = quote(found.w3, wallet, fund_steps(found, wallet, run, wei))
    confirm_transactions(plan, quoted, yes=yes, dry_run=dry_run, as_json=as_json)
    receipt = found.fund(open_sender(found, directory, password_file), run, wei)
    show(mined(receipt, run=run, funded_wei=str(info.funded_wei + wei)), as_json)


def release_bond(
    run: Run,
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    owner: Owner = None,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Take the coordinator's bond of a finished run back, once stake of that time could leave too."""
    from contracts.plan import quote, release_bond_steps
    from contracts.types import RunStatus

    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=dry_run)
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
    quoted = quote(found.w3, wallet, release_bond_steps(found, run))
    confirm_transactions(plan, quoted, yes=yes, dry_run=dry_run, as_json=as_json)
    receipt = found.release_run_bond(open_sender(found, directory, password_file), run)
    show(mined(receipt, run=run, released_wei=str(info.bond_wei)), as_json)
