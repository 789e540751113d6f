"""`murmur proof`: carry the evidence of one unit in a file, and decide such a file offline."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import UsageError
from protocol.networks import Network

if TYPE_CHECKING:
    from verification.anchor import Anchor
    from verification.proof import BundleReport
    from verification.report import Check

proof_app = typer.Typer(no_args_is_help=True, help="Carry and check the evidence of one unit.")

Data = Annotated[Path | None, typer.Option(help="Text of the dataset (.xz too), if not the packaged one.")]
Device = Annotated[str, typer.Option(help="Torch device to replay on.")]
EvidenceDirectory = Annotated[
    Path,
    typer.Option("--dir", envvar="MURMUR_DIR", help="Directory of a local network, or of a coordinator."),
]
ChainRpc = Annotated[
    Network | None,
    options.rpc_option("RPC URLs of the chain's endpoints; else its state in the directory."),
]
Root = Annotated[
    str | None, typer.Option(help="Commitment root of the round, 64 hex digits, known from elsewhere.")
]
Rpc = Annotated[
    Network | None,
    options.rpc_option("RPC URLs of the chain to rely on.", envvar=None),
]
LedgerOfRpc = Annotated[
    str | None, typer.Option(help="With --rpc: the ledger to rely on; else the one that the bundle names.")
]
AnchorPath = Annotated[
    Path | None, typer.Option("--anchor", help="Anchor file that `murmur audit run --anchors-out` wrote.")
]


@proof_app.callback()
def _proof() -> None:
    """Carry and check the evidence of one unit."""


@proof_app.command()
def export(
    directory: EvidenceDirectory,
    round_: Annotated[int, typer.Option("--round", min=0, help="Round of the unit.")],
    peer: Annotated[str, typer.Option(help="Whose unit: a name, number, peer id or address.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    rpc: ChainRpc = None,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Write everything that proves the outcome of one drawn unit into one file."""
    from verification.bundle import export_bundle
    from verification.facts import chain_facts
    from verification.sources import Sources

    sources = Sources.of(directory)
    manifest = sources.archive.manifest()
    with sources.chain(manifest, manifest.run_id, rpc) as chain:
        number, facts = sources.number(chain, peer), chain_facts(chain, manifest)
    draw = export_bundle(sources.archive, facts, sources.find, round_, number, out)
    told = {
        "file": str(out),
        "bytes": out.stat().st_size,
        "run": manifest.run_id,
        "round": round_,
        "number": number,
        "segment": draw.segment,
        "root": facts.rounds[round_].commitments_root,
    }
    _show(told, as_json)


@proof_app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A bundle that `murmur proof export` wrote.")],
    root: Root = None,
    rpc: Rpc = None,
    ledger: LedgerOfRpc = None,
    anchor: AnchorPath = None,
    data: Data = None,
    device: Device = "cpu",
    as_json: options.Json = False,
    network: options.NetworkNameAsked = None,
) -> None:
    """Decide a bundle offline: exit 0 if its verdicts hold, 6 if something in it does not, 7 if undecided."""
    from verification.proof import verify_bundle

    relied = find_anchor(file, root, rpc, ledger, anchor)
    show_proof(verify_bundle(file, relied, data=data, device=device), as_json)


@proof_app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="A bundle that `murmur proof export` wrote.")],
    root: Root = None,
    rpc: Rpc = None,
    ledger: LedgerOfRpc = None,
    anchor: AnchorPath = None,
    data: Data = None,
    device: Device = "cpu",
    as_json: options.Json = False,
    network: options.NetworkNameAsked = None,
) -> None:
    """Say in plain words what was promised, drawn, recomputed and judged, and what confirms it; exits as `verify`."""
    import textwrap

    from protocol.errors import ProofRejected
    from verification.bundle import load_bundle
    from verification.explain import explain as explained
    from verification.proof import decide, verify_bundle

    relied = find_anchor(file, root, rpc, ledger, anchor)
    try:
        bundle = load_bundle(file)
    except ProofRejected:
        show_proof(verify_bundle(file, relied), as_json)
        return
    found = explained(bundle, decide(bundle, relied, data=data, device=device))
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        for section in found.sections:
            typer.echo(section.title)
            for sentence in section.sentences:
                typer.echo(textwrap.fill(sentence, 100, initial_indent="  ", subsequent_indent="  "))
            typer.echo("")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def show_proof(report: "BundleReport", as_json: bool) -> None:
    """Print what became of a bundle, and end with its exit code."""
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        told = report.to_json()
        show_checks(report.checks)
        for name in ("chain_id", "ledger", "run", "root", "round", "number", "relied_on", "unit", "replayed"):
            if told.get(name) is not None:
                typer.echo(f"{name.replace('_', ' '):12} {told[name]}")
        if report.replay is not None:
            typer.echo(f"{'distance':12} {report.replay.distance:.3g} (tolerance {report.tolerance:g})")
        if report.confirmed is not None and report.confirmed.taken:
            typer.echo(f"{'not anchored':12} {', '.join(report.confirmed.taken)}")
        typer.echo(f"{'the bundle':12} {told['verdict']}")
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def find_anchor(
    file: Path, root: str | None, rpc: Network | None, ledger: str | None, anchor: Path | None
) -> "Anchor | None":
    """Return what a bundle is to be held against; None where nothing was given.

    Raises:
        UsageError: the options exclude each other.
        ConfigError: the anchor file is not one.
        LedgerError: the chain is not there.
        ProofInconclusive: the bundle is about another ledger.
    """
    import re

    from verification.anchor import RootAnchor, read_anchor_file

    if sum(given is not None for given in (root, rpc, anchor)) > 1:
        raise UsageError("--root, --rpc and --anchor exclude each other", hint="give one of them")
    if ledger is not None and rpc is None:
        raise UsageError("--ledger is of use with --rpc only")
    if root is not None:
        if re.fullmatch(r"(0x)?[0-9a-fA-F]{64}", root) is None:
            raise UsageError("--root is not 64 hex digits")
        return RootAnchor(root.lower().removeprefix("0x"))
    if anchor is not None:
        return read_anchor_file(anchor)
    if rpc is None:
        return None
    return _rpc_anchor(file, rpc, ledger)


def _rpc_anchor(file: Path, rpc: Network, ledger: str | None) -> "Anchor | None":
    """Ask a chain about the run that a bundle says it is about; a bundle that says nothing is refused later."""
    from protocol.beacons import DrandClient
    from protocol.errors import ProofInconclusive, ProofRejected
    from verification.anchor import ChainAnchor
    from verification.bundle import load_bundle
    from verification.facts import chain_facts
    from verification.sources import connected

    try:
        manifest = load_bundle(file).manifest
    except ProofRejected:
        return None
    if ledger is not None and ledger.lower() != manifest.ledger.lower():
        raise ProofInconclusive(f"the bundle is about ledger {manifest.ledger}, not {ledger}")
    chain = connected(rpc, manifest, DrandClient())
    return ChainAnchor(chain_facts(chain, manifest), f"the chain at {rpc} (block {chain.height})")


def show_checks(checks: "tuple[Check, ...]") -> None:
    """Print one line a check."""
    marks = {"ok": "ok", "rejected": "FALSE", "inconclusive": "?"}
    for check in checks:
        typer.echo(f"{marks[check.result]:6} {check.name:18} {check.detail}")


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told))
        return
    for name, value in told.items():
        typer.echo(f"{name:10} {value}")
