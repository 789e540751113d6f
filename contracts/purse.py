"""The wallet of a command that signs: its options, and the way from a plan to what was mined.

A command takes a `Purse` first and is decorated with `with_purse`, which gives it the options that all of them share.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from contracts.terminal import (
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
    open_sender,
    show,
    wallet_address,
)
from protocol.networks import Network

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.plan import Quote, Step
    from contracts.sender import Sender

P = ParamSpec("P")


@dataclass(frozen=True)
class Purse:
    """Hold what the shared options say. Chain and files are looked at when they are first asked for."""

    directory: Path
    rpc: Network
    ledger_address: str
    owner: str | None
    password_file: Path | None
    yes: bool
    dry_run: bool
    as_json: bool

    @cached_property
    def ledger(self) -> "Ledger":
        """Return the ledger, checked to be one.

        Raises:
            LedgerError: the chain is not there, or the address is no ledger.
        """
        return connect_ledger(self.rpc, self.ledger_address)

    @cached_property
    def wallet(self) -> str:
        """Return the address whose transactions these are: the directory's, or in a dry run one that is elsewhere.

        Raises:
            ConfigError: the directory has no wallet.
            UsageError: another's address was given for more than a dry run, or it is none.
        """
        return wallet_address(self.directory, self.owner, dry_run=self.dry_run)

    def quote(self, steps: "Sequence[Step]") -> "Quote":
        """Return what the steps would cost; sends nothing.

        Raises:
            LedgerError: the contract would refuse one, or the chain is not there.
        """
        from contracts.plan import quote

        return quote(self.ledger.w3, self.wallet, steps)

    def confirm(self, plan: list[str], steps: "Sequence[Step]") -> "Sender":
        """Show the plan with its fee, ask, and open the wallet; a dry run ends here with unsigned transactions.

        Raises:
            LedgerError: the contract would refuse a step, or the chain is not there.
            UsageError: there is no terminal to ask on, for consent or for the password.
            ConfigError: there is no wallet, or it does not open.
        """
        confirm_transactions(
            plan, self.quote(steps), yes=self.yes, dry_run=self.dry_run, as_json=self.as_json
        )
        return open_sender(self.ledger, self.directory, self.password_file)

    def show(self, facts: dict[str, Any]) -> None:
        """Print what was done."""
        show(facts, self.as_json)


def with_purse(command: Callable[Concatenate[Purse, P], None]) -> Callable[..., None]:
    """Give a command the shared options in the place of its first parameter."""
    call: Callable[..., None] = command

    def run(
        *,
        directory: Directory,
        rpc: Rpc,
        ledger: LedgerAddress,
        owner: Owner = None,
        password_file: PasswordFile = None,
        yes: Yes = False,
        dry_run: DryRun = False,
        as_json: Json = False,
        network: NetworkName = None,  # never handed in: it only completes the others
        **own: Any,
    ) -> None:
        call(Purse(directory, rpc, ledger, owner, password_file, yes, dry_run, as_json), **own)

    *shared, _ = inspect.signature(run).parameters.values()
    _, *added = inspect.signature(command).parameters.values()
    # Typer reads options and help from these.
    options = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in added]
    run.__signature__ = inspect.Signature([*options, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*options, *shared)}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run
