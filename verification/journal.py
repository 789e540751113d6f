"""The verifier's signing journal: one verdict a unit, on disk before anybody hears it.

One SQLite file (synchronous=FULL), locked by the process that has it open. A second verdict on a unit would be
equivocation, so what was signed once is returned for ever. The journal also remembers whose files are kept as evidence.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from protocol.errors import ConfigError, Malformed
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Signed, Verdict, parse_message, sign

APPLICATION_ID = 0x4D555256  # "MURV"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (author TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS verdict (
    run TEXT NOT NULL, round INTEGER NOT NULL, number INTEGER NOT NULL, wire BLOB NOT NULL, files TEXT NOT NULL,
    PRIMARY KEY (run, round, number)
) STRICT;
"""
_HINT = "a verifier without its journal should register a fresh key: it must not judge a unit twice"


class VerdictJournal:
    """Hold the verdicts of one peer key. Open one with `VerdictJournal.open`."""

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
        fresh = not path.exists()
        try:
            database = sqlite3.connect(path, isolation_level=None, timeout=0)
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN EXCLUSIVE")
            if fresh:
                path.chmod(0o600)
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            if database.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
                raise ConfigError(f"{path} is not a verifier's journal", hint="choose another --dir")
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            if database.execute("SELECT author FROM owner").fetchone() is None:
                database.execute("INSERT INTO owner VALUES (?)", (author,))
            database.execute("COMMIT")
            owner = database.execute("SELECT author FROM owner").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError(
                    f"another process has {path} open", hint="stop the verifier that runs in this directory"
                ) from error
            raise ConfigError(f"cannot open the journal {path}: {error}", hint=_HINT) from error
        except sqlite3.DatabaseError as error:
            raise ConfigError(f"the journal {path} is damaged: {error}", hint=_HINT) from error
        if owner != (author,):
            database.close()
            raise ConfigError(f"the journal {path} belongs to another peer key", hint="choose another --dir")
        return cls(database, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._database.close()

    def sign(
        self, key: PeerKey, manifest: RunManifest, round_: int, verdict: Verdict, files: Iterable[str]
    ) -> Signed[Verdict]:
        """Return this verifier's one verdict on a unit, storing it first if it is made now.

        Args:
            files: addresses of the evidence that is kept for it.
        """
        known = self.verdict(manifest.run_id, round_, verdict.number)
        if known is not None:
            return known
        message = sign(key, manifest, round_, "verifier", verdict)
        row = (manifest.run_id, round_, verdict.number, message.wire, " ".join(files))
        self._database.execute("INSERT INTO verdict VALUES (?, ?, ?, ?, ?)", row)
        return message

    def verdict(self, run: str, round_: int, number: int) -> Signed[Verdict] | None:
        """Return the verdict signed on a unit, if there is one."""
        query = "SELECT wire FROM verdict WHERE run = ? AND round = ? AND number = ?"
        row = self._database.execute(query, (run, round_, number)).fetchone()
        return None if row is None else self._parse(row[0])

    def verdicts(self, run: str, since_round: int = 0) -> tuple[Signed[Verdict], ...]:
        """Return the verdicts signed in a run from a round on, oldest first."""
        query = "SELECT wire FROM verdict WHERE run = ? AND round >= ? ORDER BY round, number"
        return tuple(self._parse(wire) for (wire,) in self._database.execute(query, (run, since_round)))

    def evidence(self, run: str, units: int) -> frozenset[str]:
        """Return the addresses of the files kept for the newest verdicts.

        Args:
            units: of how many verdicts.
        """
        query = "SELECT files FROM verdict WHERE run = ? AND files != '' ORDER BY rowid DESC LIMIT ?"
        rows = self._database.execute(query, (run, units))
        return frozenset(address for (files,) in rows for address in files.split())

    def _parse(self, wire: bytes) -> Signed[Verdict]:
        try:
            message = parse_message(wire)
        except Malformed as error:
            raise ConfigError(f"the journal {self._path} is damaged: {error}", hint=_HINT) from error
        if not isinstance(message.body, Verdict):
            raise ConfigError(f"the journal {self._path} holds a {message.body.kind}", hint=_HINT)
        return cast("Signed[Verdict]", message)
