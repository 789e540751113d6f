"""What a wallet's commands share: options, amounts, the plan that is shown before anything moves, and answers."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import LedgerError, UsageError
from protocol.networks import Network

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.plan import Quote
    from contracts.sender import Sender
    from contracts.types import Receipt

Directory = Annotated[
    Path, typer.Option("--dir", envvar="MURMUR_DIR", help="Directory with wallet.json and peer.key.")
]
Rpc = options.Rpc
LedgerAddress = options.Ledger
NetworkName = options.NetworkName
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the wallet's password; else it is asked for.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show the plan, print unsigned transactions where it has any, and stop."),
]
Amount = Annotated[str, typer.Option("--amount", help="Tokens, such as 100 or 0.5.")]
AnyWallet = Annotated[
    str | None,
    typer.Option("--owner", metavar="ADDRESS", help="A wallet that is elsewhere, if not the directory's."),
]
Owner = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="A wallet that is elsewhere: add --dry-run, and it signs what is printed."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

DECIMALS = 18


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


def confirm_transactions(
    plan: list[str], quoted: "Quote", *, yes: bool, dry_run: bool, as_json: bool = False
) -> None:
    """Show a plan with its fee and ask; in a dry run print its unsigned transactions, for a wallet elsewhere.

    Raises:
        UsageError: there is no terminal to ask on and `--yes` was not given.
    """
    count = len(quoted.transactions)
    fee = (
        f"fee about {format_amount(quoted.fee_wei)}, at most {format_amount(quoted.max_fee_wei)} of the chain's coin, "
        f"for {count} transaction{'' if count == 1 else 's'}"
    )
    if not dry_run:
        confirm([*plan, fee], yes=yes, dry_run=False)
        return
    for line in (*plan, fee):
        typer.echo(line, err=True)
    unsigned = [one.to_json() for one in quoted.transactions]
    document = {"plan": [*plan, fee], "fee_wei": str(quoted.fee_wei), "max_fee_wei": str(quoted.max_fee_wei)}
    typer.echo(
        json.dumps({**document, "transactions": unsigned}) if as_json else json.dumps(unsigned, indent=1)
    )
    raise typer.Exit


def connect_ledger(rpc: Network, ledger: str) -> "Ledger":
    """Connect to a ledger and check that it is one; needs no wallet.

    Raises:
        LedgerError: the chain is not there, or the address is no ledger.
    """
    from contracts.chain import connect
    from contracts.client import Ledger

    found = Ledger(connect(rpc), ledger)
    found.verify()
    return found


def open_sender(ledger: "Ledger", directory: Path, password_file: Path | None) -> "Sender":
    """Open the directory's wallet with its outbox.

    Raises:
        ConfigError: there is no wallet, or it does not open.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    from contracts.sender import Sender
    from contracts.wallet import open_wallet

    sender = Sender.open(ledger.w3, open_wallet(directory, password_file), directory)
    options.at_end(sender.close)
    return sender


def wallet_address(directory: Path, owner: str | None, *, dry_run: bool) -> str:
    """Return the wallet that a plan is for: the directory's, or in a dry run one that is elsewhere. No password.

    Raises:
        ConfigError: the directory has no wallet.
        UsageError: another's address was given for more than a dry run, or it is none.
    """
    from eth_utils.address import is_address, to_checksum_address

    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE

    if owner is None:
        return keystore_address(directory / WALLET_FILE)
    if not dry_run:
        raise UsageError(
            "--owner is a wallet that is elsewhere, so that nothing can be signed here", hint="add --dry-run"
        )
    if not is_address(owner):
        raise UsageError(f"{owner!r} is not the address of a wallet")
    return str(to_checksum_address(owner))


def check_balance(ledger: "Ledger", wallet: str, wei: int, what: str = "this takes") -> None:
    """Refuse what a wallet cannot pay.

    Args:
        what: says before the amount what it is for.

    Raises:
        LedgerError: it holds less.
    """
    balance = ledger.balance_of(wallet)
    if balance < wei:
        raise LedgerError(
            f"wallet {wallet} holds {format_amount(balance)} tokens, and {what} {format_amount(wei)}",
            hint="send it tokens first",
        )


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
