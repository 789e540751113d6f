"""A signing journal's file: one SQLite database of one peer key, locked by the process that has it open.

WAL and synchronous=FULL, so that what was written before a message goes out survives a kill at any moment. A damaged
journal is never replaced: without it nobody knows what was signed.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from protocol.errors import ConfigError, Malformed
from protocol.messages import Body, Signed, parse_message

_OWNER = "CREATE TABLE owner (author TEXT NOT NULL) STRICT;"


@dataclass(frozen=True)
class JournalKind:
    """Say what is in a kind of journal, and what to tell its operator."""

    application_id: int  # SQLite's own field for the kind of a file
    version: int  # of the schema
    schema: str  # tables beside the owner's
    name: str  # as in "x is not a verifier's journal"
    daemon: str  # who has it open
    loss_hint: str  # what to do when it is damaged


class SigningJournal:
    """Hold what one peer key signed. Open one with `open`."""

    kind: ClassVar[JournalKind]

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    @classmethod
    def open(cls, path: Path, author: str) -> Self:
        """Open the journal of a peer key, or start one where there is no file.

        Args:
            author: the key's address.

        Raises:
            ConfigError: another process has it open, it is damaged, not such a journal, or another key's.
        """
        kind = cls.kind
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(kind, path, author)
        if path.stat().st_size == 0:
            raise ConfigError(f"the journal {path} is empty", hint=kind.loss_hint)
        try:
            database = _connect(path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(
                    f"another process has {path} open",
                    hint=f"stop the {kind.daemon} that runs in this directory",
                ) from error
            raise ConfigError(f"cannot open the journal {path}: {error}", hint=kind.loss_hint) from error
        except sqlite3.DatabaseError as error:
            raise _damaged(kind, path, error) from error
        try:
            _check(kind, database, path, author)
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _damaged(self, reason: object) -> ConfigError:
        return _damaged(self.kind, self._path, reason)

    def _parse(self, wire: bytes) -> Signed[Body]:
        try:
            return parse_message(wire)
        except Malformed as error:
            raise self._damaged(error) from error


def _damaged(kind: JournalKind, path: Path, reason: object) -> ConfigError:
    return ConfigError(f"the journal {path} is damaged: {reason}", hint=kind.loss_hint)


def _create(kind: JournalKind, path: Path, author: str) -> None:
    """Write an empty journal beside its place and move it there, so that no half-made one is ever found."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    database = sqlite3.connect(scratch, isolation_level=None)
    try:
        header = f"PRAGMA application_id = {kind.application_id}; PRAGMA user_version = {kind.version};"
        database.executescript(f"BEGIN; {header} {_OWNER} {kind.schema} COMMIT;")
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


def _check(kind: JournalKind, database: sqlite3.Connection, path: Path, author: str) -> None:
    try:
        application = database.execute("PRAGMA application_id").fetchone()[0]
        if application != kind.application_id:
            raise ConfigError(f"{path} is not {kind.name}", hint="choose another directory with --dir")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != kind.version:
            raise ConfigError(
                f"{path} has version {version} of the journal, this program reads {kind.version}"
            )
        verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            raise _damaged(kind, path, verdict)
        owner = database.execute("SELECT author FROM owner").fetchone()
    except sqlite3.DatabaseError as error:
        raise _damaged(kind, path, error) from error
    if owner is None or owner[0] != author:
        raise ConfigError(
            f"the journal {path} belongs to another peer key", hint="choose another directory with --dir"
        )
