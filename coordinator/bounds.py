"""What counts say with 95 % confidence: exact one-sided bounds of a probability (Clopper and Pearson, 1934).

Of no hits among n the upper bound is 1 - 0.05^(1/n), about 3/n: the rule of three. Of nothing tried, nothing is known.
"""

import math

CONFIDENCE = 0.95
_HALVINGS = 60  # of the interval in which the bound is looked for: below the step of a double


def upper_bound(hits: int, trials: int) -> float:
    """Return the probability that is not exceeded, with 95 % confidence, if `trials` gave `hits`."""
    if hits >= trials:
        return 1.0
    alpha = 1 - CONFIDENCE
    if not hits:
        return float(1 - alpha ** (1 / trials))
    low, high = hits / trials, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(hits, trials, middle) > alpha else (low, middle)
    return high


def lower_bound(hits: int, trials: int) -> float:
    """Return the probability that is reached, with 95 % confidence, if `trials` gave `hits`."""
    return 1 - upper_bound(trials - hits, trials) if trials else 0.0


def _at_most(hits: int, trials: int, p: float) -> float:
    """Return the chance of at most so many hits, each with probability p in (0, 1)."""
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(hits + 1)
    )
    return math.fsum(math.exp(value) for value in logs)
