"""Held-out loss on fixed windows, a function of the dataset alone, so that figures of two runs compare."""

from typing import Final

import numpy as np
import torch

from protocol.errors import ConfigError
from protocol.manifest import RunManifest
from protocol.tensors import Floats
from training.assignment import Offsets, batch, heldout_start
from training.corpus import Shard
from training.model import Transformer

WINDOWS: Final = 512
_BATCH: Final = 64


def heldout_windows(manifest: RunManifest, windows: int = WINDOWS) -> Offsets:
    """Return where the windows start, evenly spread over the held-out tokens: int64[at most windows].

    Raises:
        ConfigError: the held-out part is shorter than one window.
    """
    start = heldout_start(manifest.dataset)
    last = manifest.dataset.tokens - manifest.model.context - 1
    if last < start:
        raise ConfigError("the held-out part is shorter than one window", hint="use a longer text")
    count = min(windows, last - start + 1)
    return start + np.arange(count, dtype=np.int64) * (last - start) // max(count - 1, 1)


def heldout_loss(
    manifest: RunManifest, parameters: Floats, shard: Shard, windows: int = WINDOWS, device: str = "cpu"
) -> float:
    """Return the mean loss in nats a byte of parameters float32[P] over the held-out windows."""
    model = Transformer(manifest.model, torch.device(device))
    offsets = heldout_windows(manifest, windows)
    total = 0.0
    with torch.no_grad():
        model.parameters.copy_(torch.from_numpy(np.array(parameters, dtype=np.float32)))
        for first in range(0, offsets.size, _BATCH):
            rows = offsets[first : first + _BATCH]
            tokens = torch.from_numpy(batch(shard, rows, manifest.model.context)).to(device)
            total += float(model.loss(tokens)) * rows.size
    return total / offsets.size
