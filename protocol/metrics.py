"""Metrics as Prometheus reads them, made anew from plain data at every question.

Names begin with `murmur_` and end with their unit (https://prometheus.io/docs/practices/naming/). What has no value yet
is left out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
OWN_WORD: Final = "as the peer itself says, which nobody checks"

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """Hold one metric: its name, what it means, and its values by the values of its labels."""

    name: str  # of a counter without `_total`, which Prometheus' format adds
    help: str
    values: Iterable[tuple[Labels, float | None]]
    labels: Labels = ()
    counter: bool = field(default=False)


def reading(name: str, help_: str, value: float | None, *, counter: bool = False) -> Reading:
    """Return a metric without labels."""
    return Reading(name, help_, [((), value)], counter=counter)


class _Readings(Collector):
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for one in self._read():
            kind = CounterMetricFamily if one.counter else GaugeMetricFamily
            family = kind(one.name, one.help, labels=one.labels)
            for labels, value in one.values:
                if value is not None:
                    family.add_metric(labels, value)
            if family.samples:
                yield family


def registry(read: Callable[[], Iterable[Reading]]) -> CollectorRegistry:
    """Return a registry whose metrics are read when they are asked for."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Readings(read))
    return found


def exposition(read: Callable[[], Iterable[Reading]]) -> bytes:
    """Return the text that Prometheus scrapes."""
    return generate_latest(registry(read))
