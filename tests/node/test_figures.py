"""What is measured of a unit, where the time goes between units, and how all of it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from node.accounting import Accounting, keep_peak, kept_peak
from node.figures import Figures
from node.journal import Journal
from node.metrics import MetricsServer, node_readings
from node.status import describe
from node.telemetry import Telemetry
from node.unit import Unit
from protocol.errors import ConfigError
from protocol.event_files import EventFiles
from protocol.metrics import exposition
from protocol.stats import NetworkStats
from tests.node.test_journal import KEY, MANIFEST, RUN, unit_of

FIGURES = Figures(
    at=1000.0,
    steps=10,
    tokens=6000,
    train_s=3.0,
    unit_s=4.0,
    gradient_norm=0.5,
    gradient_norm_max=0.75,
    pseudo_gradient_norm=2.0,
    update_norm=0.25,
    flops=6e9,
    peak_flops=8e9,
    interval_s=10.0,
    transfer_s=1.0,
    aggregate_s=2.0,
    bytes_up=111,
    bytes_down=222,
)
STATUS: dict[str, Any] = {
    "run": RUN,
    "run_name": "a run",
    "number": 7,
    "profile": "cpu-fp32",
    "peer_id": "id",
    "round": 3,
    "rounds": 9,
    "phase": "train",
    "training": {},
    "loss": 1.5,
    "figures": FIGURES.to_json(),
    "units": {"trained": 4, "merged": 3},
    "stake_wei": "1",
    "slashed_wei": "0",
    "earned_wei": "0",
    "network": {"peers": {"a": {}}, "bytes_up": 10, "bytes_down": 20},
    "chain": {"height": 55, "error": None},
    "updated_at": "now",
    "judged": [],
    "alerts": [],
    "warnings": [],
    "error": None,
}


def measured(round_: int, **changes: object) -> Unit:
    unit = unit_of(round_)
    figures = FIGURES.model_copy(update={"at": 1000.0 + round_, **changes})
    return unit.model_copy(update={"work": unit.work.model_copy(update={"figures": figures})})


def test_what_follows_from_what_was_measured() -> None:
    found = FIGURES.to_json()
    assert found["tokens_per_s"] == 2000
    assert found["round_tokens_per_s"] == 600
    assert found["mfu"] == 0.25
    assert found["communication_share"] == 0.1
    assert (found["wait_s"], found["waiting_share"]) == (3.0, pytest.approx(0.3))


def test_what_was_not_measured_is_not_made_up() -> None:
    bare = Figures(
        steps=0,
        tokens=None,
        train_s=0.0,
        unit_s=0.0,
        gradient_norm=None,
        gradient_norm_max=None,
        pseudo_gradient_norm=None,
        update_norm=None,
    )
    found = bare.to_json()
    for name in ("tokens_per_s", "round_tokens_per_s", "mfu", "communication_share", "waiting_share"):
        assert found[name] is None
    assert FIGURES.model_copy(update={"peak_flops": None}).mfu is None
    assert "MFU" not in describe({**STATUS, "figures": found})
    assert "speed" not in describe({name: value for name, value in STATUS.items() if name != "figures"})


def test_time_and_bytes_are_counted_from_unit_to_unit() -> None:
    stats = NetworkStats(lambda: 0.0)

    async def live() -> tuple[Figures | None, Figures | None, Figures | None]:
        accounting = Accounting(stats, trio.current_time())
        accounting.peak_flops = 5e9
        await trio.sleep(2)
        with accounting.transfer():
            await trio.sleep(3)
        stats.bytes_up, stats.bytes_down = 100, 1000
        first = accounting.close(FIGURES, 1.0)
        with trio.move_on_after(1), accounting.transfer():
            await trio.sleep_forever()
        with accounting.aggregation():
            await trio.sleep(4)
        stats.bytes_up = 150
        return first, accounting.close(FIGURES, 2.0), accounting.close(None, 3.0)

    clock = trio.testing.MockClock(autojump_threshold=0)
    first, second, nothing = trio.run(live, clock=clock)
    assert first is not None
    assert second is not None
    assert nothing is None
    assert (first.interval_s, first.transfer_s, first.aggregate_s) == pytest.approx((5, 3, 0))
    assert (first.at, first.peak_flops, first.bytes_up, first.bytes_down) == (1.0, 5e9, 100, 1000)
    assert (second.interval_s, second.transfer_s, second.aggregate_s) == pytest.approx((5, 1, 4))
    assert (second.bytes_up, second.bytes_down) == (50, 0)


def test_a_peak_is_measured_once_in_a_place(tmp_path: Path) -> None:
    path = tmp_path / "peak.json"
    assert kept_peak(path, "cpu") is None
    keep_peak(path, "cpu", 5e10)
    assert kept_peak(path, "cpu") == 5e10
    assert kept_peak(path, "cuda") is None
    for damage in (
        "",
        "[]",
        '{"place": "cpu"}',
        '{"place": "cpu", "flops": -1}',
        '{"place": "cpu", "flops": "x"}',
    ):
        path.write_text(damage)
        assert kept_peak(path, "cpu") is None


def test_figures_are_kept_in_the_journal_and_older_units_have_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.open(path, KEY.address) as journal:
        for unit in (unit_of(0), measured(1), measured(2)):
            journal.sign(KEY, MANIFEST, unit.round, unit.commitment, unit=unit)
    with Journal.open(path, KEY.address) as journal:
        history = list(journal.history(RUN))
        assert list(journal.history("ab" * 32)) == []
    assert [unit.round for unit in history] == [0, 1, 2]
    assert [unit.work.figures for unit in history] == [
        None,
        measured(1).work.figures,
        measured(2).work.figures,
    ]
    body = json.loads(unit_of(0).model_dump_json())
    del body["work"]["figures"]
    assert Unit.model_validate_json(json.dumps(body)) == unit_of(0)


def test_a_status_shows_the_essential_ones() -> None:
    shown = describe(STATUS)
    assert "2,000 tokens/s while training, 600 over the round; MFU 25.0% of 8.0 GFLOP/s" in shown
    assert "making units 40.0%, communication 10.0%, waiting 30.0%; 111 bytes up, 222 down" in shown


def test_metrics_are_served_from_the_newest_status() -> None:
    server = MetricsServer(0)
    try:
        assert httpx.get(server.url).text == "", "no status, no metrics"
        server.status = STATUS
        families = {one.name: one for one in text_string_to_metric_families(httpx.get(server.url).text)}
    finally:
        server.close()
    (utilisation,) = families["murmur_node_model_flops_utilization_ratio"].samples
    assert utilisation.value == 0.25
    moved = {one.labels["direction"]: one.value for one in families["murmur_node_network_bytes"].samples}
    assert moved == {"up": 10, "down": 20}
    (info,) = families["murmur_node_info"].samples
    assert info.labels == {"run": RUN, "number": "7", "profile": "cpu-fp32"}


def test_without_a_unit_there_are_metrics_all_the_same() -> None:
    text = exposition(lambda: node_readings({**STATUS, "figures": None, "loss": None})).decode()
    assert "murmur_node_round 3.0" in text
    assert "loss" not in text
    assert "utilization" not in text


def test_a_port_that_is_taken_is_explained() -> None:
    server = MetricsServer(0)
    try:
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            MetricsServer(int(server.url.split(":")[2].split("/")[0]))
        assert "--metrics-port" in caught.value.hint
    finally:
        server.close()


def scalars(directory: Path, tag: str) -> list[tuple[int, float, float]]:
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    return [(one.step, one.wall_time, one.value) for one in reader.Scalars(tag)]


def test_event_files_are_read_back_and_begun_anew_at_every_start(tmp_path: Path) -> None:
    directory = tmp_path / "peer-7"
    directory.mkdir()
    other = directory / "events.out.tfevents.1.elsewhere"
    other.write_bytes(b"")

    async def live(history: list[Unit], new: list[Unit]) -> None:
        with Telemetry(None, directory, history) as telemetry:
            assert telemetry.url is None
            for unit in new:
                await telemetry.add(unit)
            assert [step for step, *_ in scalars(directory, "speed/mfu")] == [
                unit.round for unit in (*history, *new) if unit.work.figures is not None
            ], "readers need not wait for the end"

    trio.run(live, [], [unit_of(0), measured(1)])
    trio.run(live, [unit_of(0), measured(1)], [measured(2, gradient_norm=None)])
    assert scalars(directory, "speed/mfu") == [(1, 1001.0, 0.25), (2, 1002.0, 0.25)]
    assert [step for step, *_ in scalars(directory, "loss/train")] == [0, 1, 2]
    assert [step for step, *_ in scalars(directory, "norm/gradient")] == [1]
    assert other.exists(), "only our own files are replaced"
    assert len(list(directory.glob("*.murmur"))) == 1


def test_a_disk_that_fails_ends_the_curves_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = EventFiles(tmp_path)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events._writer, "flush", full)
    events.scalars(0, 0.0, {"a": 1.0})
    events.flush()
    events.scalars(1, 0.0, {"a": 2.0})
    events.close()


def test_without_the_library_event_files_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ConfigError) as caught:
        Telemetry(None, tmp_path / "events")
    assert "murmur-network[tensorboard]" in caught.value.hint
