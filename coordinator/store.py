"""The coordinator's memory: what was heard, said and decided, on disk before anything follows from it.

One process writes; a lock on the directory sees to that. Everything in one `write()` block is one transaction. A
statement is stored signed before anybody sees it, and the stored one is what is told, so that a crash between the two
cannot lead to a second one.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.exc import DatabaseError, SQLAlchemyError
from sqlalchemy.orm import Session

from coordinator.state import Decision
from coordinator.tables import (
    DATABASE_FILE,
    SCHEMA,
    Base,
    DecisionRow,
    LocalRow,
    MessageRow,
    PolicyRow,
    RolloutsRow,
    RoundRow,
    RunRow,
    database_url,
    open_engine,
)
from coordinator.writer import Writer
from protocol.clock import Clock
from protocol.errors import ConfigError
from protocol.manifest import RunManifest
from protocol.messages import Body, Signed, parse_message

LOCK_FILE = "coordinator.lock"


@dataclass(frozen=True)
class StoredFacts:
    """What a restart begins with."""

    statements: tuple[Signed[Body], ...]
    heard: tuple[Signed[Body], ...]  # in order of arrival
    parameters: Mapping[int, str]  # at the start of each round
    decisions: tuple[Decision, ...]


class Store:
    """Open with `Store.open`; use as a context manager."""

    def __init__(self, engine: Engine, lock: int, clock: Clock) -> None:
        self._engine = engine
        self._lock = lock
        self._clock = clock

    @classmethod
    def open(cls, directory: Path, manifest: RunManifest, *, clock: Clock, url: str | None = None) -> "Store":
        """Open the database of a run, or begin it.

        Args:
            url: another database than the directory's own, as SQLAlchemy names it.

        Raises:
            ConfigError: another process has it, it is damaged, of another run or version, or missing beside the public
                files of rounds that it must know.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = _lock(directory)
        try:
            fresh = _check_place(directory) if url is None else False
            engine = open_engine(url or database_url(directory), writer=True)
            with _database_errors(directory):
                _prepare(engine, manifest, fresh=fresh, directory=directory)
        except BaseException:
            os.close(lock)
            raise
        return cls(engine, lock, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.dispose()
        os.close(self._lock)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """Write in one transaction: all of the block or nothing."""
        with Session(self._engine) as session, session.begin():
            yield Writer(session, self._clock())

    def facts(self) -> StoredFacts:
        """Read everything back."""
        with Session(self._engine) as session:
            messages = session.execute(
                select(MessageRow.own, MessageRow.wire).order_by(MessageRow.sequence)
            ).all()
            parameters = session.execute(select(RoundRow.round, RoundRow.parameters)).all()
            decisions = session.scalars(select(DecisionRow)).all()
            return StoredFacts(
                statements=tuple(parse_message(wire.encode()) for own, wire in messages if own),
                heard=tuple(parse_message(wire.encode()) for own, wire in messages if not own),
                parameters={round_: found for round_, found in parameters if found is not None},
                decisions=tuple(_decision(row) for row in decisions),
            )

    def measured(self) -> set[int]:
        """Return the rounds whose first parameters were measured."""
        with Session(self._engine) as session:
            losses = session.scalars(select(RoundRow.round).where(RoundRow.loss.is_not(None)))
            return {*losses, *session.scalars(select(PolicyRow.round))}

    def described(self) -> set[int]:
        """Return the rounds whose rollouts are described."""
        with Session(self._engine) as session:
            return set(session.scalars(select(RolloutsRow.round).distinct()))

    def locals(self) -> dict[tuple[int, int], tuple[str, str]]:
        """Return the control group's (parameters, moments) by (round, number)."""
        with Session(self._engine) as session:
            rows = session.scalars(select(LocalRow)).all()
            return {(row.round, row.number): (row.parameters, row.moments) for row in rows}


def _decision(row: DecisionRow) -> Decision:
    outcome: Any = row.outcome
    return Decision(
        row.round,
        row.number,
        row.case,
        row.segment,
        outcome,
        judges=tuple(json.loads(row.judges)),
        verdicts=tuple(json.loads(row.verdicts)),
        wrong=tuple(json.loads(row.wrong)),
        silent=tuple(json.loads(row.silent)),
        heard=tuple(json.loads(row.heard)),
    )


def _lock(directory: Path) -> int:
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(
            f"another coordinator works in {directory}", hint="stop it first, or name another --dir"
        ) from error
    return handle


def _check_place(directory: Path) -> bool:
    """Tell whether the run begins here; a database that has gone is not begun again in silence."""
    path = directory / DATABASE_FILE
    if path.exists() and path.stat().st_size > 0:
        return False
    if any((directory / "public" / "rounds").glob("*.json")):
        raise ConfigError(
            f"{path} is gone, but this run has published rounds",
            hint=f"restore it from a backup; a coordinator without memory could contradict itself ({directory})",
        )
    return True


def _prepare(engine: Engine, manifest: RunManifest, *, fresh: bool, directory: Path) -> None:
    if not fresh and engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            told = connection.execute(text("PRAGMA quick_check(1)")).scalar()
        if told != "ok":
            raise _damaged(directory, str(told))
    existing: Iterable[str] = inspect(engine).get_table_names()
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        rows = session.scalars(select(RunRow)).all()
        if not rows:
            if (
                not fresh
                and "messages" in existing
                and session.scalar(select(func.count(MessageRow.sequence)))
            ):
                raise _damaged(directory, "it holds messages but no run")
            wire = manifest.to_bytes().decode()
            session.add(RunRow(run=manifest.run_id, schema=SCHEMA, manifest=wire))
            return
        (row,) = rows
        if row.schema != SCHEMA:
            raise ConfigError(
                f"the database is of version {row.schema}, this program reads {SCHEMA}",
                hint="use the version of murmur that began the run",
            )
        if row.run != manifest.run_id:
            raise ConfigError(
                f"the database in {directory} is of run {row.run[:16]}",
                hint="one directory holds one run; name another --dir",
            )


@contextmanager
def _database_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except (DatabaseError, SQLAlchemyError) as error:
        cause = getattr(error, "orig", None) or error
        raise _damaged(directory, str(cause)) from error


def _damaged(directory: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the database in {directory} cannot be used: {what[:200]}",
        hint=f"restore {DATABASE_FILE} from a backup; it is never replaced by an empty one",
    )
