"""Contributors that are killed in the middle of a round and one that comes late, in a network of real processes.

Its second moments are published, so that whoever comes or comes back starts from what the others said.
"""

import json
from pathlib import Path

import pytest

from tests.e2e.test_up import check_money, finish, start_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 4


def test_who_is_killed_comes_back_and_who_joins_late_contributes_in_its_first_full_round(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "net"
    churn = (
        "--join-at",
        "1",
        "--drop",
        "0.5",
        "--moments",
        "published",
        "--seed",
        "3",
    )
    up = start_up(directory, "--peers", "3", "--cheat", "none", *churn, rounds=ROUNDS)
    document = finish(up, directory)
    assert document["not_demonstrated"] == []
    assert document["audit"]["ok"]
    check_money(document)
    peers = {peer["name"]: peer for peer in document["peers"]}
    late = peers["peer-4"]["presence"]
    assert (late["joined"], late["rostered"]) == (1, [2, 3])
    assert 2 not in late["away"]
    killed = {name: peer["presence"]["killed"] for name, peer in peers.items() if peer["presence"]["killed"]}
    assert killed
    for name, rounds in killed.items():
        assert set(rounds) & set(peers[name]["presence"]["away"]), (
            "who is killed in training misses the round"
        )
        assert max(rounds) < max(set(range(ROUNDS)) - set(peers[name]["presence"]["away"]))
    assert all(int(peer["claimed_wei"]) > 0 and peer["slashed_wei"] == "0" for peer in peers.values())
    names = json.loads((directory / "up.json").read_text())["names"]
    assert names["peer-4"] == peers["peer-4"]["number"], "an auditor finds it by its name"
