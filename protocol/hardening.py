"""Make py-libp2p 0.8.1 safe to expose to strangers.

Each repair replaces one function of the library, was measured against the fault it removes, and holds for
exactly one version; `install` refuses any other. What a stock 0.8.1 host does, and what stands here instead:

* An exception in any stream handler (17 bytes of garbage on a pubsub stream suffice) ends the host: it ends the stream.
* A peer may open any number of streams and overrun its receive window without limit: both are bounded per
  connection.
* Cancelling a task while it writes loses a Noise nonce and kills the connection: a frame is written whole or
  the connection closes after `WRITE_STALL_S`.
* A writer dies when the reader pauses for 5 s: it waits `WINDOW_WAIT_S`, and callers bound their own waits.
* A full yamux frame becomes two Noise messages, and every Noise message costs two socket reads: one and
  fewer.
* Every read, be it of one byte, sends a window update: one a half window, as go-yamux does.
* Every gossip message rebuilds and compares the host's signed address record: once in `RECORD_AGE_S`.
"""

import inspect
import logging
import os
import textwrap
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import trio

from protocol.errors import ConfigError

log = logging.getLogger(__name__)

LIBP2P_VERSION = "0.8.1"
NOISE_PLAINTEXT_BYTES = 65535 - 16  # a Noise message less its tag
STREAMS_PER_CONNECTION = 64
BUFFERED_BYTES_PER_CONNECTION = 32 << 20
WINDOW_BYTES = 8 << 20
WINDOW_WAIT_S = 120.0
WRITE_STALL_S = 30.0
SOCKET_READ_BYTES = 256 << 10
RECORD_AGE_S = 30.0

_installed = False


def check_version() -> None:
    """Refuse a libp2p that the repairs were not written for.

    Raises:
        ConfigError: another version than `LIBP2P_VERSION` is installed.
    """
    found = version("libp2p")
    if found != LIBP2P_VERSION:
        raise ConfigError(
            f"libp2p {found} is installed, but its safety repairs are written for {LIBP2P_VERSION}",
            hint=f"pip install 'libp2p=={LIBP2P_VERSION}'",
        )


def install() -> None:
    """Install every repair once per process; `check_version` decides whether they fit."""
    global _installed
    check_version()
    if _installed:
        return
    _contain_stream_handlers()
    _bound_receive_buffers()
    _write_whole_frames()
    _wait_for_window()
    _read_in_large_pieces()
    _update_windows_by_halves()
    _keep_address_records()
    _quiet()
    _installed = True


def _quiet() -> None:
    # It logs ordinary departures as errors with tracebacks; what matters is logged by this package with its
    # reason.
    if not os.environ.get("LIBP2P_DEBUG"):  # its own switch
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)


def _contain_stream_handlers() -> None:
    from libp2p.network.connection.swarm_connection import SwarmConn

    handle = SwarmConn._handle_muxed_stream

    async def contained(self: Any, muxed_stream: Any) -> None:
        try:
            if len(self.streams) >= STREAMS_PER_CONNECTION:
                raise trio.TooSlowError(f"more than {STREAMS_PER_CONNECTION} streams on one connection")
            await handle(self, muxed_stream)
        except Exception as error:  # noqa: BLE001 -- the edge of a stream: whatever a peer provoked ends here
            report = getattr(self.swarm, "report_stream_failure", None)
            if report is not None:
                report(str(self.muxed_conn.peer_id), f"{type(error).__name__}: {error}")
            with trio.move_on_after(2):
                try:
                    await muxed_stream.reset()
                except Exception as failure:  # noqa: BLE001 -- the connection is gone already
                    log.debug("reset failed: %r", failure)

    SwarmConn._handle_muxed_stream = contained  # type: ignore[method-assign]


def _bound_receive_buffers() -> None:
    from libp2p.stream_muxer.yamux import yamux

    yamux.MAX_WINDOW_SIZE = WINDOW_BYTES
    read_body = yamux.Yamux._read_data_body

    async def bounded(self: Any, length: int) -> bytes:
        buffered = sum(map(len, self.stream_buffers.values()))
        if buffered + length > BUFFERED_BYTES_PER_CONNECTION:
            log.warning("connection to %s closed: receive window overrun", self.peer_id)
            # The one error that makes yamux close the connection instead of going on with the next frame.
            raise trio.TooSlowError
        return await read_body(self, length)

    yamux.Yamux._read_data_body = bounded  # type: ignore[method-assign]


def _write_whole_frames() -> None:
    from libp2p.network.connection.exceptions import RawConnError
    from libp2p.stream_muxer.yamux.yamux import Yamux

    async def write_frame(self: Any, data: bytes) -> None:
        async with self._write_lock:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_STALL_S) as scope:
                await self.secured_conn.write(data)
            if scope.cancelled_caught:
                log.warning(
                    "connection to %s closed: it did not read for %.0f s", self.peer_id, WRITE_STALL_S
                )
                await self.secured_conn.close()
                raise RawConnError("write stalled")
        await trio.lowlevel.checkpoint()

    Yamux._write_frame = write_frame  # type: ignore[method-assign]


def _wait_for_window() -> None:
    from libp2p.stream_muxer.yamux import yamux

    yamux.MAX_MESSAGE_SIZE = NOISE_PLAINTEXT_BYTES
    stock = "trio.move_on_after(5.0)"
    source = textwrap.dedent(inspect.getsource(yamux.YamuxStream.write))
    if source.count(stock) != 1:
        raise ConfigError("libp2p's YamuxStream.write is not the one the repair was written for")
    scope: dict[str, Any] = {}
    code = compile(
        source.replace(stock, f"trio.move_on_after({WINDOW_WAIT_S})"), "<YamuxStream.write>", "exec"
    )
    exec(code, yamux.__dict__, scope)  # noqa: S102 -- the library's own source, one constant changed
    yamux.YamuxStream.write = scope["write"]  # type: ignore[method-assign]


def _update_windows_by_halves() -> None:
    from libp2p.stream_muxer.yamux.yamux import YamuxStream

    update = YamuxStream._auto_tune_and_send_window_update

    async def by_halves(self: Any, *, bytes_read: int = 0) -> None:
        # Without a count it compares what was consumed with half the window, which is all that is needed.
        await update(self)

    YamuxStream._auto_tune_and_send_window_update = by_halves  # type: ignore[method-assign]


def _keep_address_records() -> None:
    from libp2p.peer.peerstore import env_to_send_in_RPC
    from libp2p.pubsub import gossipsub, pubsub

    kept: WeakKeyDictionary[Any, tuple[float, bytes]] = WeakKeyDictionary()

    def record(host: Any) -> tuple[bytes, bool]:
        now = trio.current_time()
        made, envelope = kept.get(host, (-RECORD_AGE_S, b""))
        if now - made >= RECORD_AGE_S:
            envelope, _ = env_to_send_in_RPC(host)
            kept[host] = (now, envelope)
        return envelope, False

    for module in (gossipsub, pubsub):
        setattr(module, "env_to_send_in_RPC", record)  # noqa: B010 -- the module imports it, and does not export it


def _read_in_large_pieces() -> None:
    from libp2p.io import trio as libp2p_trio
    from libp2p.io.exceptions import ConnectionClosedError

    async def read(self: Any, n: int | None = None) -> bytes:
        if n == 0:
            return b""
        async with self.read_lock:
            pending: memoryview | None = self.__dict__.get("_pending")
            if pending:
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                try:
                    pending = memoryview(await self.stream.receive_some(SOCKET_READ_BYTES))
                except trio.BrokenResourceError as error:
                    raise ConnectionClosedError(f"connection reset: {error}", transport="tcp") from error
                except trio.ClosedResourceError:
                    return b""
            if n is None or n >= len(pending):
                self._pending = None
                return bytes(pending)
            self._pending = pending[n:]
            return bytes(pending[:n])

    libp2p_trio.TrioTCPStream.read = read  # type: ignore[method-assign]
