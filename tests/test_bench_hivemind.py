"""What the comparison with hivemind says of figures that it was given."""

import numpy as np
import pytest

from tests.bench._averaging import bytes_a_peer, error, outcome, row
from tests.bench._links import Traffic
from tests.bench._training import Point, Trial, by_phase, cpu_by_process, reached, round_starts, sample

VECTORS = [np.array(values, np.float32) for values in ([1, 2, 3], [3, 2, 1])]
MEAN = np.full(3, 2, np.float32)


def test_error_is_the_worst_peers():
    assert error([MEAN, MEAN], VECTORS) == 0
    assert error([MEAN, 2 * MEAN], VECTORS) == pytest.approx(1)
    assert error([MEAN[:2]], VECTORS) == 0  # of fewer values


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([MEAN, MEAN], "equal"),
        ([MEAN, np.nextafter(MEAN, np.float32(3))], "differ"),
        (VECTORS, "unchanged"),
        ([VECTORS[0], MEAN], "differ"),
    ],
)
def test_results_that_nobody_averaged_are_called_unchanged(found, said):
    assert outcome(found, VECTORS) == said


def test_bytes_over_loopback_are_sent_and_received():
    links = [Traffic(4_000_000, 1_000_000, 0, 0), Traffic(0, 3_000_000, 9, 0)]
    assert bytes_a_peer(links, 2) == {"sent_mb": 2, "received_mb": 2}
    assert bytes_a_peer([Traffic(0, 0, 0, 8_000_000)], 4) == {"sent_mb": 2, "received_mb": 2}


def test_traffic_is_a_difference_of_counts():
    assert Traffic(5, 6, 7, 8) - Traffic(1, 2, 3, 4) == Traffic(4, 4, 4, 4)


def test_a_row_has_medians_and_the_worst():
    same = {"cpu_s": 1.0, "fetch_s": None, "sent_mb": 2.0, "received_mb": 2.0, "error": 0.5, "plain": None}
    rounds = [
        {**same, "wall_s": wall, "outcome": said, "group": group}
        for wall, said, group in ((1.0, "equal", 4), (9.0, "unchanged", 3), (2.0, "equal", 4))
    ]
    found = row("hivemind", "fp16", "links", rounds)
    assert (found["wall s"], found["slowest"], found["fetch s"]) == (2.0, 9.0, None)
    assert (found["results"], found["group"]) == ("equal unchanged", 3)


POINTS = [Point(10.0 + tenth, 1000 * tenth, 3.0 - tenth / 10) for tenth in range(10)]


def trial(points=POINTS, **named):
    samples = [
        (9.0 + second, [Traffic(0, 0, 0, 0), Traffic(second * 10**6, 0, 0, 0)], 2.0 * second)
        for second in range(12)
    ]
    return Trial("Murmur", "somehow", 10.0, points, samples, 2, **named)


def test_a_target_is_reached_by_the_first_point_at_or_below_it():
    assert reached(POINTS, 2.55) is POINTS[5]
    assert reached(POINTS, 3.0) is POINTS[0]
    assert reached(POINTS, 2.0) is None


def test_figures_to_a_target_and_to_the_end_are_differences_from_the_start():
    found = trial().row([2.8, 2.45])
    assert (found["s to 2.8"], found["s to 2.45"]) == (2.0, 6.0)
    assert (found["M tokens"], found["MB sent"], found["cpu s"]) == (0.006, 3.0, 12.0)
    assert (found["end s"], found["end MB sent"], found["end cpu s"]) == (9.0, 4.5, 18.0)


def test_a_target_that_was_missed_has_no_figures():
    found = trial().row([2.8, 1.0])
    assert found["s to 2.8"] == 2.0
    assert [found[name] for name in ("s to 1", "M tokens", "MB sent", "cpu s")] == [None] * 4


def test_only_contributors_links_are_told():
    assert trial(skipped=1).row([2.45])["MB sent"] == 6.0


def test_a_sample_is_the_last_before_a_moment():
    samples = trial().samples
    assert sample(samples, 0.0)[1] == 0.0
    assert sample(samples, 11.9)[1] == 4.0
    assert sample(samples, 99.0)[1] == 22.0


MARKS = [
    {"at": at, "round": round_, "phase": phase, "cpu_s": {"peer-1": at, "chain": 2 * at}}
    for at, round_, phase in (
        (5.0, 0, "commit"),
        (8.0, 0, "reveal"),
        (9.0, 1, "commit"),
        (13.0, 1, "anchor"),
        (14.0, 1, "settling"),
        (20.0, 1, "finished"),
    )
]


def test_rounds_start_when_first_seen_and_end_with_the_first_other_phase():
    assert round_starts(MARKS, 2) == {0: 5.0, 1: 9.0, 2: 14.0}


def test_phases_are_told_by_round_and_settling_is_none_of_them():
    assert by_phase(MARKS, 2) == {"commit": 3.5, "reveal": 0.5, "anchor": 0.5}


def test_processes_are_charged_for_rounds_alone():
    assert cpu_by_process(MARKS, 2) == {"peer-1": 9.0, "chain": 18.0}
