"""Blobs over libp2p streams: resumable, hashed, bounded in size, in time and in the number of uploads.

`protocol.ranges` describes what goes over the wire, `protocol.striping` how several providers give parts of one blob.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.network.stream.exceptions import StreamError

from protocol.blobs import BlobCorrupt, BlobMissing, BlobStore, Partial
from protocol.errors import NetworkError
from protocol.host import close_stream, read_exactly
from protocol.ranges import (
    BLOB_PROTOCOL,
    BUSY,
    NOT_HERE,
    PIECE_BYTES,
    REQUEST,
    SIZE,
    TO_THE_END,
    Crowded,
    ExchangeLimits,
    RangeStream,
    Refused,
    open_ranges,
)
from protocol.stats import NetworkStats
from protocol.striping import (
    FIRST_PIECES,
    STRIPE_BYTES,
    UNDER_WAY,
    Candidates,
    Part,
    Spoilt,
    Stripe,
    liars,
)

log = logging.getLogger(__name__)

SPOILT: Final = 64  # blobs whose parts of several providers did not make the whole, remembered at most


@dataclass(frozen=True)
class _Wanted:
    """A blob to fetch."""

    digest: str
    limit: int  # bytes
    shared: bool
    candidates: Candidates


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
        self._liars: set[str] = set()  # who gave other bytes than the blob's, and is only asked alone
        self._spoilt: dict[str, list[Part]] = {}  # blobs that come from one provider at a time, and why
        host.set_stream_handler(BLOB_PROTOCOL, self._serve)

    async def fetch(
        self, digest: str, providers: Sequence[str], *, max_size: int, deadline_s: float, shared: bool = False
    ) -> Path:
        """Fetch a blob from the first provider that delivers it, and return its verified file.

        A broken transfer resumes where it stopped, from the next provider. Busy providers are asked again
        until the deadline. Whoever failed in the middle of a transfer is asked last from then on, until it delivers,
        so that the next attempt does not begin with the donor that spoilt this one.

        Args:
            providers: peer ids, in the order to try.
            max_size: bytes allowed; the exchange's own limit also holds.
            deadline_s: seconds from now for everything.
            shared: many of the providers are likely to have it. Once the first that does tells a large size, others
                are asked for parts of it at the same time.

        Raises:
            NetworkError: nobody delivered; the message lists each provider's reason.
        """
        lock = self._fetching.setdefault(digest, trio.Lock())
        ordered = sorted(dict.fromkeys(providers), key=lambda provider: provider in self._doubted)
        candidates = Candidates(ordered, self._doubted)
        limit = min(max_size, self._limits.max_blob_bytes)
        try:
            with trio.fail_after(deadline_s):
                async with lock:
                    if self._store.has(digest):
                        return self._store.path(digest)
                    return await self._fetch_from(_Wanted(digest, limit, shared, candidates))
        except trio.TooSlowError:
            reasons = candidates.reasons
            self._doubted.update(one for one, reason in reasons.items() if reason == UNDER_WAY)
            raise self._failure(digest, "not complete at its deadline", reasons) from None
        finally:
            if not lock.statistics().locked and lock.statistics().tasks_waiting == 0:
                self._fetching.pop(digest, None)

    async def _fetch_from(self, wanted: _Wanted) -> Path:
        candidates = wanted.candidates
        while candidates.waiting:
            first = candidates.waiting[0]
            while candidates.waiting:
                provider = candidates.waiting.pop(0)
                # The likeliest is waited for: the next ones are often strangers who have to be asked in vain.
                patience = self._limits.busy_pause_s if provider == first else 0.0
                try:
                    async with self._place(provider, patience):
                        candidates.reasons[provider] = UNDER_WAY
                        path = await self._fetch_one(wanted, provider)
                except Refused as error:
                    candidates.note(provider, error)
                    log.info("blob %s not from %s: %s", wanted.digest[:16], provider, error)
                else:
                    self._stats.blobs_fetched += 1
                    await self._blame(wanted.digest, path)
                    return path
            pause = 0.0 if candidates.crowded else self._limits.busy_pause_s
            candidates.again()
            if pause:
                await trio.sleep(pause)
        raise self._failure(wanted.digest, "no provider delivered", candidates.reasons)

    @asynccontextmanager
    async def _place(self, provider: str, patience_s: float) -> AsyncIterator[None]:
        """Take one of the places that a provider has for us: asking beyond them costs both sides a refusal.

        Raises:
            Crowded: none got free in time.
        """
        places = self._places.setdefault(provider, trio.CapacityLimiter(self._limits.max_uploads_per_peer))
        try:
            try:
                places.acquire_nowait()
            except trio.WouldBlock:
                with trio.move_on_after(patience_s) as waiting:
                    await places.acquire()
                if waiting.cancelled_caught:
                    raise Crowded("busy with us") from None
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

    async def _fetch_one(self, wanted: _Wanted, provider: str) -> Path:
        with await trio.to_thread.run_sync(self._store.begin, wanted.digest) as partial:
            resumed = partial.offset > 0
            try:
                return await self._transfer(wanted, partial, provider)
            except BlobCorrupt as error:
                parts = error.parts if isinstance(error, Spoilt) else []
                if not resumed and not parts:
                    self._convict(provider, str(error))
                    raise Refused(str(error)) from error
        # Some bytes came from somebody else: this provider gets one transfer of its own before it is blamed. From
        # several at once, nobody can force it a second time.
        self._spoilt[wanted.digest] = parts or self._spoilt.get(wanted.digest, [])
        while len(self._spoilt) > SPOILT:
            self._spoilt.pop(next(iter(self._spoilt)))
        with self._store.begin(wanted.digest) as partial:
            try:
                return await self._transfer(wanted, partial, provider)
            except BlobCorrupt as error:
                self._convict(provider, str(error))
                raise Refused(str(error)) from error

    async def _blame(self, digest: str, path: Path) -> None:
        """Find out from the right blob who gave wrong parts of it before."""
        parts = self._spoilt.pop(digest, None)
        if not parts:
            return
        for provider in sorted(await trio.to_thread.run_sync(liars, parts, path)):
            self._convict(provider, f"parts of {digest[:16]} are not the blob's")

    def _convict(self, provider: str, reason: str) -> None:
        self._stats.refuse("blob with a wrong hash", provider, reason)
        self._liars.add(provider)
        self._doubted.add(provider)

    async def _transfer(self, wanted: _Wanted, partial: Partial, provider: str) -> Path:
        start, limit = partial.offset, wanted.limit
        others = self._may_share(wanted, provider)
        most = FIRST_PIECES * PIECE_BYTES if others else TO_THE_END
        async with open_ranges(self._host, provider, wanted.digest, self._limits, self._stats) as ranges:
            await ranges.ask(start, most)
            total = await ranges.answer()
            if total > limit:
                self._stats.refuse(
                    "oversized blob", provider, f"{total} bytes where at most {limit} are allowed"
                )
                raise Refused(f"offers {total} bytes, at most {limit} are allowed")
            if total < start:
                await trio.to_thread.run_sync(partial.restart)
                raise Refused(f"offers {total} bytes, fewer than are already here")
            if others and total - start >= STRIPE_BYTES:
                return await self._share(wanted, partial, total, ranges)
            if start + ranges.left < total:
                await ranges.ask(start + most, TO_THE_END)
            await self._receive(ranges, partial, total)
            path = await trio.to_thread.run_sync(partial.finish)
            self._doubted.discard(provider)
            return path

    def _may_share(self, wanted: _Wanted, provider: str) -> bool:
        """Tell whether others could give parts of what a provider has."""
        return (
            wanted.shared
            and self._limits.donors > 1
            and wanted.digest not in self._spoilt
            and provider not in self._liars
            and not self._liars.issuperset(wanted.candidates.waiting)
        )

    async def _share(self, wanted: _Wanted, partial: Partial, total: int, first: RangeStream) -> Path:
        candidates = wanted.candidates

        @asynccontextmanager
        async def connect(provider: str) -> AsyncIterator[RangeStream]:
            async with (
                self._place(provider, 0.0),
                open_ranges(self._host, provider, wanted.digest, self._limits, self._stats) as ranges,
            ):
                yield ranges

        stripe = Stripe(
            partial,
            total,
            candidates,
            self._limits,
            fit=lambda provider: provider not in self._liars,
            connect=connect,
        )
        try:
            await stripe.run(first)
            path = await trio.to_thread.run_sync(partial.finish)
        except BlobCorrupt as error:
            if stripe.providers != {first.provider}:
                candidates.later += sorted(stripe.providers - {first.provider})
                raise Spoilt(str(error), stripe.parts) from error
            raise
        else:
            candidates.trust(stripe.providers)
            return path
        finally:
            candidates.waiting[:0] = candidates.later
            candidates.later.clear()

    async def _receive(self, ranges: RangeStream, partial: Partial, total: int) -> None:
        pending = bytearray()
        try:
            while ranges.at < total:
                if not ranges.left and (told := await ranges.answer()) != total:
                    raise Refused(f"offers {told} bytes, having offered {total}")
                pending += await ranges.read(PIECE_BYTES)
                if len(pending) >= PIECE_BYTES:
                    full, pending = pending, bytearray()
                    await trio.to_thread.run_sync(partial.append, full)
        finally:
            if pending:
                partial.append(pending)

    async def _serve(self, stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        complete = between = False  # between answers, silence and departure are in order
        try:
            while complete or not between:
                with trio.fail_after(self._limits.idle_timeout_s):
                    request = REQUEST.unpack(await read_exactly(stream, REQUEST.size))
                complete = between = False
                raw, offset, length = request
                complete = await self._answer(stream, peer, raw.hex(), offset, length)
                between = True
                self._changed()
        except trio.TooSlowError:
            if not between:
                self._stats.refuse(
                    "slow blob request", peer, f"no progress for {self._limits.idle_timeout_s:g} s"
                )
        except StreamError:  # it hung up, which is nobody's fault
            if not between:
                self._stats.refused["abandoned blob request"] += 1
        except Exception as error:  # noqa: BLE001 -- the edge of a stream: what a peer provoked ends here
            self._stats.refuse("broken blob request", peer, repr(error))
        finally:
            self._changed()
            await close_stream(stream, reset=not complete)

    async def _answer(self, stream: INetStream, peer: str, digest: str, offset: int, length: int) -> bool:
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
        end = size if length == TO_THE_END else min(size, offset + length)
        self._uploads[peer] += 1
        try:
            await self._say(stream, size)
            complete = await self._upload(stream, path, offset, end)
            self._stats.blobs_served += complete and end == size
            return complete
        finally:
            self._uploads[peer] -= 1
            if not self._uploads[peer]:
                del self._uploads[peer]

    async def _upload(self, stream: INetStream, path: Path, offset: int, end: int) -> bool:
        async with await trio.open_file(path, "rb") as file:
            await file.seek(offset)
            while offset < end:
                piece = await file.read(min(PIECE_BYTES, end - offset))
                if not piece:
                    return False  # the file shrank under us: a reset tells the asker, its hash would anyway
                with trio.fail_after(self._limits.idle_timeout_s):
                    await stream.write(piece)
                offset += len(piece)
                self._stats.bytes_up += len(piece)
        return True

    async def _say(self, stream: INetStream, size: int) -> bool:
        with trio.fail_after(self._limits.idle_timeout_s):
            await stream.write(SIZE.pack(size))
        return True
