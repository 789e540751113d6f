"""One large blob from several providers at once: each works on the next piece that nobody has.

Pieces are appended to the download in order, so that its hash, its bounds and what is kept of a broken one are those of
a download from one provider. At most `WINDOW_PIECES` from the first missing one on are asked for, or wait for it. Where
a slow provider holds up the others, they take its pieces too, and whoever delivers first wins. A whole blob with a
wrong hash tells nothing about who lied, but each piece is remembered with its own hash until the right blob is here
(`liars`).
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from blake3 import blake3

from protocol.blobs import BlobCorrupt, Partial
from protocol.ranges import (
    PIECE_BYTES,
    Absent,
    Busy,
    Crowded,
    Disagrees,
    ExchangeLimits,
    RangeStream,
    Refused,
)

FIRST_PIECES: Final = 4  # asked for in one request, before the size of the blob is known
STRIPE_BYTES: Final = 8 << 20  # what is missing, from which on others are asked
WINDOW_PIECES: Final = 32
AHEAD_S: Final = 0.25
"""So much is asked ahead, by a provider's rate so far: the longest round trip that costs nothing."""
LEAST_AHEAD: Final = 2  # pieces, what is coming included
MOST_AHEAD: Final = 6
UNDER_WAY: Final = "under way"  # what is said of a provider until its transfer ends


class Spoilt(BlobCorrupt):
    """Report bytes of several providers that do not hash to their name: nobody can be blamed yet."""

    def __init__(self, message: str, parts: "list[Part]") -> None:
        super().__init__(message)
        self.parts = parts


@dataclass
class Candidates:
    """Who may have a blob: whom to ask next, and what became of the others."""

    waiting: list[str]
    doubted: set[str]  # of all blobs: who stalled, broke off or lied, and delivered nothing since
    busy: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)  # to be asked alone
    reasons: dict[str, str] = field(default_factory=dict)
    crowded: bool = True  # whoever is busy is so with us, and waited for where its place is taken

    def note(self, provider: str, error: Refused) -> None:
        """Remember why a provider did not deliver."""
        self.reasons[provider] = str(error)
        if provider in self.waiting or provider in self.busy or provider in self.later:
            return
        if isinstance(error, Busy):
            self.busy.append(provider)
            self.crowded = self.crowded and isinstance(error, Crowded)
        elif isinstance(error, Disagrees):
            self.later.append(provider)
        elif not isinstance(error, Absent):
            self.doubted.add(provider)

    def again(self) -> None:
        """Let those who were busy be asked again."""
        self.waiting += self.busy
        self.busy, self.crowded = [], True

    def trust(self, providers: Iterable[str]) -> None:
        """Doubt those no longer who delivered and did nothing else."""
        self.doubted.difference_update(one for one in providers if self.reasons.get(one) == UNDER_WAY)


@dataclass(frozen=True)
class Part:
    """Remember who gave which bytes of a blob."""

    provider: str
    offset: int
    length: int
    digest: bytes


def liars(parts: Iterable[Part], path: Path) -> set[str]:
    """Return the providers of parts that are not those of the right blob."""
    with path.open("rb") as file:

        def right(part: Part) -> bool:
            file.seek(part.offset)
            return blake3(file.read(part.length)).digest() == part.digest

        return {part.provider for part in parts if not right(part)}


class Window:
    """Say who fetches which piece, and hold those that wait for an earlier one. Nothing here waits or reads."""

    def __init__(
        self, start: int, total: int, *, piece_bytes: int = PIECE_BYTES, pieces: int = WINDOW_PIECES
    ) -> None:
        self._start = start
        self._total = total
        self._piece_bytes = piece_bytes
        self._pieces = pieces
        self.count = -(-(total - start) // piece_bytes)
        self.head = 0  # the first piece that is not appended
        self._fresh = 0  # the first piece that nobody ever took
        self._returned: list[int] = []  # a heap
        self._holders: dict[int, set[str]] = {}
        self._ready: dict[int, tuple[str, bytes | bytearray]] = {}

    @property
    def finished(self) -> bool:
        """Tell whether every piece is appended."""
        return self.head == self.count

    @property
    def untaken(self) -> bool:
        """Tell whether there are pieces that nobody fetches."""
        return self._fresh < self.count or bool(self._returned)

    @property
    def waiting_bytes(self) -> int:
        """Return how much waits for an earlier piece."""
        return sum(len(data) for _, data in self._ready.values())

    def span(self, piece: int) -> tuple[int, int]:
        """Return a piece's offset in the blob and its length."""
        offset = self._start + piece * self._piece_bytes
        return offset, min(self._piece_bytes, self._total - offset)

    def take(self, provider: str, *, idle: bool) -> int | None:
        """Give a provider a piece; to an idle one also a piece that is another's, if there is no other.

        Of those it takes the one of the fewest providers, and of these the first, which holds up the rest.
        """
        piece: int | None = None
        if self._returned:
            piece = heapq.heappop(self._returned)
        elif self._fresh < min(self.count, self.head + self._pieces):
            piece = self._fresh
            self._fresh += 1
        elif idle:
            others = [(len(held), one) for one, held in self._holders.items() if provider not in held]
            piece = min(others)[1] if others else None
        if piece is not None:
            self._holders.setdefault(piece, set()).add(provider)
        return piece

    def deliver(self, provider: str, piece: int, data: bytes | bytearray) -> None:
        """Take a piece, unless somebody else was faster."""
        if self._holders.pop(piece, None) is not None:
            self._ready[piece] = provider, data

    def leave(self, provider: str) -> None:
        """Give the pieces of a provider that is gone to others."""
        for piece, held in [*self._holders.items()]:
            held.discard(provider)
            if not held:
                del self._holders[piece]
                heapq.heappush(self._returned, piece)

    def next(self) -> tuple[str, bytes | bytearray] | None:
        """Return the piece to append next and whose it is, if it is here; `appended` lets it go."""
        return self._ready.get(self.head)

    def appended(self) -> None:
        """Note that the next piece is in the download."""
        del self._ready[self.head]
        self.head += 1


class Stripe:
    """Fetch the rest of one blob from a first provider, whose answer has begun, and from others who have it."""

    def __init__(
        self,
        partial: Partial,
        total: int,
        candidates: Candidates,
        limits: ExchangeLimits,
        *,
        fit: Callable[[str], bool],
        connect: Callable[[str], AbstractAsyncContextManager[RangeStream]],
    ) -> None:
        """Begin at the bytes that are here.

        Args:
            fit: tells who may give parts.
            connect: opens a stream to a provider in a place that it has for us; raises `Refused`.
        """
        self.parts: list[Part] = []
        self._partial = partial
        self._total = total
        self._candidates = candidates
        self._limits = limits
        self._fit = fit
        self._connect = connect
        self._window = Window(partial.offset, total)
        self._coming: dict[str, tuple[int, bytearray]] = {}  # the piece that each is delivering
        self._working: set[str] = set()
        self._appending = trio.Lock()
        self._moved = trio.Event()
        self._broken: Exception | None = None  # our own disk, which is no provider's fault

    @property
    def providers(self) -> set[str]:
        """Return who gave parts of the blob."""
        return {part.provider for part in self.parts}

    async def run(self, first: RangeStream) -> None:
        """Append everything that is missing. What comes in order stays for a later attempt if this one ends before.

        Raises:
            Refused: nobody is left who delivers; the reason is that of the first provider.
        """
        failed: list[Refused] = []

        async def begin() -> None:
            held = [self._window.take(first.provider, idle=True) for _ in range(FIRST_PIECES)]
            try:
                await self._draw(first, deque(piece for piece in held if piece is not None))
            except Refused as error:
                failed.append(error)
                self._candidates.note(first.provider, error)
            finally:
                await first.close()
                self._gone(first.provider)

        try:
            async with trio.open_nursery() as nursery:
                self._working.add(first.provider)
                nursery.start_soon(begin)
                nursery.start_soon(self._ask_busy_ones_again)
                while not self._window.finished and self._broken is None:
                    provider = self._another()
                    if provider is not None:
                        self._working.add(provider)
                        nursery.start_soon(self._donate, provider)
                    elif self._working:
                        await self._moved.wait()
                    else:
                        break
                nursery.cancel_scope.cancel()
        finally:
            if self._broken is None:
                self._keep()
        if self._broken is not None:
            raise self._broken
        if not self._window.finished:
            raise failed[0] if failed else Refused("nobody is left who delivers")

    def _another(self) -> str | None:
        """Choose whom to ask, if there is work for one more."""
        if len(self._working) >= self._limits.donors or (self._working and not self._window.untaken):
            return None
        waiting = self._candidates.waiting
        chosen = next((one for one in waiting if one not in self._working and self._fit(one)), None)
        if chosen is not None:
            waiting.remove(chosen)
        return chosen

    async def _donate(self, provider: str) -> None:
        candidates = self._candidates
        try:
            async with self._connect(provider) as ranges:
                candidates.reasons[provider] = UNDER_WAY
                await self._draw(ranges, deque())
        except Refused as error:
            candidates.note(provider, error)
        finally:
            self._gone(provider)

    def _gone(self, provider: str) -> None:
        # What it gave of the piece in progress stays in `_coming`: it may be the next that is missing.
        self._working.discard(provider)
        self._window.leave(provider)
        self._notify()

    async def _ask_busy_ones_again(self) -> None:
        while True:
            await trio.sleep(self._limits.busy_pause_s)
            if self._candidates.busy:
                self._candidates.again()
                self._notify()

    async def _draw(self, ranges: RangeStream, held: deque[int]) -> None:
        """Take pieces from one provider until the blob is whole."""
        provider, began, came = ranges.provider, trio.current_time(), 0
        ahead = LEAST_AHEAD if held else 1  # a stranger may have nothing
        while True:
            await self._ask_ahead(ranges, held, ahead)
            if not held:
                await self._moved.wait()
                continue
            if not ranges.left:
                total = await ranges.answer()
                if total != self._total:
                    raise Disagrees(f"offers {total} bytes where {self._total} were told")
                lasting = trio.current_time() - began
                worth = int(AHEAD_S * came / lasting / PIECE_BYTES) if lasting else 0
                ahead = max(LEAST_AHEAD, min(MOST_AHEAD, worth))
                await self._ask_ahead(ranges, held, ahead)
            data = bytearray()
            self._coming[provider] = held[0], data
            _, length = self._window.span(held[0])
            while len(data) < length:
                data += await ranges.read(length - len(data))
            came += length
            del self._coming[provider]
            self._window.deliver(provider, held.popleft(), data)
            await self._append()

    async def _ask_ahead(self, ranges: RangeStream, held: deque[int], ahead: int) -> None:
        while len(held) < ahead:
            piece = self._window.take(ranges.provider, idle=not held)
            if piece is None:
                return
            held.append(piece)
            await ranges.ask(*self._window.span(piece))

    async def _append(self) -> None:
        async with self._appending:
            while self._broken is None and (ready := self._window.next()) is not None:
                try:
                    await trio.to_thread.run_sync(self._write, *ready)
                except Exception as error:  # noqa: BLE001 -- raised by `run`: it is not this provider's doing
                    self._broken = error
                else:
                    self._window.appended()
        self._notify()

    def _write(self, provider: str, data: bytes | bytearray) -> None:
        offset = self._partial.offset
        self._partial.append(data)
        self.parts.append(Part(provider, offset, len(data), blake3(data).digest()))

    def _keep(self) -> None:
        """Append what is here of an unfinished blob up to its first gap."""
        while (ready := self._window.next()) is not None:
            self._write(*ready)
            self._window.appended()
        best = max(self._first_missing(), key=len, default=None)
        if best:
            self._partial.append(best)

    def _first_missing(self) -> Iterator[bytearray]:
        return (data for piece, data in self._coming.values() if piece == self._window.head)

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
