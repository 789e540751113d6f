"""Options that several commands take, so that they read the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Option(envvar="MURMUR_RUN", help="Run id, 64 hex digits.")]
Rpc = Annotated[str, typer.Option(envvar="MURMUR_RPC", help="RPC URL of the chain.")]
Ledger = Annotated[str, typer.Option(envvar="MURMUR_LEDGER", help="Address of the ledger.")]
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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
"""Listen on this machine only, on any free port."""
