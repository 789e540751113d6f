"""A run's metrics, its event files, and how fast it is: from the database, and bounded by its roster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coordinator import board
from coordinator.api import create_app
from coordinator.board import Board, keep_board
from coordinator.config import CoordinatorConfig
from coordinator.metrics import run_readings
from coordinator.queries import Reader
from coordinator.store import Store
from coordinator.tables import RoundRow, database_url, open_engine
from protocol.errors import ConfigError
from protocol.event_files import EventFiles
from protocol.metrics import exposition
from tests.coordinator.kept_run import KeptRun, keep_run
from training.flops import training_flops


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> KeptRun:
    found = keep_run(tmp_path_factory.mktemp("kept"))
    engine = open_engine(database_url(found.directory), writer=True)
    with Session(engine) as session, session.begin():
        for round_ in range(3):
            times = {"began_at": 100.0 * round_, "ended_at": 100.0 * round_ + 50}
            session.execute(update(RoundRow).where(RoundRow.round == round_).values(**times))
    engine.dispose()
    return found


@pytest.fixture
def reader(run: KeptRun) -> Iterator[Reader]:
    engine = open_engine(database_url(run.directory), writer=False)
    yield Reader(engine)
    engine.dispose()


def test_tokens_are_those_of_merged_units_and_seconds_the_coordinators(run: KeptRun, reader: Reader) -> None:
    found = reader.summary(0.0)["throughput"]
    manifest = run.manifest
    tokens = 3 * manifest.inner.steps * manifest.inner.batch * manifest.model.context
    assert (found["round"], found["seconds"], found["tokens"]) == (2, 50.0, tokens)
    assert found["tokens_per_s"] == tokens / 50
    assert found["flops_per_s"] == training_flops(manifest) * tokens / 50
    assert found["train_cpu_share"] == pytest.approx(1.0 / 50)


def test_prometheus_scrapes_the_api(run: KeptRun) -> None:
    with run.api() as client:
        answer = client.get("/metrics")
        page = client.get("/").text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}
    assert families["murmur_run_heldout_loss_nats"].samples[0].value == 4.0
    merged = {
        one.labels["number"]: one.value
        for one in families["murmur_peer_units"].samples
        if one.labels["state"] == "merged"
    }
    assert merged == {"1": 3, "2": 3, "3": 3}
    assert {one.labels["number"] for one in families["murmur_peer_verdicts"].samples} == {"101", "102", "103"}
    for name in ("murmur_peer_train_cpu_seconds", "murmur_run_train_cpu_ratio"):
        assert "as the peer itself says" in families[name].documentation
    assert "tokens/s merged" in page
    assert "CPU time of training, as each peer says, is 2% of it" in page


def test_no_label_is_anothers_text(run: KeptRun, reader: Reader) -> None:
    summary = reader.summary(0.0)
    hostile = [{**peer, "peer": 'x"} 1\n', "peer_id": "\n# HELP"} for peer in summary["peers"]]
    text = exposition(lambda: run_readings({**summary, "peers": hostile})).decode()
    assert "# HELP\n" not in text
    assert 'x"' not in text


def test_peers_beyond_what_a_roster_holds_get_no_labels(reader: Reader) -> None:
    summary = reader.summary(0.0)
    many = [{**summary["peers"][0], "number": number} for number in range(3000)]
    text = exposition(lambda: run_readings({**summary, "peers": many})).decode()
    assert text.count("murmur_peer_train_cpu_seconds_total{") == 1000


def test_before_the_run_begins_there_are_no_metrics(tmp_path: Path, run: KeptRun) -> None:
    assert list(run_readings(None)) == []
    with Store.open(tmp_path, run.manifest, clock=lambda: 0.0):
        engine = open_engine(database_url(tmp_path), writer=False)
        with TestClient(create_app(engine, lambda: 0.0)) as client:
            assert "murmur_run_round 0.0" in client.get("/metrics").text
            assert client.get("/").status_code == 200
        engine.dispose()


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    reader = EventAccumulator(str(directory))
    reader.Reload()
    return {tag: [(one.step, one.value) for one in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_every_figure_of_a_round_is_written_once(
    tmp_path: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "MAX_PAGE", 2)
    found = Board(EventFiles(tmp_path), reader)
    for _ in range(3):
        found.look()
    found.events.close()
    shown = scalars(tmp_path)
    assert shown["heldout/loss"] == [(0, 5.5), (1, 5.0), (2, 4.5), (3, 4.0)], "the result's too"
    assert shown["units/merged"] == [(0, 3), (1, 3), (2, 3)]
    assert shown["seconds/round"] == [(0, 50), (1, 50), (2, 50)]


async def test_the_board_is_kept_while_the_coordinator_runs(run: KeptRun, tmp_path: Path) -> None:
    config = CoordinatorConfig(
        directory=run.directory, run=run.manifest.run_id, rpc="http://127.0.0.1:1", tensorboard=tmp_path
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_board, config)
        while not (tmp_path / "run").is_dir() or "heldout/loss" not in scalars(tmp_path / "run"):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await keep_board(config.model_copy(update={"tensorboard": None}))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="event files"):
        await keep_board(config.model_copy(update={"tensorboard": tmp_path / "file"}))


def test_of_a_policy_its_held_out_tasks_are_told() -> None:
    curve = [{"round": 1, "success": 0.25, "reward": 0.5, "components": {}}]
    assert board._measured({"policy": {"curve": curve}, "loss": {"curve": []}}) == {
        1: {"heldout/success": 0.25, "heldout/reward": 0.5}
    }
