"""The part of `murmur dispute` that shows cases, answers them, and moves them on."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.hearing import find_case, follow, follow_seeds, own_number, tokens
from contracts.purse import Purse, with_purse
from contracts.terminal import (
    Json,
    LedgerAddress,
    NetworkName,
    Rpc,
    connect_ledger,
    format_amount,
    mined,
    show,
    wallet_address,
)
from protocol import options
from protocol.errors import LedgerError, UsageError

dispute_app = typer.Typer(
    no_args_is_help=True, help="Take a unit, a reward root or a broken word before the jury, against a bond."
)

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id.")]
Case = Annotated[int, typer.Argument(metavar="CASE", min=1, max=2**53 - 1, help="Number of the case.")]


@dispute_app.command("list")
def list_(
    run: Run, rpc: Rpc, ledger: LedgerAddress, as_json: Json = False, network: NetworkName = None
) -> None:
    """List a run's cases: about what, by whom, how far each is, and what it can cost. Needs no wallet."""
    from contracts.docket import about_text, case_row, stage_text

    chain = follow(connect_ledger(rpc, ledger), run)
    cases = chain.every_case()
    rows = [case_row(chain, case) for case in cases]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no cases")
    for case, row in zip(cases, rows, strict=True):
        by = row["appellant"] if row["appellant_number"] is None else f"number {row['appellant_number']}"
        terms = chain.ledger.jury.terms
        votes = (
            f"{row['sealed']} sealed, {row['revealed']} revealed of {row['seats']}; " if row["seats"] else ""
        )
        said = f"; {row['ruling']}" if row["ruling"] else ""
        cost = int(row["at_stake_wei"])
        stake = f"; {format_amount(cost)} tokens at stake" if cost else ""
        typer.echo(
            f"case {case.case}  {row['kind']} of {about_text(case)}, by {by}\n"
            f"  {votes}{stage_text(case, chain.height, terms)}{said}{stake}"
        )


@dispute_app.command("show")
def show_case(
    case: Case, rpc: Rpc, ledger: LedgerAddress, as_json: Json = False, network: NetworkName = None
) -> None:
    """Show a case's whole life: juries, votes, rulings, penalties, and who got what. Needs no wallet."""
    from contracts.docket import about_text, case_life, stage_text

    chain, state, info = find_case(connect_ledger(rpc, ledger), case)
    life = case_life(chain, state, info.finder)
    if as_json:
        typer.echo(json.dumps(life))
        return
    by = "" if life["appellant_number"] is None else f" (number {life['appellant_number']})"
    lines = [
        f"case {case}  {life['kind']} of {about_text(state)}",
        f"run        {state.run}",
        f"opened     in block {state.block} by {state.appellant}{by}, bond {tokens(life['bond_wei'])}",
    ]
    if life["finder"]:
        lines.append(f"finder     {life['finder']}")
    for jury in life["juries"]:
        lines.append("second jury" if jury["second"] else "first jury")
        for seat in jury["seats"]:
            vote = seat["vote"] or ("sealed" if seat["sealed"] else "nothing yet")
            result = f" {seat['result'][:16]}…" if seat["result"] else ""
            lines.append(f"  seat {seat['seat']}   juror {seat['juror']}: {vote}{result}")
        if jury["ruling"]:
            lines.append(f"  ruled    {jury['ruling']} in block {jury['ruled_at']}")
    if life["called_by"]:
        lines.append(f"appealed   by {life['called_by']}")
    lines.append(f"stage      {stage_text(state, chain.height, chain.ledger.jury.terms)}")
    if int(life["at_stake_wei"]):
        lines.append(f"at stake   {tokens(life['at_stake_wei'])}")
    lines += _ending_lines(life["ending"])
    typer.echo("\n".join(lines))


def _ending_lines(ended: dict[str, Any] | None) -> list[str]:
    if ended is None:
        return []
    lines = [f"ended      in block {ended['block']}, {ended['tx']}"]
    if int(ended["slashed_wei"]):
        lines.append(f"  slashed  {tokens(ended['slashed_wei'])}")
    if ended["root_cancelled"]:
        lines.append("  the reward root is cancelled and its bond taken")
    for one in ended["credited"]:
        roles = ", ".join(one["as"])
        lines.append(f"  credited {tokens(one['wei'])} to {one['account']}{f' ({roles})' if roles else ''}")
    lines += [f"  silent   juror {one['juror']} lost {tokens(one['wei'])}" for one in ended["silent"]]
    if int(ended["forfeited_wei"]):
        lines.append(f"  to the run's pot {tokens(ended['forfeited_wei'])}")
    if int(ended["burned_wei"]):
        lines.append(f"  burned   {tokens(ended['burned_wei'])}")
    return lines


@dispute_app.command()
def respond(
    case: Case,
    directory: Annotated[Path, typer.Option("--dir", help="The node's directory.")],
    rpc: Rpc,
    ledger: LedgerAddress,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Check that the segment a case is about is open on your node; exit code 1 while it is not. Signs nothing."""
    from contracts.alerts import open_by
    from contracts.docket import at_stake, stage_text
    from contracts.response import look
    from contracts.types import CaseKind
    from protocol.clock import unix_time

    found = connect_ledger(rpc, ledger)
    chain, state, _ = find_case(found, case)
    number = own_number(found, directory)
    if state.kind is CaseKind.REWARDS:
        raise UsageError(f"case {case} is about a reward root: nobody has to open anything")
    if state.number != number:
        raise UsageError(f"case {case} is about number {state.number}, and this directory is number {number}")
    terms = found.jury.terms
    until = open_by(state, chain.height, terms)
    peers = frozenset(one.peer for one in chain.keys(number))
    seen = look(directory, state, peers, unix_time())
    stake = str(at_stake(chain, state))
    facts = {
        "case": case,
        "run": state.run,
        "round": state.round,
        "segment": state.segment,
        "stage": stage_text(state, chain.height, terms),
        "at_stake_wei": stake,
        "height": chain.height,
        "open_by": until,
        "opened": seen.signed,
        "missing": list(seen.missing),
        "running": seen.running,
        "open": seen.is_open,
    }
    show(facts, as_json)
    if until is None:
        typer.echo("the votes are over: nothing can be opened for this jury any more", err=True)
        return
    if seen.is_open:
        typer.echo("the segment is open; keep the node running until the votes are revealed", err=True)
        return
    start = (
        f"`murmur node start --dir {directory} --run {state.run} {options.chain_flags(rpc)} --ledger {found.address} "
        "--bootstrap MULTIADDR`"
    )
    if not seen.running:
        next_ = f"start the node: {start}; it opens the segment by itself"
    elif seen.missing:
        next_ = (
            f"{len(seen.missing)} files of the segment are gone from the node's store; it computes them again"
        )
    else:
        next_ = (
            f"the node runs and opens it by itself; `murmur node status --dir {directory}` says what keeps it"
        )
        next_ += f" ({seen.error})" if seen.error else ""
    typer.echo(
        f"the segment is not open: it has to be by block {until}, the chain is at {chain.height}, "
        f"{tokens(stake)} at stake\n  next: {next_}",
        err=True,
    )
    raise typer.Exit(1)


@dispute_app.command()
@with_purse
def advance(
    purse: Purse,
    case: Case,
    drand: options.Drand = None,
) -> None:
    """Draw the jury, count the votes, or close the case: whatever is due. Anybody may; it costs a fee only."""
    from contracts.clerk import due_step, take_step
    from contracts.docket import outcome_text, stage_text
    from contracts.jury_plan import chore_steps

    found = purse.ledger
    chain, state, _ = find_case(found, case)
    follow_seeds(chain, purse.directory, drand)
    due = due_step(chain, state)
    stage = stage_text(state, chain.height, found.jury.terms)
    if due is None:
        purse.show({"case": case, "step": None, "stage": stage, "tx": None})
        typer.echo("nothing is due", err=True)
        return
    what = {
        "draw": f"draw the jury of case {case}",
        "rule": f"count the {sum(one.outcome > 0 for one in state.seats)} revealed votes of {len(state.seats)} seats "
        f"of case {case}",
        "close": f"close case {case}, ruled {outcome_text(state.kind, state.outcome)!r}: penalties, bonds and fees",
    }
    proof = chain.seed_proof(state) if due == "draw" else b""
    sender = purse.confirm([what[due]], chore_steps(found, case, due, proof or b""))
    receipt = take_step(chain, sender, state, due)
    _, state, _ = find_case(found, case)
    stage = stage_text(state, receipt.block, found.jury.terms)
    purse.show(mined(receipt, case=case, step=due, stage=stage))


@dispute_app.command()
@with_purse
def credit(
    purse: Purse,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Pay it out to the wallet.")] = False,
) -> None:
    """Show what bonds, fees and shares a wallet was credited with, or bring it in."""
    from contracts.jury_plan import credit_steps

    found = purse.ledger
    wallet = wallet_address(purse.directory, purse.owner, dry_run=purse.dry_run or not withdraw)
    amount = found.jury.credit(wallet)
    if not withdraw:
        purse.show({"account": wallet, "credit_wei": str(amount)})
        return
    if not amount:
        raise LedgerError(
            f"{wallet} was credited with nothing", hint="`murmur dispute list RUN` shows open cases"
        )
    plan = [f"withdraw {format_amount(amount)} tokens to {wallet}"]
    sender = purse.confirm(plan, credit_steps(found, wallet))
    receipt = found.jury.withdraw_credit(sender, wallet)
    purse.show(mined(receipt, account=wallet, withdrawn_wei=str(amount)))
