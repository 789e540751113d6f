"""What the network counted: traffic, and every refusal with its reason."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

_REMEMBERED = 1024  # (sender, reason) pairs whose last log line is remembered
_SENDERS = 64  # whose refusals are counted apart; identities cost nothing, so the table is bounded


@dataclass
class NetworkStats:
    """Count bytes, messages and refusals; `refuse` also logs, at most once per sender and kind in `quiet_s`."""

    clock: Callable[[], float]
    quiet_s: float = 10.0
    bytes_up: int = 0
    bytes_down: int = 0
    published: int = 0
    accepted: int = 0
    duplicates: int = 0
    blobs_fetched: int = 0
    blobs_served: int = 0
    syncs: int = 0
    restarts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refused_of: dict[str, Counter[str]] = field(default_factory=dict)  # of the first senders
    on_refuse: list[Callable[[str, str, str], None]] = field(default_factory=list, repr=False)
    _logged: OrderedDict[tuple[str, str], tuple[float, int]] = field(default_factory=OrderedDict, repr=False)

    def refuse(self, kind: str, sender: str, reason: str) -> None:
        """Count a refusal under a short fixed `kind`, log who caused it and why, and tell `on_refuse` all three.

        Args:
            kind: a counter name of our own, never text from a peer, so that peers cannot grow the table.
        """
        self.refused[kind] += 1
        if sender in self.refused_of or len(self.refused_of) < _SENDERS:
            self.refused_of.setdefault(sender, Counter())[kind] += 1
        for told in self.on_refuse:
            told(kind, sender, reason)
        now = self.clock()
        last, suppressed = self._logged.pop((sender, kind), (-self.quiet_s, 0))
        if now - last < self.quiet_s:
            self._logged[sender, kind] = (last, suppressed + 1)
            return
        readable = reason[:300].encode("unicode_escape").decode()  # a peer must not write lines of our log
        more = f" ({suppressed} more since)" if suppressed else ""
        log.warning("ignored %s from %s: %s%s", kind, sender, readable, more)
        self._logged[sender, kind] = (now, 0)
        while len(self._logged) > _REMEMBERED:
            self._logged.popitem(last=False)

    def snapshot(self) -> dict[str, Any]:
        """Return the counters as plain JSON data for a status page."""
        return {
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "published": self.published,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "blobs_fetched": self.blobs_fetched,
            "blobs_served": self.blobs_served,
            "syncs": self.syncs,
            "restarts": self.restarts,
            "refused": dict(self.refused),
            "refused_of": {sender: dict(kinds) for sender, kinds in self.refused_of.items()},
        }
