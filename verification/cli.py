"""`murmur verifier`: judge sampled work."""

from pathlib import Path
from typing import Annotated, Any

import typer

from protocol import options

verifier_app = typer.Typer(no_args_is_help=True, help="Run a verifier.")

Data = Annotated[Path | None, typer.Option(help="Text of the dataset (.xz too), if not the packaged one.")]
Device = Annotated[str, typer.Option(help="Torch device to replay on.")]


@verifier_app.callback()
def _verifier() -> None:
    """Run a verifier."""


@verifier_app.command()
def start(
    directory: Annotated[
        Path, typer.Option("--dir", envvar="MURMUR_DIR", help="The verifier's directory, with its peer.key.")
    ],
    run: options.Run,
    rpc: options.Rpc,
    ledger: options.Ledger,
    bootstrap: options.Bootstrap = None,
    listen: options.Listen = options.LOOPBACK,
    drand: options.Drand = None,
    data: Data = None,
    data_dir: options.DataDir = None,
    device: Device = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads to replay with.")] = 1,
    evidence_units: Annotated[
        int, typer.Option(min=0, help="Judged units whose opened files are kept.")
    ] = 64,
    public_mib: options.PublicMib = None,
) -> None:
    """Judge the units drawn for this verifier until stopped: needs a registered peer key."""
    import trio

    from contracts.run import ChainRun
    from protocol.daemon import log_to_stderr, parse_config
    from verification.config import VerifierConfig
    from verification.service import run_verifier

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
        "threads": threads,
        "evidence_units": evidence_units,
        "public_mib": public_mib,
    }
    config = parse_config(VerifierConfig, values)
    log_to_stderr()
    chain = ChainRun.connect(config.rpc, config.ledger, config.run)
    trio.run(run_verifier, config, chain)
