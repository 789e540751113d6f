"""Which tokens a peer trains on: a function of the beacon that nobody can choose and anyone can recompute."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from protocol.beacon import ASSIGNMENT, draw, seed
from protocol.canonical import digest
from protocol.errors import ConfigError
from protocol.manifest import DatasetConfig, RunManifest
from training.corpus import Shard

Offsets = npt.NDArray[np.int64]


@lru_cache(maxsize=32)
def _run_id(manifest: RunManifest) -> str:
    return manifest.run_id


def heldout_start(dataset: DatasetConfig) -> int:
    """Return the first token that is held out; everything from there on is never assigned."""
    return dataset.tokens - int(dataset.tokens * dataset.heldout)


def assignment(manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
    """Return where each sample of one unit starts in the shard: int64[steps, batch].

    Args:
        beacon: block hash that fixes the round's draws, 64 hex digits.
        number: the peer's on-chain registration number; a new key draws nothing new.

    Raises:
        ConfigError: the assignable part of the shard is shorter than one sample.
    """
    places = heldout_start(manifest.dataset) - manifest.model.context
    if places < 1:
        raise ConfigError("the dataset is shorter than one sample", hint="give a longer text with --data")
    seed_ = seed(ASSIGNMENT, beacon, _run_id(manifest), round_)
    inner = manifest.inner
    offsets = [
        [draw(seed_, number, step, sample) % places for sample in range(inner.batch)]
        for step in range(inner.steps)
    ]
    return np.array(offsets, dtype=np.int64)


def assignment_digest(offsets: Offsets) -> str:
    """Return the content address of an assignment: BLAKE3 of its little-endian int64 values."""
    return digest(offsets.astype("<i8", copy=False).tobytes())


def batch(shard: Shard, offsets: Offsets, context: int) -> npt.NDArray[np.int64]:
    """Return the tokens of one step, inputs and targets overlapping: int64[batch, context + 1]."""
    windows = offsets[:, None] + np.arange(context + 1)
    return np.asarray(shard.tokens[windows], dtype=np.int64)
