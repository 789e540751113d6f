"""The run as TensorBoard shows it: scalars by round, written from the database beside the service's work."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

import trio
from sqlalchemy.exc import SQLAlchemyError

from coordinator.config import CoordinatorConfig
from coordinator.queries import MAX_PAGE, Reader
from coordinator.tables import database_url, open_engine
from protocol.event_files import EventFiles

log = logging.getLogger(__name__)

BOARD: Final = "run"
LOOK_S: Final = 5.0
LATE_ROUNDS: Final = 64  # after which nothing more is measured of a round


async def keep_board(config: CoordinatorConfig) -> None:
    """Write what is new, again and again until cancelled; do nothing where nobody asked for it.

    Raises:
        ConfigError: the directory cannot be written, or the library is not installed.
    """
    if config.tensorboard is None:
        return
    engine = open_engine(config.database or database_url(config.directory), writer=False)
    board = Board(EventFiles(config.tensorboard / BOARD), Reader(engine))
    try:
        while True:
            try:
                await trio.to_thread.run_sync(board.look)
            except SQLAlchemyError as error:
                log.warning("the database cannot be read now, and event files wait: %s", error)
            await trio.sleep(LOOK_S)
    finally:
        board.events.close()
        engine.dispose()


class Board:
    """Write every figure of every round once."""

    def __init__(self, events: EventFiles, reader: Reader) -> None:
        self.events = events
        self._reader = reader
        self._told: set[tuple[int, str]] = set()
        self._next = 0  # the first round of which something may still become known
        self._at = 0.0  # Unix time of the newest round that has one

    def look(self) -> None:
        """Write what has become known."""
        if self._reader.run_id() is None:
            return
        measured = _measured(self._reader.summary(0.0))
        rows = {row["round"]: row for row in self._rows()}
        for round_ in sorted(rows.keys() | {one for one in measured if one >= self._next}):
            values = measured.get(round_, {}) | _recorded(rows.get(round_, {}))
            fresh = {
                tag: value
                for tag, value in values.items()
                if value is not None and (round_, tag) not in self._told
            }
            self._at = max(self._at, rows.get(round_, {}).get("ended_at") or 0.0)
            if fresh:
                self.events.scalars(round_, self._at, fresh)
                self._told.update((round_, tag) for tag in fresh)
        self._next = max(self._next, max(rows, default=0) - LATE_ROUNDS)
        self.events.flush()

    def _rows(self) -> Iterator[dict[str, Any]]:
        after = self._next - 1
        while rows := self._reader.rounds(after, MAX_PAGE):
            yield from rows
            after = rows[-1]["round"]


def _measured(summary: Mapping[str, Any]) -> dict[int, dict[str, float | None]]:
    """Return what was measured of the parameters that rounds start from."""
    if summary["policy"] is None:
        return {one["round"]: {"heldout/loss": one["loss"]} for one in summary["loss"]["curve"]}
    return {
        one["round"]: {"heldout/success": one["success"], "heldout/reward": one["reward"]}
        for one in summary["policy"]["curve"]
    }


def _recorded(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a round's record says, by the names that TensorBoard groups; nothing while it has none."""
    if row.get("ended_at") is None:
        return {}
    return {
        "units/listed": row["listed"],
        "units/merged": row["merged"],
        "bytes/updates": row["update_bytes"],
        "seconds/round": None if row["began_at"] is None else row["ended_at"] - row["began_at"],
        "seconds/train_cpu": row["train_cpu_s"],
    }
