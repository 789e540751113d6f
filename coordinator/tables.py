"""The coordinator's database: its tables, and how a connection to it is opened.

The service writes and the API reads, each in its own process. SQLite in WAL mode lets both at once; another database
that SQLAlchemy knows may be named by URL. Amounts in wei are decimal strings, since no integer column holds them.
"""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Index, Text, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

SCHEMA = 6
DATABASE_FILE = "database.sqlite"
BUSY_MS = 5000


class Base(DeclarativeBase):
    """Base of every table."""


class RunRow(Base):
    """The run, and the latest word of the service."""

    __tablename__ = "runs"
    run: Mapped[str] = mapped_column(primary_key=True)
    schema: Mapped[int]
    manifest: Mapped[str] = mapped_column(Text)  # canonical JSON
    phase: Mapped[str] = mapped_column(default="starting")
    round: Mapped[int] = mapped_column(default=0)
    detail: Mapped[str] = mapped_column(default="")  # what is waited for, or what is wrong
    height: Mapped[int] = mapped_column(default=0)
    facts: Mapped[str] = mapped_column(Text, default="{}")  # JSON: ledger and network counters
    updated_at: Mapped[float] = mapped_column(default=0.0)  # Unix time


class MessageRow(Base):
    """The event log: every accepted message and every statement of our own, in order of arrival."""

    __tablename__ = "messages"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    round: Mapped[int]
    number: Mapped[int | None]  # of the author; None: the coordinator
    own: Mapped[bool]
    label: Mapped[int]  # epoch of a reward table, else 0
    wire: Mapped[str] = mapped_column(Text)
    received_at: Mapped[float]
    __table_args__ = (
        # One statement of our own for one kind, round and label: the rule that a restart must not break.
        Index(
            "one_statement",
            "kind",
            "round",
            "label",
            unique=True,
            sqlite_where=text("own"),
            postgresql_where=text("own"),
        ),
        Index("by_kind", "kind", "round"),
    )


class RoundRow(Base):
    """One round as it went."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    parameters: Mapped[str | None]  # at its start
    loss: Mapped[float | None]  # held out, of the parameters at its start, nats a token
    listed: Mapped[int | None]
    merged: Mapped[int | None]
    update_bytes: Mapped[int | None]  # of merged updates
    train_cpu_s: Mapped[float | None]  # self-reported, of revealed units
    root_block: Mapped[int | None]
    record_block: Mapped[int | None]
    began_at: Mapped[float | None]
    ended_at: Mapped[float | None]


class UnitRow(Base):
    """The life of one unit."""

    __tablename__ = "units"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    commitment: Mapped[str]
    listed: Mapped[bool] = mapped_column(default=False)
    revealed: Mapped[bool] = mapped_column(default=False)
    tier: Mapped[int | None]
    merged: Mapped[bool | None]
    weight: Mapped[int | None]  # of its update in the mean; 0: it does harm, by the record
    score: Mapped[int | None]  # of its peer after the round
    reason: Mapped[str] = mapped_column(default="")  # why it did not merge, or has no weight
    blob_bytes: Mapped[int | None]
    train_cpu_s: Mapped[float | None]
    drawn: Mapped[bool | None]  # None: not yet known
    segment: Mapped[int | None]
    outcome: Mapped[str | None]
    retracted: Mapped[int | None]  # round whose record takes it back
    slash_tx: Mapped[str | None]


class VerdictRow(Base):
    """One verdict on a drawn unit."""

    __tablename__ = "verdicts"
    id: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int]
    number: Mapped[int]
    verifier: Mapped[int]
    outcome: Mapped[int]
    reason: Mapped[str]
    distance: Mapped[float]
    replay_cpu_s: Mapped[float]
    counted: Mapped[bool] = mapped_column(default=False)  # right, and paid
    wrong: Mapped[bool] = mapped_column(default=False)  # otherwise than the majority
    __table_args__ = (Index("by_unit", "round", "number"),)


class DecisionRow(Base):
    """The outcome of a drawn unit or a case, stored before anything follows from it."""

    __tablename__ = "decisions"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    case: Mapped[int] = mapped_column(primary_key=True)  # before the jury; 0: the round's draw
    segment: Mapped[int]
    outcome: Mapped[str]
    judges: Mapped[str] = mapped_column(Text)  # JSON list of numbers
    verdicts: Mapped[str] = mapped_column(Text)  # JSON list of message ids
    wrong: Mapped[str] = mapped_column(Text)  # JSON list of numbers
    silent: Mapped[str] = mapped_column(Text)  # JSON list of numbers
    heard: Mapped[str] = mapped_column(Text)  # JSON list of numbers


class SilenceRow(Base):
    """A verifier that said nothing about a case in time."""

    __tablename__ = "silences"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    case: Mapped[int] = mapped_column(primary_key=True)
    verifier: Mapped[int] = mapped_column(primary_key=True)


class PeerRow(Base):
    """A registered peer as the chain shows it now."""

    __tablename__ = "peers"
    number: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str]
    wallet: Mapped[str]
    peer: Mapped[str]
    peer_id: Mapped[str]
    stake_wei: Mapped[str]
    slashed_wei: Mapped[str]
    earned_wei: Mapped[str]
    ready: Mapped[bool]


class RefusalRow(Base):
    """What was refused of whom, counted."""

    __tablename__ = "refusals"
    sender: Mapped[str] = mapped_column(primary_key=True)  # "number 3", or a peer id
    reason: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    last_at: Mapped[float]


class PolicyRow(Base):
    """What the policy that a round starts from does on held-out tasks (`training.evaluate.Heldout`)."""

    __tablename__ = "policies"
    round: Mapped[int] = mapped_column(primary_key=True)
    success: Mapped[float]  # share of tasks done
    reward: Mapped[float]
    components: Mapped[str] = mapped_column(Text)  # JSON: means by name


class RolloutsRow(Base):
    """What one unit's rollouts are (`coordinator.rollouts.describe_rollouts`)."""

    __tablename__ = "rollouts"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    groups: Mapped[int]
    samples: Mapped[int]
    reward: Mapped[float]  # mean
    success: Mapped[float]  # share of samples
    components: Mapped[str] = mapped_column(Text)  # JSON: means by name
    update_bytes: Mapped[int]
    rollout_bytes: Mapped[int]
    shown: Mapped[str] = mapped_column(Text)  # JSON: one group's samples, as text


class SamplesRow(Base):
    """One group of a unit's samples, for people to compare; kept while that may count."""

    __tablename__ = "samples"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    group: Mapped[int] = mapped_column(primary_key=True)
    samples: Mapped[str] = mapped_column(Text)  # JSON: of each sample what was said (`coordinator.rollouts`)


class PreferenceRow(Base):
    """What a person said of two samples of a group."""

    __tablename__ = "preferences"
    round: Mapped[int] = mapped_column(primary_key=True)
    person: Mapped[int] = mapped_column(primary_key=True)  # place in the manifest
    number: Mapped[int] = mapped_column(primary_key=True)
    group: Mapped[int] = mapped_column(primary_key=True)
    low: Mapped[int] = mapped_column(primary_key=True)  # the samples' places
    high: Mapped[int] = mapped_column(primary_key=True)
    better: Mapped[int]
    listed: Mapped[int | None]  # round whose record carries it


class LocalRow(Base):
    """A peer of the control group after a round: it trains alone on its own batches."""

    __tablename__ = "locals"
    round: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    parameters: Mapped[str]
    moments: Mapped[str]
    loss: Mapped[float | None]


class TransactionRow(Base):
    """A transaction of the coordinator's wallet."""

    __tablename__ = "transactions"
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    round: Mapped[int | None]  # or epoch
    number: Mapped[int | None]
    state: Mapped[str]  # sending, mined, refused
    tx: Mapped[str | None]
    block: Mapped[int | None]
    gas: Mapped[int | None]
    detail: Mapped[str] = mapped_column(default="")
    at: Mapped[float]


def database_url(directory: Path) -> str:
    """Return the URL of the SQLite database in a coordinator's directory."""
    return f"sqlite:///{directory / DATABASE_FILE}"


def open_engine(url: str, *, writer: bool) -> Engine:
    """Open a database. A writer's transactions take SQLite's lock at once and survive a loss of power.

    Args:
        url: SQLAlchemy URL.
        writer: this process changes it; there is one.
    """
    if not url.startswith("sqlite"):
        return create_engine(url)
    engine = create_engine(url, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = (
            None  # pysqlite begins transactions late; ours begin where SQLAlchemy says
        )
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        if writer:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        else:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def began(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine
