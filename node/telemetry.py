"""What a contributor shows of itself while it runs, where its operator asked for it: metrics and event files."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import trio

from node.metrics import MetricsServer
from node.unit import Unit
from protocol.event_files import EventFiles


class Telemetry:
    """Show a node's status and units. Use as a context manager."""

    def __init__(self, metrics_port: int | None, events: Path | None, history: Iterable[Unit] = ()) -> None:
        """Begin.

        Args:
            metrics_port: on loopback; 0: any free one; None: no metrics.
            events: directory for event files; None: none are written.
            history: units that were made before.

        Raises:
            ConfigError: the port is taken, the directory cannot be written, or a package is missing.
        """
        self._events = None if events is None else EventFiles(events)
        self._metrics = None if metrics_port is None else MetricsServer(metrics_port)
        for unit in history:
            self._write(unit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._metrics is not None:
            self._metrics.close()
        if self._events is not None:
            self._events.close()

    @property
    def url(self) -> str | None:
        """Return where the metrics are; None where there are none."""
        return None if self._metrics is None else self._metrics.url

    def show(self, status: Mapping[str, Any]) -> None:
        """Give metrics a newer status, which is not changed any more."""
        if self._metrics is not None:
            self._metrics.status = status

    async def add(self, unit: Unit) -> None:
        """Write the figures of a unit that was made."""
        if self._events is not None:
            await trio.to_thread.run_sync(self._write, unit)

    def _write(self, unit: Unit) -> None:
        if self._events is not None:
            figures = unit.work.figures
            self._events.scalars(unit.round, 0.0 if figures is None else figures.at, unit_scalars(unit))
            self._events.flush()


def unit_scalars(unit: Unit) -> dict[str, float | None]:
    """Return the figures of a unit by the names that TensorBoard groups."""
    found: dict[str, float | None] = {
        "loss/train": unit.work.loss,
        "bytes/update": unit.work.blob_bytes,
        "seconds/cpu": unit.work.cpu_s,
    }
    figures = unit.work.figures
    if figures is None:
        return found
    return found | {
        "norm/gradient": figures.gradient_norm,
        "norm/gradient_max": figures.gradient_norm_max,
        "norm/pseudo_gradient": figures.pseudo_gradient_norm,
        "norm/update": figures.update_norm,
        "speed/tokens_per_s": figures.tokens_per_s,
        "speed/round_tokens_per_s": figures.round_tokens_per_s,
        "speed/mfu": figures.mfu,
        "share/communication": figures.communication_share,
        "share/waiting": figures.waiting_share,
        "seconds/training": figures.train_s,
        "seconds/unit": figures.unit_s,
        "seconds/transfer": figures.transfer_s,
        "seconds/aggregation": figures.aggregate_s,
        "seconds/waiting": figures.wait_s,
        "bytes/up": figures.bytes_up,
        "bytes/down": figures.bytes_down,
    }
