"""`murmur appeal`: bonded accusations of anybody's unit, and contests of what was said of one's own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.terminal import (
    Directory,
    DryRun,
    Json,
    LedgerAddress,
    NetworkName,
    PasswordFile,
    Rpc,
    Yes,
    confirm,
    format_amount,
    mined,
    open_ledger,
    show,
)
from protocol.errors import LedgerError, UsageError
from protocol.networks import Network

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.run import ChainRun
    from contracts.types import Operator
    from protocol.chain import Appeal

appeal_app = typer.Typer(
    no_args_is_help=True, help="Have a segment of a unit judged by fresh verifiers, against a bond."
)

Run = Annotated[str, typer.Argument(metavar="RUN", help="Run id.")]
Round = Annotated[int, typer.Option("--round", min=0, max=1_000_000, help="Round of the unit.")]
Peer = Annotated[
    int, typer.Option("--peer", min=1, max=2**53 - 1, help="Registration number of the unit's owner.")
]
Segment = Annotated[
    int, typer.Option("--segment", min=0, max=1000, help="Segment of the unit to be judged, from 0.")
]
Case = Annotated[int, typer.Argument(metavar="CASE", min=1, max=2**53 - 1, help="Number of the case.")]

OUTCOMES = {1: "passed", 2: "rejected", 3: "proven false"}


@appeal_app.command()
def accuse(
    run: Run,
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    round_: Round,
    peer: Peer,
    segment: Segment,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Accuse a segment of somebody's unit. The bond comes back unless two verifiers pass it."""
    _appeal(
        run,
        round_,
        peer,
        segment,
        account=(directory, rpc, ledger, password_file),
        asking=(yes, dry_run, as_json),
    )


@appeal_app.command()
def contest(
    run: Run,
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    round_: Round,
    segment: Segment,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Contest what was said of a segment of your own unit. The bond comes back unless two verifiers reject it."""
    _appeal(
        run,
        round_,
        None,
        segment,
        account=(directory, rpc, ledger, password_file),
        asking=(yes, dry_run, as_json),
    )


def _appeal(
    run: str,
    round_: int,
    peer: int | None,
    segment: int,
    *,
    account: tuple[Path, Network, str, Path | None],
    asking: tuple[bool, bool, bool],
) -> None:
    """Appeal against somebody's unit; against the wallet's own if `peer` is None."""
    found, sender = open_ledger(*account)
    yes, dry_run, as_json = asking
    own = _appellant(found, sender.address)
    if peer == own.number:
        raise UsageError(
            f"number {peer} is this wallet's own", hint="`murmur appeal contest` is for your own units"
        )
    number = own.number if peer is None else peer
    _check(found, sender.address, run, round_, number, segment, contest=peer is None)
    unchecked = _check_rules(account[0], found, run, round_, segment, contest=peer is None)
    bond = f"put up a bond of {format_amount(found.appeal_bond)} tokens, which comes back"
    idle = f"or if nobody has settled the case after {found.appeal_blocks} blocks"
    if peer is None:
        plan = [
            f"contest what was said of segment {segment} of your unit (number {number}) of round {round_}",
            f"{bond} if two verifiers pass it, {idle}; if two reject it, the bond goes to the run's pot",
        ]
    else:
        plan = [
            f"accuse segment {segment} of the unit of number {number} of round {round_}",
            f"{bond} if two verifiers reject it or prove it false, {idle}; if two pass it, half of the bond goes to "
            f"number {number} and half to the run's pot",
        ]
    confirm(plan, yes=yes, dry_run=dry_run, as_json=as_json)
    case = found.appeal(sender, run, round_, number, segment)
    info = found.appeal_info(case)
    if info is None:
        raise LedgerError("the appeal was mined but is gone: the chain was reorganised")
    releasable_at = info.block + found.appeal_blocks
    facts: dict[str, Any] = {"case": case, "round": round_, "number": number, "segment": segment}
    facts |= {"kind": "contest" if peer is None else "accusation", "bond_wei": str(found.appeal_bond)}
    show({**facts, "block": info.block, "releasable_at": releasable_at}, as_json)
    typer.echo(
        f"case {case} is open: the beacon after block {info.block} draws who judges it{unchecked}\n"
        f"  next: `murmur appeal list {run}` shows what becomes of it; if it is still open at block {releasable_at}, "
        f"`murmur appeal release {case}` brings the bond back",
        err=True,
    )


def _appellant(ledger: "Ledger", wallet: str) -> "Operator":
    """Return the operator that a wallet registered, if it may appeal."""
    number = ledger.number_of(wallet)
    own = None if number is None else ledger.operator(number)
    if own is None:
        raise LedgerError(
            f"wallet {wallet} is not registered, and only the staked appeal",
            hint="register first: `murmur stake deposit`",
        )
    if own.stake_wei < ledger.min_stake:
        raise LedgerError(
            f"number {own.number} has {format_amount(own.stake_wei)} tokens at stake, and an appeal needs "
            f"{format_amount(ledger.min_stake)}",
            hint="add to it with `murmur stake deposit`",
        )
    return own


def _check(
    ledger: "Ledger", wallet: str, run: str, round_: int, number: int, segment: int, *, contest: bool
) -> None:
    """Refuse what the ledger would refuse, before anybody is asked and before it may take the bond."""
    info = ledger.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check RUN and --ledger")
    if round_ >= info.anchored_rounds:
        raise LedgerError(
            f"the record of round {round_} is not anchored; {info.anchored_rounds} rounds are",
            hint="appeal once it is",
        )
    owner = ledger.operator(number)
    if owner is None or owner.role.name != "CONTRIBUTOR":
        raise LedgerError(
            f"number {number} is no contributor and has no units", hint="check --peer, or --dir of a contest"
        )
    case = ledger.case_of(run, round_, number, segment, contest=contest)
    if case is not None:
        raise LedgerError(
            f"segment {segment} of that unit has been {'contested' if contest else 'accused'} before: case {case}",
            hint=f"`murmur appeal list {run}` shows what became of it",
        )
    balance = ledger.balance_of(wallet)
    if balance < ledger.appeal_bond:
        raise LedgerError(
            f"wallet {wallet} holds {format_amount(balance)} tokens, and the bond is "
            f"{format_amount(ledger.appeal_bond)}",
            hint="send it tokens first",
        )


def _check_rules(
    directory: Path, ledger: "Ledger", run: str, round_: int, segment: int, *, contest: bool
) -> str:
    """Refuse what the run's own rules would not count; return a caveat where they are not known here.

    The ledger takes such an appeal, but no verifier judges it, and its bond is back only after a long time.
    """
    from contracts.run import ChainRun
    from protocol.daemon import MANIFEST_FILE
    from protocol.manifest import RunManifest

    path = directory / MANIFEST_FILE
    manifest = RunManifest.read(path) if path.exists() else None
    if manifest is None or manifest.run_id != run:
        return f", if the run's rules let it count (they were not checked: {path} is not the run's manifest)."
    if segment >= manifest.segments:
        raise UsageError(f"a unit of this run has {manifest.segments} segments, from 0")
    if contest:
        return ", if the segment was found void, or nobody judged it."
    chain = ChainRun(ledger, run)
    chain.refresh()
    anchor = chain.anchor(round_)
    last = None if anchor is None else anchor + 1 + manifest.deadlines.appeal
    if last is not None and chain.height >= last:
        raise LedgerError(
            f"a unit of round {round_} could be accused up to block {last}, and the chain is at {chain.height}",
            hint=f"the run gives {manifest.deadlines.appeal} blocks after the beacon of a round; accuse a later one",
        )
    return "."


@appeal_app.command("list")
def list_(
    run: Run, rpc: Rpc, ledger: LedgerAddress, network: NetworkName = None, as_json: Json = False
) -> None:
    """List a run's appeals: who appealed against what, and what became of it. Needs no wallet."""
    from contracts.run import ChainRun

    chain = ChainRun.connect(rpc, ledger, run)
    if chain.ledger.run_info(run) is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check RUN and --ledger")
    chain.refresh()
    rows = [_row(chain, appeal) for appeal in chain.every_appeal()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    if not rows:
        typer.echo("no appeals")
        return
    typer.echo(
        f"{'case':>5} {'round':>6} {'number':>7} {'segment':>8}  {'by':>5}  kind        bond      state"
    )
    for row in rows:
        said = f" ({row['outcome']})" if row["outcome"] else ""
        until = f", to be released from block {row['releasable_at']}" if row["status"] == "open" else ""
        typer.echo(
            f"{row['case']:>5} {row['round']:>6} {row['number']:>7} {row['segment']:>8}  {row['appellant']:>5}  "
            f"{row['kind']:10}  {format_amount(int(row['bond_wei'])):8}  {row['status']}{said}{until}"
        )


def _row(chain: "ChainRun", appeal: "Appeal") -> dict[str, Any]:
    settled = chain.settled_appeals().get(appeal.case)
    if settled is not None:
        status = "upheld" if settled[1] else "refused"
    else:
        status = "released" if appeal.case in chain.released_appeals() else "open"
    return {
        "case": appeal.case,
        "round": appeal.round,
        "number": appeal.number,
        "segment": appeal.segment,
        "appellant": appeal.appellant,
        "kind": "contest" if appeal.contests else "accusation",
        "bond_wei": str(appeal.bond_wei),
        "block": appeal.block,
        "releasable_at": appeal.block + chain.ledger.appeal_blocks,
        "status": status,
        "outcome": None if settled is None else OUTCOMES[settled[0]],
    }


@appeal_app.command()
def release(
    case: Case,
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Bring back the bond of a case that nobody settled in time. It goes to its appellant, whoever asks."""
    found, sender = open_ledger(directory, rpc, ledger, password_file)
    info = found.appeal_info(case)
    appellant = None if info is None else found.operator(info.appellant)
    if info is None or appellant is None:
        raise LedgerError(f"the ledger knows no case {case}", hint="`murmur appeal list` shows a run's cases")
    bond = found.appeal_bond
    confirm(
        [
            f"give the bond of case {case}, {format_amount(bond)} tokens, back to number {appellant.number}, "
            f"wallet {appellant.wallet}"
        ],
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    receipt = found.release_appeal(sender, case)
    show(mined(receipt, case=case, wallet=appellant.wallet, returned_wei=str(bond)), as_json)
