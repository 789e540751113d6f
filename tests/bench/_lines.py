"""How long packets take over links of a rate and a delay, and which are lost; time is the caller's.

A host's link runs from it to the middle of the network and back. A packet waits until the line has sent what came
before it, takes its size over the rate, travels for the delay, and does the same again on the line down to its
destination. What would wait longer than a line's buffer lasts is dropped, as a router drops it.
"""

import heapq
from dataclasses import dataclass
from typing import Final

MBIT: Final = 1e6


@dataclass(frozen=True)
class Link:
    """Say what one host's link is like, the same up and down.

    Args:
        rate: bits a second, shared by all connections of the host; None: no limit.
        delay_s: between the host and the middle, each way: a packet between two such hosts takes it twice.
        buffer_s: how long data may wait for its line.
    """

    rate: float | None = None
    delay_s: float = 0.0
    buffer_s: float = 0.1

    def __post_init__(self) -> None:
        if (self.rate is not None and self.rate <= 0) or self.delay_s < 0 or self.buffer_s <= 0:
            raise ValueError(f"no link is like that: {self}")


class Line:
    """One direction of a link, on which one packet is sent after the other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._free_at = 0.0
        self.bytes = 0  # that were sent
        self.dropped = 0  # packets

    def send(self, now: float, size: int) -> float | None:
        """Return when so many bytes that come at `now` are at the other end; None if they are dropped."""
        link = self._link
        start = max(now, self._free_at)
        if link.rate is not None:
            if start - now > link.buffer_s:
                self.dropped += 1
                return None
            start = self._free_at = start + 8 * size / link.rate
        self.bytes += size
        return start + link.delay_s


class Middle:
    """Join hosts by their links. Packets to a host come in the order in which they reached the middle."""

    def __init__(self, links: list[Link]) -> None:
        self.up = [Line(link) for link in links]
        self.down = [Line(link) for link in links]
        self._waiting: list[
            tuple[float, int, bool, int, bytes]
        ] = []  # when, order, at its end, whither, what
        self._taken = 0

    def take(self, now: float, source: int, destination: int, packet: bytes) -> None:
        """Take a packet from its source."""
        self._wait(self.up[source].send(now, len(packet)), False, destination, packet)

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Return what has arrived by now, in order, each with its destination.

        Being asked late makes one arrival late and nothing else: lines are busy as if each had been sent in time.
        """
        arrived = []
        while self._waiting and self._waiting[0][0] <= now:
            when, _, at_its_end, destination, packet = heapq.heappop(self._waiting)
            if at_its_end:
                arrived.append((destination, packet))
            else:
                self._wait(self.down[destination].send(when, len(packet)), True, destination, packet)
        return arrived

    def next(self) -> float | None:
        """Return when to ask again; None: when another packet was taken."""
        return self._waiting[0][0] if self._waiting else None

    def _wait(self, until: float | None, at_its_end: bool, destination: int, packet: bytes) -> None:
        if until is not None:
            self._taken += 1
            heapq.heappush(self._waiting, (until, self._taken, at_its_end, destination, packet))
