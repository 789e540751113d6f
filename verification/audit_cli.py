"""`murmur audit`: recompute a whole run from public data, or decide one bundle the same way."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol import options
from protocol.errors import LedgerError, Malformed, NetworkError, UsageError
from protocol.networks import Network
from verification.proof_cli import AnchorPath, ChainRpc, Data, Device, find_anchor, show_checks
from verification.report import Extent

if TYPE_CHECKING:
    from training.corpus import Shard
    from verification.audit import AuditReport
    from verification.sources import Sources

audit_app = typer.Typer(no_args_is_help=True, help="Recompute a whole run from public data.")

Replay = Annotated[
    Extent | None,
    typer.Option(
        help="Execute drawn units again: those whose files are at hand (sampled), the first of them, or all. "
        "Without, the best result is inconclusive."
    ),
]


@audit_app.callback()
def _audit() -> None:
    """Recompute a whole run from public data."""


@audit_app.command("run")
def audit_run(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|BUNDLE",
            help="Run id, 64 hex digits, with --dir; or what `murmur audit fetch` wrote; or a bundle.",
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--dir", envvar="MURMUR_DIR", help="Directory of a local network, or of a coordinator."),
    ] = None,
    rpc: ChainRpc = None,
    anchor: AnchorPath = None,
    replay: Replay = None,
    rounds: Annotated[
        str | None, typer.Option(metavar="A:B", help="Judge only rounds A up to, and without, B; no money.")
    ] = None,
    anchors_out: Annotated[
        Path | None, typer.Option(help="Write what the chain says, for `murmur proof verify --anchor`.")
    ] = None,
    data: Data = None,
    device: Device = "cpu",
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Recompute a run from public data and the chain: exit 0, 6 if a rule is broken, 7 if it cannot be decided."""
    from verification.sources import is_bundle, open_sources

    path = Path(subject)
    if is_bundle(path):
        if directory is not None or rounds is not None or anchors_out is not None:
            raise UsageError("--dir, --rounds and --anchors-out are of use with a run, not with a bundle")
        _audit_bundle(path, rpc, anchor, replay, data, device, as_json)
        return
    if anchor is not None:
        raise UsageError("--anchor is of use with a bundle only", hint="add --rpc URL")
    run: str | None = None
    if re.fullmatch(r"[0-9a-f]{64}", subject):
        if directory is None:
            raise UsageError("a run id needs the place of its public data", hint="add --dir DIR")
        run, path = subject, directory
    elif directory is not None:
        raise UsageError("--dir is of use with a run id only", hint="a run id has 64 hex digits")
    only = None if rounds is None else parse_rounds(rounds)
    with open_sources(path) as sources:
        report = audit_folder(
            sources,
            run,
            rpc,
            replay=replay,
            only=only,
            anchors_out=anchors_out,
            data=data,
            device=device,
        )
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        show_checks(report.checks)
        for name, value in report.subject.items():
            typer.echo(f"{name.replace('_', ' '):20} {value}")
        if report.first_violation is not None:
            typer.echo(f"{'first violated rule':20} {report.first_violation['rule']}")
        if only is not None:
            typer.echo(f"{'judged alone':20} rounds {only.start} to {only.stop - 1}, and no money")
        endings = {0: "every check holds", 6: "a rule was broken", 7: "undecided"}
        typer.echo(f"run {report.run}: {endings[report.exit_code]}")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


@audit_app.command("fetch")
def audit_fetch(
    run: Annotated[str, typer.Argument(help="Run id, 64 hex digits.")],
    rpc: options.Rpc,
    ledger: options.Ledger,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, or a file that ends in .tar.")],
    bootstrap: options.Bootstrap = None,
    public: Annotated[
        Path | None, typer.Option("--from", help="A public folder at hand, to be completed by the peers.")
    ] = None,
    api: Annotated[
        str | None, typer.Option(help="URL of a coordinator's HTTP API, for messages that peers lack.")
    ] = None,
    listen: options.Listen = options.LOOPBACK,
    drand: options.Drand = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds to go on asking for messages that are missing.")
    ] = 60.0,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Gather a run from peers that hold it, without stake, for `murmur audit run`: exit 0, or 4 if data is missing.

    What is missing is named; the same command goes on where it stopped.
    """
    import trio

    from contracts.run import ChainRun
    from protocol.beacons import PUBLIC_ENDPOINTS
    from verification.fetch import FetchConfig, fetch_archive
    from verification.tarball import pack_folder

    logging.basicConfig(level=logging.ERROR)  # who has what is told in the report
    packed = out.suffix == ".tar"
    folder = out.with_name(f".{out.name}.fetch") if packed else out
    config = FetchConfig(
        run=run,
        out=folder,
        bootstrap=tuple(bootstrap or ()),
        public=public,
        api=api,
        listen=listen,
        drand=tuple(drand or PUBLIC_ENDPOINTS),
        patience_s=patience,
    )
    chain = ChainRun.connect(rpc, ledger, run)
    report = trio.run(fetch_archive, config, chain, lambda line: typer.echo(line, err=True))
    if packed:
        pack_folder(folder, out)
    if as_json:
        typer.echo(json.dumps({"out": str(out), **report.to_json()}))
    else:
        typer.echo(f"{report.rounds} rounds, {report.messages} messages, {report.updates} updates in {out}")
        typer.echo(f"opened states: {report.states} files, {report.states_missing} no longer served")
        for name in report.missing:
            typer.echo(f"missing: {name}")
        typer.echo(
            f"audit it with: murmur audit run {out} {options.chain_flags(rpc)} --replay sampled", err=True
        )
    if not report.complete:
        raise typer.Exit(NetworkError.exit_code)
    if packed:
        shutil.rmtree(folder)


def parse_rounds(text: str) -> range:
    """Parse `A:B`, rounds A up to and without B; an end that is left out is the run's.

    Raises:
        UsageError: not a range, or an empty one.
    """
    match = re.fullmatch(r"(\d{0,7}):(\d{0,7})", text)
    if match is None:
        raise UsageError(f"--rounds {text!r} is not a range", hint="--rounds 10:20 means rounds 10 to 19")
    found = range(int(match[1] or 0), int(match[2] or 1_000_001))
    if not found:
        raise UsageError(f"--rounds {text} holds no round", hint="--rounds 10:20 means rounds 10 to 19")
    return found


def audit_folder(
    sources: "Sources",
    run: str | None,
    rpc: Network | None,
    *,
    replay: Extent | None,
    only: range | None = None,
    anchors_out: Path | None = None,
    data: Path | None = None,
    device: str = "cpu",
) -> "AuditReport":
    """Recompute the run of a public folder, as `murmur audit run` does.

    Args:
        run: its id; None: whichever the folder's manifest is of.
        anchors_out: file to write, with what the chain says.
        data: text that the dataset is made of, where its shard is not at hand; None: the packaged one.

    Raises:
        LedgerError: the chain does not answer, or there is none to write anchors of.
        ConfigError: there is no public folder, or the local chain's program is not installed.
    """
    from tempfile import TemporaryDirectory

    from training.corpus import Shard, prepare_corpus, shard_path
    from verification.anchor import AnchorFile
    from verification.audit import AuditReport, audit
    from verification.facts import chain_facts
    from verification.report import Check

    try:
        manifest = sources.archive.manifest()
    except Malformed as error:
        return AuditReport(run or "", (Check("public folder", "rejected", error.message, 0),), only=only)
    run = run or manifest.run_id
    if rpc is None and not sources.has_chain:
        if anchors_out is not None:
            raise LedgerError("there is no chain to write anchors of", hint="add --rpc URL")
        missing = "no --rpc was given and no chain is kept beside the data: nothing said there proves itself"
        return AuditReport(run, (Check("chain", "inconclusive", missing, 0),), only=only)
    with TemporaryDirectory(prefix="murmur-audit-") as scratch, sources.chain(manifest, run, rpc) as chain:

        def shard() -> "Shard":
            if data is None and shard_path(sources.shards, manifest.dataset.root).exists():
                return Shard.open(manifest.dataset, sources.shards)
            prepare_corpus(data, Path(scratch))
            return Shard.open(manifest.dataset, Path(scratch))

        report = audit(
            sources.archive, chain, run, sources.find, replay=replay, only=only, shard=shard, device=device
        )
        if anchors_out is not None:
            facts = chain_facts(chain, manifest)
            anchors_out.write_bytes(AnchorFile.of(facts, chain.height).to_bytes())
    return report


def _audit_bundle(
    path: Path,
    rpc: Network | None,
    anchor: Path | None,
    replay: Extent | None,
    data: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Decide the one unit of a bundle, whichever extent of replay was asked for."""
    from verification.proof import verify_bundle
    from verification.proof_cli import show_proof

    relied = find_anchor(path, None, rpc, None, anchor)
    report = verify_bundle(path, relied, data=data, device=device, replay=replay is not None)
    show_proof(report, as_json)
