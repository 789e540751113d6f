"""Which of a round's updates move the parameters: judged by what they do, with the same bits on every machine.

An update can come from honest steps and do harm all the same, or from a peer that no draw has reached yet. So each
is tested as the outer step would take it, clipped to the lower median of all norms (c_i u_i):

    gate        gain_i = L(parameters) - L(parameters - lr w_i / (4 sum w) * c_i u_i), in exact arithmetic on windows
                that were drawn after everybody had shown its update. Its size r_i = gain_i / median |gain|, within
                +-3, moves the peer's score by a quarter: score_i' = score_i + (r_i - score_i) / 4, from r_i at first.
                The update passes with score_i' > 0 and r_i > -2.
    similarity  cosines of c_i u_i with all that passed the gate. It passes if their lower median, its own cosine of one
                included, is above zero and above the manifest's share of what is usual: the lower median over all
                updates of these medians, own cosines left out.

The gate steps a quarter as far as the update moves the parameters in the mean: alone at the full outer rate honest
updates overshoot and raise the loss, and late in a run, when they gain little, some do so at their share of it
(`python -m tests.bench gate`). It comes first, so that what harms has no say in what is usual.

Fewer than half move no median beyond what the rest give it. So whatever they send, an honest update's median is at
least the lowest cosine that two honest ones have, and what is usual at most the highest: those who copy one honest
update or several, nearly or exactly, agree very well among themselves, and raise nothing. A cosine with the sum of the
others has no such bound. Three of eight who copy a fourth are half of that sum and set what is usual, and a few who
agree on the opposite of the honest mean turn the sum against everybody honest.

Own cosines count for an update and not for what is usual: of an odd number, a bare minority can hold one of the two
middles, and then the doubt is in favour of the honest (some noise passes where two of five send it).

What fails keeps its pay, if it was honest work, but has no weight. All arithmetic but the loss's is of integers, some
of them held as floats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final

import numpy as np

from protocol.manifest import RunManifest
from protocol.messages import SCORE_UNIT
from protocol.tensors import Floats
from protocol.update import Symbols
from training.outer import Clipped, OuterState, blocks_of, lower_median

MAX_RELATIVE: Final = 3 * SCORE_UNIT
"""Bound of one round's word on a peer, so that no single window makes or breaks a score."""
HARM: Final = -2 * SCORE_UNIT
"""Of the median gain: an update that does so much worse in one round does not pass, whatever its peer did before."""
_MEMORY: Final = 4
STEP: Final = 0.25
"""How far the gate steps, in shares of an update's part in the mean."""
_COSINE_BITS: Final = 32
_CUT: Final = 24  # grid bits that a cosine does without, so that its products are exact in float64
_COMPARED: Final = 2**23  # values of all updates compared at once: 64 MiB

Loss = Callable[[Floats], int]
"""Return the loss of parameters float32[P] in units of 2**-32 nats, the same everywhere (`training.gate`)."""


@dataclass(frozen=True)
class Merit:
    """Say whether an update moves the parameters, and what its peer's score is after the round."""

    passed: bool
    reason: str  # why not; empty when it passed
    score: int | None = None  # in units of 1 / SCORE_UNIT of a median gain; None: the run has no gate


def judge_updates(
    manifest: RunManifest,
    state: OuterState,
    updates: Sequence[Symbols],
    weights: Sequence[int],
    scores: Sequence[int | None],
    loss: Loss | None,
) -> tuple[Merit, ...]:
    """Judge a round's merged updates.

    Args:
        state: what the round starts from.
        weights: of their tiers.
        scores: of their peers before the round; None: not judged yet.
        loss: on the round's windows; None where the run has no gate.
    """
    if not updates:
        return ()
    clipped = Clipped(updates)
    found = [Merit(passed=True, reason="") for _ in updates]
    if manifest.merging.gate_windows:
        assert loss is not None, "a run with a gate is judged with its windows"
        rates = [STEP * manifest.outer.lr * weight / sum(weights) for weight in weights]
        found = _gated(_gains(state, updates, rates, clipped, loss), scores)
    if manifest.merging.similarity:
        _compare(found, updates, clipped, manifest.merging.similarity)
    return tuple(found)


def _gains(
    state: OuterState, updates: Sequence[Symbols], rates: Sequence[float], clipped: Clipped, loss: Loss
) -> list[int]:
    """Return by how much each update alone lowers the loss, at its rate."""
    start = loss(state.parameters)
    gains = []
    for index, (update, rate) in enumerate(zip(updates, rates, strict=True)):
        moved = state.parameters.copy()
        step = np.ldexp(clipped.values(index).astype(np.float64), clipped.grid) * rate
        moved[update.positions] = moved[update.positions].astype(np.float64) - step
        gains.append(start - loss(moved))
    return gains


def _gated(gains: Sequence[int], scores: Sequence[int | None]) -> list[Merit]:
    """Move every score by what its peer's update gained, relative to the others', and say who passes."""
    typical = sorted(map(abs, gains))[len(gains) // 2]
    found = []
    for gain, before in zip(gains, scores, strict=True):
        relative = gain * SCORE_UNIT // max(typical, 1)
        relative = max(-MAX_RELATIVE, min(MAX_RELATIVE, relative))
        score = relative if before is None else before + (relative - before) // _MEMORY
        reason = ""
        if relative <= HARM:
            reason = "it raises the loss"
        elif score <= 0:
            reason = "its peer's updates raise the loss"
        found.append(Merit(passed=not reason, reason=reason, score=score))
    return found


def _compare(found: list[Merit], updates: Sequence[Symbols], clipped: Clipped, share: float) -> None:
    """Doubt those that passed but point elsewhere than the others that did."""
    places = [place for place, one in enumerate(found) if one.passed]
    if len(places) < 3:
        return
    table = cosines(updates, clipped, places)
    usual = lower_median([lower_median(row[:own] + row[own + 1 :]) for own, row in enumerate(table)])
    least = max(0, int(usual * share))
    for place, row in zip(places, table, strict=True):
        if lower_median(row) <= least:
            found[place] = Merit(
                passed=False, reason="it points away from the others", score=found[place].score
            )


def cosines(updates: Sequence[Symbols], clipped: Clipped, places: Sequence[int]) -> list[list[int]]:
    """Return the cosine of each update at these places with each, itself too, in units of 2**-32.

    Products are of float64, which is quick, and exact all the same: once cut, no update is longer than 2**23, so that
    any part of what two have in common sums to at most 2**46 (Cauchy and Schwarz), and float64 holds integers to 2**53.
    """
    products = np.zeros((len(places), len(places)))
    for block in blocks_of(updates[0], _COMPARED // len(places)):
        rows = np.zeros((len(places), block.stop - block.start))
        for row, place in zip(rows, places, strict=True):
            positions, values = clipped.part(place, block)
            row[positions] = values >> _CUT
        products += rows @ rows.T
    exact: list[list[int]] = products.astype(np.int64).tolist()
    squares = [row[own] for own, row in enumerate(exact)]
    return [
        [
            (product << _COSINE_BITS) // max(1, isqrt(square * other))
            for product, other in zip(row, squares, strict=True)
        ]
        for row, square in zip(exact, squares, strict=True)
    ]
