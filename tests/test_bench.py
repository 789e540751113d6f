"""Measurements run on request; these keep what they share in working order."""

from dataclasses import replace

import numpy as np
import pytest

from node.honesty import HonestSteps
from protocol.canonical import digest
from tests.bench._clock import Clock
from tests.bench._swarm import Swarm, UncorrectedTrainer, manifest_of
from tests.bench.dishonest import Inverter
from tests.bench.generation import measure
from training.inner import InnerState
from training.model import initial_parameters
from training.policy import PolicyBatch, PolicyTrainer
from training.preset import Preset, preset

SORT = preset("sort")
SMALL: Preset = SORT.model_copy(
    update={
        "rounds": 2,
        "inner": SORT.inner.model_copy(update={"steps": 2, "batch": 2}),
        "sampling": SORT.sampling.model_copy(update={"groups": 2, "group_size": 4}),
    }
)


@pytest.mark.parametrize("verified", [True, False])
def test_a_liar_is_left_out_where_rollouts_are_checked(verified):
    swarm = Swarm(SMALL, (HonestSteps(), Inverter()), lag=0, verified=verified)
    rounds = list(swarm.play(initial_parameters(SMALL.model, 0), Clock()))
    merged = (1,) if verified else (1, 2)
    assert [one.merged for one in rounds] == [merged] * SMALL.rounds
    assert all(len(one.files) == len(one.updates) == len(merged) for one in rounds)


def test_no_correction_is_that_of_samples_from_the_present_weights():
    manifest = manifest_of(SMALL, "uncorrected")
    policy, temperature = manifest.rollouts.policy, manifest.rollouts.sampling.temperature
    start = InnerState.fresh(initial_parameters(SMALL.model, 0))
    random = np.random.default_rng(0)
    old = PolicyBatch(
        random.integers(1, 127, (4, 9)),
        np.ones((4, 8), np.float32),
        random.normal(-5, 2, (4, 8)).astype(np.float32),
        random.normal(0, 1, (4, 8)).astype(np.float32),
    )
    present = replace(old, behaviour=np.full((4, 8), np.nan, np.float32))
    gradients = []
    for batch in (old, present):
        trainer = UncorrectedTrainer(manifest, policy, temperature)
        trainer.load(start)
        trainer.backward(batch)
        gradients.append(trainer.gradient.clone())
    corrected = PolicyTrainer(manifest, policy, temperature)
    corrected.load(start)
    corrected.backward(old)
    assert gradients[0].isfinite().all()
    assert gradients[0].equal(gradients[1])
    assert not gradients[0].allclose(corrected.gradient)


def test_every_part_of_making_and_checking_a_unit_is_measured():
    manifest = manifest_of(SMALL, "measured")
    found = measure(manifest, initial_parameters(SMALL.model, 0), digest(b"beacon"))
    assert found.groups == 2
    assert found.drawn_groups * manifest.segments == found.groups
    assert all(spent > 0 for spent in found.seconds.values())
