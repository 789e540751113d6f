"""What a peer heard outlives its process, bounded by the pool's slots."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from protocol.history import MessageHistory
from protocol.messages import Body, CommitmentEntry, CommitmentList, Ready, Signed, sign
from protocol.peer import PeerConfig
from tests.protocol.makers import commitment, digest_of, key, manifest
from tests.protocol.test_peer import Place, place, until

__all__ = ["place"]

RUN = manifest().run_id


def ready(*addresses: str) -> Signed[Body]:
    body = Ready(number=1, program=digest_of("program"), addresses=addresses)
    return sign(key("peer-1"), manifest(), 0, "contributor", body)


def committed(round_: int, number: int = 1) -> Signed[Body]:
    return sign(key(f"peer-{number}"), manifest(), round_, "contributor", commitment(number))


def test_what_was_heard_is_there_after_a_restart_once_a_slot(tmp_path: Path) -> None:
    path = tmp_path / "messages.sqlite"
    said = [ready(), committed(0), committed(1), ready("/ip4/127.0.0.1/tcp/1")]
    with MessageHistory.open(path, RUN) as history:
        for message in said:
            history.add(message)
    with MessageHistory.open(path, RUN) as history:
        assert [one.wire for one in history.messages()] == [one.wire for one in said[1:]]
    with MessageHistory.open(path, "ab" * 32) as history:
        assert history.messages() == []


def test_coordinator_and_stand_in_keep_a_place_each(tmp_path: Path) -> None:
    said = [
        sign(key(author), manifest(), 0, "coordinator", CommitmentList(entries=(entry,)))
        for author, entry in (
            ("coordinator", CommitmentEntry(number=1, commitment=digest_of("a"))),
            ("judge", CommitmentEntry(number=1, commitment=digest_of("b"))),
        )
    ]
    with MessageHistory.open(tmp_path / "messages.sqlite", RUN) as history:
        for message in said:
            history.add(message)
        assert [one.wire for one in history.messages()] == [one.wire for one in said]


def test_a_damaged_row_is_passed_over_and_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "messages.sqlite"
    with MessageHistory.open(path, RUN) as history:
        history.add(committed(0))
        history.add(committed(1))
    database = sqlite3.connect(path)
    database.execute("UPDATE message SET wire = x'00' WHERE rowid = 1")
    database.commit()
    database.close()
    with MessageHistory.open(path, RUN) as history:
        assert [one.round for one in history.messages()] == [1]
    for data in (b"text that is no database" * 100, b"SQLite format 3\0" + bytes(84)):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="not a history"):
            MessageHistory.open(path, RUN)


async def test_a_peer_that_restarts_alone_still_tells_others_what_it_heard(place: Place) -> None:
    config = PeerConfig(place.folder / "keeper", RUN, poll_s=0.01, history=place.folder / "keeper" / "m")
    async with (
        place.open("coordinator", brings=True) as author,
        place.open("peer-2", author, config=config) as keeper,
    ):
        await author.publish(committed(0))
        await until(keeper, lambda: 1 in keeper.pool.commitments(0))
    async with place.open("peer-2", config=config, brings=True) as keeper:
        assert 1 in keeper.pool.commitments(0)
        async with place.open("peer-1", keeper) as other:
            await until(other, lambda: 1 in other.pool.commitments(0))
