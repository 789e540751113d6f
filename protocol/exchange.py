"""Blobs over libp2p streams: resumable, hashed, bounded in size, in time and in the number of uploads.

`/murmur/blob/1.0.0`: the asker writes a 32-byte BLAKE3 digest and a u64 offset; the holder answers a u64
total size and the bytes from that offset, or one of two sizes no blob has: not here (or withheld), or busy (ask
again later). Integers are big-endian.
"""

import logging
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID

from protocol.blobs import BlobCorrupt, BlobMissing, BlobStore, Partial
from protocol.errors import NetworkError
from protocol.host import close_stream, read_exactly, reason_of
from protocol.stats import NetworkStats

log = logging.getLogger(__name__)

BLOB_PROTOCOL = TProtocol("/murmur/blob/1.0.0")
PIECE_BYTES = 1 << 20  # yamux splits it; smaller writes cost a third of the throughput
NOT_HERE = 2**64 - 1
BUSY = 2**64 - 2
UNDER_WAY = "under way"  # what is said of a provider until its transfer ends
_REQUEST = struct.Struct("!32sQ")
_SIZE = struct.Struct("!Q")


@dataclass(frozen=True)
class ExchangeLimits:
    """Bound what the exchange gives and takes."""

    max_blob_bytes: int = 4 << 30
    max_uploads: int = 4
    max_uploads_per_peer: int = 2
    idle_timeout_s: float = 20.0  # without progress, in either direction
    least_bytes: int = 64 << 10  # that come in each idle timeout, or the transfer counts as stuck
    busy_pause_s: float = 0.5  # before asking busy holders again


class _Refused(Exception):
    """One provider did not deliver; the text says why."""


class _Absent(_Refused):
    """The provider does not have the blob, or does not give it to us."""


class _Busy(_Refused):
    """The provider has the blob's name but no upload slot now."""


class _Crowded(_Busy):
    """The provider has as many transfers to us under way as it gives one peer."""


class BlobExchange:
    """Serve blobs of a store to peers, and fetch blobs into it."""

    def __init__(
        self,
        host: IHost,
        store: BlobStore,
        stats: NetworkStats,
        *,
        limits: ExchangeLimits = ExchangeLimits(),
        may_serve: Callable[[str, str], bool] = lambda peer, digest: True,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._host = host
        self._store = store
        self._stats = stats
        self._limits = limits
        self._may_serve = may_serve
        self._changed = changed
        self._uploads: Counter[str] = Counter()
        self._places: dict[str, trio.CapacityLimiter] = {}  # of ours, by provider
        self._fetching: dict[str, trio.Lock] = {}
        self._doubted: set[str] = set()  # who stalled, broke off or lied, and delivered nothing since
        host.set_stream_handler(BLOB_PROTOCOL, self._serve)

    async def fetch(self, digest: str, providers: Sequence[str], *, max_size: int, deadline_s: float) -> Path:
        """Fetch a blob from the first provider that delivers it, and return its verified file.

        A broken transfer resumes where it stopped, from the next provider. Busy providers are asked again
        until the deadline. Whoever failed in the middle of a transfer is asked last from then on, until it delivers,
        so that the next attempt does not begin with the donor that spoilt this one.

        Args:
            providers: peer ids, in the order to try.
            max_size: bytes allowed; the exchange's own limit also holds.
            deadline_s: seconds from now for everything.

        Raises:
            NetworkError: nobody delivered; the message lists each provider's reason.
        """
        lock = self._fetching.setdefault(digest, trio.Lock())
        reasons: dict[str, str] = {}
        ordered = sorted(dict.fromkeys(providers), key=lambda provider: provider in self._doubted)
        try:
            with trio.fail_after(deadline_s):
                async with lock:
                    if self._store.has(digest):
                        return self._store.path(digest)
                    return await self._fetch_from(digest, ordered, max_size, reasons)
        except trio.TooSlowError:
            self._doubted.update(one for one, reason in reasons.items() if reason == UNDER_WAY)
            raise self._failure(digest, "not complete at its deadline", reasons) from None
        finally:
            if not lock.statistics().locked and lock.statistics().tasks_waiting == 0:
                self._fetching.pop(digest, None)

    async def _fetch_from(
        self, digest: str, providers: list[str], max_size: int, reasons: dict[str, str]
    ) -> Path:
        limit = min(max_size, self._limits.max_blob_bytes)
        while providers:
            busy: list[str] = []
            pause = 0.0
            for provider in providers:
                # The likeliest is waited for: the next ones are often strangers who have to be asked in vain.
                patience = self._limits.busy_pause_s if provider == providers[0] else 0.0
                try:
                    async with self._place(provider, patience):
                        reasons[provider] = UNDER_WAY
                        path = await self._fetch_one(digest, provider, limit)
                except _Busy as error:
                    busy.append(provider)
                    reasons[provider] = str(error)
                    if not isinstance(error, _Crowded):
                        pause = self._limits.busy_pause_s
                except _Refused as error:
                    reasons[provider] = str(error)
                    if not isinstance(error, _Absent):
                        self._doubted.add(provider)
                    log.info("blob %s not from %s: %s", digest[:16], provider, error)
                else:
                    self._stats.blobs_fetched += 1
                    self._doubted.discard(provider)
                    return path
            providers = busy
            if pause:
                await trio.sleep(pause)
        raise self._failure(digest, "no provider delivered", reasons)

    @asynccontextmanager
    async def _place(self, provider: str, patience_s: float) -> AsyncIterator[None]:
        """Take one of the places that a provider has for us: asking beyond them costs both sides a refusal.

        Raises:
            _Crowded: none got free in time.
        """
        places = self._places.setdefault(provider, trio.CapacityLimiter(self._limits.max_uploads_per_peer))
        try:
            try:
                places.acquire_nowait()
            except trio.WouldBlock:
                with trio.move_on_after(patience_s) as waiting:
                    await places.acquire()
                if waiting.cancelled_caught:
                    raise _Crowded("busy with us") from None
            try:
                yield
            finally:
                places.release()
        finally:
            unused = not places.borrowed_tokens and not places.statistics().tasks_waiting
            if unused and self._places.get(provider) is places:
                del self._places[provider]

    @staticmethod
    def _failure(digest: str, what: str, reasons: dict[str, str]) -> NetworkError:
        told = (
            "; ".join(f"{provider}: {reason}" for provider, reason in reasons.items())
            or "no provider is known"
        )
        return NetworkError(f"blob {digest[:16]}: {what} ({told})")

    async def _fetch_one(self, digest: str, provider: str, limit: int) -> Path:
        with await trio.to_thread.run_sync(self._store.begin, digest) as partial:
            resumed = partial.offset > 0
            try:
                return await self._transfer(partial, provider, limit)
            except BlobCorrupt as error:
                if not resumed:
                    self._stats.refuse("blob with a wrong hash", provider, str(error))
                    raise _Refused(str(error)) from error
        # The earlier bytes came from somebody else: this provider gets one transfer of its own before it is
        # blamed.
        with self._store.begin(digest) as partial:
            try:
                return await self._transfer(partial, provider, limit)
            except BlobCorrupt as error:
                self._stats.refuse("blob with a wrong hash", provider, str(error))
                raise _Refused(str(error)) from error

    async def _transfer(self, partial: Partial, provider: str, limit: int) -> Path:
        stream: INetStream | None = None
        done = False
        try:
            with trio.fail_after(self._limits.idle_timeout_s):
                stream = await self._host.new_stream(ID.from_string(provider), [BLOB_PROTOCOL])
                await stream.write(_REQUEST.pack(bytes.fromhex(partial.digest), partial.offset))
                (total,) = _SIZE.unpack(await read_exactly(stream, _SIZE.size))
            if total == NOT_HERE:
                done = True
                raise _Absent("does not have it")
            if total == BUSY:
                done = True
                raise _Busy("busy")
            if total > limit:
                self._stats.refuse(
                    "oversized blob", provider, f"{total} bytes where at most {limit} are allowed"
                )
                raise _Refused(f"offers {total} bytes, at most {limit} are allowed")
            if total < partial.offset:
                await trio.to_thread.run_sync(partial.restart)
                raise _Refused(f"offers {total} bytes, fewer than are already here")
            await self._receive(stream, partial, total)
            done = True
            return await trio.to_thread.run_sync(partial.finish)
        except trio.TooSlowError:
            raise _Refused(f"no progress for {self._limits.idle_timeout_s:g} s") from None
        except (_Refused, BlobCorrupt):
            raise
        except Exception as error:  # the edge of a stream: libp2p raises many unrelated classes here
            self._stats.refuse("broken blob transfer", provider, repr(error))
            raise _Refused(f"transfer broke at byte {partial.offset}: {reason_of(error)}") from error
        finally:
            if stream is not None:
                await close_stream(stream, reset=not done)

    async def _receive(self, stream: INetStream, partial: Partial, total: int) -> None:
        pending = bytearray()
        since, so_far = trio.current_time(), partial.offset
        try:
            while partial.offset + len(pending) < total:
                with trio.fail_after(self._limits.idle_timeout_s):
                    piece = await stream.read(min(PIECE_BYTES, total - partial.offset - len(pending)))
                if not piece:
                    raise EOFError("stream ended early")
                self._stats.bytes_down += len(piece)
                pending += piece
                if trio.current_time() - since > self._limits.idle_timeout_s:
                    came = partial.offset + len(pending) - so_far
                    if came < self._limits.least_bytes:
                        raise _Refused(f"only {came} bytes in {self._limits.idle_timeout_s:g} s")
                    since, so_far = trio.current_time(), so_far + came
                if len(pending) >= PIECE_BYTES:
                    full, pending = pending, bytearray()
                    await trio.to_thread.run_sync(partial.append, full)
        finally:
            if pending:
                partial.append(pending)

    async def _serve(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        complete = False
        try:
            with trio.fail_after(self._limits.idle_timeout_s):
                raw, offset = _REQUEST.unpack(await read_exactly(stream, _REQUEST.size))
            complete = await self._answer(stream, peer, raw.hex(), offset)
        except trio.TooSlowError:
            self._stats.refuse(
                "slow blob request", peer, f"no progress for {self._limits.idle_timeout_s:g} s"
            )
        except StreamError:  # it hung up, which is nobody's fault
            self._stats.refused["abandoned blob request"] += 1
        except Exception as error:  # noqa: BLE001 -- the edge of a stream: what a peer provoked ends here
            self._stats.refuse("broken blob request", peer, repr(error))
        finally:
            self._changed()
            await close_stream(stream, reset=not complete)

    async def _answer(self, stream: INetStream, peer: str, digest: str, offset: int) -> bool:
        if not self._may_serve(peer, digest):
            self._stats.refuse("blob request not allowed", peer, digest[:16])
            return await self._say(stream, NOT_HERE)
        if not self._store.offers(digest):
            return await self._say(stream, NOT_HERE)
        try:
            path = self._store.path(digest)
            size = path.stat().st_size
        except (BlobMissing, FileNotFoundError):
            return await self._say(stream, NOT_HERE)
        if offset > size:
            self._stats.refuse("blob request beyond the end", peer, f"offset {offset} of {size}")
            return await self._say(stream, size)
        if (
            self._uploads[peer] >= self._limits.max_uploads_per_peer
            or self._uploads.total() >= self._limits.max_uploads
        ):
            self._stats.refused["upload slots full"] += 1
            return await self._say(stream, BUSY)
        self._uploads[peer] += 1
        try:
            return await self._upload(stream, path, size, offset)
        finally:
            self._uploads[peer] -= 1
            if not self._uploads[peer]:
                del self._uploads[peer]

    async def _upload(self, stream: INetStream, path: Path, size: int, offset: int) -> bool:
        await self._say(stream, size)
        async with await trio.open_file(path, "rb") as file:
            await file.seek(offset)
            while offset < size:
                piece = await file.read(min(PIECE_BYTES, size - offset))
                if not piece:
                    return False  # the file shrank under us: a reset tells the asker, its hash would anyway
                with trio.fail_after(self._limits.idle_timeout_s):
                    await stream.write(piece)
                offset += len(piece)
                self._stats.bytes_up += len(piece)
        self._stats.blobs_served += 1
        return True

    async def _say(self, stream: INetStream, size: int) -> bool:
        with trio.fail_after(self._limits.idle_timeout_s):
            await stream.write(_SIZE.pack(size))
        return True
