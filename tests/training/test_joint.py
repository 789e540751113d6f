"""The joint update is the same bytes for everybody who has a round's updates, and what it leaves out is known."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from protocol.errors import Malformed
from protocol.joint import joint_codec, max_joint_bytes, read_joint
from protocol.manifest import CodecConfig, MergingConfig, RunManifest
from protocol.tensors import Floats, parameter_layout
from protocol.update import Symbols, encode, symbols_digest
from training.codec import compress, decode_dense
from training.joint import give_back, is_joint_of, left_out, merge, share_of
from training.outer import Clipped, aggregate, initial_state, parameters_file

DENSE = CodecConfig(kind="dense", chunk=512, bits=4, decay=1.0)


@pytest.fixture
def joint(manifest: RunManifest) -> RunManifest:
    """A run that keeps 64 entries of every chunk of 512, of which updates send 32."""
    changes = {"merging": MergingConfig(joint_k=64), "codec": CodecConfig(chunk=512, k=32)}
    return RunManifest.model_validate({**manifest.model_dump(), **changes})


def size_of(manifest: RunManifest) -> int:
    return parameter_layout(manifest.model).size


def updates_of(manifest: RunManifest, count: int, codec: CodecConfig | None = None) -> list[Symbols]:
    """Return updates that agree in part, of other norms each."""
    common = np.random.default_rng(100).normal(size=size_of(manifest))
    made = []
    for number in range(count):
        own = np.random.default_rng(number).normal(size=common.size)
        delta = ((common + 3 * own) * (1 + number) * 1e-3).astype(np.float32)
        made.append(compress(codec or manifest.codec, delta)[0])
    return made


def mean_of(updates: list[Symbols], weights: list[int]) -> np.ndarray:
    return Clipped(updates).mean(weights, slice(0, updates[0].size))


@pytest.mark.parametrize("codec", [None, DENSE])
def test_everybody_merges_to_the_same_file_in_whatever_order(
    joint: RunManifest, codec: CodecConfig | None
) -> None:
    if codec is not None:
        joint = joint.model_copy(update={"codec": codec})
    updates, weights = updates_of(joint, 4), [1, 5, 2, 3]
    files = {
        encode(merge(joint, [updates[place] for place in order], [weights[place] for place in order]))
        for order in permutations(range(4))
    }
    (file,) = files
    assert len(file) <= max_joint_bytes(joint)
    merged = read_joint(joint, file)
    assert is_joint_of(joint, merged, updates, weights)
    assert not is_joint_of(joint, merged, updates, [1, 5, 2, 4])
    assert not is_joint_of(joint, merged, updates[1:], weights[1:])


def test_it_keeps_the_largest_entries_of_each_chunk_of_the_mean(joint: RunManifest) -> None:
    updates, weights = updates_of(joint, 3), [1, 1, 2]
    mean, merged = mean_of(updates, weights).astype(np.float32), merge(joint, updates, weights)
    for start in range(0, mean.size, 512):
        kept = merged.positions[(merged.positions >= start) & (merged.positions < start + 512)]
        others = np.setdiff1d(np.arange(start, min(start + 512, mean.size)), kept)
        assert len(kept) == min(64, mean.size - start)
        assert np.abs(mean[others]).max(initial=0) <= np.abs(mean[kept]).min()
    found = decode_dense(merged, mean.size)[merged.positions]
    exact = mean[merged.positions]
    assert (np.sign(found)[exact != 0] == np.sign(exact)[exact != 0]).all()
    assert np.linalg.norm(found - exact) < np.linalg.norm(exact) / 2


def test_the_outer_step_follows_the_joint_update_alone(joint: RunManifest) -> None:
    updates = updates_of(joint, 3)
    merged = merge(joint, updates, [1, 1, 1])
    start = initial_state(joint, np.zeros(size_of(joint), np.float32))
    step = -aggregate(joint, start, [merged]).parameters / np.float32(joint.outer.lr)
    np.testing.assert_array_equal(step, decode_dense(merged, step.size))


def test_shares_within_the_joint_update_add_up_to_the_mean_there(joint: RunManifest) -> None:
    updates, weights = updates_of(joint, 4), [1, 5, 2, 3]
    merged = merge(joint, updates, weights)
    total = np.zeros(size_of(joint))
    for index in range(4):
        share = share_of(updates, index, weights, merged)
        assert np.isin(share.positions, merged.positions).all()
        assert share.norm == share_of(updates, index, weights, None).norm
        share.take_back(total, slice(0, total.size))
    expected = np.zeros_like(total)
    expected[merged.positions] = mean_of(updates, weights)[merged.positions]
    grid = Clipped(updates).grid
    np.testing.assert_allclose(-total, expected, rtol=0, atol=5 * 2.0**grid)


def test_dense_updates_have_shares_within_it_too(joint: RunManifest) -> None:
    joint = joint.model_copy(update={"codec": DENSE})
    updates = updates_of(joint, 3)
    merged = merge(joint, updates, [1, 1, 1])
    state = initial_state(joint, np.zeros(size_of(joint), np.float32))
    after = aggregate(joint, state, [merged])
    shares = [share_of(updates, index, [1, 1, 1], merged) for index in range(3)]
    back = aggregate(joint, after, [merged], shares[:1])
    moved = np.flatnonzero(back.parameters - aggregate(joint, after, [merged]).parameters)
    assert moved.size
    assert np.isin(moved, merged.positions).all()


def test_what_it_leaves_out_comes_back_and_the_rest_does_not(joint: RunManifest) -> None:
    updates = updates_of(joint, 3)
    merged = merge(joint, updates, [1, 1, 1])
    for own in updates:
        values, back = decode_dense(own, own.size), left_out(own, merged)
        assert not back[merged.positions].any()
        outside = np.setdiff1d(own.positions, merged.positions)
        assert outside.size
        np.testing.assert_array_equal(back[outside], values[outside])
        residual = np.full(own.size, np.float32(0.25))
        given = give_back(residual, back)
        assert given is not None
        np.testing.assert_array_equal(given, residual + back)
        assert give_back(None, back) is back
        assert give_back(residual, None) is residual


def test_values_too_small_for_the_codec_are_nothing(joint: RunManifest) -> None:
    faint: Floats = np.full(size_of(joint), np.float32(2.0**-119))
    faint[::2] *= -1
    updates = [compress(joint.codec, faint)[0]] * 2
    merged = merge(joint, updates, [1, 1])
    assert not decode_dense(merged, faint.size).any()
    state = initial_state(joint, np.ones(size_of(joint), np.float32))
    assert parameters_file(joint, aggregate(joint, state, [merged])) == parameters_file(joint, state)


def test_an_update_of_the_run_is_no_joint_update(joint: RunManifest, manifest: RunManifest) -> None:
    with pytest.raises(Malformed, match="another codec"):
        read_joint(joint, encode(updates_of(joint, 1)[0]))
    assert max_joint_bytes(manifest) == 0
    with pytest.raises(ValueError, match="everybody's"):
        joint_codec(manifest)


def test_its_symbols_name_it(joint: RunManifest) -> None:
    updates = updates_of(joint, 2)
    merged = merge(joint, updates, [1, 1])
    assert symbols_digest(read_joint(joint, encode(merged))) == symbols_digest(merged)
