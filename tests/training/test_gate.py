"""The loss that updates are judged by is the model's, in whole numbers, on windows that only the reveals fix."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from protocol.manifest import MergingConfig, RunManifest
from training.assignment import batch, heldout_start
from training.corpus import Shard
from training.gate import DIVERGED, exact_loss, gate_seed, gate_windows
from training.model import Transformer, initial_parameters

SALTS = [(1, "aa" * 32), (2, "bb" * 32)]


@pytest.fixture
def run(make_manifest: Callable[..., RunManifest]) -> RunManifest:
    return make_manifest(merging=MergingConfig(gate_windows=40))


def test_every_salt_the_round_and_the_numbers_change_the_windows(run: RunManifest) -> None:
    seeds = {
        gate_seed(run, 1, SALTS),
        gate_seed(run, 2, SALTS),
        gate_seed(run, 1, SALTS[:1]),
        gate_seed(run, 1, [SALTS[0], (2, "bc" * 32)]),
        gate_seed(run, 1, [SALTS[0], (3, "bb" * 32)]),
    }
    assert len(seeds) == 5
    assert gate_seed(run, 1, SALTS) == gate_seed(run, 1, list(SALTS))


def test_windows_are_drawn_where_peers_train(run: RunManifest) -> None:
    windows = gate_windows(run, gate_seed(run, 0, SALTS))
    assert (windows.size, len(set(windows.tolist()))) == (40, 40)
    assert windows.min() >= 0
    assert windows.max() + run.model.context < heldout_start(run.dataset)


def test_the_loss_is_the_models(run: RunManifest, shard: Shard) -> None:
    seed = gate_seed(run, 0, SALTS)
    parameters = initial_parameters(run.model, 3)
    model = Transformer.loaded(run.model, parameters)
    tokens = torch.from_numpy(batch(shard, gate_windows(run, seed), run.model.context))
    with torch.no_grad():
        expected = float(model.loss(tokens))
    assert exact_loss(run, shard, seed)(parameters) / 2**32 == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_not_finite_is_worse_than_any(run: RunManifest, shard: Shard) -> None:
    loss = exact_loss(run, shard, gate_seed(run, 0, SALTS))
    parameters = initial_parameters(run.model, 3)
    wild = loss(np.where(np.arange(parameters.size) % 2, 1e6, -1e6).astype(np.float32))
    broken = parameters.copy()
    broken[0] = np.inf
    assert max(loss(parameters), wild) < DIVERGED
    assert loss(broken) == DIVERGED
