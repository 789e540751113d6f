"""The libp2p host: TCP, Noise and yamux only, a secp256k1 identity, and limits for strangers."""

import errno
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.rcmgr import new_resource_manager
from libp2p.rcmgr.manager import ResourceLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.utils.address_validation import expand_wildcard_address
from multiaddr import Multiaddr

from protocol import hardening
from protocol.errors import ConfigError, NetworkError

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 128
MAX_STREAMS = 2048
HANDSHAKE_S = 10.0
CLOSE_S = 5.0
MAX_ADDRESS_CHARS = 256


def peer_id_of(secret: bytes) -> str:
    """Return the libp2p peer id (base58) of a 32-byte secp256k1 secret."""
    return str(ID.from_pubkey(create_new_key_pair(secret).public_key))


def parse_address(text: str, *, with_peer: bool = False) -> Multiaddr:
    """Parse a TCP multiaddr, bounded in length.

    Args:
        with_peer: demand the closing `/p2p/<peer id>`.

    Raises:
        ConfigError: not a TCP multiaddr, too long, or without the peer id asked for.
    """
    hint = "an address looks like /ip4/203.0.113.7/tcp/4001" + ("/p2p/16Uiu2HA..." if with_peer else "")
    if len(text) > MAX_ADDRESS_CHARS:
        raise ConfigError("address is too long", hint=hint)
    try:
        address = Multiaddr(text)
        names = [protocol.name for protocol in address.protocols()]
    except ValueError as error:  # every multiaddr parse error is one
        raise ConfigError(f"{text!r} is not a multiaddr", hint=hint) from error
    if names[1:2] != ["tcp"] or names[2:] not in ([], ["p2p"]) or (with_peer and names[2:] != ["p2p"]):
        raise ConfigError(
            f"{text!r} is not a TCP address" + (" with a peer id" if with_peer else ""), hint=hint
        )
    return address


def create_host(
    secret: bytes,
    listen: Multiaddr,
    *,
    announce: tuple[Multiaddr, ...] = (),
    report: Callable[[str, str], None] = lambda peer, reason: log.warning(
        "stream of %s failed: %s", peer, reason
    ),
) -> IHost:
    """Build a hardened host: Noise and yamux over TCP, no plaintext, no mplex, no outgoing identify.

    Args:
        secret: 32-byte secp256k1 key; the peer id follows from it.
        announce: addresses to tell peers instead of the bound ones (port forwarding, containers).
        report: told (peer id, reason) when a stream ends because its handler raised.
    """
    hardening.install()
    keys = create_new_key_pair(secret)
    host = new_host(
        key_pair=keys,
        listen_addrs=[listen],
        muxer_opt=create_yamux_muxer_option(),
        sec_opt={NOISE: Noise(keys, noise_privkey=create_noise_key_pair().private_key)},
        negotiate_timeout=int(HANDSHAKE_S),
        connection_config=ConnectionConfig(
            max_connections=MAX_CONNECTIONS,
            min_connections=0,
            low_watermark=0,
            high_watermark=MAX_CONNECTIONS,
            dial_timeout=HANDSHAKE_S,
        ),
        # The circuit breaker and its kin let one hostile peer close the door to everybody else.
        resource_manager=new_resource_manager(
            limits=ResourceLimits(max_connections=MAX_CONNECTIONS, max_streams=MAX_STREAMS),
            enable_metrics=False,
            enable_memory_limits=False,
            enable_memory_pooling=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        ),
        announce_addrs=list(announce) or None,
        disable_identify_address_discovery=True,
    )
    # What peers say about themselves by identify is not used, so it is neither asked for nor taken.
    setattr(host, "_schedule_identify", _ignore)  # noqa: B010 -- the interface does not declare it
    host.remove_stream_handler(ID_PUSH)
    # libp2p dials whomever it has heard of, whatever the low watermark; here `network` decides whom to call.
    host.get_network().auto_connector.maybe_connect = _ignore_later  # type: ignore[attr-defined]
    host.get_network().report_stream_failure = report  # type: ignore[attr-defined]
    return host


def _ignore(*_: Any, **__: Any) -> None:
    return None


async def _ignore_later() -> None:
    return None


@asynccontextmanager
async def open_host(host: IHost, listen: Multiaddr) -> AsyncIterator[IHost]:
    """Run a host until the block ends, then close its connections and its listener.

    Raises:
        NetworkError: the address cannot be listened on.
    """
    _check_port_free(listen)
    ended = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_run_until, host, listen, ended)
        try:
            yield host
        finally:
            ended.set()


async def _run_until(
    host: IHost, listen: Multiaddr, ended: trio.Event, task_status: trio.TaskStatus[None]
) -> None:
    # Shielded, because cancelling libp2p's tasks before its connections are closed leaks their sockets.
    with trio.CancelScope(shield=True):
        async with host.run(listen_addrs=[listen]):
            if not host.get_network().listeners:
                raise NetworkError(
                    f"cannot listen on {listen}", hint="choose another address for the node to listen on"
                )
            task_status.started()
            try:
                await ended.wait()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await _close(host)


async def _close(host: IHost) -> None:
    # One connection after the other would take 0.1 s each.
    async with trio.open_nursery() as nursery:
        for connection in list(host.get_network().get_connections()):
            nursery.start_soon(_close_connection, connection)
    await host.close()


async def _close_connection(connection: Any) -> None:
    try:
        await connection.close()
        # After a crash its tasks were cancelled half-way, and then it leaves the socket open.
        await connection.muxed_conn.secured_conn.close()
    except Exception as error:  # noqa: BLE001 -- the edge of a connection: the others must still be closed
        log.debug("closing a connection: %r", error)


def _check_port_free(listen: Multiaddr) -> None:
    # libp2p binds with SO_REUSEPORT, so a second process would share the port in silence.
    address = listen.value_for_protocol("ip6" if "/ip6/" in str(listen) else "ip4")
    port = int(listen.value_for_protocol("tcp") or 0)
    family = socket.AF_INET6 if "/ip6/" in str(listen) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise NetworkError(
                f"port {port} is in use" if taken else f"cannot listen on {listen}: {error.strerror}",
                hint="stop the other process or choose another port to listen on",
            ) from error


def full_addresses(host: IHost) -> list[str]:
    """Return the addresses peers may dial, each ending in /p2p/<peer id>; wildcards become interface addresses."""
    own = Multiaddr(f"/p2p/{host.get_id()}")
    found: list[str] = []
    for address in host.get_addrs():
        bare = address.decapsulate(own)
        text = str(bare)
        wild = "/ip4/0.0.0.0/" in text or text.startswith("/ip6/::/")
        found += [str(one.encapsulate(own)) for one in (expand_wildcard_address(bare) if wild else [bare])]
    return found


def bound_address(host: IHost) -> Multiaddr:
    """Return the first address the host listens on, with the port the system chose."""
    own = str(Multiaddr(f"/p2p/{host.get_id()}"))
    listener = next(iter(host.get_network().listeners.values()))
    return Multiaddr(str(listener.get_addrs()[0]).removesuffix(own))


async def connect(host: IHost, address: Multiaddr) -> str:
    """Dial a full address and return the peer id that proved itself by Noise; names resolve by the system's resolver.

    Raises:
        NetworkError: no answer, or somebody else answered.
    """
    info = info_from_p2p_addr(await _resolve(address))
    # libp2p refuses to dial a peer again for a while after a failure; when to try again is the caller's decision.
    host.get_network().unblock_peer(info.peer_id)  # type: ignore[attr-defined]
    try:
        with trio.fail_after(HANDSHAKE_S):
            await host.connect(info)
    except trio.TooSlowError:
        raise NetworkError(f"{address} did not answer within {HANDSHAKE_S:.0f} s") from None
    except Exception as error:  # a process edge: libp2p raises many unrelated classes here
        raise NetworkError(f"cannot connect to {address}: {reason_of(error)}") from error
    return str(info.peer_id)


async def _resolve(address: Multiaddr) -> Multiaddr:
    kind, name, *rest = str(address).strip("/").split("/")
    if not kind.startswith("dns"):
        return address
    try:
        found = await trio.socket.getaddrinfo(name, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NetworkError(f"cannot resolve {name}: {error.strerror or error}") from error
    return Multiaddr("/".join(("", "ip4", str(found[0][4][0]), *rest)))


def reason_of(error: BaseException) -> str:
    """Return what first went wrong, in words; libp2p wraps its errors several deep and often leaves them empty."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


async def read_exactly(stream: INetStream, count: int) -> bytes:
    """Read exactly `count` bytes; the caller has bounded `count` and the wait.

    Raises:
        EOFError: the stream ended first.
    """
    data = bytearray()
    while len(data) < count:
        piece = await stream.read(min(1 << 20, count - len(data)))
        if not piece:
            raise EOFError(f"stream ended after {len(data)} of {count} bytes")
        data += piece
    return bytes(data)


async def read_frame(stream: INetStream, *, max_bytes: int) -> bytes:
    """Read one frame, a u32 big-endian length and that many bytes.

    Raises:
        EOFError: the stream ended first.
        ValueError: the length exceeds `max_bytes`; nothing was allocated.
    """
    (length,) = struct.unpack("!I", await read_exactly(stream, 4))
    if length > max_bytes:
        raise ValueError(f"frame of {length} bytes exceeds {max_bytes}")
    return await read_exactly(stream, length)


def frame(data: bytes) -> bytes:
    """Prefix bytes with their u32 big-endian length."""
    return struct.pack("!I", len(data)) + data


async def close_stream(stream: INetStream, *, reset: bool) -> None:
    """Close or reset a stream without raising and without waiting long, even while being cancelled."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
        try:
            await (stream.reset() if reset else stream.close())
        except Exception as error:  # noqa: BLE001 -- the edge of a stream: the connection may be gone already
            log.debug("closing a stream: %r", error)
