"""What a wallet's commands share: options, amounts, the plan that is shown before anything moves, and answers."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import UsageError

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.sender import Sender
    from contracts.types import Receipt

Directory = Annotated[Path, typer.Option("--dir", help="Directory with wallet.json and peer.key.")]
Rpc = Annotated[str, typer.Option("--rpc", envvar="MURMUR_RPC", help="RPC URL of the chain.")]
LedgerAddress = Annotated[
    str, typer.Option("--ledger", envvar="MURMUR_LEDGER", help="Address of the ledger.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the wallet's password; else it is asked for.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
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
