"""Transactions written down before they are sent: one SQLite file of one key on one chain, open in one process.

An intent is one thing to be done on chain, once. It has one nonce, and one or more signed versions that differ in the
fee only; since a chain takes one transaction a nonce, at most one version of an intent is ever mined. WAL and
synchronous=FULL, so that what was written before it went out survives a kill at any moment.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from protocol.errors import ConfigError, LedgerError

APPLICATION_ID = 0x4D6F7562
VERSION = 1

_SCHEMA = """
CREATE TABLE owner (address TEXT NOT NULL, chain_id INTEGER NOT NULL) STRICT;
CREATE TABLE intents (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  nonce INTEGER NOT NULL,
  call TEXT NOT NULL,
  state TEXT NOT NULL,
  made_at REAL NOT NULL,
  told INTEGER NOT NULL DEFAULT 0,
  tx BLOB,
  block INTEGER
) STRICT;
CREATE UNIQUE INDEX one_intent_a_nonce ON intents (nonce) WHERE state != 'displaced';
CREATE INDEX unfinished ON intents (state, told);
CREATE TABLE versions (
  hash BLOB PRIMARY KEY,
  intent INTEGER NOT NULL REFERENCES intents (id) ON DELETE CASCADE,
  raw BLOB NOT NULL,
  max_fee TEXT NOT NULL,
  tip TEXT NOT NULL
) STRICT;
"""


class State(StrEnum):
    """Say how far an intent has come."""

    OPEN = "open"  # written down; perhaps sent
    MINED = "mined"  # in a block that a reorganisation may still take back
    FINAL = "final"
    DISPLACED = "displaced"  # another transaction took its nonce for good: it can never be mined


@dataclass(frozen=True)
class Call:
    """What a transaction does, whatever it pays."""

    to: str | None  # None creates a contract
    data: str  # 0x and hex digits
    gas: int
    value: int = 0


@dataclass(frozen=True)
class SignedVersion:
    """One signed transaction of an intent."""

    hash: bytes
    raw: bytes
    max_fee: int  # wei per gas
    tip: int  # wei per gas


@dataclass
class Intent:
    """One thing to be done once."""

    key: str  # what it is for; the same call under another key is another intent
    nonce: int
    call: Call
    made_at: float  # Unix seconds
    versions: list[SignedVersion] = field(default_factory=list)  # oldest first
    state: State = State.OPEN
    told: bool = False  # its caller knows what became of it
    tx: bytes | None = None  # hash of the version that was mined
    block: int | None = None  # that holds it
    id: int = 0


class Outbox:
    """Keep intents. Not safe to use from several threads at once: its sender's lock orders them."""

    def __init__(self, database: sqlite3.Connection, lock: int | None) -> None:
        self._database = database
        self._lock = lock

    @classmethod
    def in_memory(cls) -> "Outbox":
        """Make one that ends with the process, for what needs no more."""
        database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        database.executescript(_SCHEMA)
        return cls(database, None)

    @classmethod
    def open(cls, directory: Path, address: str, chain_id: int) -> "Outbox":
        """Open the outbox of a key on a chain, or start one; nobody else can until it is closed or the process ends.

        Raises:
            ConfigError: another process sends with this key from this directory, or the file is damaged.
        """
        path = outbox_path(directory, address, chain_id)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take(path.with_suffix(".lock"), address)
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}") from error
        try:
            return cls(_open(path, address, chain_id), lock)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, sqlite3.DatabaseError):
                raise ConfigError(
                    f"the outbox {path} is damaged: {error}",
                    hint="move it away once none of the wallet's transactions is pending",
                ) from error
            raise

    def close(self) -> None:
        """Close the file and let other processes have it."""
        self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def unfinished(self) -> list[Intent]:
        """Return the intents that are not final, or whose caller was never told, by nonce."""
        rows = self._database.execute(
            "SELECT id, key, nonce, call, state, made_at, told, tx, block FROM intents"
            " WHERE state IN ('open', 'mined') OR told = 0 ORDER BY nonce"
        ).fetchall()
        return [
            Intent(
                key=key,
                nonce=nonce,
                call=Call(**json.loads(call)),
                made_at=made_at,
                versions=self._versions(id_),
                state=State(state),
                told=bool(told),
                tx=tx,
                block=block,
                id=id_,
            )
            for id_, key, nonce, call, state, made_at, told, tx, block in rows
        ]

    def _versions(self, intent: int) -> list[SignedVersion]:
        rows = self._database.execute(
            "SELECT hash, raw, max_fee, tip FROM versions WHERE intent = ? ORDER BY rowid", (intent,)
        )
        return [SignedVersion(hash_, raw, int(max_fee), int(tip)) for hash_, raw, max_fee, tip in rows]

    def next_nonce(self) -> int:
        """Return the nonce after the highest one that an intent has, 0 if there is none."""
        (highest,) = self._database.execute(
            "SELECT max(nonce) FROM intents WHERE state != 'displaced'"
        ).fetchone()
        return 0 if highest is None else int(highest) + 1

    def add(self, intent: Intent) -> None:
        """Write an intent with its first version down, and give it its id.

        Raises:
            LedgerError: the file cannot be written, as in every method that writes.
        """
        with self._transaction():
            call = json.dumps(intent.call.__dict__)
            cursor = self._database.execute(
                "INSERT INTO intents (key, nonce, call, state, made_at, told) VALUES (?, ?, ?, ?, ?, ?)",
                (intent.key, intent.nonce, call, intent.state, intent.made_at, intent.told),
            )
            intent.id = int(cursor.lastrowid or 0)
            for version in intent.versions:
                self._insert(intent, version)

    def add_version(self, intent: Intent, version: SignedVersion) -> None:
        """Write another version of an intent down."""
        with self._transaction():
            self._insert(intent, version)
        intent.versions.append(version)

    def _insert(self, intent: Intent, version: SignedVersion) -> None:
        self._database.execute(
            "INSERT INTO versions (hash, intent, raw, max_fee, tip) VALUES (?, ?, ?, ?, ?)",
            (version.hash, intent.id, version.raw, str(version.max_fee), str(version.tip)),
        )

    def remove(self, intent: Intent) -> None:
        """Forget an intent that no node ever took."""
        with self._transaction():
            self._database.execute("DELETE FROM versions WHERE intent = ?", (intent.id,))
            self._database.execute("DELETE FROM intents WHERE id = ?", (intent.id,))

    def update(self, intent: Intent) -> None:
        """Write state, block and whether the caller was told."""
        with self._transaction():
            self._database.execute(
                "UPDATE intents SET state = ?, tx = ?, block = ?, told = ? WHERE id = ?",
                (intent.state, intent.tx, intent.block, intent.told, intent.id),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk ends it by itself
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise LedgerError(
                f"the outbox cannot be written: {error}; nothing is sent unwritten", hint="is the disk full?"
            ) from error


def outbox_path(directory: Path, address: str, chain_id: int) -> Path:
    """Return where a directory keeps the outbox of a key on a chain."""
    return directory / f"outbox-{chain_id}-{address.lower()}.sqlite"


def _take(path: Path, address: str) -> int:
    """Lock a file that stays; the system releases it when the process ends, however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ConfigError(
            f"another process sends transactions of wallet {address} from {path.parent}",
            hint="wait until it is done, or stop it: two would take each other's nonces",
        ) from error
    return handle


def _open(path: Path, address: str, chain_id: int) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if database.execute("PRAGMA schema_version").fetchone()[0] == 0:
            database.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
                f"{_SCHEMA} COMMIT;"
            )
        database.execute(
            "INSERT INTO owner SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM owner)", (address, chain_id)
        )
        application = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if (application, version) != (APPLICATION_ID, VERSION):
            raise ConfigError(f"{path} is not an outbox of this version of the program")
        if database.execute("SELECT address, chain_id FROM owner").fetchone() != (address, chain_id):
            raise ConfigError(f"{path} is another key's or another chain's", hint="choose another --dir")
    except BaseException:
        database.close()
        raise
    return database
