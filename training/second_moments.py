"""AdamW's second moments as updates say them: what makes a round's start both public and as good as a carried one.

A peer that starts every round with zero moments has forgotten how large each parameter's gradients are, and a first
gradient does not tell. Peers know, and publish: the beacon draws one of `inner.slices` slices (every `slices`-th entry
of the flat vector) for each unit, whose update also says what that slice of its second moments is at the unit's end,
rounded to powers of two. Everybody keeps what was said last of every entry, beside the round's parameters and under
the same root. `tests/bench/notes` has what this costs and gains.

A code is the exponent of a float32 as it stands in its bits: v is rounded to 2**(code - 127), the nearest in ratio,
and code 0 says nothing: of an entry that never had a gradient, or that no update spoke of. Integer operations alone,
so that whoever replays a unit finds the same codes.

What takes Muon's steps has no second moments, and code 0 for ever.

Of several peers who say the same slice in one round the lower median counts, so that one of two cannot raise it. One
round raises an entry by `RISE` octaves at most: from what was said before, or where nothing was from the mean square of
a gradient's entries at the clipped norm.

Whoever lies about its slice is proven false by any draw, since its update does not follow from its final state; whoever
commits to a false final state as well, by a draw of the last segment, like any who forges one segment. Until then
the harm is small: too low a start is lifted by the round's own gradients, since AdamW takes a gradient into v before
it divides by it, so that no step is longer than from a start of zero; too high a start would let the slice's entries
rest, but for the bound on rises. An honest word after it counts whole: nothing bounds how far a word falls.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from protocol.beacon import MOMENTS, draw, seed
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.tensors import Codes, Floats
from protocol.update import MAX_MOMENT_CODE, SecondMoments, SparseSymbols, Symbols

RISE: Final = 2
"""Octaves of v by which one word raises an entry at most, so that it halves the entry's steps and no more."""

_MANTISSA_BITS: Final = 23
_ROUND_UP: Final = 0x800000 - 0x3504F3
"""Carries a mantissa of the root of two and more into the exponent."""


def codes_of(second: Floats) -> Codes:
    """Return the codes of second moments: uint8[n]. What is not above zero has code 0."""
    bits = np.ascontiguousarray(np.maximum(second, 0), np.float32).view(np.uint32)
    exponents = bits + np.uint32(_ROUND_UP) >> np.uint32(_MANTISSA_BITS)
    codes: Codes = np.minimum(exponents, MAX_MOMENT_CODE).astype(np.uint8)
    return codes


def values_of(codes: Codes) -> Floats:
    """Return the second moments that codes stand for: float32[n]."""
    values: Floats = (codes.astype(np.uint32) << _MANTISSA_BITS).view(np.float32)
    return values


def drawn_slice(manifest: RunManifest, beacon: str, round_: int, number: int) -> int | None:
    """Return the slice that a unit's update says, drawn by the beacon of its batches; None: it says none."""
    slices = manifest.moment_slices
    return draw(seed(MOMENTS, beacon, manifest.run_id, round_), number) % slices if slices else None


def with_slice(
    manifest: RunManifest, symbols: Symbols, second: Floats, beacon: str, round_: int, number: int
) -> Symbols:
    """Return a unit's update with what it is to say of its final second moments, float32[P]."""
    place = drawn_slice(manifest, beacon, round_, number)
    if place is None:
        return symbols
    assert isinstance(symbols, SparseSymbols), "published moments are for sparse updates"
    slices = manifest.moment_slices
    return replace(symbols, moments=SecondMoments(slices, place, codes_of(second[place::slices])))


def check_slice(manifest: RunManifest, symbols: Symbols, beacon: str, round_: int, number: int) -> None:
    """Check that an update says the slice that was drawn for it.

    Raises:
        Malformed: it says another.
    """
    place, said = drawn_slice(manifest, beacon, round_, number), _said(symbols)
    if place != (None if said is None else said.number):
        raise Malformed("update with another slice of second moments than was drawn for it")


def heard(manifest: RunManifest, codes: Codes, updates: Sequence[Symbols]) -> Codes:
    """Return the codes of all second moments, uint8[P], after a round's updates, in any order.

    Args:
        codes: uint8[P], before it.
    """
    words: dict[tuple[int, int], list[Codes]] = {}
    for said in filter(None, map(_said, updates)):
        words.setdefault((said.number, said.slices), []).append(said.codes)
    after, usual = codes.copy(), _usual(manifest, codes.size)
    for (number, slices), several in words.items():
        middle = (len(several) - 1) // 2
        said, known = np.partition(np.stack(several), middle, axis=0)[middle], codes[number::slices]
        most = np.minimum(np.where(known > 0, known, usual), MAX_MOMENT_CODE - RISE) + np.uint8(RISE)
        after[number::slices] = np.where(said > 0, np.minimum(said, most), known)
    return after


def _usual(manifest: RunManifest, parameters: int) -> np.uint8:
    """Return the code of the mean square of an entry, in a gradient of the norm that it is clipped to."""
    norm = manifest.inner.clip_norm
    usual: np.uint8 = codes_of(np.array([min(norm * norm / parameters, 2.0**126)], np.float32))[0]
    return usual


def _said(symbols: Symbols) -> SecondMoments | None:
    return symbols.moments if isinstance(symbols, SparseSymbols) else None
