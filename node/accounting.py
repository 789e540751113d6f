"""Where a daemon's time and bytes go from one unit to the next, and the device's peak that it remembers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from node.figures import Figures
from protocol.daemon import write_status
from protocol.stats import NetworkStats


class Accounting:
    """Add up what jobs wait for, on the event loop's clock.

    Attributes:
        peak_flops: a second, of the device; None while it is not known.
    """

    def __init__(self, stats: NetworkStats, now: float) -> None:
        """Begin an interval at a time of the loop's clock."""
        self.peak_flops: float | None = None
        self._stats = stats
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._began = now
        self._transfer_s, self._aggregate_s = 0.0, 0.0
        self._bytes = (self._stats.bytes_up, self._stats.bytes_down)

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count the time of a block as waiting for blobs."""
        began = trio.current_time()
        try:
            yield
        finally:
            self._transfer_s += trio.current_time() - began

    @contextmanager
    def aggregation(self) -> Iterator[None]:
        """Count the time of a block as aggregation."""
        began = trio.current_time()
        try:
            yield
        finally:
            self._aggregate_s += trio.current_time() - began

    def close(self, figures: Figures | None, at: float) -> Figures | None:
        """Complete the figures of a unit that is made, and begin the next interval.

        Args:
            figures: the trainer's part; None where it told none.
            at: Unix time.
        """
        now, (up, down) = trio.current_time(), self._bytes
        found = figures and figures.model_copy(
            update={
                "at": at,
                "peak_flops": self.peak_flops,
                "interval_s": now - self._began,
                "transfer_s": self._transfer_s,
                "aggregate_s": self._aggregate_s,
                "bytes_up": self._stats.bytes_up - up,
                "bytes_down": self._stats.bytes_down - down,
            }
        )
        self._begin(now)
        return found


def kept_peak(path: Path, place: str) -> float | None:
    """Return the peak that was measured in a place, in FLOPs a second; None if none was, or the file is damaged.

    Args:
        place: device, threads and arithmetic.
    """
    try:
        kept: Any = json.loads(path.read_text(encoding="utf-8"))
        found = float(kept["flops"]) if kept["place"] == place else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found is not None and 0 < found < 1e24 else None


def keep_peak(path: Path, place: str, flops: float) -> None:
    """Write down what `kept_peak` reads."""
    write_status(path, {"place": place, "flops": flops})
