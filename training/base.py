"""Base models are kept once tuned: a minute's work that is the same for every run of the same settings."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from protocol.canonical import canonical_json, digest, tagged_digest
from protocol.errors import ConfigError, Malformed
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, pack, parameter_layout, unpack
from training.cache import CACHE_ENVIRONMENT, cache_directory
from training.preset import Preset
from training.program import program_digest
from training.rollout import ByteTokenizer
from training.tuning import Corpus, Progress, corpus_of, tune


@dataclass(frozen=True, eq=False)
class Base:
    """Hold what a policy starts from."""

    parameters: Floats  # [P]
    file: Path  # that holds them, canonical
    corpus: Path  # the demonstrations it was tuned on, as text
    cached: bool  # whether it was there already


def base_model(preset: Preset, directory: Path | None = None, progress: Progress | None = None) -> Base:
    """Return the base model of a preset; where it was never tuned, tune it now and keep it.

    Args:
        directory: where base models are kept; None: `cache_directory`.
        progress: told after every step of the tuning.

    Raises:
        ConfigError: the environment is not installed, or the directory cannot be written.
        UsageError: nobody can show the environment.
        OwnFault: the loss stopped being finite.
    """
    folder = (directory or cache_directory()) / "bases" / _key(preset)
    corpus = folder / f"{preset.environment}.txt"
    with keeping(folder):
        shown = None if corpus.exists() else _corpus(preset)
        if shown is not None:
            write(corpus, shown.text())
        made, cached = kept(
            folder / "parameters",
            preset.model,
            lambda: tune(preset.model, shown or _corpus(preset), preset.tuning, progress),
        )
    return Base(made, folder / "parameters", corpus, cached)


def _corpus(preset: Preset) -> Corpus:
    return corpus_of(preset.open(), preset.sampling, ByteTokenizer(preset.model.vocab), preset.tuning)


def _key(preset: Preset) -> str:
    """Return a name for everything that parameters follow from."""
    pin = preset.open().pin
    facts = {
        "environment": str(pin),
        "settings": pin.config_hash,
        "model": preset.model.model_dump(mode="json"),
        "tuning": preset.tuning.model_dump(mode="json"),
        "end_token": preset.sampling.end_token,
        "tokens": preset.sampling.tokens,
        "torch": torch.__version__,
    }
    return tagged_digest("murmur/base", program_digest(), digest(canonical_json(facts)))[:32]


def kept(path: Path, model: ModelConfig, make: Callable[[], Floats]) -> tuple[Floats, bool]:
    """Return the parameters that a file keeps, and True; where it does not, or is damaged, make and keep them.

    Raises:
        OSError: the file cannot be read or written.
    """
    layout = parameter_layout(model)
    try:
        with path.open("rb") as file:
            return unpack(layout, file.read(layout.file_bytes + 1))[0], True
    except (FileNotFoundError, Malformed):
        made = make()
        write(path, pack(layout, made))
        return made, False


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Make a directory of the cache.

    Raises:
        ConfigError: nothing can be kept there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(
            f"cannot keep a model in {folder}: {error.strerror}",
            hint=f"name another directory in {CACHE_ENVIRONMENT}",
        ) from error


def write(path: Path, data: bytes) -> None:
    """Write a file that appears only when it is complete.

    Raises:
        OSError: it cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
