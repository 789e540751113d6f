"""What a peer works on: a function of the beacon that nobody can choose and anyone can recompute."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.beacon import ASSIGNMENT, JUDGES, ROLLOUTS, draw, seed
from protocol.canonical import digest
from protocol.errors import ConfigError
from protocol.judging import judge_of
from protocol.manifest import DatasetConfig, RunManifest
from protocol.rollouts import rollouts_of
from training.corpus import Shard

Offsets = npt.NDArray[np.int64]

HELDOUT_SEED: Final = 2**63
"""The first task seed that is held out; seeds are unsigned 64-bit numbers, and units draw from the lower half."""


def heldout_start(dataset: DatasetConfig) -> int:
    """Return the first token that is held out; everything from there on is never assigned."""
    return dataset.tokens - int(dataset.tokens * dataset.heldout)


def assignable(manifest: RunManifest) -> int:
    """Return at how many places a sample of the shard can start that may be assigned.

    Raises:
        ConfigError: the assignable part of the shard is shorter than one sample.
    """
    places = heldout_start(manifest.dataset) - manifest.model.context
    if places < 1:
        raise ConfigError("the dataset is shorter than one sample", hint="give a longer text with --data")
    return places


def assignment(manifest: RunManifest, beacon: str, round_: int, number: int) -> Offsets:
    """Return where each sample of one unit starts in the shard: int64[steps, batch].

    Where a policy learns, each is a draw below 2**63 that names a group by its place in the unit's experience, modulo
    the number of groups there: so commitments can be checked by who has no rollouts.

    Args:
        beacon: block hash that fixes the round's draws, 64 hex digits.
        number: the peer's on-chain registration number; a new key draws nothing new.

    Raises:
        ConfigError: the assignable part of the shard is shorter than one sample.
    """
    places = assignable(manifest) if manifest.rollouts is None else 2**63
    round_seed = seed(ASSIGNMENT, beacon, manifest.run_id, round_)
    return _offsets(round_seed, number, manifest.inner.steps, manifest.inner.batch, places).copy()


@lru_cache(maxsize=8)  # a replay asks for its unit's several times
def _offsets(round_seed: str, number: int, steps: int, batch_size: int, places: int) -> Offsets:
    drawn = [
        [draw(round_seed, number, step, sample) % places for sample in range(batch_size)]
        for step in range(steps)
    ]
    return np.array(drawn, dtype=np.int64)


def task_seeds(manifest: RunManifest, beacon: str, round_: int, number: int) -> tuple[int, ...]:
    """Return the task of each group of one unit: numbers below `HELDOUT_SEED`, which environments are reset with.

    Arguments are those of `assignment`; the draws are others.

    Raises:
        ValueError: the run's units hold no rollouts.
    """
    round_seed = seed(ROLLOUTS, beacon, manifest.run_id, round_)
    groups = range(rollouts_of(manifest).sampling.groups)
    return tuple(draw(round_seed, number, group) % HELDOUT_SEED for group in groups)


def judged_groups(
    manifest: RunManifest, beacon: str, round_: int, numbers: Sequence[int], number: int
) -> tuple[tuple[int, int], ...]:
    """Return the groups of the round before that one unit judges: (number, index of the group) each.

    The beacon puts the numbers in a circle; the groups of each are judged by those who follow it there, `judges`
    different ones each and as evenly as can be, so that nobody judges its own and all judge as many.

    Args:
        numbers: whose units the record of the round before merged.
        number: the judge's; if it is none of them it judges nothing.

    Raises:
        ValueError: the run has no judge.
    """
    judge, groups = judge_of(manifest), rollouts_of(manifest).sampling.groups
    round_seed = seed(JUDGES, beacon, manifest.run_id, round_)
    circle = sorted(numbers, key=lambda one: (draw(round_seed, one), one))
    others = len(circle) - 1
    if number not in circle or not others:
        return ()
    each, place = min(judge.judges, others), circle.index(number)
    return tuple(
        (circle[place - distance], turn // each)
        for distance in range(1, others + 1)
        for turn in range(distance - 1, groups * each, others)
    )


def judgment_seeds(
    manifest: RunManifest, beacon: str, round_: int, number: int, count: int
) -> tuple[int, ...]:
    """Return the seeds of so many judgments of one unit, which key their noise."""
    round_seed = seed(JUDGES, beacon, manifest.run_id, round_)
    return tuple(draw(round_seed, number, place) % HELDOUT_SEED for place in range(count))


def heldout_seeds(count: int) -> range:
    """Return tasks that no unit is ever assigned, the same for every run."""
    return range(HELDOUT_SEED, HELDOUT_SEED + count)


def assignment_digest(offsets: Offsets) -> str:
    """Return the content address of an assignment: BLAKE3 of its little-endian int64 values."""
    return digest(offsets.astype("<i8", copy=False).tobytes())


def batch(shard: Shard, offsets: Offsets, context: int) -> npt.NDArray[np.int64]:
    """Return the tokens of one step, inputs and targets overlapping: int64[batch, context + 1]."""
    windows = offsets[:, None] + np.arange(context + 1)
    return np.asarray(shard.tokens[windows], dtype=np.int64)
