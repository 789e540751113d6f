"""The whole network on this machine where a policy learns, as a newcomer starts it."""

import json
from pathlib import Path

import pytest

from tests.e2e.test_up import ROUNDS, check_money, finish, murmur, start_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_policy_learns_from_rollouts_that_liars_cannot_add_to(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    document = finish(start_up(directory, "--kind", "rollout", "--env", "sort"), directory)
    assert document["environment"] == "sort"
    assert document["success"]["last"] > document["success"]["first"] + 0.03
    assert len(document["success"]["curve"]) == len(document["reward"]["curve"]) == ROUNDS + 1
    assert document["lag"] == {"mean": 2.0, "max": 2}
    groups = document["groups"]
    assert groups["assigned"] == groups["accepted"] + groups["rejected"]
    assert min(groups["accepted"], groups["rejected"], groups["drawn"]) > 0
    assert document["wire"]["rollout_bytes_step"] > 0
    assert document["wire"]["weights_bytes_step"] > 0
    cheats = {peer["cheat"]: peer for peer in document["peers"] if not peer["honest"]}
    assert set(cheats) == {"reward-liar", "cherry-picker"}
    for peer in cheats.values():
        assert peer["units"]["rejected"] >= 1
        assert int(peer["slashed_wei"]) > 0
    assert document["verification"]["false_rejections"] == 0
    assert document["not_demonstrated"] == []
    check_money(document)

    again = murmur(
        "audit", "run", document["run_id"], "--dir", str(directory), "--replay", "sampled", "--json"
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["ok"]
