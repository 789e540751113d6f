"""The signing journal: what this peer has said, kept on disk before anybody hears it.

One SQLite file (WAL, synchronous=FULL), locked by the process that has it open. A statement is stored whole
before `sign` returns it, and returned again when the same is asked for later; a different one for the same run,
kind and round is refused. So a kill at any moment costs at most the round under way and can never make this
peer contradict itself. A damaged journal is never replaced: without it nobody knows what was signed.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

from pydantic import ValidationError

from node.events import Carry, Progress
from node.unit import Unit
from protocol.errors import ConfigError, Equivocation, Malformed
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Body, Signed, parse_message, sign, signing_digest

APPLICATION_ID = 0x4D55524E  # "MURN"
SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE owner (author TEXT NOT NULL) STRICT;
CREATE TABLE statement (
    run TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL, wire BLOB NOT NULL,
    PRIMARY KEY (run, kind, round)
) STRICT;
CREATE TABLE unit (
    run TEXT NOT NULL, round INTEGER NOT NULL, body TEXT NOT NULL, released INTEGER NOT NULL,
    PRIMARY KEY (run, round)
) STRICT;
CREATE TABLE progress (
    run TEXT NOT NULL PRIMARY KEY, round INTEGER NOT NULL, parameters TEXT NOT NULL, carry TEXT NOT NULL
) STRICT;
"""

_BACKUP_HINT = (
    "restore it from a copy of this very disk; a peer without its journal should register a fresh key, "
    "because signing twice for one round costs its stake"
)


class Journal:
    """Hold the statements, units and progress of one peer key. Open one with `Journal.open`."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    @classmethod
    def open(cls, path: Path, author: str) -> Self:
        """Open the journal of a peer key, or start one where there is no file.

        Args:
            author: the key's address.

        Raises:
            ConfigError: another process has it open, it is damaged, not a journal, or another key's.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, author)
        if path.stat().st_size == 0:
            raise ConfigError(f"the journal {path} is empty", hint=_BACKUP_HINT)
        try:
            database = _connect(path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(
                    f"another process has {path} open", hint="stop the node that runs in this directory"
                ) from error
            raise ConfigError(f"cannot open the journal {path}: {error}", hint=_BACKUP_HINT) from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"the journal {path} is damaged: {error}", hint=_BACKUP_HINT) from error
        try:
            _check(database, path, author)
        except BaseException:
            database.close()
            raise
        return cls(database, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._database.close()

    def sign(
        self, key: PeerKey, manifest: RunManifest, round_: int, body: Body, *, unit: Unit | None = None
    ) -> Signed[Body]:
        """Return this peer's one statement of that kind for the round, storing it first if it is made now.

        Args:
            unit: stored in the same transaction as its commitment.

        Raises:
            Equivocation: something else of that kind was signed for the round before.
        """
        run = manifest.run_id
        query = "SELECT wire FROM statement WHERE run = ? AND kind = ? AND round = ?"
        row = self._database.execute(query, (run, body.kind, round_)).fetchone()
        if row is not None:
            stored = self._parse(row[0])
            wanted = signing_digest(manifest.chain_id, manifest.ledger, run, round_, stored.role, body)
            if stored.id != wanted.hex():
                raise Equivocation(
                    f"a different {body.kind} for round {round_} was signed before",
                    hint=f"this is a defect of the node; {self._path} holds what was signed",
                )
            return stored
        message = sign(key, manifest, round_, "contributor", body)
        with self._transaction():
            self._database.execute(
                "INSERT INTO statement VALUES (?, ?, ?, ?)", (run, body.kind, round_, message.wire)
            )
            if unit is not None:
                self._database.execute(
                    "INSERT INTO unit VALUES (?, ?, ?, 0)", (run, round_, unit.model_dump_json())
                )
        return message

    def advance(self, run: str, progress: Progress) -> None:
        """Store the round reached."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO progress VALUES (?, ?, ?, ?) ON CONFLICT (run) DO UPDATE SET "
                "round = excluded.round, parameters = excluded.parameters, carry = excluded.carry",
                (run, progress.round, progress.parameters, progress.carry),
            )

    def release(self, run: str, round_: int) -> None:
        """Store that the states of a unit are no longer needed."""
        with self._transaction():
            self._database.execute("UPDATE unit SET released = 1 WHERE run = ? AND round = ?", (run, round_))

    def progress(self, run: str) -> Progress | None:
        """Return the round reached, or None before the first."""
        query = "SELECT round, parameters, carry FROM progress WHERE run = ?"
        row = self._database.execute(query, (run,)).fetchone()
        if row is None:
            return None
        carry: Carry | None = next((one for one in get_args(Carry) if one == row[2]), None)
        if carry is None:
            raise ConfigError(f"the journal {self._path} is damaged: carry {row[2]!r}", hint=_BACKUP_HINT)
        return Progress(row[0], row[1], carry)

    def units(self, run: str) -> tuple[dict[int, Unit], frozenset[int]]:
        """Return the units that may still matter, by round, and the rounds whose draw is settled."""
        progress = self.progress(run)
        recent = 0 if progress is None else progress.round - 1
        query = "SELECT round, body, released FROM unit WHERE run = ? AND (released = 0 OR round >= ?)"
        rows = self._database.execute(query, (run, recent)).fetchall()
        try:
            units = {round_: Unit.model_validate_json(body) for round_, body, _ in rows}
        except ValidationError as error:
            raise ConfigError(f"the journal {self._path} is damaged: {error}", hint=_BACKUP_HINT) from error
        return units, frozenset(round_ for round_, _, released in rows if released)

    def _parse(self, wire: bytes) -> Signed[Body]:
        try:
            return parse_message(wire)
        except Malformed as error:
            raise ConfigError(f"the journal {self._path} is damaged: {error}", hint=_BACKUP_HINT) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _create(path: Path, author: str) -> None:
    """Write an empty journal beside its place and move it there, so that no half-made one is ever found."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    database = sqlite3.connect(scratch, isolation_level=None)
    try:
        header = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        database.executescript(f"BEGIN; {header} {_SCHEMA} COMMIT;")
        database.execute("INSERT INTO owner VALUES (?)", (author,))
    finally:
        database.close()
    scratch.replace(path)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        # Exclusive from the first read on: the lock lives as long as the connection and dies with us.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN IMMEDIATE")
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection, path: Path, author: str) -> None:
    try:
        application = database.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise ConfigError(
                f"{path} is not a journal of a Murmur node", hint="choose another directory with --dir"
            )
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{path} has version {version} of the journal, this program reads {SCHEMA_VERSION}"
            )
        verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            raise ConfigError(f"the journal {path} is damaged: {verdict}", hint=_BACKUP_HINT)
        owner = database.execute("SELECT author FROM owner").fetchone()
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"the journal {path} is damaged: {error}", hint=_BACKUP_HINT) from error
    if owner is None or owner[0] != author:
        raise ConfigError(
            f"the journal {path} belongs to another peer key", hint="choose another directory with --dir"
        )
