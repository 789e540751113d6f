"""Whether a signing journal may be older than what its key has signed, and for which rounds nothing is signed then.

A journal that came back from a backup does not know what was signed after the backup. Its file tells: it remembers
its inode and when it was last written, and neither survives a copy (a restore sets the file's change time, which
nobody can set back). A snapshot of a whole machine takes both along; `murmur keys hold` says so to the journal by hand.
Whoever restores may go on signing two rounds later: until then the chain has anchored every round that could have been
signed for.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS seat (
    inode INTEGER NOT NULL, written REAL NOT NULL, restorations INTEGER NOT NULL, epoch INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS hold (
    run TEXT NOT NULL PRIMARY KEY, before INTEGER NOT NULL, restorations INTEGER NOT NULL
) STRICT;
"""

HOLD_ROUNDS = 2  # the one under way, and one more because our view of the chain may be a round behind
TOLERANCE_S = 10.0  # between our writing and the change time that the file system notes
EPOCH_MARK = ".hold"


@dataclass(frozen=True)
class Hold:
    """Say for which rounds of a run a restored journal signs nothing new."""

    run: str
    before: int  # the first round that is signed for


def take_seat(database: sqlite3.Connection, path: Path, now: float, changed: float) -> bool:
    """Note where a journal lies, and return whether it has been copied, replaced or marked since it was last written.

    Args:
        now: Unix seconds.
        changed: what `last_change` said before the database was opened, which writes to a journal that was killed.
    """
    row = database.execute("SELECT inode, written FROM seat").fetchone()
    inode = path.stat().st_ino
    mark = path.with_name(path.name + EPOCH_MARK)
    marked = mark.exists()
    moved = row is not None and (row[0] != inode or changed - row[1] > TOLERANCE_S)
    if row is None:
        database.execute("INSERT INTO seat VALUES (?, ?, 0, 0)", (inode, now))
    if moved or marked:
        mark_restored(database, epoch=marked)
    database.execute("UPDATE seat SET inode = ?, written = ?", (inode, now))
    mark.unlink(missing_ok=True)  # after the journal has it
    return moved or marked


def mark_restored(database: sqlite3.Connection, *, epoch: bool = False) -> None:
    """Note that the journal may lack what was signed.

    Args:
        epoch: nothing at all is known of what was signed, so that a whole epoch is waited for.
    """
    database.execute("UPDATE seat SET restorations = restorations + 1, epoch = max(epoch, ?)", (int(epoch),))


def is_restored(database: sqlite3.Connection) -> bool:
    """Tell whether the journal was ever restored."""
    return bool(database.execute("SELECT restorations FROM seat").fetchone()[0])


def settle(database: sqlite3.Connection, run: str, under_way: int | None, epoch_rounds: int) -> int:
    """Fix for which rounds of a run a restored journal signs nothing new; return the first that it signs for.

    Args:
        under_way: the round whose record the chain waits for; None before the run opens, when nobody signs for one.
    """
    restorations, epoch = database.execute("SELECT restorations, epoch FROM seat").fetchone()
    row = database.execute("SELECT before, restorations FROM hold WHERE run = ?", (run,)).fetchone()
    before, known = (0, 0) if row is None else row
    if known < restorations:
        wait = max(HOLD_ROUNDS, epoch_rounds) if epoch else HOLD_ROUNDS
        before = max(before, 0 if under_way is None else under_way + wait)
        database.execute(
            "INSERT INTO hold VALUES (?, ?, ?) ON CONFLICT (run) DO UPDATE SET "
            "before = excluded.before, restorations = excluded.restorations",
            (run, before, restorations),
        )
    return int(before)


def holds(database: sqlite3.Connection) -> tuple[Hold, ...]:
    """Return the runs in which something is held back, or was."""
    rows = database.execute("SELECT run, before FROM hold WHERE before > 0 ORDER BY run")
    return tuple(Hold(run, before) for run, before in rows)


def ask_to_wait(path: Path) -> None:
    """Have the journal of a path, which may not exist yet, wait an epoch when it is opened next."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.with_name(path.name + EPOCH_MARK).touch(mode=0o600)


def last_change(path: Path) -> float:
    """Return the Unix second in which the journal's files were last changed, by whomever."""
    beside = path.with_name(path.name + "-wal")
    return max(one.stat().st_ctime for one in (path, beside) if one.exists())
