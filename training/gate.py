"""A round's updates judged by their loss: in exact arithmetic, on windows that nobody knew while it trained."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from protocol.beacon import GATE, draw, seed
from protocol.canonical import tagged_digest
from protocol.errors import OwnFault
from protocol.manifest import RunManifest
from protocol.tensors import Floats
from protocol.update import Symbols
from training.assignment import Offsets, assignable, batch
from training.corpus import Shard
from training.exact_model import ExactTransformer
from training.inner import check_vocabulary
from training.merging import Loss, Merit, judge_updates
from training.outer import OuterState
from training.workbench import WeighRequest

DIVERGED: Final = 1 << 40
"""The loss of parameters that give no finite one, in units of 2**-32 nats: above all others."""
_BATCH: Final = 16  # windows at once; part of the result, since operands are split by the largest of a batch


def gate_seed(manifest: RunManifest, round_: int, salts: Sequence[tuple[int, str]]) -> str:
    """Return what the round's windows are drawn with: nobody knows it before the last salt is shown.

    Every commitment fixes its salt, so whoever shows its own last can only choose not to be merged.

    Args:
        salts: (number, salt of its reveal) of the merged units, in the record's order.
    """
    labels = [part for number, salt in salts for part in (number, salt)]
    return seed(GATE, tagged_digest("murmur/salts", *labels), manifest.run_id, round_)


def gate_windows(manifest: RunManifest, seed_: str) -> Offsets:
    """Return where the round's windows start, among the tokens that are assigned to peers: int64[windows].

    Raises:
        ConfigError: the assignable part of the shard is shorter than one window.
    """
    places = assignable(manifest)
    drawn = [draw(seed_, window) % places for window in range(manifest.merging.gate_windows)]
    return np.array(drawn, dtype=np.int64)


def judge_round(
    manifest: RunManifest,
    shard: Shard | None,
    request: WeighRequest,
    state: OuterState,
    updates: Sequence[Symbols],
) -> tuple[Merit, ...]:
    """Judge a round's merged updates (`training.merging`).

    Args:
        shard: the run's tokens; needed where it has a gate.
        state: the parameters that the request names.
        updates: those that it names.

    Raises:
        ConfigError: the shard holds tokens outside the model's vocabulary, or is too short.
    """
    loss = None
    if manifest.merging.gate_windows:
        assert shard is not None, "a gate needs the run's tokens"
        salts = [(unit.number, unit.salt) for unit in request.units]
        loss = exact_loss(manifest, shard, gate_seed(manifest, request.round, salts))
    scores = [unit.score for unit in request.units]
    return judge_updates(manifest, state, updates, request.weights, scores, loss)


def exact_loss(manifest: RunManifest, shard: Shard, seed_: str) -> Loss:
    """Return the loss on a round's windows: the mean over their tokens in units of 2**-32 nats, the same everywhere.

    Raises:
        ConfigError: the shard holds tokens outside the model's vocabulary, or is too short.
    """
    check_vocabulary(manifest, shard)
    windows, model = gate_windows(manifest, seed_), ExactTransformer(manifest.model)
    tokens = torch.from_numpy(batch(shard, windows, manifest.model.context))

    def loss(parameters: Floats) -> int:
        vector = torch.from_numpy(np.array(parameters, dtype=np.float32))
        try:
            losses = [
                model.summed_loss(vector, tokens[rows : rows + _BATCH])
                for rows in range(0, len(tokens), _BATCH)
            ]
        except OwnFault:  # values that are not finite, for everybody
            return DIVERGED
        return sum(losses) // (len(tokens) * manifest.model.context)

    return loss
