"""A whole network in which a policy learns, as a newcomer starts it."""

import json
from pathlib import Path

import pytest

from tests.e2e.test_up import ROUNDS, check_money, finish, murmur, start_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_policy_learns_both_cheats_are_caught_and_everything_can_be_audited_again(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    document = finish(start_up(directory, "--kind", "rollout", "--env", "sort", "--peers", "2"), directory)
    peers = {peer["cheat"] or peer["name"]: peer for peer in document["peers"]}
    assert set(peers) == {"peer-1", "peer-2", "reward-liar", "cherry-picker"}
    for name in ("peer-1", "peer-2"):
        assert int(peers[name]["claimed_wei"]) > 0
        assert peers[name]["slashed_wei"] == "0"
    for name in ("reward-liar", "cherry-picker"):
        assert peers[name]["units"]["rejected"] >= 1
        assert (peers[name]["claimed_wei"], peers[name]["stake_wei"]) == ("0", "0")
    assert document["environment"] == "sort"
    assert document["lag"] == {"mean": 2.0, "max": 2}
    assert len(document["reward"]["curve"]) == ROUNDS + 1
    assert document["success"]["last"] > document["success"]["first"]
    groups = document["groups"]
    assert groups["assigned"] == groups["accepted"] + groups["rejected"]
    assert min(groups["accepted"], groups["rejected"], groups["drawn"]) > 0
    assert document["wire"]["rollout_bytes_step"] > 0
    assert document["wire"]["weights_bytes_step"] > 0
    assert document["verification"]["false_rejections"] == 0
    assert document["audit"]["ok"]
    assert document["not_demonstrated"] == []
    check_money(document)

    again = murmur(
        *("audit", "run", document["run_id"], "--dir", str(directory), "--replay", "sampled", "--json")
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["ok"]
    rounds = sorted((directory / "coordinator" / "public" / "rounds").iterdir())
    verdicts = [one for path in rounds for one in json.loads(path.read_text())["verdicts"]]
    false = next(
        one
        for one in verdicts
        if one["body"]["number"] == peers["cherry-picker"]["number"] and one["body"]["outcome"] == 3
    )
    assert "regret" in false["body"]["reason"]
    bundle, anchors = tmp_path / "proof.murmur", tmp_path / "anchors.json"
    place = ("--dir", str(directory))
    assert murmur("audit", "run", document["run_id"], *place, "--anchors-out", str(anchors)).returncode == 7
    exported = murmur(
        *("proof", "export", *place, "--round", str(false["round"])),
        *("--peer", peers["cherry-picker"]["name"], "-o", str(bundle)),
    )
    assert exported.returncode == 0, exported.stderr
    proven = murmur("proof", "verify", str(bundle), "--anchor", str(anchors))
    assert proven.returncode == 0, proven.stdout + proven.stderr
    told = murmur("proof", "explain", str(bundle), "--anchor", str(anchors))
    assert "to roll out in sort" in " ".join(told.stdout.split())
