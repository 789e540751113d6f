"""Scalars as TensorBoard event files, written while a run goes on.

The `tensorboard` package writes them (Apache-2.0; an optional extra, `murmur-network[tensorboard]`, which is also the
program that shows them). What a writer says it can say again from its own records, so that it begins its directory anew
at every start and no step is there twice.
"""

import logging
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final

from protocol.errors import ConfigError

log = logging.getLogger(__name__)

SUFFIX: Final = ".murmur"
_FLUSH_S: Final = 10.0


class EventFiles:
    """Write the scalars of one peer, or of the run, into a directory of its own."""

    def __init__(self, directory: Path) -> None:
        """Begin, in the place of what an earlier writer of ours left there.

        Raises:
            ConfigError: the library is not installed, or the directory cannot be written.
        """
        writer, self._event, self._summary = _library()
        self._directory, self._failed = directory, False
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for old in directory.glob(f"events.out.tfevents.*{SUFFIX}"):
                old.unlink()
            self._writer = writer(str(directory), flush_secs=_FLUSH_S, filename_suffix=SUFFIX)
        except OSError as error:
            raise ConfigError(f"cannot write event files into {directory}: {error.strerror}") from error

    def scalars(self, step: int, at: float, values: Mapping[str, float | None]) -> None:
        """Write figures of one step by name; those that are not known or not finite are left out.

        Args:
            step: round.
            at: Unix time.
        """
        told = [
            self._summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None and isfinite(value)
        ]
        event = self._event(wall_time=at, step=step, summary=self._summary(value=told))
        self._try(lambda: self._writer.add_event(event))

    def flush(self) -> None:
        """Make readers see what was written."""
        self._try(self._writer.flush)

    def close(self) -> None:
        """Write what is left, and end."""
        self._try(self._writer.close)

    def _try(self, act: Callable[[], object]) -> None:
        """Write no more once the disk has failed: a run does not end for want of its curves."""
        if self._failed:
            return
        try:
            act()
        except OSError as error:
            self._failed = True
            log.error("no more event files are written into %s: %s", self._directory, error)


def _library() -> tuple[Any, Any, Any]:
    """Return the writer, and the types of an event and of its scalars."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ConfigError(
            "event files need a package that is not installed",
            hint="pip install 'murmur-network[tensorboard]'",
        ) from error
    return EventFileWriter, Event, Summary
