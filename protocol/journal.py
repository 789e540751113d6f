"""A signing journal's file: one SQLite database of one peer, under its present key, locked by who has it open.

WAL and synchronous=FULL, so that what was written before a message goes out survives a kill at any moment. A damaged
journal is never replaced: without it nobody knows what was signed. One that was restored from a backup signs nothing
new for rounds that it may have been used for since (`protocol.restored`).
"""

import os
import sqlite3
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from protocol.clock import Clock, unix_time
from protocol.errors import ConfigError, Held, Malformed
from protocol.messages import Body, Signed, parse_message
from protocol.restored import SCHEMA as SEAT
from protocol.restored import Hold, holds, is_restored, last_change, mark_restored, settle, take_seat

_OWNER = "CREATE TABLE owner (author TEXT NOT NULL) STRICT;"


Place = tuple[str, str, int, str]
"""Name what can be signed once: run, kind, round, and what else tells two statements apart."""


@dataclass(frozen=True)
class JournalKind:
    """Say what is in a kind of journal, and what to tell its operator."""

    application_id: int  # SQLite's own field for the kind of a file
    version: int  # of the schema
    schema: str  # tables beside the owner's
    name: str  # as in "x is not a verifier's journal"
    daemon: str  # who has it open
    loss_hint: str  # what to do when it is damaged
    statements: str  # query for (run, kind, round, label, wire) of everything that was signed


class SigningJournal:
    """Hold what one peer key signed. Open one with `open`."""

    kind: ClassVar[JournalKind]

    def __init__(self, database: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._database = database
        self._path = path
        self._clock = clock

    @classmethod
    def open(cls, path: Path, author: str, *, heir_of: str | None = None, clock: Clock = unix_time) -> Self:
        """Open the journal of a peer key, or start one where there is no file.

        Args:
            author: the key's address.
            heir_of: an earlier key of the same number, whose journal becomes this key's.
            clock: compared with the file system's, to tell a journal that was restored.

        Raises:
            ConfigError: another process has it open, it is damaged, not such a journal, or another key's.
        """
        kind = cls.kind
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(kind, path, author)
        if path.stat().st_size == 0:
            raise ConfigError(f"the journal {path} is empty", hint=kind.loss_hint)
        changed = last_change(path)
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
            owner = _check(kind, database, path, {author, heir_of})
            take_seat(database, path, clock(), changed)
            found = cls(database, path, clock)
            if owner != author:
                with found._transaction():
                    database.execute("UPDATE owner SET author = ?", (author,))
        except BaseException:
            database.close()
            raise
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let other processes have it."""
        with self._transaction():  # closing writes the file, and who opens it next compares the times
            pass
        self._database.close()

    @property
    def restored(self) -> bool:
        """Tell whether the journal was ever restored from a backup."""
        return is_restored(self._database)

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Return what is held back since, by run."""
        return holds(self._database)

    def statements(self) -> dict[Place, bytes]:
        """Return everything that was signed, in its wire form."""
        rows = self._database.execute(self.kind.statements)
        return {(run, kind, round_, label): wire for run, kind, round_, label, wire in rows}

    def serialize(self) -> bytes:
        """Return the whole journal as the bytes of a SQLite file."""
        return self._database.serialize()

    def check_schema(self) -> None:
        """Refuse a file from elsewhere that has more in it than a journal has, such as triggers.

        Raises:
            ConfigError: it has.
        """
        fresh = sqlite3.connect(":memory:")
        try:
            fresh.executescript(f"{_OWNER} {self.kind.schema} {SEAT}")
            wanted, found = (_objects(database) for database in (fresh, self._database))
        finally:
            fresh.close()
        if wanted != found:
            raise self._damaged("its tables are not those of a journal")

    def mark_restored(self, *, epoch: bool = False) -> None:
        """Note that more was signed than is in here; with `epoch`, that nothing is known of it."""
        with self._transaction():
            mark_restored(self._database, epoch=epoch)

    def settle(self, run: str, under_way: int | None, epoch_rounds: int) -> int:
        """Return the first round of a run for which something new is signed: 0 unless the journal was restored.

        Args:
            under_way: the round whose record the chain waits for; None before the run opens.
        """
        with self._transaction():
            return settle(self._database, run, under_way, epoch_rounds)

    def _check_hold(self, run: str, round_: int, kind: str) -> None:
        """Refuse a new statement that an older copy of this journal may have contradicted.

        Raises:
            Held: the journal was restored, and the round may have been signed for before.
        """
        before = next((hold.before for hold in self.holds if hold.run == run), 0)
        if round_ < before:
            raise Held(
                f"no {kind} is signed for round {round_}: {self._path} came from a backup, and something else may "
                "have been signed since",
                hint=f"nothing is to be done; from round {before} on this peer signs again",
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.execute("UPDATE seat SET written = ?", (self._clock(),))
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


def _objects(database: sqlite3.Connection) -> set[tuple[str, str, str | None]]:
    rows = database.execute("SELECT type, name, sql FROM sqlite_master")
    return {(kind, name, None if sql is None else " ".join(sql.split())) for kind, name, sql in rows}


def journal_kind(path: Path) -> int | None:
    """Return the application id in a journal file's header, or None if it is no SQLite file."""
    with path.open("rb") as file:
        header = file.read(100)
    return int.from_bytes(header[68:72], "big") if header.startswith(b"SQLite format 3\0") else None


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


def _check(
    kind: JournalKind, database: sqlite3.Connection, path: Path, owners: AbstractSet[str | None]
) -> str:
    """Return the journal's owner, if it is one of those."""
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
    database.executescript(SEAT)
    if owner is None or owner[0] not in owners:
        raise ConfigError(
            f"the journal {path} belongs to another peer key",
            hint="choose another directory with --dir; a `murmur keys rotate` that was cut short is typed again",
        )
    return str(owner[0])
