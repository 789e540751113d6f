"""`murmur jury`: a verifier's slots, from which jurors are drawn, and its duties as one."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.hearing import follow
from contracts.purse import Purse, with_purse
from contracts.terminal import (
    AnyWallet,
    Directory,
    Json,
    LedgerAddress,
    NetworkName,
    Rpc,
    check_balance,
    connect_ledger,
    format_amount,
    mined,
    show,
    wallet_address,
)
from protocol.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.types import Operator

jury_app = typer.Typer(no_args_is_help=True, help="Hold slots of the jury, and see what is due as a juror.")

MAX_SLOTS = 100
"""At once, so that taking or giving them up fits into one block."""


@jury_app.command()
@with_purse
def join(
    purse: Purse,
    slots: Annotated[
        int,
        typer.Option(min=0, max=MAX_SLOTS, help="How many more; 0 only makes up what silence has cost."),
    ],
) -> None:
    """Take slots: each is a chance to be drawn, and a duty to replay and vote. A verifier with the minimum stake."""
    from contracts.jury_plan import join_cost, join_steps

    found, wallet = purse.ledger, purse.wallet
    own = _operator(found, wallet)
    if own.role.name != "VERIFIER" or own.stake_wei < found.min_stake:
        raise LedgerError(
            f"number {own.number} is a {own.role.name.lower()} with {format_amount(own.stake_wei)} tokens at stake; "
            f"jurors are verifiers with {format_amount(found.min_stake)}",
            hint="`murmur stake deposit --role verifier`",
        )
    terms, juror = found.jury.terms, found.jury.juror(own.number)
    cost = join_cost(found, juror, slots)
    if cost == 0:
        raise UsageError(f"number {own.number} owes nothing for its {juror.slots} slots", hint="--slots 1")
    check_balance(found, wallet, cost)
    debt = juror.slots * terms.slot_stake - juror.bonded_wei
    plan = [
        f"take {slots} slots of {format_amount(terms.slot_stake)} tokens for number {own.number}, which then holds "
        f"{juror.slots + slots}: {format_amount(cost)} tokens"
        + (f", {format_amount(debt)} of them make up what silence has cost" if debt else ""),
        f"a drawn seat whose vote is not revealed costs {format_amount(terms.silent_penalty)}; one on the winning side "
        f"earns {format_amount(terms.fee)} or a share of what a fault costs",
        f"slots can be given up while no seat is held; their stake is free {terms.unbonding_blocks} blocks later",
    ]
    sender = purse.confirm(plan, join_steps(found, wallet, juror, slots))
    receipt = found.jury.join(sender, slots)
    held = juror.slots + slots
    purse.show(mined(receipt, number=own.number, slots=held, paid_wei=str(cost)))


@jury_app.command()
@with_purse
def resign(
    purse: Purse,
    slots: Annotated[int, typer.Option(min=1, max=MAX_SLOTS, help="How many to give up.")],
) -> None:
    """Give slots up; their stake can be withdrawn after the waiting time. Not while you have a seat."""
    from contracts.jury_plan import resign_steps

    found, wallet = purse.ledger, purse.wallet
    own = _operator(found, wallet)
    juror, terms = found.jury.juror(own.number), found.jury.terms
    if slots > juror.slots:
        raise LedgerError(f"number {own.number} holds {juror.slots} slots, not {slots}")
    if juror.serving:
        raise LedgerError(
            f"number {own.number} has {juror.serving} seats in cases that are not over",
            hint="`murmur jury duties RUN` shows them",
        )
    indices = [index for index, number in enumerate(found.jury.slots()) if number == own.number][-slots:]
    left = juror.slots - slots
    amount = max(0, juror.bonded_wei - left * terms.slot_stake)
    again = f", and the waiting time of {format_amount(juror.leaving_wei)} more starts again"
    plan = [
        f"give up {slots} of {juror.slots} slots of number {own.number}: {format_amount(amount)} tokens",
        f"they can be withdrawn {terms.unbonding_blocks} blocks later" + (again if juror.leaving_wei else ""),
    ]
    sender = purse.confirm(plan, resign_steps(found, indices))
    receipt = found.jury.resign(sender, indices)
    facts = {"number": own.number, "slots": left, "leaving_wei": str(juror.leaving_wei + amount)}
    purse.show(mined(receipt, **facts, leaving_at=receipt.block + terms.unbonding_blocks))


@jury_app.command()
@with_purse
def withdraw(
    purse: Purse,
) -> None:
    """Take the stake of slots that were given up back to the wallet."""
    from contracts.chain import block_number
    from contracts.jury_plan import leave_steps

    found, wallet = purse.ledger, purse.wallet
    own = _operator(found, wallet)
    juror, height = found.jury.juror(own.number), block_number(found.w3)
    if not juror.leaving_wei:
        raise LedgerError(
            f"number {own.number} has given up no slots", hint="`murmur jury resign --slots N` does"
        )
    if height < juror.leaving_at:
        raise LedgerError(
            f"{format_amount(juror.leaving_wei)} tokens are free from block {juror.leaving_at}; the chain is at block "
            f"{height}",
            hint="try again then",
        )
    plan = [f"withdraw {format_amount(juror.leaving_wei)} tokens to {wallet}"]
    sender = purse.confirm(plan, leave_steps(found))
    receipt = found.jury.withdraw(sender)
    purse.show(mined(receipt, number=own.number, withdrawn_wei=str(juror.leaving_wei)))


@jury_app.command()
def status(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    owner: AnyWallet = None,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Show a juror's slots, debts and seats, and what it was credited with; needs no password."""
    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=True)
    own = _operator(found, wallet)
    juror, terms = found.jury.juror(own.number), found.jury.terms
    owed = juror.slots * terms.slot_stake - juror.bonded_wei
    show(
        {
            "number": own.number,
            "wallet": wallet,
            "slots": juror.slots,
            "of": found.jury.slot_count(),
            "bonded_wei": str(juror.bonded_wei),
            "owed_wei": str(owed),
            "serving": juror.serving,
            "leaving_wei": str(juror.leaving_wei),
            "leaving_at": juror.leaving_at,
            "credit_wei": str(found.jury.credit(wallet)),
        },
        as_json,
    )
    if owed:
        typer.echo(
            f"number {own.number} is not drawn before it makes up {format_amount(owed)} tokens\n"
            "  next: `murmur jury join --slots 0`",
            err=True,
        )


@jury_app.command()
def duties(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run id.")],
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    owner: AnyWallet = None,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Show a juror's seats in open cases of a run, and what is due until which block; needs no password."""
    from contracts.docket import about_text, seat_duties

    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=True)
    own, chain = _operator(found, wallet), follow(found, run)
    terms, rows = found.jury.terms, list[dict[str, Any]]()
    for case in chain.every_case():
        rows += (
            {"case": case.case, "about": about_text(case), **duty}
            for duty in seat_duties(case, own.number, chain.height, terms)
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no seats in open cases")
    for row in rows:
        until = "" if row["until"] is None else f" until block {row['until']}"
        typer.echo(
            f"case {row['case']}, seat {row['seat']}: {row['due'] or 'nothing is due'}{until}  ({row['about']})"
        )


def _operator(ledger: "Ledger", wallet: str) -> "Operator":
    number = ledger.number_of(wallet)
    own = None if number is None else ledger.operator(number)
    if own is None:
        raise LedgerError(
            f"wallet {wallet} is not registered",
            hint="register first: `murmur stake deposit --role verifier`",
        )
    return own
