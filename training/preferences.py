"""Values of a group's samples from what people said of pairs of them: Bradley and Terry's model (Biometrika, 1952).

A sample of strength p is preferred to one of strength q with probability p / (p + q). The strengths that make the given
pairs most likely are found by the MM iteration (Hunter, Annals of Statistics, 2004). Each sample also wins once and
loses once against a reference of strength 1, so that every strength is finite and above zero whatever the pairs are,
and samples that nobody compared, directly or through others, can still be told apart.

Sums are taken in the order of the samples, and only sums, products and quotients of IEEE doubles: the same bits on
every machine.
"""

from collections.abc import Iterable
from typing import Final

STEPS: Final = 1000
"""Of the iteration, always: where to stop would be one more thing to agree on. It is far more than enough for as many
pairs as records carry about a round.
"""


def preference_values(samples: int, pairs: Iterable[tuple[int, int]]) -> tuple[float, ...]:
    """Return each sample's value: the probability that it is preferred to the reference.

    It lies between 0 and 1, and is 0.5 for a sample that nobody compared.

    Args:
        samples: how many the group has.
        pairs: (better, worse) by place; their order does not matter, how often each comes does.

    Raises:
        ValueError: a pair names a sample that is not there, or one twice.
    """
    wins = [1] * samples  # over the reference
    met = [[0] * samples for _ in range(samples)]
    for better, worse in pairs:
        if better == worse or not (0 <= better < samples and 0 <= worse < samples):
            raise ValueError(f"samples {better} and {worse} of {samples}")
        wins[better] += 1
        met[better][worse] += 1
        met[worse][better] += 1
    rivals = [[(other, times) for other, times in enumerate(row) if times] for row in met]
    strengths = [1.0] * samples
    for _ in range(STEPS):
        strengths = [_step(wins[own], rivals[own], strengths, own) for own in range(samples)]
    return tuple(strength / (strength + 1.0) for strength in strengths)


def _step(wins: int, rivals: list[tuple[int, int]], strengths: list[float], own: int) -> float:
    """Return a sample's next strength: its wins over the sum of 1 / (its strength + its rival's) of every meeting."""
    total = 2.0 / (strengths[own] + 1.0)  # with the reference
    for other, times in rivals:
        total += times / (strengths[own] + strengths[other])
    return wins / total
