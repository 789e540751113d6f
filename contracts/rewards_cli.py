"""`murmur rewards`: what validated work earned, from the ledger to the wallet."""

import json
from typing import Annotated

import typer

from contracts.purse import Purse, with_purse
from contracts.terminal import (
    AnyWallet,
    Directory,
    Json,
    LedgerAddress,
    NetworkName,
    Rpc,
    connect_ledger,
    format_amount,
    mined,
    wallet_address,
)
from protocol.errors import LedgerError

rewards_app = typer.Typer(no_args_is_help=True, help="See, understand and claim what validated work earned.")

RunId = Annotated[str, typer.Option("--run", help="Run id.")]
SettlementSource = Annotated[
    str,
    typer.Option(
        "--settlement",
        help="settlement.json of the run: a file, its folder, or the API's URL of it; or what `murmur rewards tables` "
        "wrote.",
    ),
]


@rewards_app.command()
@with_purse
def claim(
    purse: Purse,
    run: RunId,
    settlement: SettlementSource,
) -> None:
    """Claim the wallet's pay that is final. What the settlement says counts only if its root is final on chain."""
    from contracts.claims import claimable
    from contracts.plan import claim_steps

    found, wallet = purse.ledger, purse.wallet
    ready = claimable(found, run, settlement, wallet)
    reward, due = ready.reward, ready.due_wei
    if reward is None or not due:
        facts = {"account": wallet, "claimed_wei": str(ready.claimed_wei), "paid_wei": "0", "tx": None}
        purse.show(facts)
        return
    steps = claim_steps(found, run, reward.account, reward.cumulative_wei, reward.proof)
    plan = [f"claim {format_amount(due)} tokens for {wallet}"]
    sender = purse.confirm(plan, steps)
    receipt = found.claim(sender, run, reward.account, reward.cumulative_wei, reward.proof)
    facts = {"account": reward.account, "claimed_wei": str(reward.cumulative_wei), "paid_wei": str(due)}
    purse.show(mined(receipt, **facts))


@rewards_app.command()
@with_purse
def finalize(
    purse: Purse,
    run: RunId,
) -> None:
    """Make a run's pending reward root final once its window is over. Anybody may; its bond goes to who proposed it."""
    from contracts.chain import block_number
    from contracts.plan import finalize_steps

    found = purse.ledger
    if found.run_info(run) is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    pending = found.pending_rewards(run)
    if pending is None:
        raise LedgerError(
            "no reward root of this run is pending",
            hint="`murmur rewards propose` proposes the one that is due",
        )
    if pending.open:
        raise LedgerError(
            f"{pending.open} disputes of the pending root are open", hint=f"`murmur dispute list {run}`"
        )
    # Nodes estimate a transaction as if it stood in the newest block.
    height = block_number(found.w3)
    if height < pending.final_at:
        raise LedgerError(
            f"the pending root can be disputed before block {pending.final_at}, and the chain is at {height}",
            hint="try again then",
        )
    plan = [
        f"make the reward root 0x{pending.root.hex()} of epoch {pending.epoch} final, over "
        f"{format_amount(pending.total_wei)} tokens in all; the bond goes back to {pending.proposer}"
    ]
    sender = purse.confirm(plan, finalize_steps(found, run))
    receipt = found.finalize_rewards(sender, run)
    facts = {"epoch": pending.epoch, "root": "0x" + pending.root.hex(), "total_wei": str(pending.total_wei)}
    purse.show(mined(receipt, run=run, **facts))


@rewards_app.command("list")
def list_(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    settlement: Annotated[
        list[str] | None,
        typer.Option(help="settlement.json of a run, as for `rewards claim`; repeatable, one for each run."),
    ] = None,
    owner: AnyWallet = None,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """List every run that the wallet has pay in: claimable, claimed, and not final yet. Needs no password.

    What is owed stands in a run's settlement, which is not on chain: of runs without one, only claims are shown.
    """
    from contracts.claims import pay_by_run

    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=True)
    rows = pay_by_run(found, wallet, settlement or [])
    if as_json:
        typer.echo(json.dumps({"account": wallet, "runs": [row.to_json() for row in rows]}))
        return
    if not rows:
        typer.echo("no pay in any run; name a run's settlement with --settlement")
    else:
        typer.echo(f"{'run':18} {'claimable':>14} {'claimed':>14} {'not final':>14}")
    for row in rows:
        cells = (row.claimable_wei, row.claimed_wei, row.unvested_wei)
        shown = ("?" if one is None else format_amount(one) for one in cells)
        typer.echo(f"{row.run[:16]:18} " + " ".join(f"{one:>14}" for one in shown))
    if any(row.claimable_wei is None for row in rows):
        typer.echo("?: name the run's settlement with --settlement", err=True)


@rewards_app.command()
def reconcile(
    rpc: Rpc,
    ledger: LedgerAddress,
    run: RunId,
    settlement: SettlementSource,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Compare what a run's pot paid with what its settlement owes, account by account: exit 1 if they differ.

    Needs no wallet. Whether the settlement is what the work earned, `murmur audit run` decides.
    """
    from contracts.claims import parse_rewards, read_settlement, recomputed
    from contracts.reconcile import reconcile as compare
    from contracts.run import ChainRun

    found = connect_ledger(rpc, ledger)
    chain = ChainRun(found, run)
    chain.refresh()
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    data = read_settlement(settlement)
    if (computed := recomputed(data)) is not None:
        said = computed.tables if computed.run == run else ()
    else:
        said = tuple(one.body for one in parse_rewards(data) if one.run == run)
    tables = sorted(said, key=lambda table: table.epoch)
    claims = chain.claims()
    claimed = {account: found.claimed(run, account) for account in {claim.account for claim in claims}}
    result = compare(info, tables, chain.finalized(), claims, claimed)
    if as_json:
        accounts = [
            {
                "account": one.account,
                "earned_wei": str(one.earned_wei),
                "claimed_wei": str(one.claimed_wei),
                "open_wei": str(one.earned_wei - one.claimed_wei),
                "unvested_wei": str(one.ahead_wei),
            }
            for one in result.accounts
        ]
        totals = {"funded_wei": str(info.funded_wei), "final_wei": str(info.final_total_wei)}
        totals["claimed_wei"] = str(info.claimed_wei)
        document = {"run": run, "agrees": not result.differences, **totals, "accounts": accounts}
        typer.echo(json.dumps({**document, "differences": result.differences}))
    else:
        typer.echo(f"{'account':42} {'earned':>14} {'claimed':>14} {'open':>14}")
        for one in result.accounts:
            cells = (one.earned_wei, one.claimed_wei, one.earned_wei - one.claimed_wei)
            typer.echo(f"{one.account:42} " + " ".join(f"{_signed(cell):>14}" for cell in cells))
        for line in result.differences:
            typer.echo(f"differs: {line}")
        if not result.differences:
            typer.echo(f"agrees: {len(claims)} claims, {len(chain.finalized())} final roots")
    if result.differences:
        raise typer.Exit(1)


def _signed(wei: int) -> str:
    return format_amount(wei) if wei >= 0 else f"-{format_amount(-wei)}"
