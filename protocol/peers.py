"""Whom to call: known addresses, which of them answered, and when to try again. No clock and no socket in here."""

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from protocol.host import parse_address

MAX_PEERS = 512
ADDRESSES_PER_PEER = 4
FORGET_AFTER_FAILURES = 8


@dataclass
class _Entry:
    addresses: OrderedDict[str, None] = field(default_factory=OrderedDict)
    keep: bool = False  # from the user's configuration: never forgotten
    proven: bool = False  # this peer id spoke to us at some time
    failures: int = 0
    next_try: float = 0.0


class PeerBook:
    """Remember a bounded number of peers; what strangers tell never displaces bootstrap or proven peers."""

    def __init__(
        self, own: str, *, first_pause_s: float, max_pause_s: float, kept_max_pause_s: float
    ) -> None:
        """Know nobody yet.

        Args:
            first_pause_s: after a failed dial; each further one doubles it, up to
            max_pause_s: for whom others told of, and
            kept_max_pause_s: for whom the user's configuration names.
        """
        self._own = own
        self._kept_max_pause_s = kept_max_pause_s
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def add(self, address: str, *, keep: bool = False, teller: str | None = None) -> None:
        """Note a full address.

        Args:
            keep: it comes from the user's configuration and is never forgotten.
            teller: the peer that told it; what it says about others counts only where nothing is known.

        Raises:
            ConfigError: it is not one.
        """
        parsed = str(parse_address(address, with_peer=True))
        peer = parsed.rpartition("/p2p/")[2]
        entry = self._entries.get(peer)
        hearsay = teller is not None and teller != peer
        if peer == self._own or (hearsay and entry is not None):
            return
        if entry is None:
            if len(self._entries) >= MAX_PEERS and not self._make_room():
                return
            entry = self._entries[peer] = _Entry()
        entry.keep = entry.keep or keep
        entry.proven = entry.proven or teller == peer
        entry.addresses.pop(parsed, None)
        entry.addresses[parsed] = None
        while len(entry.addresses) > ADDRESSES_PER_PEER:
            entry.addresses.popitem(last=False)

    def _make_room(self) -> bool:
        for peer, entry in self._entries.items():
            if not entry.keep and not entry.proven:
                del self._entries[peer]
                return True
        return False

    def addresses(self, peer: str) -> list[str]:
        """Return the addresses known for a peer, the newest first."""
        entry = self._entries.get(peer)
        return [] if entry is None else list(reversed(entry.addresses))

    def proven(self) -> list[str]:
        """Return one address of every peer that answered, fit to be told to others."""
        return [next(reversed(e.addresses)) for e in self._entries.values() if e.proven and e.addresses]

    def due(self, now: float, connected: AbstractSet[str], target: int) -> list[str]:
        """Return the peers to dial now: every bootstrap peer that is away, then others until `target` are connected."""
        away = [(peer, e) for peer, e in self._entries.items() if peer not in connected and e.next_try <= now]
        kept = [peer for peer, entry in away if entry.keep]
        room = max(0, target - len(connected) - len(kept))
        return kept + [peer for peer, entry in away if not entry.keep][:room]

    def succeeded(self, peer: str) -> None:
        """Note that a peer answered."""
        if entry := self._entries.get(peer):
            entry.proven = True
            entry.failures = 0
            entry.next_try = 0.0

    def lost(self, peer: str, now: float) -> None:
        """Note that a connection ended; it is tried again after the first pause."""
        if entry := self._entries.get(peer):
            entry.next_try = now + self._first_pause_s

    def failed(self, peer: str, now: float) -> None:
        """Note a failed dial: the pause doubles, and a stranger that never comes back is forgotten."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.failures += 1
        longest = self._kept_max_pause_s if entry.keep else self._max_pause_s
        doublings = min(entry.failures - 1, 32)  # whom we keep may be away for weeks, and floats end
        entry.next_try = now + min(self._first_pause_s * 2**doublings, longest)
        if entry.failures >= FORGET_AFTER_FAILURES and not entry.keep:
            del self._entries[peer]
