"""Merged updates: what a round's updates come to together, in one file that anybody can make again.

Where every contributor fetches everybody's updates, each downloads in proportion to their number. In a run of joint
updates one file takes their place (in the spirit of gTop-k, arXiv 1901.04359): the clipped weighted mean that the
outer step would take, of which the run's codec keeps the `merging.joint_k` largest entries of every chunk. It has the
same bits on every machine, and whoever has the updates recomputes it.

What the joint update leaves out is not lost: of its own update a contributor takes back what lies outside the joint
one, and adds it to the residual that it carries into the next round (`read_returned`, `give_back`). Both updates are
public, so a replay does the same.

A unit that is taken back later had its share of the mean where the joint update has entries, and that is what is taken
back (`share_of`), up to the rounding of the joint update's few magnitudes. Whoever takes it back needs all updates of
its round, since these set the shares; the bound of the round that takes it back is the norm of that round's joint
update, which every contributor holds.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from protocol.joint import Returned, joint_codec, max_joint_bytes, read_joint
from protocol.manifest import RunManifest
from protocol.published import max_published_bytes, read_update
from protocol.tensors import Floats
from protocol.update import MIN_EXPONENT, SparseSymbols, Symbols, symbols_digest
from training.codec import compress, decode_dense
from training.outer import Clipped, Contribution, blocks_of, contribution

_LEAST: Final = 2.0 ** (MIN_EXPONENT - 24)
"""What is smaller is nothing to the codec, and would become subnormal, which not every machine computes with."""


def merge(manifest: RunManifest, updates: Sequence[Symbols], weights: Sequence[int]) -> SparseSymbols:
    """Return the joint update of a round.

    Args:
        updates: that move the parameters, at least one; in any order.
        weights: of each, at least one.
    """
    clipped, mean = Clipped(updates), np.empty(updates[0].size, np.float32)
    for block in blocks_of(updates[0]):
        values = clipped.mean(weights, block)
        values[np.abs(values) < _LEAST] = 0.0
        mean[block] = values
    joint, _ = compress(joint_codec(manifest), mean)
    assert isinstance(joint, SparseSymbols), "of a sparse codec"
    return joint


def is_joint_of(
    manifest: RunManifest, joint: Symbols, updates: Sequence[Symbols], weights: Sequence[int]
) -> bool:
    """Tell whether a joint update is that of these updates."""
    return symbols_digest(merge(manifest, updates, weights)) == symbols_digest(joint)


def share_of(
    updates: Sequence[Symbols], index: int, weights: Sequence[int], joint: SparseSymbols | None
) -> Contribution:
    """Return what one update of a round gave to its step (`training.outer.contribution`).

    Args:
        joint: update that moved the parameters in the place of all; None: they all did.
    """
    share = contribution(updates, index, weights)
    return share if joint is None else share.within(joint.positions)


def left_out(own: Symbols, joint: SparseSymbols) -> Floats:
    """Return what a joint update leaves out of one that it was made of, float32[P]."""
    values = decode_dense(own, own.size)
    values[joint.positions] = 0.0
    return values


def read_returned(
    manifest: RunManifest, returned: Returned | None, read: Callable[[str, int], bytes]
) -> Floats | None:
    """Return what comes back to a unit, float32[P]; None where nothing does.

    Args:
        read: returns a blob by its address, which has at most so many bytes.

    Raises:
        Malformed: what is public of the round before is no update.
    """
    if returned is None:
        return None
    own = read_update(manifest, read(returned.update, max_published_bytes(manifest)))
    return left_out(own, read_joint(manifest, read(returned.joint, max_joint_bytes(manifest))))


def give_back(residual: Floats | None, back: Floats | None) -> Floats | None:
    """Return the residual that a unit is encoded with: what it carries, and what the round before left out of its own.

    Args:
        residual: float32[P]; None stands for zeros.
        back: float32[P], from `read_returned`; None: nothing comes back.
    """
    if residual is None or back is None:
        return back if residual is None else residual
    return residual + back
