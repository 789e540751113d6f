"""What a peer has heard of a run, on disk, so that a restart forgets nothing that an auditor may ask for.

One SQLite file with one row for each slot of the message pool, so that it is bounded by the pool's own rules. It is a
copy of what others signed: losing it costs nothing but asking the peers again, hence no synchronous writes.
"""

import json
import logging
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from protocol.errors import ConfigError, Malformed
from protocol.messages import Body, Opening, Signed, parse_message
from protocol.pool import slot_of

log = logging.getLogger(__name__)

HISTORY_FILE = "messages.sqlite"
_APPLICATION = 0x4D555248  # "MURH"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS message (slot TEXT PRIMARY KEY, run TEXT NOT NULL, wire BLOB NOT NULL) STRICT"
)


class MessageHistory:
    """Keep the accepted messages of one run. Open one with `open`; messages of another run are dropped."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path
        self._failed = False

    @classmethod
    def open(cls, path: Path, run: str) -> Self:
        """Open the history of a run, or start one.

        Raises:
            ConfigError: the file is not one, or damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                (application,) = database.execute("PRAGMA application_id").fetchone()
                if application not in (0, _APPLICATION):
                    raise sqlite3.DatabaseError("another program's file")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute(f"PRAGMA application_id = {_APPLICATION}")
                database.execute(_SCHEMA)
                database.execute("DELETE FROM message WHERE run != ?", (run,))
            except BaseException:
                database.close()
                raise
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"{path} is not a history of messages: {error}",
                hint=f"delete {path}; the messages come from the peers again",
            ) from error
        return cls(database, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._database.close()

    def add(self, message: Signed[Body]) -> None:
        """Keep a message that the pool accepted, in the place of what was in its slot."""
        kind, round_, labels = slot_of(message)
        # For the coordinator stand-ins speak too, each in a place of its own.
        author = (message.author,) if message.role == "coordinator" else ()
        row = (json.dumps([kind, round_, *labels, *author]), message.run, message.wire)
        try:
            self._database.execute("INSERT OR REPLACE INTO message VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            if not self._failed:
                log.error("%s: %s; what is heard from now on may be lost on a restart", self._path, error)
            self._failed = True

    def messages(self) -> list[Signed[Body]]:
        """Return what was kept, in the order in which it came; a row that is damaged is passed over."""
        found = []
        try:
            rows = self._database.execute("SELECT wire FROM message ORDER BY rowid").fetchall()
        except sqlite3.Error as error:
            log.error("%s cannot be read: %s", self._path, error)
            return []
        for (wire,) in rows:
            try:
                found.append(parse_message(wire))
            except Malformed as error:
                log.warning("%s holds something that is no message: %s", self._path, error)
        return found


def kept_openings(path: Path, run: str, round_: int, number: int) -> tuple[Signed[Opening], ...]:
    """Return what a daemon has kept of a number's openings in a round; it may be running.

    Raises:
        ConfigError: the file is not a history of messages.
    """
    if not path.exists():
        return ()
    prefix = json.dumps([Opening.kind, round_, number])[:-1]
    query = "SELECT wire FROM message WHERE run = ? AND substr(slot, 1, ?) = ?"
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            rows = database.execute(query, (run, len(prefix) + 1, prefix + ",")).fetchall()
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path} is not a history of messages: {error}") from error
    found = []
    for (wire,) in rows:
        try:
            message = parse_message(wire)
        except Malformed as error:
            log.warning("%s holds something that is no message: %s", path, error)
            continue
        if isinstance(message.body, Opening):
            found.append(cast("Signed[Opening]", message))
    return tuple(found)
