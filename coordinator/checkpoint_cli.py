"""`murmur run checkpoints`, `sample` and `export`: look at what a run has learnt, at any round that is kept."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.chain import ChainView
from protocol.checkpoints import Checkpoint
from protocol.errors import ConfigError, UsageError
from protocol.manifest import RunManifest
from protocol.networks import Network
from verification.report import Extent

if TYPE_CHECKING:
    from coordinator.run_source import RunSource
    from verification.audit import AuditReport

MAX_TOKENS = 65_536
README = "README.md"

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="MURMUR_DIR",
        help="Directory of a coordinator, of a node, or of a whole local network.",
    ),
]
Api = Annotated[str | None, typer.Option(help="URL of a coordinator's API, in place of a directory.")]
Rpc = Annotated[
    Network | None,
    options.rpc_option("RPC URLs of the chain, which records that an API serves must agree with."),
]
Wanted = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="ROUND|last|FILE",
        help="Parameters at the start of a round, the newest, or a file.",
    ),
]


def checkpoints(
    directory: Directory = None,
    api: Api = None,
    rpc: Rpc = None,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """List the rounds of a run whose global parameters are kept."""
    with _source(directory, api, rpc) as source:
        kept = source.checkpoints()
        run = source.manifest.run_id
    if as_json:
        rows = [{"round": one.round, "root": one.root, "bytes": one.bytes} for one in kept]
        typer.echo(json.dumps({"run": run, "checkpoints": rows}))
        return
    for one in kept:
        typer.echo(f"{one.round:>7}  {one.root}  {one.bytes:>14,} bytes")


def sample(
    directory: Directory = None,
    api: Api = None,
    rpc: Rpc = None,
    checkpoint: Wanted = "last",
    prompt: Annotated[
        str, typer.Option(help="Text to go on with; of a chat model, what a user says.")
    ] = "\n",
    tokens: Annotated[int, typer.Option(min=1, max=MAX_TOKENS, help="Tokens to generate at most.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, max=100, help="0 takes the likeliest token every time.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Fixes the text.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device to generate on.")] = "cpu",
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Generate a text from any checkpoint of a run."""
    if 0 < temperature < 0.01:
        raise UsageError(f"a temperature of {temperature} is neither 0 nor 0.01 and more")
    with _source(directory, api, rpc) as source:
        found, data = _parameters(source, checkpoint)
        manifest = source.manifest
    text, count = _generate(manifest, found.root, data, prompt, tokens, temperature, seed, device)
    if as_json:
        facts = {
            "run": manifest.run_id,
            "round": found.round if found.round >= 0 else None,
            "root": found.root,
        }
        asked = {"prompt": prompt, "temperature": temperature, "seed": seed}
        typer.echo(json.dumps({**facts, **asked, "tokens": count, "text": text}))
        return
    # With `color` nothing is taken out of the text on its way into a file or a pipe.
    typer.echo(visible(text) if sys.stdout.isatty() else text, color=True)


def visible(text: str) -> str:
    """Return a text as a terminal may show it: what it would obey becomes an escape."""
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def export(
    out: Annotated[Path, typer.Option(help="Directory for the model.")],
    directory: Directory = None,
    api: Api = None,
    rpc: Rpc = None,
    checkpoint: Wanted = "last",
    audit: Annotated[
        Extent | None,
        typer.Option(
            help="Audit the run first, executing so many drawn units again, and say in the card what came of it."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what a directory holds of another export.")
    ] = False,
    as_json: options.Json = False,
    network: options.NetworkName = None,
) -> None:
    """Write a checkpoint as model.safetensors and config.json, with a model card made of the run's data.

    Exit code 0, or that of the audit if it was asked for and did not pass; the card says so as well.
    """
    from protocol.tensors import parameter_layout
    from training.outer import load_parameters

    if audit is not None and directory is None:
        raise UsageError(
            "an audit needs the run's public folder", hint="`murmur audit fetch` it, and give --dir"
        )
    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already", hint="name another --out, or add --force")
    with _source(directory, api, rpc) as source:
        found, data = _parameters(source, checkpoint)
        if found.round < 0:
            raise UsageError(
                "a file does not say which round it is of", hint="`murmur model export` writes it"
            )
        manifest = source.manifest
        report = None if audit is None or directory is None else _audit(directory, rpc, audit)
        card = _card(source, found, report)
    state = load_parameters(manifest, data)
    _write(out, manifest, state.parameters, card)
    count = parameter_layout(manifest.model).size
    result = {"run": manifest.run_id, "round": found.round, "root": found.root, "parameters": count}
    result |= {"out": str(out), "audit": None if report is None else report.exit_code}
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(f"round {found.round}, {count:,} parameters in {out}")
    if report is not None and report.exit_code:
        raise typer.Exit(report.exit_code)


# ---------------------------------------------------------------- where from


@contextmanager
def _source(directory: Path | None, api: str | None, rpc: Network | None) -> "Iterator[RunSource]":
    from coordinator.run_source import ApiSource, FolderSource, open_client

    if (directory is None) == (api is None):
        raise UsageError("name one place to look", hint="--dir DIR or --api URL")
    if directory is not None:
        yield FolderSource.open(directory)
        return
    with open_client(str(api)) as client:
        yield ApiSource.open(client, None if rpc is None else partial(_connect, rpc))


def _connect(rpc: Network, manifest: RunManifest) -> ChainView:
    from contracts.run import ChainRun

    chain = ChainRun.connect(rpc, manifest.ledger, manifest.run_id, chain_id=manifest.chain_id)
    chain.refresh()
    return chain


def _parameters(source: "RunSource", wanted: str) -> tuple[Checkpoint, bytes]:
    """Return a checkpoint and its verified file; one of a file alone has round -1."""
    from coordinator.run_source import find_checkpoint
    from protocol.canonical import digest
    from training.outer import outer_layout

    path = Path(wanted)
    if wanted == "last" or wanted.isdigit() or not path.is_file():
        found = find_checkpoint(source, wanted)
        return found, source.read(found)
    limit = outer_layout(source.manifest).file_bytes
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    return Checkpoint(-1, digest(data), len(data)), data


# ---------------------------------------------------------------- what of it


def _generate(
    manifest: RunManifest,
    root: str,
    data: bytes,
    prompt: str,
    count: int,
    temperature: float,
    seed: int,
    device: str,
) -> tuple[str, int]:
    """Return a text and how many tokens it has."""
    from training.continuation import continuation
    from training.inner import prepare_process
    from training.model import Transformer
    from training.outer import load_parameters
    from training.rollout import ByteTokenizer, Tokenizer
    from training.sampling import noise_key
    from training.tokenizer import tokenizer_of

    rollouts = manifest.rollouts
    tokenizer: Tokenizer = ByteTokenizer(manifest.model.vocab) if rollouts is None else tokenizer_of(manifest)
    try:
        said = tokenizer.encode(prompt)
    except ValueError as error:
        raise UsageError(
            f"the run has no tokens for this prompt: {error}", hint="choose another --prompt"
        ) from error
    prepare_process(None)
    parameters = load_parameters(manifest, data).parameters
    try:
        model = Transformer.loaded(manifest.model, parameters, device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device} cannot be used: {error}", hint="choose --device cpu") from error
    tokens = continuation(
        model,
        manifest.model,
        said,
        count=count,
        temperature=temperature,
        key=noise_key(manifest.run_id, root, seed, 0),
        end=None if rollouts is None else rollouts.sampling.end_token,
    )
    return tokenizer.decode(tokens), len(tokens)


def _audit(directory: Path, rpc: Network | None, extent: Extent) -> "AuditReport":
    from verification.audit_cli import audit_folder
    from verification.sources import open_sources

    typer.echo("auditing the run", err=True)
    with open_sources(directory) as sources:
        return audit_folder(sources, None, rpc, replay=extent)


def _card(source: "RunSource", found: Checkpoint, report: "AuditReport | None") -> str:
    from coordinator.card import NOT_AUDITED, model_card, provenance
    from protocol.errors import NetworkError

    told = NOT_AUDITED if report is None else describe_audit(report)
    try:
        return model_card(provenance(source.manifest, found, source.summary(), source.units(), told))
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkError(
            f"{source.place} does not tell of the run as a coordinator does: {error!s:.200}"
        ) from error


def describe_audit(report: "AuditReport") -> str:
    """Return what an audit found, in a sentence without its full stop."""
    endings = {0: "passed", 6: "failed: a rule was broken", 7: "undecided: something could not be checked"}
    passed = sum(check.ok for check in report.checks)
    told = f"audited with `murmur audit run`: {endings[report.exit_code]}; {passed} of {len(report.checks)} checks hold"
    broken = report.first_violation
    failed = "" if broken is None else f", and the first broken rule is: {broken['rule'].rstrip('.')}"
    height = report.subject.get("height")
    return (
        f"{told}, over {report.rounds} rounds" + ("" if height is None else f", at block {height}") + failed
    )


def _write(out: Path, manifest: RunManifest, parameters: Any, card: str) -> None:
    """Write everything beside the directory first, so that no export is half of one."""
    import shutil

    from training.pretrained import write_checkpoint
    from training.tokenizer import ChatTokenizer, tokenizer_of

    part = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        write_checkpoint(part, manifest.model, parameters)
        (part / README).write_text(card, encoding="utf-8")
        if manifest.rollouts is not None and manifest.rollouts.tokenizer is not None:
            tokenizer = tokenizer_of(manifest)
            assert isinstance(tokenizer, ChatTokenizer), "the manifest pins one"
            tokenizer.write(part)
        out.mkdir(parents=True, exist_ok=True)
        for file in sorted(part.iterdir()):
            file.replace(out / file.name)
    except OSError as error:
        raise ConfigError(f"cannot write into {out}: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
