"""`murmur stake`: put a wallet's tokens at stake, and take them back."""

import secrets
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.hearing import describe_alert
from contracts.purse import Purse, with_purse
from contracts.terminal import (
    Amount,
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
    parse_amount,
    show,
    wallet_address,
)
from protocol.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.types import Operator

stake_app = typer.Typer(no_args_is_help=True, help="Stake, leave and withdraw.")


@stake_app.command()
@with_purse
def deposit(
    purse: Purse,
    amount: Amount,
    role: Annotated[
        str, typer.Option(help="For the first deposit: contributor or verifier.")
    ] = "contributor",
) -> None:
    """Stake tokens. The first deposit registers the wallet and links the directory's peer key, made if need be."""
    from contracts.identity import open_peer_key
    from contracts.plan import deposit_steps, register_steps
    from contracts.types import Role
    from contracts.wallet import WALLET_FILE, create_wallet
    from protocol.keys import PeerKey, save_peer_key

    roles = {"contributor": Role.CONTRIBUTOR, "verifier": Role.VERIFIER}
    if role not in roles:
        raise UsageError(f"no role {role!r}", hint="--role contributor or --role verifier")
    wei = parse_amount(amount)
    found, directory = purse.ledger, purse.directory
    if not purse.dry_run and purse.owner is None and not (directory / WALLET_FILE).exists():
        typer.echo(f"making a wallet in {directory}", err=True)
        create_wallet(directory, purse.password_file)
    wallet = purse.wallet
    number = found.number_of(wallet)
    check_balance(found, wallet, wei)
    blocks = found.unbonding_blocks
    leaving = f"leaving takes {blocks} blocks{_about(found, blocks)}, slashable until then"
    if number is not None:
        plan = [f"deposit {format_amount(wei)} tokens for number {number}", leaving]
        sender = purse.confirm(plan, deposit_steps(found, wallet, wei))
        purse.show(mined(found.deposit(sender, wei), number=number, staked_wei=str(wei)))
        return
    if wei < found.min_stake:
        raise LedgerError(
            f"the least stake is {format_amount(found.min_stake)} tokens, not {format_amount(wei)}",
            hint=f"--amount {format_amount(found.min_stake)}",
        )
    key_path = directory / "peer.key"
    known = key_path.exists()
    if purse.dry_run and not known:
        raise UsageError(
            f"there is no {key_path} to link to the wallet",
            hint=f"`murmur keys new --dir {directory}` makes one",
        )
    peer = open_peer_key(directory) if known else PeerKey(secrets.token_bytes(32))
    plan = [
        f"register {wallet} as {role} with {f'peer {peer.peer_id}' if known else 'a peer key made now'}",
        f"stake {format_amount(wei)} tokens; {leaving}",
    ]
    sender = purse.confirm(plan, register_steps(found, wallet, roles[role], peer, wei))
    if not known:
        save_peer_key(key_path, peer)
    number = found.register(sender, roles[role], peer, wei)
    purse.show({"number": number, "wallet": wallet, "peer_id": peer.peer_id, "staked_wei": str(wei)})


@stake_app.command()
@with_purse
def unbond(
    purse: Purse,
    amount: Amount,
) -> None:
    """Start to take stake back. It stays slashable until it is withdrawn."""
    from contracts.plan import unbond_steps

    wei = parse_amount(amount)
    found, wallet = purse.ledger, purse.wallet
    own = _operator(found, wallet)
    if wei > own.stake_wei:
        raise LedgerError(
            f"number {own.number} has {format_amount(own.stake_wei)} tokens at stake, not {format_amount(wei)}",
            hint=f"--amount {format_amount(own.stake_wei)} takes all of it" if own.stake_wei else "",
        )
    left = own.stake_wei - wei
    height = _height(found)
    plan = [
        f"unbond {format_amount(wei)} tokens of number {own.number}; {format_amount(left)} stay at stake",
        f"they can be withdrawn from about block {height + 1 + found.unbonding_blocks}"
        f"{_about(found, found.unbonding_blocks + 1)}, and are slashable until they are",
    ]
    if own.unbonding_wei:
        plan.append(
            f"the waiting time of {format_amount(own.unbonding_wei)} tokens that unbond already starts again"
        )
    if left < found.min_stake:
        plan.append("that is below the least stake: it leaves the roster with the next round")
    sender = purse.confirm(plan, unbond_steps(found, wei))
    receipt = found.unbond(sender, wei)
    ready = receipt.block + found.unbonding_blocks
    purse.show(mined(receipt, unbonding_wei=str(wei), unbonding_at=ready, unbonding_time=_time(found, ready)))


@stake_app.command()
@with_purse
def rebond(
    purse: Purse,
) -> None:
    """Put all that unbonds at stake again."""
    from contracts.plan import rebond_steps

    found, wallet = purse.ledger, purse.wallet
    own = _unbonding(found, wallet)
    plan = [
        f"put {format_amount(own.unbonding_wei)} unbonding tokens of number {own.number} at stake again: "
        f"{format_amount(own.stake_wei + own.unbonding_wei)} in all"
    ]
    sender = purse.confirm(plan, rebond_steps(found))
    receipt = found.cancel_unbond(sender)
    total = own.stake_wei + own.unbonding_wei
    purse.show(mined(receipt, rebonded_wei=str(own.unbonding_wei), stake_wei=str(total)))


@stake_app.command()
@with_purse
def withdraw(
    purse: Purse,
) -> None:
    """Take unbonded stake back to the wallet."""
    from contracts.plan import withdraw_steps

    found, wallet = purse.ledger, purse.wallet
    own = _unbonding(found, wallet)
    plan = [f"withdraw {format_amount(own.unbonding_wei)} tokens to {wallet}"]
    sender = purse.confirm(plan, withdraw_steps(found))
    receipt = found.withdraw(sender)
    purse.show(mined(receipt, withdrawn_wei=str(own.unbonding_wei)))


@stake_app.command()
def status(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    owner: AnyWallet = None,
    run: Annotated[str | None, typer.Option("--run", help="Run id, to show what can be claimed.")] = None,
    settlement: Annotated[
        str | None,
        typer.Option(help="settlement.json of the run: a file, its folder, or the API's URL of it."),
    ] = None,
    as_json: Json = False,
    network: NetworkName = None,
) -> None:
    """Show a wallet's stake, what unbonds and when it is free, what was slashed, and open cases; needs no password."""
    if (run is None) != (settlement is None):
        raise UsageError("what can be claimed needs both --run and --settlement")
    found = connect_ledger(rpc, ledger)
    wallet = wallet_address(directory, owner, dry_run=True)
    number = found.number_of(wallet)
    facts: dict[str, Any] = {"wallet": wallet, "number": number}
    facts |= _standing(found, number)
    facts |= {"balance_wei": str(found.balance_of(wallet)), "coin_wei": str(_coin(found, wallet))}
    if run is not None and settlement is not None:
        from contracts.claims import claimable

        facts["claimable_wei"] = str(claimable(found, run, settlement, wallet).due_wei)
    if as_json:
        show(facts, as_json)
        return
    for name, value in facts.items():
        if name == "slashes":
            for one in value:
                typer.echo(
                    f"  round {one['round']:<6} {format_amount(int(one['amount_wei']))} tokens, {one['tx']}"
                )
        elif name == "alerts":
            for one in value:
                typer.echo(f"{'ALERT':14} {describe_alert(one)}")
        elif name.endswith("_wei"):
            unit = "" if name == "coin_wei" else " tokens"
            typer.echo(f"{name.removesuffix('_wei'):14} {format_amount(int(value))}{unit}")
        else:
            typer.echo(f"{name:14} {'-' if value is None else value}")


def _standing(found: "Ledger", number: int | None) -> dict[str, Any]:
    """Return what the ledger holds of a registration number."""
    own = None if number is None else found.operator(number)
    facts: dict[str, Any] = {
        "role": None,
        "peer": None,
        "peer_id": None,
        "stake_wei": "0",
        "unbonding_wei": "0",
        "unbonding_at": 0,
        "unbonding_time": None,
        "slashed_wei": "0",
        "slashes": [],
        "alerts": [],
    }
    if own is None:
        return facts
    from contracts.alerts import open_alerts
    from contracts.events import PeerRotated, Registered, Slashed
    from contracts.index import EventIndex
    from protocol.keys import peer_id_of

    index = EventIndex(found, found.deployed_block or 1)
    index.poll()
    slashes = [one for one in index.events if isinstance(one, Slashed) and one.number == own.number]
    linked = (one for one in index.events if isinstance(one, Registered | PeerRotated))
    keys = [one for one in linked if one.number == own.number]
    public = next(
        (one.pub_x + one.pub_y.to_bytes(32, "big") for one in reversed(keys) if one.peer == own.peer), None
    )
    return facts | {
        "role": own.role.name.lower(),
        "peer": own.peer,
        "peer_id": None if public is None else peer_id_of(public),
        "stake_wei": str(own.stake_wei),
        "unbonding_wei": str(own.unbonding_wei),
        "unbonding_at": own.unbonding_at,
        "unbonding_time": _time(found, own.unbonding_at) if own.unbonding_at else None,
        "slashed_wei": str(sum(one.amount for one in slashes)),
        "slashes": [
            {
                "run": one.run,
                "round": one.round,
                "amount_wei": str(one.amount),
                "tx": one.tx,
                "block": one.block,
            }
            for one in slashes
        ],
        "alerts": [one.to_json() for one in open_alerts(found, own.number)],
    }


def _operator(found: "Ledger", wallet: str) -> "Operator":
    number = found.number_of(wallet)
    own = None if number is None else found.operator(number)
    if own is None:
        raise LedgerError(
            f"wallet {wallet} is not registered",
            hint="register first: `murmur stake deposit`",
        )
    return own


def _unbonding(found: "Ledger", wallet: str) -> "Operator":
    own = _operator(found, wallet)
    if not own.unbonding_wei:
        raise LedgerError(f"nothing of number {own.number} unbonds", hint="`murmur stake unbond` starts it")
    return own


def _height(found: "Ledger") -> int:
    from contracts.chain import block_number

    return block_number(found.w3)


def _coin(found: "Ledger", wallet: str) -> int:
    from eth_utils.address import to_checksum_address

    from contracts.chain import ledger_errors

    with ledger_errors():
        return int(found.w3.eth.get_balance(to_checksum_address(wallet)))


def _time(found: "Ledger", block: int) -> str | None:
    """Return about when a block comes, ISO 8601 in UTC."""
    from contracts.plan import time_of_block

    time = time_of_block(found.w3, block)
    return None if time is None else time.isoformat(timespec="seconds")


def _about(found: "Ledger", blocks: int) -> str:
    from contracts.plan import time_of_block

    time = time_of_block(found.w3, _height(found) + blocks)
    return "" if time is None else f" (about {time:%Y-%m-%d %H:%M} UTC)"
