"""Draws come out as often as the schedule says, evenly, and nothing that a peer does before the beacon moves them.

The beacons are fixed, so each bound holds or fails for good: it is where a fair draw lands with all but one chance in a
million.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from blake3 import blake3

from protocol.manifest import RunManifest, SamplingSchedule, VerificationConfig
from protocol.messages import UnitRecord
from tests.protocol.makers import digest_of, manifest
from verification.sample import Draw, draws

RARE = 1e-6
VERIFIERS = (101, 102, 103, 104, 105)
SCHEDULE = SamplingSchedule(fresh_units=20, suspicion_units=20)
CLASSES = {(0, 0): 0.2, (19, 0): 0.2, (20, 0): 0.05, (3, 7): 0.8, (20, 1): 0.2}


@pytest.fixture(scope="module")
def run() -> RunManifest:
    return manifest(verification=VerificationConfig(schedule=SCHEDULE))


def beacon(label: int) -> str:
    return blake3(b"bias %d" % label).hexdigest()


def unit(number: int, earlier: int = 0, suspect: int = 0) -> UnitRecord:
    return UnitRecord(
        number=number,
        commitment=digest_of(f"commitment {number}"),
        merged=False,
        reason="late",
        earlier=earlier,
        suspect=suspect,
    )


def drawn(
    run: RunManifest, label: int, units: list[UnitRecord], judges: tuple[int, ...] = VERIFIERS
) -> dict[int, Draw]:
    return {one.number: one for one in draws(run, "ab" * 32, beacon(label), label % 50, units, judges)}


def tail(hits: int, trials: int, p: float) -> float:
    """Return how likely a binomial count is at least as far out as this one, on its side, exactly."""

    def chance(count: int) -> float:
        logs = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
        return math.exp(logs + count * math.log(p) + (trials - count) * math.log1p(-p))

    counts = range(hits + 1) if hits <= trials * p else range(hits, trials + 1)
    return math.fsum(chance(count) for count in counts)


def uneven(counts: list[int]) -> float:
    """Return Pearson's chi-square tail of equally likely cells; their number is odd, so it has a closed form."""
    assert len(counts) % 2 == 1
    mean = sum(counts) / len(counts)
    half = sum((count - mean) ** 2 for count in counts) / mean / 2
    terms = (math.exp(-half + k * math.log(half) - math.lgamma(k + 1)) for k in range((len(counts) - 1) // 2))
    return math.fsum(terms)


@pytest.mark.parametrize(("standing", "probability"), CLASSES.items(), ids=str)
def test_each_class_is_drawn_as_often_as_the_schedule_says(
    run: RunManifest, standing: tuple[int, int], probability: float
) -> None:
    units = [unit(number, *standing) for number in range(1, 41)]
    found = Counter(len(drawn(run, label, units, ())) for label in range(200))
    hits = sum(count * rounds for count, rounds in found.items())
    assert tail(hits, 8000, probability) > RARE / 2
    nearby = probability + 7 * math.sqrt(probability * (1 - probability) / 8000)
    assert tail(hits, 8000, nearby) < RARE, "the test could not tell a slightly higher probability"


def test_segments_are_even(run: RunManifest) -> None:
    units = [unit(number, suspect=1) for number in range(1, 21)]
    counts = Counter(one.segment for label in range(200) for one in drawn(run, label, units).values())
    assert sorted(counts) == list(range(run.segments))
    assert uneven([counts[segment] for segment in range(run.segments)]) > RARE


def test_every_verifier_is_ranked_first_and_last_as_often_as_any_other(run: RunManifest) -> None:
    units = [unit(number, suspect=1) for number in range(1, 21)]
    found = [one for label in range(150) for one in drawn(run, label, units).values()]
    for rank in range(len(VERIFIERS)):
        counts = Counter(one.verifiers[rank] for one in found)
        assert uneven([counts[judge] for judge in VERIFIERS]) > RARE
    three = [one for label in range(150) for one in drawn(run, label, units, VERIFIERS[:3]).values()]
    pairs = Counter(frozenset(one.verifiers[:2]) for one in three)
    assert uneven(list(pairs.values())) > RARE


def test_rounds_and_neighbours_are_drawn_independently(run: RunManifest) -> None:
    suspects = [unit(1, 20, 1), unit(2, 20, 1)]  # each with one fifth
    found = [drawn(run, label, suspects, ()).keys() for label in range(4000)]
    together = sum(len(one) == 2 for one in found)
    assert tail(together, 4000, 0.04) > RARE / 2
    again = sum(1 in one and 1 in after for one, after in pairwise(found))
    assert tail(again, 3999, 0.04) > RARE / 2


def test_who_else_is_listed_and_what_is_committed_moves_no_draw(run: RunManifest) -> None:
    units = [unit(number) for number in range(1, 31)]
    for label in range(50):
        whole = drawn(run, label, units)
        some = drawn(run, label, units[::3])
        assert some == {number: one for number, one in whole.items() if number % 3 == 1}
        # Another commitment, merged or not, and another order in the record.
        other = [one.model_copy(update={"commitment": "cd" * 32, "reason": "copy"}) for one in units]
        assert drawn(run, label, other[::-1]) == whole


def test_a_verifier_that_joins_moves_nobody_else(run: RunManifest) -> None:
    units = [unit(number, suspect=1) for number in range(1, 21)]
    for label in range(20):
        before, after = drawn(run, label, units, VERIFIERS), drawn(run, label, units, (*VERIFIERS, 106))
        assert before.keys() == after.keys()
        for number, one in before.items():
            assert after[number].segment == one.segment
            assert tuple(judge for judge in after[number].verifiers if judge != 106) == one.verifiers


def test_another_beacon_round_or_run_draws_anew(run: RunManifest) -> None:
    units = [unit(number, suspect=1) for number in range(1, 41)]

    def found(run_id: str = "ab" * 32, label: int = 0, round_: int = 0) -> tuple[Draw, ...]:
        return draws(run, run_id, beacon(label), round_, units, VERIFIERS)

    assert found() == found()
    assert len({found(), found("cd" * 32), found(label=1), found(round_=1)}) == 4
