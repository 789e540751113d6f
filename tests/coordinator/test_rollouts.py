"""What the coordinator shows of rollouts: figures, samples as text, and why a unit did not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from coordinator.api import create_app
from coordinator.rollouts import describe_rollouts
from coordinator.store import Store
from coordinator.tables import UnitRow, VerdictRow, database_url, open_engine
from protocol.errors import Malformed
from protocol.published import Published, published_sizes, read_published, write_published
from protocol.tensors import parameter_layout
from tests.verification.judged_run import judged_round
from tests.verification.rollout_run import Unit, honest_unit
from training.codec import compress

NOW = 1_000_000.0
HOSTILE = "<script>alert(1)</script>"


def blob_of(unit: Unit) -> bytes:
    change = np.linspace(-1, 1, parameter_layout(unit.manifest.model).size, dtype=np.float32)
    symbols, _ = compress(unit.manifest.codec, change)
    return write_published(unit.manifest, Published(symbols, unit.raw()))


def test_a_unit_is_described_by_what_its_samples_say_and_earned() -> None:
    unit = honest_unit("nim")
    blob = blob_of(unit)
    found = describe_rollouts(unit.manifest, blob)
    assert (found["groups"], found["samples"]) == (3, 12)
    assert found["update_bytes"] + found["rollout_bytes"] + 4 == len(blob)
    earned = np.concatenate([sample.rewards for group in unit.groups for sample in group])
    assert found["components"] == pytest.approx(
        dict(zip(found["components"], earned.mean(axis=0).tolist(), strict=True))
    )
    group, place = unit.groups[found["shown"]["group"]], 1
    text = "".join(part["text"] for part in found["shown"]["samples"][place]["parts"])
    assert text.encode() == bytes(group[place].tokens.tolist())
    players = [part["player"] for part in found["shown"]["samples"][place]["parts"]]
    assert [one for one in players if one is not None] == group[place].players.tolist()


def test_what_is_no_unit_is_not_described() -> None:
    unit = honest_unit("nim")
    blob = blob_of(unit)
    for broken in (b"", blob[:-1], blob[:40], blob + b"\x00"):
        with pytest.raises(Malformed):
            describe_rollouts(unit.manifest, broken)
    assert read_published(unit.manifest, blob).groups == unit.raw()
    with pytest.raises(Malformed):
        published_sizes(unit.manifest, b"\xff\xff\xff\xff")


def unit_row(number: int, **fields: Any) -> UnitRow:
    values = {"commitment": f"{number:064x}", "listed": True, "revealed": True, "drawn": False, "reason": ""}
    return UnitRow(round=0, number=number, **{**values, **fields})


def test_a_person_sees_samples_and_why_a_unit_is_not_paid(tmp_path: Path) -> None:
    unit = honest_unit("nim")
    found = describe_rollouts(unit.manifest, blob_of(unit))
    found["shown"]["samples"][0]["parts"][0]["text"] = HOSTILE
    with Store.open(tmp_path, unit.manifest, clock=lambda: NOW) as store, store.write() as tx:
        tx.posted(0, root_block=5, record_block=6)
        for number in (1, 2, 3):
            tx.rollouts(0, number, found)
        tx._session.add(unit_row(1, merged=True))
        tx._session.add(unit_row(2, merged=False, reason="group 1, sample 2: claims sorted 1"))
        tx._session.add(unit_row(3, merged=True, drawn=True, segment=1, outcome="false"))
        verdict = {"distance": 0.0, "replay_cpu_s": 1.0, "outcome": 3, "reason": f"regret 7 {HOSTILE}"}
        tx._session.add(VerdictRow(id="a", round=0, number=3, verifier=9, **verdict))
    opened = open_engine(database_url(tmp_path), writer=False)
    with TestClient(create_app(opened, lambda: NOW)) as client:
        summary = client.get(f"/v1/runs/{unit.manifest.run_id}").json()
        told = client.get(f"/v1/runs/{unit.manifest.run_id}/rollouts", params={"round": 0}).json()
        page = client.get("/rollouts", params={"round": 0})
        front = client.get("/").text
        assert client.get("/rollouts", params={"round": -1}).status_code == 422
        assert "Nothing of this round" in client.get("/rollouts", params={"round": 1}).text
    opened.dispose()
    policy = summary["policy"]
    assert policy["groups"] == {"assigned": 9, "accepted": 6, "rejected": 3, "drawn": 1}
    assert policy["reward"]["first"] == policy["reward"]["last"] == pytest.approx(found["reward"])
    assert policy["wire"]["rollout_bytes"] == found["rollout_bytes"]
    assert policy["lag"] == 2
    assert [one["number"] for one in told["units"]] == [1, 2, 3]
    assert told["units"][2]["verdict_reasons"] == [f"regret 7 {HOSTILE}"]
    assert page.status_code == 200
    assert HOSTILE not in page.text
    assert "&lt;script&gt;" in page.text
    for words in ("group 1, sample 2: claims sorted 1", "proven false, stake lost", "regret 7", "player 1"):
        assert words in page.text
    assert "/rollouts?round=0" in front
    for name in found["components"]:
        assert f"Reward: {name}" in front or "curve begins with the second round" in front


def test_what_judges_said_since_is_what_a_sample_earned() -> None:
    round_ = judged_round()
    blob, scores = round_.blobs[2], (0.25, 1.0, 0.5, 0.25)
    before = describe_rollouts(round_.manifest, blob)
    found = describe_rollouts(round_.manifest, blob, {1: scores})
    assert before["components"]["judged"] == 0
    assert found["components"]["judged"] == pytest.approx(sum(scores) / 12)
    assert found["reward"] == pytest.approx(before["reward"] + 0.5 * sum(scores) / 12)
    assert found["success"] == before["success"]
    assert found["shown"]["group"] == 1, "the first whose samples differ"
    assert [one["rewards"][0]["judged"] for one in found["shown"]["samples"]] == list(scores)
