"""What the comparison with hivemind says of figures that it was given."""

import numpy as np
import pytest

from tests.bench._averaging import bytes_a_peer, error, outcome, row
from tests.bench._links import Traffic

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
