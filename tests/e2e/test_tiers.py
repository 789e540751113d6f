"""A whole network of machines of three speeds: slow ones do smaller units, and are paid for what they did.

None of them waits for the round before: outer steps are delayed by a segment.
"""

import json
from pathlib import Path

import pytest

from tests.e2e.test_up import murmur

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 4


def test_slow_machines_do_smaller_units_and_earn_in_proportion(tmp_path: Path) -> None:
    directory = tmp_path / "up"
    done = murmur(
        *("up", "--tiers", "--delay", "1", "--peers", "3", "--cheat", "none", "--rounds", str(ROUNDS)),
        *("--dir", str(directory), "--json"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    shares = (120, 72, 36)  # samples of a unit of each tier
    for peer in document["peers"]:
        units = peer["units"]
        assert units["tiers"][2] >= 1, "everybody's first unit is the smallest"
        assert units["committed"] == units["passed"] == units["drawn"] == sum(units["tiers"])
        earned = sum(
            10**18 * share // 120 * count for share, count in zip(shares, units["tiers"], strict=True)
        )
        assert int(peer["claimed_wei"]) == earned
    # Which tiers follow is measured, and so different from machine to machine: tests/node/test_tiers.py.
    assert document["audit"]["ok"]
