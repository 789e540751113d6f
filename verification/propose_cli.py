"""`murmur rewards propose` and `tables`: the pay that is due, recomputed from a run's public data by anybody.

A coordinator that is gone leaves no pay behind: after the ledger's timeout anybody proposes the root that is due, with
its own bond, and whoever claims recomputes the table behind it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.purse import Purse, with_purse
from contracts.terminal import (
    check_balance,
    format_amount,
    mined,
)
from protocol import options
from protocol.errors import ConfigError, LedgerError, ProofInconclusive
from verification.pay_cli import Api, Source, opened_run
from verification.proof_cli import ChainRpc

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.types import RunInfo
    from verification.public import PublicRun
    from verification.rewards import DueRoot

RunId = Annotated[str, typer.Option("--run", help="Run id.")]
Manifest = Annotated[
    Path | None, typer.Option(help="With --api: the run's manifest; default: manifest.json in --dir.")
]


@with_purse
def propose(
    purse: Purse,
    run: RunId,
    source: Source = None,
    api: Api = None,
    manifest: Manifest = None,
) -> None:
    """Propose the reward root that is due, recomputed from public data, with a bond.

    The run's coordinator and who stands in for it may at any time, anybody once the run has stood still for the
    ledger's timeout.
    """
    from contracts.plan import propose_steps

    found, wallet = purse.ledger, purse.wallet
    info = _may_propose(found, run, wallet)
    with opened_run(source, api, manifest or purse.directory / "manifest.json", purse.rpc) as (public, _):
        _check_same(found, run, public)
        due = _due(public, wallet, info.next_epoch)
    _check_funds(found, info, wallet, due)
    bond, final_at = found.proposal_bond, found.dispute_blocks
    plan = [
        f"propose the reward root 0x{due.root.hex()} of epoch {due.epoch} (the manifest's {due.table_epoch}) of run "
        f"{run}: {format_amount(due.total_wei)} tokens for {len(due.entries)} accounts, "
        f"{format_amount(due.total_wei - info.final_total_wei)} more than the root before",
        f"put up {format_amount(bond)} tokens: back once the root is final; lost if it is disputed and jurors "
        "recompute another, or cannot fetch what it is made of",
        f"it can be made final {final_at} blocks after it is mined: `murmur rewards finalize --run {run}`",
    ]
    steps = propose_steps(found, wallet, run, due.epoch, info.final_root, due.root, due.total_wei)
    sender = purse.confirm(plan, steps)
    receipt = found.propose_rewards(sender, run, due.epoch, info.final_root, due.root, due.total_wei)
    facts = {
        "run": run,
        "epoch": due.epoch,
        "root": "0x" + due.root.hex(),
        "total_wei": str(due.total_wei),
        "bond_wei": str(bond),
        "final_at": receipt.block + final_at,
    }
    purse.show(mined(receipt, **facts))
    typer.echo(
        f"  next: from block {receipt.block + final_at} on `murmur rewards finalize --run {run}`; whoever claims needs "
        "the table: `murmur rewards tables`",
        err=True,
    )


def tables(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    source: Source = None,
    api: Api = None,
    manifest: Manifest = None,
    rpc: ChainRpc = None,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Recompute a run's reward tables from public data, for `murmur rewards claim --settlement FILE`."""
    from contracts.claims import RecomputedTables
    from protocol.messages import RewardTable
    from verification.audit_money import final_tables, reward_tables

    with opened_run(source, api, manifest or Path("manifest.json"), rpc) as (public, _):
        run, due = public.run, list(reward_tables(public).items())
        # A root that others proposed may be of a table without what was declared later.
        final = [one for one in final_tables(public).values() if one is not None]
    found = [*due, *(one for one in final if one not in due)]
    ours = [RewardTable(epoch=epoch, entries=entries) for epoch, entries in sorted(found)]
    data = RecomputedTables(run=run, tables=tuple(ours)).to_bytes()
    try:
        out.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    told = {"run": run, "out": str(out), "tables": len(ours), "final": len(final)}
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"{len(ours)} tables of run {run} in {out}; {len(final)} roots are final")


def _may_propose(ledger: "Ledger", run: str, wallet: str) -> "RunInfo":
    """Refuse what the ledger would refuse.

    Raises:
        LedgerError: run, or pending root, or time will not do.
    """
    from contracts.chain import block_number
    from contracts.types import RunStatus

    info = ledger.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    if info.status is RunStatus.CREATED:
        raise LedgerError("the run is not open yet: nothing was earned")
    pending = ledger.pending_rewards(run)
    if pending is not None:
        raise LedgerError(
            f"a reward root of epoch {pending.epoch} is pending, and can be final from block {pending.final_at} on",
            hint=f"`murmur rewards finalize --run {run}`",
        )
    begins, height = info.active_at + ledger.timeout_blocks + 1, block_number(ledger.w3)
    acts = wallet == info.coordinator or ledger.number_of(wallet) == info.stand_in
    if not acts and height < begins:
        raise LedgerError(
            f"the run's coordinator has time until block {begins - 1}, and the chain is at {height}",
            hint="try again then, unless it proposes",
        )
    return info


def _check_same(ledger: "Ledger", run: str, public: "PublicRun") -> None:
    if public.run != run:
        raise ConfigError(f"the data are of run {public.run}, not {run}", hint="check --run and --from")
    if public.manifest.ledger.lower() != ledger.address.lower():
        raise ConfigError(
            f"the run is on the ledger {public.manifest.ledger}, not {ledger.address}", hint="check --ledger"
        )


def _due(public: "PublicRun", wallet: str, epoch: int) -> "DueRoot":
    """Return the root that is due.

    Raises:
        ProofInconclusive: none is, or a message is missing that says which.
    """
    from verification.public import closing_keys
    from verification.rewards import KnownRun, due_root

    speakers = closing_keys(public.manifest, public.chain, wallet)
    try:
        due = due_root(KnownRun(public.as_of(public.chain.height, speakers)), epoch)
    except ProofInconclusive as error:
        hint = "`murmur audit fetch` gathers what other peers hold"
        raise ProofInconclusive(error.message, hint=hint) from error
    if due is None:
        raise ProofInconclusive(
            f"no reward root of epoch {epoch} is due: its rounds are not all decided, or a case about them may come",
            hint="`murmur run show` tells how far the run is",
        )
    return due


def _check_funds(ledger: "Ledger", info: "RunInfo", wallet: str, due: "DueRoot") -> None:
    if due.total_wei > info.funded_wei:
        raise LedgerError(
            f"the pot received {format_amount(info.funded_wei)} tokens, and {format_amount(due.total_wei)} are due",
            hint=f"`murmur run fund {info.run}`",
        )
    if due.total_wei < info.final_total_wei:
        raise LedgerError(
            f"the last root is over {format_amount(info.final_total_wei)} tokens, and {format_amount(due.total_wei)} "
            "are due: the ledger takes no smaller total",
            hint="the next epoch's may do",
        )
    check_balance(ledger, wallet, ledger.proposal_bond, "the bond is")
