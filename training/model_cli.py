"""`murmur model`: bring a pretrained language model into a run, and take what a run made of it out again."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol import options
from protocol.errors import ConfigError, UsageError

model_app = typer.Typer(
    no_args_is_help=True, help="Bring pretrained language models into runs, and take them out again."
)
PARAMETERS, FIELDS = "parameters.safetensors", "fields.json"


@model_app.callback()
def _model() -> None:
    """Bring pretrained language models into runs, and take them out again."""


@model_app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(help="A GGUF file, or a directory with a Hugging Face checkpoint.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the parameters and the manifest's fields; without it nothing but the "
            "tokenizer is kept, which is all that whoever joins a run needs."
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=8, help="Tokens that episodes may hold; as many as the model can.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Read a model of the LLaMA family, keep its tokenizer here, and write what `murmur run create` takes."""
    from training.pretrained import read_pretrained
    from training.tokenizer import ChatTokenizer, keep

    tokenizer = ChatTokenizer.open(source)
    found: dict[str, Any] = {
        "tokenizer": tokenizer.address,
        "end_token": tokenizer.end_token,
        "kept": str(keep(tokenizer)),
    }
    if out is not None:
        from protocol.tensors import pack, parameter_layout

        read = read_pretrained(source, context=context)
        if tokenizer.vocab > read.model.vocab:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab} tokens, and the model {read.model.vocab}",
                hint="they belong to different models",
            )
        model = read.model.model_dump(mode="json")
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / PARAMETERS).write_bytes(pack(parameter_layout(read.model), read.parameters))
            (out / FIELDS).write_text(json.dumps({"model": model}, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write into {out}: {error.strerror}") from error
        found |= {"model": model, "parameters": read.parameters.size, "out": str(out)}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(f"tokenizer   {found['tokenizer']}  (rollouts.tokenizer of the manifest)")
    typer.echo(f"end token   {found['end_token']}  (rollouts.sampling.end_token)")
    typer.echo(f"kept        {found['kept']}")
    if out is not None:
        typer.echo(
            f"parameters  {found['parameters']:,} in {out / PARAMETERS}, the model's shape in {out / FIELDS}"
        )


@model_app.command()
def export(
    parameters: Annotated[Path, typer.Argument(help="File of a round's parameters.")],
    manifest: Annotated[Path, typer.Option(help="The run's manifest.")],
    out: Annotated[Path, typer.Option(help="Directory for the checkpoint; must not hold one.")],
) -> None:
    """Write a run's parameters as a Hugging Face checkpoint, which other programs load."""
    from protocol.manifest import RunManifest
    from training.outer import load_parameters, outer_layout
    from training.pretrained import CONFIG, WEIGHTS, write_checkpoint

    try:
        run = RunManifest.read(manifest)
        with parameters.open("rb") as file:
            state = load_parameters(run, file.read(outer_layout(run).file_bytes + 1))
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    if any((out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise UsageError(f"{out} holds a checkpoint already", hint="name another --out")
    write_checkpoint(out, run.model, state.parameters)
    if run.rollouts is not None and run.rollouts.tokenizer is not None:
        from training.tokenizer import ChatTokenizer, tokenizer_of

        tokenizer = tokenizer_of(run)
        assert isinstance(tokenizer, ChatTokenizer), "the manifest pins one"
        tokenizer.write(out)
    typer.echo(f"{state.parameters.size:,} parameters in {out}")
