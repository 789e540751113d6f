"""`murmur rewards why` and `export`: pay explained and listed, computed again from a run's public data."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol import options
from protocol.errors import ConfigError, UsageError
from protocol.networks import Network
from verification.proof_cli import ChainRpc

if TYPE_CHECKING:
    from verification.public import PublicRun
    from verification.sources import Sources

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="MURMUR_DIR",
        help="Directory with wallet.json: whose pay it is, if not --peer says so.",
    ),
]
Source = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="The run's public data: directory of a local network or a coordinator, its public folder, or what "
        "`murmur audit fetch` wrote.",
    ),
]
Api = Annotated[
    str | None,
    typer.Option(help="URL of a coordinator's HTTP API instead; needs --rpc, and --manifest or --dir."),
]
Manifest = Annotated[
    Path | None, typer.Option(help="With --api: the run's manifest; default: manifest.json in --dir.")
]
Peer = Annotated[
    str | None, typer.Option(help="Whose pay: a number, peer id, address, or a name in a local network.")
]


def why(
    round_: Annotated[int, typer.Option("--round", min=0, max=1_000_000, help="Round of the work.")],
    directory: Directory = None,
    source: Source = None,
    api: Api = None,
    manifest: Manifest = None,
    rpc: ChainRpc = None,
    peer: Peer = None,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Say line by line why a round paid what it paid: assigned, received, sampled, judged, formula, transaction.

    Nobody is believed but the chain: exit 6 if the published data contradict it, 7 if they cannot be compared.
    """
    from verification.why import explain_pay

    with _opened(directory, source, api, manifest, rpc, peer) as (run, number):
        found = explain_pay(run, round_, number)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        typer.echo(f"run {found.run}, round {found.round}")
        for name, text in found.lines:
            typer.echo(f"{name:11} {text}")
        bad = [check for check in found.checks if not check.ok]
        for check in bad:
            typer.echo(f"{'checked':11} {check.name}: {check.result}: {check.detail}")
        if not bad:
            names = ", ".join(check.name for check in found.checks)
            typer.echo(f"{'checked':11} against the chain: {names}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


COLUMNS = (
    "run",
    "epoch",
    "round",
    "number",
    "wallet",
    "paid_units",
    "right_verdicts",
    "wrong_verdicts",
    "round_wei",
    "reason",
    "epoch_lost_percent",
    "epoch_wei",
    "vesting",
    "table_epoch",
    "forfeited_in",
    "cumulative_wei",
    "reward_root",
    "final_tx",
    "claim_tx",
)


def export(
    out: Annotated[str, typer.Option("--csv", metavar="FILE", help="File to write; - is standard output.")],
    directory: Directory = None,
    source: Source = None,
    api: Api = None,
    manifest: Manifest = None,
    rpc: ChainRpc = None,
    peer: Peer = None,
    network: options.NetworkName = None,
) -> None:
    """Write a peer's pay as CSV, a row a round of every settled epoch, computed again from public data.

    Amounts are wei. What an epoch takes off, its sum, whether that is vested, unvested or forfeited, and the table,
    root and transactions that pay it stand on its last round's row.
    """
    with _opened(directory, source, api, manifest, rpc, peer) as (run, number):
        rows = _rows(run, number)
    if out == "-":
        csv.writer(sys.stdout, lineterminator="\n").writerows([COLUMNS, *rows])
        return
    try:
        with Path(out).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    typer.echo(f"{len(rows)} rounds of number {number} in {out}", err=True)


def _rows(run: "PublicRun", number: int) -> list[tuple[object, ...]]:
    from verification.audit_money import earnings, settled_epochs
    from verification.pay import epoch_pay, vesting
    from verification.why import Why, tell_payment

    operator = run.chain.operator(number)
    assert operator is not None, "it was found on chain"
    rows: list[tuple[object, ...]] = []
    for settled, vests in zip(settled_epochs(run), vesting(run.manifest, earnings(run), number), strict=True):
        pay = epoch_pay(run.manifest, settled, number)
        last = Why(run.run, pay.rounds[-1].round, number)
        if vests.state == "vested":
            tell_payment(last, run, operator, vests.due)
        paid = last.facts.get("paid") or {}
        ending = (
            *(pay.lost_percent, pay.net_wei, vests.state, vests.due, vests.forfeited_in),
            *(last.facts.get("cumulative_wei"), last.facts.get("root")),
            *(last.facts.get("final_tx"), paid.get("tx")),
        )
        for one in pay.rounds:
            wei = pay.round_wei(one)
            reason = one.reason if operator.role == "contributor" else ""
            begin = (
                run.run,
                pay.epoch,
                one.round,
                number,
                operator.wallet,
                one.units,
                one.right,
                one.wrong,
                wei,
            )
            rows.append((*begin, reason, *(ending if one is pay.rounds[-1] else ("",) * len(ending))))
    return rows


@contextmanager
def _opened(
    directory: Path | None,
    source: Path | None,
    api: str | None,
    manifest: Path | None,
    rpc: Network | None,
    peer: str | None,
) -> "Iterator[tuple[PublicRun, int]]":
    """Give a run as everybody can see it, and the registration number in question.

    Raises:
        UsageError: neither or both sources were named, or nobody's pay.
        ConfigError: data or peer are not there.
        LedgerError: there is no chain to ask.
    """
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE

    if (source is None) == (api is None):
        raise UsageError("name the run's public data", hint="add --from DIR, or --api URL")
    if peer is None and directory is None:
        raise UsageError("whose pay?", hint="add --dir with the wallet, or --peer NUMBER")
    who = peer if peer is not None else keystore_address((directory or Path()) / WALLET_FILE)
    with opened_run(source, api, manifest or (directory or Path()) / "manifest.json", rpc) as (run, named):
        yield run, named.number(run.chain, who)


@contextmanager
def opened_run(
    source: Path | None, api: str | None, manifest: Path, rpc: Network | None
) -> "Iterator[tuple[PublicRun, Sources]]":
    """Give a run as everybody can see it, from a folder or a coordinator's API.

    Args:
        manifest: file that is read with an API.

    Raises:
        UsageError: neither or both sources were named.
        ConfigError: the data are not there.
        LedgerError: there is no chain to ask.
        ProofInconclusive: something of the run is missing.
    """
    from verification.public import PublicRun
    from verification.sources import open_sources

    if (source is None) == (api is None):
        raise UsageError("name the run's public data", hint="add --from DIR, or --api URL")
    if api is not None:
        with _from_api(api, rpc, manifest) as found:
            yield found
        return
    assert source is not None
    with open_sources(source) as sources:
        read = sources.archive.manifest()
        with sources.chain(read, read.run_id, rpc) as chain:
            yield PublicRun.read(sources.archive, chain, read.run_id, sources.find), sources


@contextmanager
def _from_api(api: str, rpc: Network | None, path: Path) -> "Iterator[tuple[PublicRun, Sources]]":
    from tempfile import TemporaryDirectory

    from protocol.beacons import DrandClient, KeptSignatures, SignatureFiles
    from protocol.errors import LedgerError
    from protocol.manifest import RunManifest
    from verification.fetch import api_messages
    from verification.gather import public_run
    from verification.sources import Sources, connected

    if rpc is None:
        raise LedgerError("an API proves nothing without the chain", hint="add --rpc URL")
    try:
        manifest = RunManifest.read(path)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no {path}", hint="add --manifest FILE") from error
    with TemporaryDirectory(prefix="murmur-pay-") as scratch:
        beacons = SignatureFiles(Path(scratch))
        chain = connected(rpc, manifest, KeptSignatures(beacons, DrandClient()))
        messages = api_messages(api, manifest.run_id)
        run = public_run(manifest, chain, messages, lambda address, max_bytes: None, beacons)
        yield run, Sources(Path(scratch), Path(scratch))
