"""Options that several commands take, so that they read the same everywhere.

A command that has `Rpc`, `Ledger` or both has `NetworkName` too: the profile it names stands in for what is not given.
"""

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from protocol.networks import Network, find_network

_PROFILE = "murmur.network"
_command: ContextVar[typer.Context | None] = ContextVar("command", default=None)


def _choose(context: typer.Context, name: str | None) -> str | None:
    """Let a profile say what `--rpc` and `--ledger` do not; runs before they are parsed."""
    _command.set(context)
    if name is not None:
        network = find_network(name)
        context.meta[_PROFILE] = network
        found = {"rpc": ",".join(network.rpc), "ledger": network.ledger}
        context.default_map = {key: value for key, value in found.items() if value is not None}
    return name


def _complete(context: typer.Context, given: Network | None) -> Network | None:
    """Keep what the profile says about the chain behind the URLs."""
    profile: Network | None = context.meta.get(_PROFILE)
    return given if given is None or profile is None else profile.model_copy(update={"rpc": given.rpc})


def at_end(act: Callable[[], object]) -> None:
    """Do something when the command that runs has ended, however it ended."""
    context = _command.get()
    if context is not None:
        context.call_on_close(act)


def chain_flags(network: Network) -> str:
    """Return how a command line names a network again."""
    return f"--network {network.name}" if network.name else f"--rpc {','.join(network.rpc)}"


def rpc_option(help_: str, *, envvar: str | None = "MURMUR_RPC") -> typer.models.OptionInfo:
    """Return an option that takes RPC URLs and gives a `Network`."""
    option: typer.models.OptionInfo = typer.Option(
        "--rpc", envvar=envvar, parser=Network.of, callback=_complete, metavar="URL[,URL...]", help=help_
    )
    return option


Run = Annotated[str, typer.Option(envvar="MURMUR_RUN", help="Run id, 64 hex digits.")]
Rpc = Annotated[Network, rpc_option("RPC URLs of the chain's endpoints; the first that is well is asked.")]
Ledger = Annotated[str, typer.Option("--ledger", envvar="MURMUR_LEDGER", help="Address of the ledger.")]


def _network_option(envvar: str | None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        "--network",
        envvar=envvar,
        is_eager=True,
        expose_value=False,
        callback=_choose,
        metavar="NAME",
        help="Profile that says what --rpc and --ledger do not (`murmur network list`).",
    )
    return option


NetworkName = Annotated[str | None, _network_option("MURMUR_NETWORK")]
NetworkNameAsked = Annotated[str | None, _network_option(None)]
"""Where a chain is relied on only if the command line itself names it."""

Bootstrap = Annotated[
    list[str] | None, typer.Option(help="Address of a peer to meet first, /ip4/.../p2p/...; repeatable.")
]
Listen = Annotated[str, typer.Option(help="Address to listen on.")]
Drand = Annotated[
    list[str] | None,
    typer.Option(
        envvar="MURMUR_DRAND",
        help="HTTP endpoint of the run's drand network, if not the public ones; repeatable.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where token shards are kept; default: data/ in the directory.")
]
PublicMib = Annotated[
    int | None,
    typer.Option(
        "--public-mib",
        min=0,
        help="Keep at most so many MiB of merged updates for auditors and latecomers; default: all of the run.",
    ),
]
PeerPasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="MURMUR_PEER_PASSWORD_FILE",
        help="File with the peer key's password, if the key is encrypted; else keyring or prompt.",
    ),
]
TensorBoard = Annotated[
    Path | None,
    typer.Option(
        "--tensorboard",
        help="Write TensorBoard event files here, a directory for each peer and one for the run.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
"""Listen on this machine only, on any free port."""
