"""What every daemon's shell refuses, and what it tells the operator to do about it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol.daemon import (
    MANIFEST_FILE,
    Daemon,
    PeerDaemonConfig,
    PeerRole,
    check_ledger,
    find_status,
    own_number,
    parse_config,
    read_status,
    stop_on_signal,
    stored_manifest,
    write_status,
)
from protocol.errors import ConfigError
from protocol.keys import PeerKey
from tests.protocol.makers import key, manifest
from tests.protocol.test_peer import SimulatedChain

VALUES = {
    "directory": Path("somewhere"),
    "run": "ab" * 32,
    "rpc": "http://127.0.0.1:1",
    "ledger": "0x" + "11" * 20,
}


def test_options_make_a_configuration() -> None:
    config = parse_config(PeerDaemonConfig, VALUES)
    assert config.shards == Path("somewhere") / "data"
    assert parse_config(PeerDaemonConfig, VALUES | {"data_dir": Path("other")}).shards == Path("other")


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"run": "short"}, "--run"),
        ({"ledger": "0x11"}, "--ledger"),
        ({"threads": 0}, "--threads"),
        ({"data_dir": 7}, "--data-dir"),
    ],
)
def test_an_option_out_of_bounds_is_named(changes: dict[str, object], option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option}: "):
        parse_config(PeerDaemonConfig, VALUES | changes)


@pytest.mark.parametrize("daemon", ["node", "verifier", "coordinator"])
def test_a_status_is_read_back_or_explained(tmp_path: Path, daemon: Daemon) -> None:
    path = tmp_path / "status.json"
    assert find_status(path) is None
    with pytest.raises(ConfigError, match=f"no {daemon} has run") as caught:
        read_status(path, daemon)
    assert f"murmur {daemon} start" in caught.value.hint
    write_status(path, {"phase": "commit"})
    assert read_status(path, daemon) == find_status(path) == {"phase": "commit"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"[]", "not a status file"), (b"{", "cannot read"), (b"\xff", "cannot read")]
)
def test_a_damaged_status_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "status.json").write_bytes(data)
    with pytest.raises(ConfigError, match=reason):
        find_status(tmp_path / "status.json")
    with pytest.raises(ConfigError, match=reason):
        read_status(tmp_path / "status.json", "node")


def test_the_manifest_of_an_earlier_start_is_taken_for_its_own_run_only(tmp_path: Path) -> None:
    kept = manifest()
    assert stored_manifest(tmp_path, kept.run_id) is None
    (tmp_path / MANIFEST_FILE).write_bytes(kept.to_bytes())
    assert stored_manifest(tmp_path, kept.run_id) == kept
    assert stored_manifest(tmp_path, "ab" * 32) is None


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 10, b" " * 100_000])
def test_a_damaged_manifest_is_refused_and_may_be_deleted(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(ConfigError, match="damaged") as caught:
        stored_manifest(tmp_path, "ab" * 32)
    assert "delete" in caught.value.hint


def test_a_run_on_another_ledger_is_refused() -> None:
    run = manifest()
    check_ledger(run, run.ledger.upper().replace("0X", "0x"))
    with pytest.raises(ConfigError, match="lives on ledger") as caught:
        check_ledger(run, "0x" + "99" * 20)
    assert run.ledger in caught.value.hint


def test_a_key_is_known_by_its_registration_number() -> None:
    assert own_number(SimulatedChain(), key("peer-2"), "contributor") == 2


@pytest.mark.parametrize(
    ("owner", "role", "reason", "hint"),
    [
        (key("peer-1"), "verifier", "registered as a contributor", "murmur node start"),
        (key("stranger"), "contributor", "not registered", "--role contributor"),
        (key("stranger"), "verifier", "not registered", "--role verifier"),
    ],
)
def test_a_key_without_the_role_is_told_what_to_do(
    owner: PeerKey, role: PeerRole, reason: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        own_number(SimulatedChain(), owner, role)
    assert hint in caught.value.hint


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_a_daemon(number: signal.Signals) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, scope)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(os.getpid(), number)
            await trio.sleep_forever()
    assert scope.cancelled_caught
