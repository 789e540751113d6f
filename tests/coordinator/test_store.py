"""The coordinator's database: what survives a crash, and what it refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from coordinator.queries import Reader
from coordinator.state import Decision
from coordinator.store import Store
from coordinator.tables import DATABASE_FILE, database_url, open_engine
from protocol.errors import ConfigError
from protocol.keys import PeerKey
from protocol.messages import (
    CommitmentEntry,
    CommitmentList,
    Ready,
    Retraction,
    RoundRecord,
    UnitRecord,
    sign,
)

KEY = PeerKey(b"\x11" * 32)


@pytest.fixture
def manifest(world: Any) -> Any:
    return world.manifest


def _open(folder: Path, manifest: Any) -> Store:
    return Store.open(folder, manifest, clock=lambda: 1000.0)


def _list(manifest: Any, digest: str) -> Any:
    entries = (CommitmentEntry(number=1, commitment=digest),)
    return sign(KEY, manifest, 0, "coordinator", CommitmentList(entries=entries))


def test_a_statement_stored_before_a_crash_is_the_one_that_is_told(folder: Path, manifest: Any) -> None:
    first, second = _list(manifest, "aa" * 32), _list(manifest, "bb" * 32)
    with _open(folder, manifest) as store, store.write() as tx:
        assert tx.say(first).id == first.id
    with _open(folder, manifest) as store:
        with store.write() as tx:
            assert tx.say(second).id == first.id
        assert [message.id for message in store.facts().statements] == [first.id]


def _write_and_crash(store: Store, said: Any) -> None:
    with store.write() as tx:
        tx.say(said)
        tx.decided(Decision(0, 1, 0, 2, "passed", (101, 102), ("cc" * 32,)))
        raise KeyboardInterrupt


def test_a_crash_inside_a_transaction_leaves_nothing_of_it(folder: Path, manifest: Any) -> None:
    said = _list(manifest, "aa" * 32)
    with _open(folder, manifest) as store:
        with pytest.raises(KeyboardInterrupt):
            _write_and_crash(store, said)
        assert store.facts().statements == ()
        assert store.facts().decisions == ()


def test_the_database_itself_forbids_a_second_statement(folder: Path, manifest: Any) -> None:
    with _open(folder, manifest) as store, store.write() as tx:
        tx.say(_list(manifest, "aa" * 32))
    connection = sqlite3.connect(folder / DATABASE_FILE)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "insert into messages (id, kind, round, own, label, wire, received_at)"
            " values ('x', 'commitments', 0, 1, 0, '', 0)"
        )
    connection.close()


def test_what_was_heard_comes_back_in_order_and_once(folder: Path, manifest: Any, world: Any) -> None:
    messages = [
        sign(world.keys[n], manifest, 0, "contributor", Ready(number=n, program="ab" * 32, addresses=()))
        for n in (3, 1, 2)
    ]
    with _open(folder, manifest) as store:
        with store.write() as tx:
            assert [tx.heard(message) for message in messages] == [True] * 3
            assert not tx.heard(messages[0])
            tx.parameters(1, "dd" * 32)
        facts = store.facts()
    assert [message.body.number for message in facts.heard] == [3, 1, 2]  # type: ignore[attr-defined]
    assert facts.parameters == {1: "dd" * 32}


def test_of_where_a_peer_listens_only_the_latest_word_is_kept(folder: Path, manifest: Any) -> None:
    def ready(number: int, port: int) -> Any:
        addresses = (f"/ip4/127.0.0.1/tcp/{port}",)
        body = Ready(number=number, program=manifest.program, addresses=addresses)
        return sign(KEY, manifest, 0, "contributor", body)

    with _open(folder, manifest) as store:
        for port in range(1, 5):
            with store.write() as tx:
                assert tx.heard(ready(1, port))
                tx.heard(ready(2, 1))
        assert {message.id for message in store.facts().heard} == {ready(1, 4).id, ready(2, 1).id}


def test_two_coordinators_in_one_directory_are_refused(folder: Path, manifest: Any) -> None:
    with _open(folder, manifest), pytest.raises(ConfigError, match="another coordinator"):
        _open(folder, manifest)
    with _open(folder, manifest):
        pass


def test_a_corrupt_database_is_never_replaced(folder: Path, manifest: Any) -> None:
    with _open(folder, manifest) as store, store.write() as tx:
        for number in range(1, 60):
            tx.refused(f"number {number}", "x" * 100)
    path = folder / DATABASE_FILE
    data = bytearray(path.read_bytes())
    for offset in range(100, len(data), 512):
        data[offset : offset + 64] = b"\xff" * len(data[offset : offset + 64])
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        _open(folder, manifest)
    assert caught.value.exit_code == 3
    assert "backup" in caught.value.hint
    assert path.read_bytes() == bytes(data)


def test_a_file_that_is_no_database_is_refused(folder: Path, manifest: Any) -> None:
    folder.mkdir()
    (folder / DATABASE_FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="cannot be used"):
        _open(folder, manifest)


def test_a_database_that_is_gone_is_not_begun_again_in_silence(folder: Path, manifest: Any) -> None:
    (folder / "public" / "rounds").mkdir(parents=True)
    (folder / "public" / "rounds" / "000000.json").write_text("{}")
    with pytest.raises(ConfigError, match="is gone"):
        _open(folder, manifest)


def test_a_directory_of_another_run_is_refused(folder: Path, manifest: Any) -> None:
    with _open(folder, manifest):
        pass
    with pytest.raises(ConfigError, match="is of run"):
        _open(folder, manifest.model_copy(update={"name": "another"}))


def test_refusals_are_counted_by_sender_and_bounded(
    folder: Path, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.writer.MAX_REFUSALS", 3)
    with _open(folder, manifest) as store, store.write() as tx:
        for number in range(10):
            tx.refused(f"peer {number % 5}", "garbage")
    connection = sqlite3.connect(folder / DATABASE_FILE)
    rows = dict(connection.execute("select sender, count from refusals").fetchall())
    connection.close()
    assert rows == {"peer 0": 2, "peer 1": 2, "peer 2": 2, "others": 4}


def test_the_database_can_be_named_by_url(folder: Path, manifest: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    with Store.open(folder, manifest, clock=lambda: 0.0, url=url) as store, store.write() as tx:
        tx.say(_list(manifest, "aa" * 32))
    assert not (folder / DATABASE_FILE).exists()
    assert (tmp_path / "elsewhere.sqlite").exists()


def test_a_void_round_shows_nothing_as_merged(folder: Path, manifest: Any) -> None:
    unit = UnitRecord(number=1, commitment="aa" * 32, merged=True, symbols="bb" * 32, blob="cc" * 32)
    record = RoundRecord(parameters="dd" * 32, units=(unit,), judged=())
    with _open(folder, manifest) as store:
        with store.write() as tx:
            tx.say(sign(KEY, manifest, 0, "coordinator", record))
        with store.write() as tx:
            tx.voided(0)
    connection = sqlite3.connect(folder / DATABASE_FILE)
    assert connection.execute("select merged from rounds").fetchall() == [(0,)]
    assert connection.execute("select merged, reason from units").fetchall() == [
        (0, "void: the record was anchored too late")
    ]
    connection.close()


def test_a_unit_that_was_taken_back_says_in_which_round(folder: Path, manifest: Any) -> None:
    unit = UnitRecord(number=1, commitment="aa" * 32, merged=True, symbols="bb" * 32, blob="cc" * 32)
    first = RoundRecord(parameters="dd" * 32, units=(unit,), judged=())
    second = RoundRecord(
        parameters="ee" * 32, units=(), judged=(), retracted=(Retraction(round=0, number=1),)
    )
    with _open(folder, manifest) as store:
        found = []
        with store.write() as tx:
            tx.say(sign(KEY, manifest, 0, "coordinator", first))
            tx.say(sign(KEY, manifest, 1, "coordinator", second))
        for void in (False, True):
            with store.write() as tx:
                if void:
                    tx.voided(1)
            connection = sqlite3.connect(folder / DATABASE_FILE)
            found += connection.execute("select retracted from units").fetchall()
            connection.close()
    assert found == [(1,), (None,)], "a record that came too late takes nothing back"


def test_what_another_said_word_for_word_is_said_already(folder: Path, manifest: Any) -> None:
    ours = _list(manifest, "aa" * 32)
    theirs = sign(PeerKey(b"\x22" * 32), manifest, 0, "coordinator", ours.body)
    with _open(folder, manifest) as store:
        with store.write() as tx:
            assert tx.heard(theirs)
            assert tx.say(ours).author == theirs.author
        facts = store.facts()
        assert facts.statements == ()
        assert [message.author for message in facts.heard] == [theirs.author]


def test_another_list_that_counts_takes_the_units_of_ours_away(folder: Path, manifest: Any) -> None:
    ours = _list(manifest, "aa" * 32)
    entries = (CommitmentEntry(number=2, commitment="bb" * 32),)
    theirs = sign(PeerKey(b"\x22" * 32), manifest, 0, "coordinator", CommitmentList(entries=entries))
    with _open(folder, manifest) as store:
        with store.write() as tx:
            tx.say(ours)
            tx.heard(theirs)
            tx.adopted(theirs)
        reader = Reader(open_engine(database_url(folder), writer=False))
        assert {
            one["number"]
            for one in reader.units(number=None, outcome=None, after=(-1, 0), limit=9)
            if one["listed"]
        } == {2}
