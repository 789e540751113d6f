"""The read API and the page: routes, bounds, and strings of peers that would rather be markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from contracts.claims import parse_tables, prove_reward
from coordinator.api import STALE_S, create_app
from coordinator.cli import describe_summary
from coordinator.page import Markup, element, escape
from coordinator.state import Admitted, Decision, Drawn, FetchUpdate, Ruled
from coordinator.store import Store
from coordinator.tables import database_url, open_engine
from protocol.canonical import canonical_json
from protocol.merkle import reward_tree
from protocol.messages import Reveal, Verdict, parse_message, sign
from tests.coordinator.conftest import World, make_manifest
from tests.verification.rollout_run import rollout_manifest

NOW = 1_000_000.0
HOSTILE = "<script>alert(1)</script>\x1b[31m\"'&"


class Peers:
    """Drive a simulated run into a real database."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.store = world, store
        world.open()
        for round_ in range(2):
            world.play(round_)
        self.write()

    def write(self) -> None:
        world = self.world
        with self.store.write() as tx:
            tx.peers(world.chain.operators(), {1: 100}, world.state.ready)
            for message in world.heard:
                tx.heard(message)
            for effect in world.effects:
                match effect:
                    case Admitted():
                        tx.admitted(effect)
                    case FetchUpdate():
                        tx.revealed(effect)
                    case Drawn():
                        tx.drawn(effect)
                    case Decision():
                        tx.decided(effect)
                    case Ruled():
                        tx.ruled(effect)
                    case _:
                        pass
            for message in world.statements.values():
                tx.say(message)
            for round_ in range(4):
                tx.loss(round_, 5.5 - round_ / 2)
            row = tx.sending("anchor record", 0, None)
            tx.sent(row, "mined", tx="0x" + "ab" * 32, block=9, gas=50_000)
            tx.posted(0, root_block=5, record_block=6)
            facts = {
                "ledger": {"funded_wei": str(10**19), "paid_wei": "0", "claimed_wei": {}, "slashed_wei": "0"},
                "network": {"peers": {"a": 1}, "bytes_up": 5},
            }
            tx.status(phase="commit", round_=2, detail=HOSTILE, height=77, facts=facts)


@pytest.fixture(scope="module")
def world() -> World:
    return World(make_manifest())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coordinator")


@pytest.fixture(scope="module")
def store(folder: Path, world: World) -> Iterator[Store]:
    with Store.open(folder, world.manifest, clock=lambda: NOW) as opened:
        Peers(world, opened)
        yield opened


@pytest.fixture(scope="module")
def engine(folder: Path, store: Store) -> Iterator[Engine]:
    opened = open_engine(database_url(folder), writer=False)
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine, lambda: NOW + 3)) as opened:
        yield opened


def test_the_run_is_summed_up(client: TestClient, world: World) -> None:
    runs = client.get("/v1/runs").json()
    assert [one["run"] for one in runs] == [world.run]
    summary = client.get(runs[0]["href"]).json()
    assert summary["phase"] == "commit"
    assert summary["age_s"] == 3.0
    assert summary["rounds_done"] == 1
    assert summary["policy"] is None
    assert summary["loss"]["curve"] == [{"round": r, "loss": 5.5 - r / 2} for r in range(4)]
    assert summary["verification"]["drawn"] == 6
    assert summary["verification"]["passed"] == 6
    assert summary["verification"]["overhead"] == pytest.approx(12 * 0.1 / 6.0)
    assert summary["wire"]["update_bytes_mean"] == 100
    peer = summary["peers"][0]
    assert peer["units"]["merged"] == 2
    assert peer["earned_wei"] == str(2 * world.manifest.pay.unit_wei)
    assert {one["verdicts"] for one in summary["peers"] if one["role"] == "contributor"} == {0}


def test_a_policy_is_summed_up_by_what_it_does_on_held_out_tasks(tmp_path: Path) -> None:
    manifest = rollout_manifest()
    with Store.open(tmp_path, manifest, clock=lambda: NOW) as store:
        with store.write() as tx:
            for round_ in range(3):
                tx.policy(round_, round_ / 4, round_ / 2, {"sorted": round_ / 4})
        assert store.measured() == {0, 1, 2}
    opened = open_engine(database_url(tmp_path), writer=False)
    with TestClient(create_app(opened, lambda: NOW)) as client:
        summary = client.get(f"/v1/runs/{manifest.run_id}").json()
        page = client.get("/").text
    opened.dispose()
    last = {"round": 2, "success": 0.5, "reward": 1.0, "components": {"sorted": 0.5}}
    assert summary["policy"]["last"] == summary["policy"]["curve"][-1] == last
    assert summary["policy"]["first"]["success"] == 0
    assert summary["loss"]["curve"] == []
    assert "0.000 → 0.500; reward 0.000 → 1.000" in page
    assert "success    0.0000 -> 0.5000, reward 0.0000 -> 1.0000" in describe_summary(summary)


def test_rounds_units_and_messages_come_in_pages(client: TestClient, world: World) -> None:
    base = f"/v1/runs/{world.run}"
    page = client.get(f"{base}/rounds", params={"limit": 1}).json()
    assert [row["round"] for row in page["rounds"]] == [0]
    rest = client.get(f"{base}/rounds", params={"after": page["next"]}).json()
    assert [row["round"] for row in rest["rounds"]] == [1, 2]
    assert rest["next"] is None
    units = client.get(f"{base}/units", params={"limit": 4}).json()
    more = client.get(f"{base}/units", params={"after": units["next"]}).json()
    keys = [(unit["round"], unit["number"]) for unit in units["units"] + more["units"]]
    assert keys == [(r, n) for r in range(2) for n in (1, 2, 3)]
    mine = client.get(f"{base}/units", params={"number": 2, "outcome": "passed"}).json()["units"]
    assert {unit["number"] for unit in mine} == {2}
    one = client.get(f"{base}/rounds/0").json()
    assert len(one["units"]) == 3
    assert len(one["verdicts"]) == 6


def test_messages_are_the_signed_ones(client: TestClient, world: World) -> None:
    first = client.get(f"/v1/runs/{world.run}/messages", params={"limit": 2}).json()
    rest = client.get(f"/v1/runs/{world.run}/messages", params={"after": first["next"], "limit": 500}).json()
    found = [parse_message(canonical_json(one["message"])) for one in first["messages"] + rest["messages"]]
    assert [message.id for message in found[: len(world.heard)]] == [message.id for message in world.heard]
    verdicts = client.get(f"/v1/runs/{world.run}/messages", params={"kind": "verdict"}).json()
    assert len(verdicts["messages"]) == 12


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/runs/" + "00" * 32, 404),
        ("/v1/runs/nonsense", 422),
        ("/v1/runs/{run}/rounds/9", 404),
        ("/v1/runs/{run}/rounds/3", 404),  # holds what came out of the last round
        ("/v1/runs/{run}/rounds/-1", 422),
        ("/v1/runs/{run}/rounds?limit=501", 422),
        ("/v1/runs/{run}/rounds?after=x", 422),
        ("/v1/runs/{run}/units?outcome=' or 1=1", 422),
        ("/v1/runs/{run}/units?after=1;2", 422),
        ("/v1/runs/{run}/messages?limit=0", 422),
        ("/v1/runs/{run}/messages?kind=%3Cscript%3E", 422),
        ("/nowhere", 404),
        ("/docs", 404),
    ],
)
def test_errors_are_problem_documents(client: TestClient, world: World, path: str, status: int) -> None:
    response = client.get(path.format(run=world.run))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert "<script>" not in response.text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(client: TestClient, world: World, method: str) -> None:
    for path in ("/", "/v1/runs", f"/v1/runs/{world.run}", f"/v1/runs/{world.run}/messages"):
        response = client.request(method, path)
        assert response.status_code == 405
        assert response.headers["content-type"] == "application/problem+json"
        assert "GET" in response.headers["allow"]


def test_the_reader_cannot_write_even_by_mistake(engine: Engine, world: World) -> None:
    with engine.begin() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("delete from runs"))


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_no_script_and_escapes_what_peers_say(
    client: TestClient, world: World, store: Store
) -> None:
    with store.write() as tx:
        tx.refused(HOSTILE, HOSTILE)
        tx.refused("number 3", "late")
    response = client.get("/")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    page = _Page()
    page.feed(response.text)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    assert "\x1b" not in response.text
    assert page.tags.count("caption") == page.tags.count("table")
    assert re.search(r'http-equiv="refresh" content="2"', response.text)
    assert not re.search(r"https?://", response.text), "works offline"
    heads = re.findall(r"<th[ >][^>]*", response.text)
    assert heads
    assert all("scope=" in head for head in heads)
    assert client.get("/style.css").headers["content-type"].startswith("text/css")


def test_a_hostile_verdict_reason_stays_data(client: TestClient, world: World, store: Store) -> None:
    body = Verdict(
        number=1,
        verifier=101,
        outcome=2,
        commitment="00" * 32,
        opening=None,
        profile="cpu-fp32",
        segment=0,
        reason="<script>alert(1)</script>",
        distance=1.0,
        tensor="<b>",
        replay_cpu_s=1,
    )
    with store.write() as tx:
        tx.heard(sign(world.keys[101], world.manifest, 2, "verifier", body))
    response = client.get(f"/v1/runs/{world.run}/rounds/2")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["verdicts"][0]["reason"] == "<script>alert(1)</script>"


def test_stale_data_says_how_old_it_is(engine: Engine) -> None:
    with TestClient(create_app(engine, lambda: NOW + STALE_S + 60)) as client:
        assert "wrote 90 s ago" in client.get("/").text
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200


def test_before_the_coordinator_began_there_is_a_reason(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'empty.sqlite'}", writer=False)
    with TestClient(create_app(engine, lambda: NOW)) as client:
        for path in ("/", "/v1/runs", "/readyz"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
        assert client.get("/livez").status_code == 200
    engine.dispose()


def test_elements_escape_children_and_attributes() -> None:
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2
    assert escape(Markup("<b>")) == "<b>"
    assert element("td", "a", class_="x") == '<td class="x">a</td>'


def test_a_reveal_is_part_of_a_units_life(client: TestClient, world: World) -> None:
    unit = client.get(f"/v1/runs/{world.run}/rounds/0").json()["units"][0]
    reveal = next(m.body for m in world.heard if isinstance(m.body, Reveal))
    assert unit["revealed"] is True
    assert unit["merged"] is True
    assert unit["blob_bytes"] == reveal.blob_bytes
    assert unit["outcome"] == "passed"


def test_a_claim_can_be_made_from_the_settlement(client: TestClient, world: World) -> None:
    settlement = client.get(f"/v1/runs/{world.run}/settlement")
    tables = parse_tables(settlement.content)
    assert [table.epoch for table in tables] == [0]
    assert tables[0] == world.statements["rewards", 1, 0].body
    account = tables[0].entries[0].account
    reward = prove_reward(tables, reward_tree(tables[0].entries).root, account)
    assert reward is not None
    assert reward.cumulative_wei == tables[0].entries[0].cumulative_wei
