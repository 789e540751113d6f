"""A clock and links that are simulated: transfers share rates fairly, and nothing takes the machine's own time."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

Action = Callable[[], None]

FIRST_WINDOW: Final = 14_600
"""Bytes that TCP sends before the first acknowledgement, ten segments (RFC 6928); then twice as many a round trip."""


class Clock:
    """Do what is planned in the order of its time, in seconds from zero."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._planned: list[tuple[float, int, Action]] = []

    def after(self, seconds: float, action: Action) -> None:
        """Plan something."""
        heapq.heappush(self._planned, (self.now + seconds, next(self._order), action))

    def run(self, done: Callable[[], bool], limit_s: float) -> None:
        """Let time pass until something is done.

        Raises:
            RuntimeError: it is not done after so many seconds, or nothing more is planned.
        """
        while not done():
            if not self._planned or self._planned[0][0] > limit_s:
                raise RuntimeError(f"not done after {self.now:.0f} simulated seconds")
            self.now, _, action = heapq.heappop(self._planned)
            action()


@dataclass(eq=False)
class _Flow:
    source: int
    target: int
    left: float  # bytes
    done: Action
    rate: float = 0.0  # bytes a second


@dataclass(eq=False)
class Links:
    """Carry bytes between hosts, each with a link of its own to a network that is not the bottleneck.

    A flow has the lesser of its equal shares of the sender's uplink and the receiver's downlink: what fairness between
    flows gives, or a little less. Over it comes what a transfer waits for: a round trip for the request, and those in
    which TCP's window is still below what the link holds, as on a connection that was idle.

    Attributes:
        rate: bytes a second of each host's link, each way.
        delay_s: from any host to any other, one way.
    """

    clock: Clock
    hosts: int
    rate: float
    delay_s: float
    sent: list[float] = field(default_factory=list)
    received: list[float] = field(default_factory=list)
    _flows: list[_Flow] = field(default_factory=list)
    _since: float = 0.0
    _version: int = 0

    def __post_init__(self) -> None:
        self.sent, self.received = [0.0] * self.hosts, [0.0] * self.hosts

    def fetch(self, source: int, target: int, size: int, done: Action) -> None:
        """Have a host fetch a blob from another."""
        pipe = min(float(size), self.rate * 2 * self.delay_s)
        rounds = max(0.0, math.ceil(math.log2(pipe / FIRST_WINDOW))) if pipe > FIRST_WINDOW else 0.0
        waits = 2 * self.delay_s * (1 + rounds)
        self.clock.after(waits, lambda: self._begin(source, target, size, done))

    def tell(self, source: int, targets: Sequence[int], size: int, heard: Callable[[int], None]) -> None:
        """Have a host send a message to others, one copy after the other."""
        for place, target in enumerate(targets, 1):
            self.sent[source] += size
            self.received[target] += size
            late = place * size / self.rate + self.delay_s
            self.clock.after(late, lambda target=target: heard(target))  # type: ignore[misc]

    def _begin(self, source: int, target: int, size: int, done: Action) -> None:
        self._pass()
        self.sent[source] += size
        self.received[target] += size
        self._flows.append(_Flow(source, target, float(size), done))
        self._share()

    def _pass(self) -> None:
        for flow in self._flows:
            flow.left -= flow.rate * (self.clock.now - self._since)
        self._since = self.clock.now

    def _share(self) -> None:
        for flow in self._flows:
            up = sum(one.source == flow.source for one in self._flows)
            down = sum(one.target == flow.target for one in self._flows)
            flow.rate = self.rate / max(up, down)
        self._version += 1
        if self._flows:
            version = self._version
            soonest = min(flow.left / flow.rate for flow in self._flows)
            self.clock.after(max(0.0, soonest), lambda: self._arrive(version))

    def _arrive(self, version: int) -> None:
        if version != self._version:
            return
        self._pass()
        here = [flow for flow in self._flows if flow.left < 0.5]
        self._flows = [flow for flow in self._flows if flow.left >= 0.5]
        self._share()
        for flow in here:
            flow.done()
