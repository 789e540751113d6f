"""`murmur verifier`: judge sampled work."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from protocol.manifest import RunManifest

verifier_app = typer.Typer(no_args_is_help=True, help="Run a verifier.")

Data = Annotated[Path | None, typer.Option(help="Text of the dataset (.xz too), if not the packaged one.")]
Device = Annotated[str, typer.Option(help="Torch device to replay on.")]


CHEATS_HELP = (
    "For demonstrations: behave dishonestly on purpose, as lazy-verifier or false-accuser. "
    "It is found out and not paid."
)


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
    dispute_rewards: Annotated[
        bool,
        typer.Option(
            "--dispute-rewards",
            help="Dispute a reward root that is wrong; the bond is taken from tokens of the peer key.",
        ),
    ] = False,
    cheat: Annotated[str | None, typer.Option(help=CHEATS_HELP)] = None,
    public_mib: options.PublicMib = None,
    peer_password_file: options.PeerPasswordFile = None,
    network: options.NetworkName = None,
) -> None:
    """Judge the units drawn for this verifier until stopped: needs a registered peer key."""
    import trio

    from contracts.run import ChainRun
    from protocol.daemon import log_to_stderr, parse_config
    from verification.config import VerifierConfig
    from verification.court import Court
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
        "dispute_rewards": dispute_rewards,
        "public_mib": public_mib,
        "peer_password_file": peer_password_file,
        "cheat": cheat,
    }
    config = parse_config(VerifierConfig, values)
    log_to_stderr()
    chain = ChainRun.connect(config.rpc, config.ledger, config.run)
    trio.run(run_verifier, config, chain, partial(Court.open, chain, directory))


@verifier_app.command()
def profiles(
    manifest: Annotated[
        Path | None,
        typer.Argument(help="A run's manifest.json; neither it nor --run: the built-in profiles."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(envvar="MURMUR_RUN", help="Run id, of a run that --dir has kept the manifest of."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", envvar="MURMUR_DIR", help="The verifier's directory.")
    ] = None,
    device: Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Show what this machine computes, and which profiles' units it may judge."""
    from training.inner import prepare_process
    from verification.profile import computable, judging_pairs, this_machine

    wanted = _manifest(manifest, run, directory)
    prepare_process(None)
    machine = this_machine(device)
    pairs = judging_pairs(wanted, machine)
    if as_json:
        told = {
            "machine": machine.model_dump(mode="json"),
            "computes": [profile.name for profile in computable(wanted, machine)],
            "judges": [pair.to_json() for pair in pairs],
        }
        typer.echo(json.dumps(told))
        return
    typer.echo(f"this machine: {machine}")
    for pair in pairs:
        profile = pair.unit
        bounds = f"{profile.tolerance:g}, {profile.fresh_tolerance:g}, {profile.slash_tolerance:g}"
        under = f"judged under {pair.replay.name}" if pair.replay else f"INCONCLUSIVE: {pair.reason}"
        typer.echo(f"{profile.name:16} tolerance, fresh, slash {bounds:20} {under}")


def _manifest(path: Path | None, run: str | None, directory: Path | None) -> "RunManifest":
    """Return the manifest asked for, or one with the built-in profiles.

    Raises:
        UsageError, ConfigError: it is not there.
    """
    from protocol.canonical import ZERO_DIGEST
    from protocol.daemon import stored_manifest
    from protocol.manifest import (
        BUILT_IN_PROFILES,
        LOCAL_CHAIN_ID,
        DatasetConfig,
        RunManifest,
        VerificationConfig,
    )

    if path is not None:
        try:
            return RunManifest.read(path)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if run is None:
        return RunManifest(
            name="built in",
            chain_id=LOCAL_CHAIN_ID,
            ledger="0x" + "00" * 20,
            coordinator="0x" + "00" * 20,
            rounds=1,
            dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=1),
            verification=VerificationConfig(profiles=BUILT_IN_PROFILES),
            initial_parameters=ZERO_DIGEST,
            program=ZERO_DIGEST,
        )
    if directory is None:
        raise UsageError("--run names a run, --dir where its manifest is kept", hint="give both")
    found = stored_manifest(directory, run)
    if found is None:
        raise ConfigError(
            f"{directory} has not kept the manifest of run {run[:16]}",
            hint="`murmur verifier start` fetches it; or name a manifest.json",
        )
    return found
