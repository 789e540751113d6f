"""`murmur node`: start a contributor, and show how it fares."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options

if TYPE_CHECKING:
    from contracts.run import ChainRun

app = typer.Typer(no_args_is_help=True, help="Run a contributor's node.")

Directory = Annotated[
    Path, typer.Option("--dir", envvar="MURMUR_DIR", help="The node's directory, with its peer.key.")
]
CHEATS_HELP = (
    "For demonstrations: behave dishonestly on purpose, as skip-steps, copycat or another of "
    "`murmur verifier attacks`. Verifiers catch it, and it costs the stake."
)


@app.command()
def start(
    directory: Directory,
    run: options.Run,
    rpc: options.Rpc,
    ledger: options.Ledger,
    bootstrap: options.Bootstrap = None,
    listen: options.Listen = options.LOOPBACK,
    drand: options.Drand = None,
    data: Annotated[
        Path | None, typer.Option(help="Text to train on (.xz too), if not the packaged one.")
    ] = None,
    data_dir: options.DataDir = None,
    device: Annotated[str, typer.Option(help="Torch device to train on.")] = "cpu",
    profile: Annotated[
        str | None,
        typer.Option(help="Numeric profile of the run to compute under; default: its first for the device."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads to train with.")] = 1,
    cpu_share: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, help="Share of the time in which the trainer computes; it rests otherwise."
        ),
    ] = 1.0,
    tier: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=7,
            help="Tier of the units, 0 the full one; without, the largest that this machine finishes in time.",
        ),
    ] = None,
    state_cap: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Bytes of undrawn units' states to keep on disk; a drawn unit beyond is computed again. "
            "Default: 4 GiB.",
        ),
    ] = None,
    peak_tflops: Annotated[
        float | None,
        typer.Option(
            help="Peak of the device in TFLOP/s, for the model FLOPs utilisation; default: a short product of "
            "matrices is timed once."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Answer Prometheus on this port of this machine; 0: a free one; default: none."),
    ] = None,
    tensorboard: options.TensorBoard = None,
    checkpoint_mib: Annotated[
        int | None,
        typer.Option(min=0, help="Keep checkpoints of the global parameters, in so many MiB; default: none."),
    ] = None,
    public_mib: options.PublicMib = None,
    peer_password_file: options.PeerPasswordFile = None,
    cheat: Annotated[str | None, typer.Option(help=CHEATS_HELP)] = None,
    network: options.NetworkName = None,
) -> None:
    """Train in a run until stopped: needs a registered peer key (`murmur stake deposit`)."""
    import trio

    from contracts.run import ChainRun
    from node.config import NodeConfig
    from node.inclusion import Inclusion
    from node.service import run_node
    from protocol.daemon import log_to_stderr, parse_config

    values: dict[str, Any] = {
        "directory": directory,
        "run": run,
        "rpc": rpc,
        "ledger": ledger,
        "bootstrap": tuple(bootstrap or ()),
        "listen": listen,
        **({"drand": tuple(drand)} if drand else {}),
        "data": data,
        "data_dir": data_dir,
        "device": device,
        "profile": profile,
        "threads": threads,
        "cpu_share": cpu_share,
        **({} if tier is None else {"tier": tier}),
        **({} if state_cap is None else {"state_cap": state_cap}),
        "peak_tflops": peak_tflops,
        "metrics_port": metrics_port,
        "tensorboard": tensorboard,
        "checkpoint_mib": checkpoint_mib,
        "public_mib": public_mib,
        "peer_password_file": peer_password_file,
        "cheat": cheat,
    }
    config = parse_config(NodeConfig, values)
    log_to_stderr()
    chain = ChainRun.connect(config.rpc, config.ledger, config.run)
    _ = chain.ledger.jury.terms  # read here, so that alerts never wait for the chain
    trio.run(run_node, config, chain, partial(_alerts, chain), partial(Inclusion.open, chain))


def _alerts(chain: "ChainRun", number: int) -> list[dict[str, Any]]:
    from contracts.alerts import run_alerts

    return [alert.to_json() for alert in run_alerts(chain, number)]


@app.command()
def status(
    directory: Directory,
    as_json: options.Json = False,
) -> None:
    """Show what a node in this directory does, and what became of its units."""
    from node.status import describe
    from protocol.daemon import STATUS_FILE, read_status

    found = read_status(directory / STATUS_FILE, "node")
    typer.echo(json.dumps(found) if as_json else describe(found))
