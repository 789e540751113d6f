"""`murmur stake` and `murmur rewards`: money between a wallet and the ledger. Every move is shown before it is made."""

import json
import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import ConfigError, LedgerError, NetworkError, UsageError

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.sender import Sender
    from contracts.types import Receipt

stake_app = typer.Typer(no_args_is_help=True, help="Stake, leave and withdraw.")
rewards_app = typer.Typer(no_args_is_help=True, help="Claim what validated work earned.")

Directory = Annotated[Path, typer.Option("--dir", help="Directory with wallet.json and peer.key.")]
Rpc = Annotated[str, typer.Option("--rpc", envvar="MURMUR_RPC", help="RPC URL of the chain.")]
LedgerAddress = Annotated[
    str, typer.Option("--ledger", envvar="MURMUR_LEDGER", help="Address of the ledger.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the wallet's password; else it is asked for.")
]
Amount = Annotated[str, typer.Option("--amount", help="Tokens, such as 100 or 0.5.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

DECIMALS = 18
CLAIM_TIMEOUT_S = 30.0


def parse_amount(text: str) -> int:
    """Turn a decimal amount of tokens into wei, exactly.

    Raises:
        UsageError: not a positive amount with at most 18 decimals.
    """
    match = re.fullmatch(r"(\d{1,30})(?:\.(\d{1,18}))?", text)
    wei = int(match[1]) * 10**DECIMALS + int((match[2] or "").ljust(DECIMALS, "0")) if match else 0
    if wei == 0:
        raise UsageError(f"{text!r} is not an amount of tokens", hint="for example --amount 100")
    return wei


def format_amount(wei: int) -> str:
    """Return wei as tokens without trailing zeros."""
    whole, rest = divmod(wei, 10**DECIMALS)
    return f"{whole}.{rest:018d}".rstrip("0").rstrip(".")


def confirm(plan: list[str], *, yes: bool, dry_run: bool, as_json: bool = False) -> None:
    """Show what is about to happen on stderr and ask; in a dry run the plan is all, and `as_json` its document.

    Raises:
        UsageError: there is no terminal to ask on and `--yes` was not given.
    """
    for line in plan:
        typer.echo(line, err=True)
    if dry_run:
        if as_json:
            typer.echo(json.dumps({"plan": plan}))
        raise typer.Exit
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("this moves money and there is no terminal to ask on", hint="add --yes")
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(1)


def open_ledger(
    directory: Path, rpc: str, ledger: str, password_file: Path | None, *, create: bool = False
) -> "tuple[Ledger, Sender]":
    """Open the ledger and the directory's wallet, which is made if need be and allowed.

    Raises:
        LedgerError: the chain is not there, or the address is no ledger.
        ConfigError: there is no wallet, or it does not open.
    """
    from contracts.chain import connect
    from contracts.client import Ledger
    from contracts.sender import Sender
    from contracts.wallet import WALLET_FILE, create_wallet, open_wallet

    found = Ledger(connect(rpc), ledger)
    found.verify()
    if not create or (directory / WALLET_FILE).exists():
        wallet = open_wallet(directory, password_file)
    else:
        typer.echo(f"making a wallet in {directory}", err=True)
        wallet = create_wallet(directory, password_file)
    return found, Sender(found.w3, wallet)


def show(value: dict[str, Any], as_json: bool) -> None:
    """Print what a command did, as lines or as one JSON document."""
    if as_json:
        typer.echo(json.dumps(value))
    else:
        for name, text in value.items():
            typer.echo(f"{name:14} {text}")


def mined(receipt: "Receipt", **facts: Any) -> dict[str, Any]:
    """Return facts with the transaction that made them true."""
    return {**facts, "tx": receipt.tx, "block": receipt.block}


@stake_app.command()
def deposit(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    amount: Amount,
    role: Annotated[
        str, typer.Option(help="For the first deposit: contributor or verifier.")
    ] = "contributor",
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stake tokens. The first deposit registers the wallet and links the directory's peer key, made if need be."""
    from contracts.types import Role
    from protocol.keys import PeerKey, load_peer_key, save_peer_key

    roles = {"contributor": Role.CONTRIBUTOR, "verifier": Role.VERIFIER}
    if role not in roles:
        raise UsageError(f"no role {role!r}", hint="--role contributor or --role verifier")
    wei = parse_amount(amount)
    found, sender = open_ledger(directory, rpc, ledger, password_file, create=not dry_run)
    number = found.number_of(sender.address)
    balance = found.balance_of(sender.address)
    if balance < wei:
        raise LedgerError(
            f"wallet {sender.address} holds {format_amount(balance)} tokens, not {format_amount(wei)}",
            hint="send it tokens first",
        )
    if number is not None:
        confirm(
            [f"deposit {format_amount(wei)} tokens for number {number}, slashable until withdrawn"],
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
        )
        receipt = found.deposit(sender, wei)
        show(mined(receipt, number=number, staked_wei=str(wei)), as_json)
        return
    key_path = directory / "peer.key"
    known = key_path.exists()
    peer = load_peer_key(key_path) if known else PeerKey(secrets.token_bytes(32))
    confirm(
        [
            f"register {sender.address} as {role} with {f'peer {peer.peer_id}' if known else 'a peer key made now'}",
            f"stake {format_amount(wei)} tokens; leaving takes {found.unbonding_blocks} blocks, slashable until then",
        ],
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    if not known:
        save_peer_key(key_path, peer)
    number = found.register(sender, roles[role], peer, wei)
    show(
        {"number": number, "wallet": sender.address, "peer_id": peer.peer_id, "staked_wei": str(wei)}, as_json
    )


@stake_app.command()
def unbond(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    amount: Amount,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Start to take stake back. It stays slashable until it is withdrawn."""
    wei = parse_amount(amount)
    found, sender = open_ledger(directory, rpc, ledger, password_file)
    confirm(
        [f"unbond {format_amount(wei)} tokens; they can be withdrawn after {found.unbonding_blocks} blocks"],
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    show(mined(found.unbond(sender, wei), unbonding_wei=str(wei)), as_json)


@stake_app.command()
def withdraw(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take unbonded stake back to the wallet."""
    found, sender = open_ledger(directory, rpc, ledger, password_file)
    confirm([f"withdraw what has unbonded to {sender.address}"], yes=yes, dry_run=dry_run, as_json=as_json)
    show(mined(found.withdraw(sender)), as_json)


@stake_app.command()
def status(directory: Directory, rpc: Rpc, ledger: LedgerAddress, as_json: Json = False) -> None:
    """Show what a wallet has staked, what unbonds, and what it holds; needs no password."""
    from contracts.chain import connect
    from contracts.client import Ledger
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE

    found = Ledger(connect(rpc), ledger)
    found.verify()
    wallet = keystore_address(directory / WALLET_FILE)
    number = found.number_of(wallet)
    operator = None if number is None else found.operator(number)
    show(
        {
            "wallet": wallet,
            "number": number,
            "role": None if operator is None else operator.role.name.lower(),
            "balance_wei": str(found.balance_of(wallet)),
            "stake_wei": "0" if operator is None else str(operator.stake_wei),
            "unbonding_wei": "0" if operator is None else str(operator.unbonding_wei),
            "unbonding_at": 0 if operator is None else operator.unbonding_at,
        },
        as_json,
    )


def read_settlement(source: str) -> bytes:
    """Read a settlement from a file, a run's public folder, or a URL of the coordinator's API.

    Raises:
        NetworkError: the URL does not deliver, or more than a settlement can have.
        ConfigError: the file is not there.
    """
    from contracts.claims import MAX_SETTLEMENT_BYTES

    if source.startswith(("http://", "https://")):
        import httpx

        found = bytearray()
        try:
            with httpx.stream("GET", source, timeout=CLAIM_TIMEOUT_S) as answer:
                for piece in answer.raise_for_status().iter_bytes():
                    found += piece
                    if len(found) > MAX_SETTLEMENT_BYTES:
                        raise NetworkError(f"{source}: longer than any settlement")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NetworkError(f"{source}: {error}", hint="check the coordinator's API address") from error
        return bytes(found)
    path = Path(source)
    try:
        with (path / "settlement.json" if path.is_dir() else path).open("rb") as file:
            return file.read(MAX_SETTLEMENT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the settlement {path}", hint="name settlement.json or its folder"
        ) from error


@rewards_app.command()
def claim(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    run: Annotated[str, typer.Option("--run", help="Run id.")],
    settlement: Annotated[
        str, typer.Option(help="settlement.json of the run: a file, its folder, or the API's URL of it.")
    ],
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Claim the wallet's pay that is final. What the settlement says counts only if its root is final on chain."""
    from contracts.claims import parse_tables, prove_reward

    found, sender = open_ledger(directory, rpc, ledger, password_file)
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    if info.final_root == bytes(32):
        raise LedgerError("no reward root of this run is final yet", hint="try again after the next epoch")
    reward = prove_reward(parse_tables(read_settlement(settlement)), info.final_root, sender.address)
    claimed = found.claimed(run, sender.address)
    due = (reward.cumulative_wei if reward else 0) - claimed
    if reward is None or due <= 0:
        show({"account": sender.address, "claimed_wei": str(claimed), "paid_wei": "0", "tx": None}, as_json)
        return
    confirm(
        [f"claim {format_amount(due)} tokens for {sender.address}"], yes=yes, dry_run=dry_run, as_json=as_json
    )
    receipt = found.claim(sender, run, reward.account, reward.cumulative_wei, reward.proof)
    facts = {"account": reward.account, "claimed_wei": str(reward.cumulative_wei), "paid_wei": str(due)}
    show(mined(receipt, **facts), as_json)
