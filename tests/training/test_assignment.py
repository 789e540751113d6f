"""Nobody chooses their data, and nobody is given what is held out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.manifest import DatasetConfig, RunManifest
from training.assignment import assignment, assignment_digest, batch, heldout_start
from training.corpus import Shard

BEACON = "ab" * 32


def test_an_assignment_is_a_function_of_public_values(manifest: RunManifest) -> None:
    offsets = assignment(manifest, BEACON, 3, 7)
    assert offsets.shape == (manifest.inner.steps, manifest.inner.batch)
    assert assignment_digest(offsets) == assignment_digest(assignment(manifest, BEACON, 3, 7))


def test_it_differs_by_number_round_beacon_and_run(
    manifest: RunManifest, make_manifest: Callable[..., RunManifest]
) -> None:
    digests = {
        assignment_digest(assignment(manifest, BEACON, 3, 7)),
        assignment_digest(assignment(manifest, BEACON, 3, 8)),
        assignment_digest(assignment(manifest, BEACON, 4, 7)),
        assignment_digest(assignment(manifest, "ac" * 32, 3, 7)),
        assignment_digest(assignment(make_manifest(name="another"), BEACON, 3, 7)),
    }
    assert len(digests) == 5


@given(tokens=st.integers(40, 5000), heldout=st.floats(0.01, 0.5), number=st.integers(0, 2**63))
def test_held_out_tokens_are_never_assigned(
    make_manifest: Callable[..., RunManifest], tokens: int, heldout: float, number: int
) -> None:
    dataset = DatasetConfig(name="x", root="00" * 32, tokens=tokens, heldout=heldout)
    manifest = make_manifest(dataset=dataset)
    offsets = assignment(manifest, BEACON, 0, number)
    assert offsets.min() >= 0
    assert offsets.max() + manifest.model.context + 1 <= heldout_start(dataset) <= tokens


def test_the_last_sample_before_the_held_out_part_can_be_drawn(
    make_manifest: Callable[..., RunManifest],
) -> None:
    dataset = DatasetConfig(name="x", root="00" * 32, tokens=40, heldout=0.5)
    manifest = make_manifest(dataset=dataset)
    drawn = {int(place) for number in range(40) for place in assignment(manifest, BEACON, 0, number).flat}
    assert drawn == set(range(20 - manifest.model.context))


def test_a_dataset_shorter_than_a_sample_is_refused(make_manifest: Callable[..., RunManifest]) -> None:
    dataset = DatasetConfig(name="x", root="00" * 32, tokens=16, heldout=0.05)
    with pytest.raises(ConfigError, match="shorter"):
        assignment(make_manifest(dataset=dataset), BEACON, 0, 1)


def test_a_batch_is_windows_of_the_shard(manifest: RunManifest, shard: Shard) -> None:
    rows = assignment(manifest, BEACON, 0, 1)[0]
    tokens = batch(shard, rows, manifest.model.context)
    assert tokens.dtype == np.int64
    for row, start in zip(tokens, rows, strict=True):
        np.testing.assert_array_equal(row, shard.tokens[start : start + manifest.model.context + 1])
