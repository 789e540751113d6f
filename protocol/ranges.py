"""Ranges of a blob over one libp2p stream: the wire format, and the asker's end of it.

`/murmur/blob/1.0.0`: the asker writes requests, each a 32-byte BLAKE3 digest, a u64 offset and a u64 length (0: to
the end), and need not wait for one answer before it asks for more. The holder answers them in order, each with a u64
total size of the blob and the bytes asked for, as far as the blob goes; or with one of two sizes no blob has: not here
(or withheld), or busy (ask again later), and no bytes. The asker ends the stream. Integers are big-endian.
"""

import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from protocol.blobs import BlobCorrupt
from protocol.host import close_stream, read_exactly, reason_of
from protocol.stats import NetworkStats

BLOB_PROTOCOL = TProtocol("/murmur/blob/1.0.0")
PIECE_BYTES: Final = 1 << 20  # yamux splits it; smaller writes cost a third of the throughput
NOT_HERE: Final = 2**64 - 1
BUSY: Final = 2**64 - 2
TO_THE_END: Final = 0  # as a length
REQUEST: Final = struct.Struct("!32sQQ")
SIZE: Final = struct.Struct("!Q")


@dataclass(frozen=True)
class ExchangeLimits:
    """Bound what the exchange gives and takes."""

    max_blob_bytes: int = 4 << 30
    max_uploads: int = 4
    max_uploads_per_peer: int = 2
    idle_timeout_s: float = 20.0  # without progress, in either direction
    least_bytes: int = 64 << 10  # that come in each idle timeout, or the transfer counts as stuck
    busy_pause_s: float = 0.5  # before asking busy holders again
    donors: int = 4  # that give parts of one large blob at once


class Refused(Exception):
    """One provider did not deliver; the text says why."""


class Absent(Refused):
    """The provider does not have the blob, or does not give it to us."""


class Busy(Refused):
    """The provider has the blob's name but no upload slot now."""


class Crowded(Busy):
    """The provider has as many transfers to us under way as it gives one peer."""


class Disagrees(Refused):
    """The provider tells another size than somebody else did; who is right is not known."""


class RangeStream:
    """Ask one provider for ranges of one blob, any number ahead, and read the answers in order.

    Every method raises `Refused` for whatever the provider does wrong.
    """

    def __init__(
        self, stream: INetStream, provider: str, digest: str, limits: ExchangeLimits, stats: NetworkStats
    ) -> None:
        self.provider = provider
        self.at = 0  # the next byte of the blob that is to come
        self.left = 0  # bytes of the answer that has begun
        self._stream = stream
        self._digest = bytes.fromhex(digest)
        self._limits = limits
        self._stats = stats
        self._asked: deque[tuple[int, int]] = deque()  # offset, length, of what is not answered
        self._since = self._came = 0.0

    @property
    def settled(self) -> bool:
        """Tell whether everything that was asked for has come."""
        return not self._asked and not self.left

    async def ask(self, offset: int, length: int) -> None:
        """Ask for a range."""
        with self._blaming():
            if self.settled:
                self.at = offset
            self._asked.append((offset, length))
            with trio.fail_after(self._limits.idle_timeout_s):
                await self._stream.write(REQUEST.pack(self._digest, offset, length))

    async def answer(self) -> int:
        """Return the size of the blob, with which the next answer begins; `left` bytes follow, from `at` on.

        Raises:
            Absent, Busy: the provider gives nothing.
        """
        with self._blaming():
            with trio.fail_after(self._limits.idle_timeout_s):
                (total,) = SIZE.unpack(await read_exactly(self._stream, SIZE.size))
            self.at, length = self._asked.popleft()
            if total == NOT_HERE:
                raise Absent("does not have it")
            if total == BUSY:
                raise Busy("busy")
            rest = max(0, total - self.at)
            self.left = rest if length == TO_THE_END else min(rest, length)
            self._since, self._came = trio.current_time(), 0
            return int(total)

    async def read(self, most: int) -> bytes:
        """Return the next bytes of the answer that has begun, up to so many."""
        with self._blaming():
            now = trio.current_time()
            if now - self._since > self._limits.idle_timeout_s:
                if self._came < self._limits.least_bytes:
                    raise Refused(f"only {self._came} bytes in {self._limits.idle_timeout_s:g} s")
                self._since, self._came = now, 0
            with trio.fail_after(self._limits.idle_timeout_s):
                piece = await self._stream.read(min(most, self.left))
            if not piece:
                raise EOFError("stream ended early")
            self._stats.bytes_down += len(piece)
            self.at += len(piece)
            self.left -= len(piece)
            self._came += len(piece)
            return piece

    async def close(self) -> None:
        """End the stream, and what is still to come on it."""
        await close_stream(self._stream, reset=not self.settled)

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        with blaming(self._limits, self._stats, self.provider, lambda: self.at):
            yield


@contextmanager
def blaming(
    limits: ExchangeLimits, stats: NetworkStats, provider: str, at: Callable[[], int]
) -> Iterator[None]:
    """Turn what breaks a transfer into what is said of the provider."""
    try:
        yield
    except trio.TooSlowError:
        raise Refused(f"no progress for {limits.idle_timeout_s:g} s") from None
    except (Refused, BlobCorrupt):
        raise
    except Exception as error:  # the edge of a stream: libp2p raises many unrelated classes here
        stats.refuse("broken blob transfer", provider, repr(error))
        raise Refused(f"transfer broke at byte {at()}: {reason_of(error)}") from error


@asynccontextmanager
async def open_ranges(
    host: IHost, provider: str, digest: str, limits: ExchangeLimits, stats: NetworkStats
) -> AsyncIterator[RangeStream]:
    """Open a stream to a provider; what goes wrong in the block counts as its transfer breaking.

    Raises:
        Refused: it cannot be reached, or did wrong.
    """
    ranges: RangeStream | None = None
    with blaming(limits, stats, provider, lambda: ranges.at if ranges is not None else 0):
        with trio.fail_after(limits.idle_timeout_s):
            stream = await host.new_stream(ID.from_string(provider), [BLOB_PROTOCOL])
        ranges = RangeStream(stream, provider, digest, limits, stats)
        try:
            yield ranges
        finally:
            await ranges.close()
