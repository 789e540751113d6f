"""Mount the command lines of the packages as one program, `murmur`."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated

import typer

from murmur.interrupt import Interrupted
from protocol.errors import MurmurError

INTERRUPTED = 130

# (command, module, its Typer app): a role package owns its commands, this file only mounts them.
MOUNTS = (
    ("", "murmur.up", "app"),
    ("node", "node.cli", "app"),
    ("coordinator", "coordinator.cli", "app"),
    ("run", "coordinator.cli", "run_app"),
    ("env", "training.env_cli", "env_app"),
    ("model", "training.model_cli", "model_app"),
    ("verifier", "verification.cli", "verifier_app"),
    ("proof", "verification.proof_cli", "proof_app"),
    ("audit", "verification.audit_cli", "audit_app"),
    ("keys", "murmur.keys_cli", "keys_app"),
    ("stake", "contracts.stake_cli", "stake_app"),
    ("rewards", "contracts.rewards_cli", "rewards_app"),
    ("dispute", "contracts.dispute_cli", "dispute_app"),
    ("jury", "contracts.jury_cli", "jury_app"),
    ("network", "contracts.network_cli", "network_app"),
)

# (mounted app, module, function): commands that need more than the package whose app they belong to may import.
COMMANDS = (
    ("rewards", "verification.pay_cli", "why"),
    ("rewards", "verification.pay_cli", "export"),
    ("rewards", "verification.propose_cli", "propose"),
    ("rewards", "verification.propose_cli", "tables"),
    ("verifier", "murmur.attacks", "attacks"),
    ("verifier", "murmur.calibrate", "calibrate"),
    ("verifier", "murmur.simulator", "simulate"),
)


def print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("murmur-network"))
        raise typer.Exit


def murmur(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train one model on many machines that do not trust each other."""


@cache
def program(group: str | None = None) -> typer.Typer:
    """Make the program, with all its commands or with those of one group alone: each takes its time to import."""
    app = typer.Typer(name="murmur", no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(murmur)
    groups: dict[str, typer.Typer] = {}
    for command, module, name in MOUNTS:
        if group in (None, command) and importlib.util.find_spec(module) is not None:
            groups[command] = getattr(importlib.import_module(module), name)
            app.add_typer(groups[command], name=command)
    for command, module, name in COMMANDS:
        if command in groups:
            groups[command].command(name)(getattr(importlib.import_module(module), name))
    return app


def group_of(arguments: Sequence[str]) -> str | None:
    """Return the group that a command line begins with, or None: then it takes all of them to answer."""
    first = arguments[0] if arguments else ""
    return first if first and first in (command for command, _, _ in MOUNTS) else None


def exit_code(error: BaseException) -> int | None:
    """Return the exit code for an error, looking into groups that nurseries raise; None if it is a defect of ours."""
    if isinstance(error, BaseExceptionGroup):
        codes = {exit_code(inner) for inner in error.exceptions}
        return codes.pop() if len(codes) == 1 else None
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return INTERRUPTED
    return error.exit_code if isinstance(error, MurmurError) else None


def describe(error: BaseException) -> str:
    """Return what happened and what to do next, for stderr."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MurmurError):
        return f"murmur: {error.message}" + (f"\n  next: {error.hint}" if error.hint else "")
    return "murmur: interrupted"


def main() -> None:
    """Run the program; the entry point of the console script."""
    try:
        program(group_of(sys.argv[1:]))()
    except (MurmurError, BaseExceptionGroup, Interrupted, KeyboardInterrupt) as error:
        code = exit_code(error)
        if code is None:
            raise
        typer.echo(describe(error), err=True)
        sys.exit(code)
