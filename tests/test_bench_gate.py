"""The bench of the gate judges as the product does."""

import argparse
from pathlib import Path

from tests.bench.gate import LIARS, PEERS, train


def test_flipped_updates_are_doubted_and_honest_ones_are_not(tmp_path: Path) -> None:
    options = argparse.Namespace(rounds=2, steps=[0.25], windows=8, moments="published")
    found = train(options, 0, tmp_path)
    assert [found[0.25, shown].share("honest") for shown in ("honest", "flip")] == [0, 0]
    assert found[0.25, "flip"].share("dishonest") == 1
    assert found[0.25, "honest"].share("dishonest") is None, "nobody lies"
    assert found[0.25, "noise"].judged == {"honest": 2 * (PEERS - LIARS), "dishonest": 2 * LIARS}
