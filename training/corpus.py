"""Token shards: raw unsigned bytes, one a token, memory-mapped and pinned by their BLAKE3 root."""

import lzma
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from protocol.errors import ConfigError
from protocol.manifest import DatasetConfig

DEFAULT_NAME: Final = "shakespeare-milton"
DEFAULT_ROOT: Final = "8cf812f37343c5942a75927308d249e0026aaeb3ac68a018a3e7057c04ac6d50"
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, eq=False)
class Shard:
    """Give the tokens of a dataset, read from disk as they are touched."""

    path: Path
    tokens: npt.NDArray[np.uint8]  # [tokens], read-only

    @classmethod
    def read(cls, path: Path) -> "Shard":
        """Map a token file without checking what it holds.

        Raises:
            ConfigError: missing or empty.
        """
        try:
            return cls(path, np.memmap(path, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read token shard {path}: {error}") from error

    @classmethod
    def open(cls, config: DatasetConfig, directory: Path) -> "Shard":
        """Map the shard that a manifest pins from `directory` and verify its size and root.

        Raises:
            ConfigError: missing, or other tokens than the manifest's.
        """
        path = shard_path(directory, config.root)
        if not path.exists():
            raise ConfigError(
                f"no shard of dataset {config.name} at {path}", hint="prepare it with --data PATH"
            )
        shard = cls.read(path)
        if shard.tokens.size != config.tokens:
            raise ConfigError(f"{path} holds {shard.tokens.size} tokens, the manifest names {config.tokens}")
        if _root(path) != config.root:
            raise ConfigError(
                f"{path} is corrupt: its root is not the manifest's", hint=f"delete {path} and retry"
            )
        return shard


def shard_path(directory: Path, root: str) -> Path:
    """Return where the shard with this root lies in a data directory."""
    return directory / f"{root}.tokens"


def dataset_config(name: str, path: Path, *, heldout: float = 0.05) -> DatasetConfig:
    """Describe a token file for a manifest."""
    return DatasetConfig(name=name, root=_root(path), tokens=path.stat().st_size, heldout=heldout)


def prepare_corpus(source: Path | None, directory: Path) -> Path:
    """Write a text as a token shard `<root>.tokens`, once; None takes the packaged default corpus.

    A source ending in `.xz` is decompressed, any other is taken as it is. The shard appears under its name
    only when it is complete.

    Raises:
        ConfigError: the source cannot be read, or is empty.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if source is None:
        done = shard_path(directory, DEFAULT_ROOT)
        if done.exists() and _root(done) == DEFAULT_ROOT:
            return done
        with as_file(files("training") / "data" / f"{DEFAULT_NAME}.txt.xz") as packaged:
            return _prepare(packaged, directory)
    return _prepare(source, directory)


def _prepare(source: Path, directory: Path) -> Path:
    hasher = blake3()
    descriptor, name = tempfile.mkstemp(prefix=".shard-", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as out:
            for piece in _pieces(source):
                hasher.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
            if not out.tell():
                raise ConfigError(f"{source} is empty")
        path = shard_path(directory, hasher.hexdigest())
        Path(name).replace(path)
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise ConfigError(f"cannot read {source}: {error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
    return path


def _pieces(source: Path) -> Iterator[bytes]:
    with lzma.open(source, "rb") if source.suffix == ".xz" else source.open("rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece


def _root(path: Path) -> str:
    return blake3().update_mmap(path).hexdigest()
