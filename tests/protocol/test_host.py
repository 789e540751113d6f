"""A host that strangers may talk to: one bad stream, client or address ends itself and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.stream_muxer.yamux.yamux import Yamux

from protocol import hardening
from protocol.errors import ConfigError, NetworkError
from protocol.host import (
    bound_address,
    close_stream,
    connect,
    create_host,
    frame,
    open_host,
    parse_address,
    peer_id_of,
    read_exactly,
    read_frame,
)
from protocol.keys import PeerKey

ECHO = TProtocol("/test/echo")
OpenHost = Callable[[int], Any]


async def echo(stream: Any) -> None:
    data = await read_frame(stream, max_bytes=1 << 20)
    if data == b"fail":
        raise ZeroDivisionError("a defect of ours")
    await stream.write(frame(data))
    await close_stream(stream, reset=False)


async def ask_echo(host: Any, peer: str, data: bytes) -> bytes:
    stream = await host.new_stream(ID.from_string(peer), [ECHO])
    await stream.write(frame(data))
    try:
        return await read_frame(stream, max_bytes=1 << 20)
    finally:
        await close_stream(stream, reset=True)


def test_the_peer_id_follows_from_the_peer_key() -> None:
    assert peer_id_of(b"\x07" * 32) == PeerKey(b"\x07" * 32).peer_id


def test_another_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "LIBP2P_VERSION", "9.9.9")
    with pytest.raises(ConfigError, match=r"repairs are written for 9\.9\.9"):
        create_host(b"\x01" * 32, parse_address("/ip4/127.0.0.1/tcp/0"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "/ip4/127.0.0.1/udp/1",
        "/ip4/1.2.3.4",
        "/ip4/1.2.3.4/tcp/99999",
        "/ip4/1.2.3.4/tcp/1/ws",
        "/x" * 200,
    ],
)
def test_what_is_no_tcp_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_an_address_without_a_peer_id_cannot_be_dialled() -> None:
    with pytest.raises(ConfigError, match="with a peer id"):
        parse_address("/ip4/127.0.0.1/tcp/4001", with_peer=True)


async def test_a_defect_in_a_handler_ends_its_stream_only(bare_host: OpenHost) -> None:
    async with bare_host(1) as (server, address), bare_host(2) as (client, _):
        server.set_stream_handler(ECHO, echo)
        peer = await connect(client, parse_address(address))
        with pytest.raises((StreamError, StreamFailure)):
            await ask_echo(client, peer, b"fail")
        assert await ask_echo(client, peer, b"still here") == b"still here"


async def test_a_plaintext_only_client_is_refused(bare_host: OpenHost) -> None:
    keys = create_new_key_pair(b"\x09" * 32)
    listen = parse_address("/ip4/127.0.0.1/tcp/0")
    client = new_host(
        key_pair=keys, listen_addrs=[listen], sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
    )
    async with bare_host(1) as (server, address), open_host(client, listen):
        with pytest.raises(NetworkError, match="cannot connect"):
            await connect(client, parse_address(address))
        assert server.get_connected_peers() == []


async def test_a_port_in_use_is_named_with_a_hint(bare_host: OpenHost) -> None:
    async with bare_host(1) as (server, _):
        listen = bound_address(server)
        with pytest.raises(NetworkError, match="is in use") as caught:
            async with open_host(create_host(b"\x02" * 32, listen), listen):
                raise AssertionError("two hosts share a port")
        assert "another port" in caught.value.hint


async def test_an_address_where_somebody_else_answers_is_refused(bare_host: OpenHost) -> None:
    async with bare_host(1) as (_, address), bare_host(2) as (client, _):
        wrong = address.rpartition("/")[0] + "/" + peer_id_of(b"\x03" * 32)
        with pytest.raises(NetworkError, match="cannot connect"):
            await connect(client, parse_address(wrong, with_peer=True))


async def test_an_address_where_nobody_listens_is_refused(bare_host: OpenHost) -> None:
    async with bare_host(1) as (_, address):
        gone = address
    async with bare_host(2) as (client, _):
        with pytest.raises(NetworkError, match="cannot connect"):
            await connect(client, parse_address(gone, with_peer=True))


async def test_names_are_resolved_by_the_system(bare_host: OpenHost) -> None:
    async with bare_host(1) as (server, address), bare_host(2) as (client, _):
        named = address.replace("/ip4/127.0.0.1/", "/dns4/localhost/")
        assert await connect(client, parse_address(named, with_peer=True)) == str(server.get_id())
        with pytest.raises(NetworkError, match="cannot resolve"):
            await connect(client, parse_address(named.replace("localhost", "nowhere.invalid")))


async def test_a_peer_that_overruns_its_window_loses_the_connection(bare_host: OpenHost) -> None:
    gone = trio.Event()

    async def never_read(stream: Any) -> None:
        await stream.muxed_conn.event_closed.wait()
        gone.set()

    async with bare_host(1) as (server, address), bare_host(2) as (client, _):
        server.set_stream_handler(ECHO, never_read)
        peer = await connect(client, parse_address(address))
        stream = await client.new_stream(ID.from_string(peer), [ECHO])
        stream.muxed_stream.send_window = 1 << 40  # the cheat
        piece = bytes(1 << 20)
        try:
            for _ in range(2 * hardening.BUFFERED_BYTES_PER_CONNECTION // len(piece)):
                await stream.write(piece)
        except (StreamError, StreamFailure) as error:
            logging.info("the cheat's connection ended: %r", error)
        await gone.wait()


async def test_one_connection_carries_a_bounded_number_of_streams(bare_host: OpenHost) -> None:
    async with bare_host(1) as (server, address), bare_host(2) as (client, _):
        server.set_stream_handler(ECHO, echo)
        peer = ID.from_string(await connect(client, parse_address(address)))
        opened = [await client.new_stream(peer, [ECHO]) for _ in range(hardening.STREAMS_PER_CONNECTION)]
        with pytest.raises((StreamError, StreamFailure)):
            await client.new_stream(peer, [ECHO])
        await close_stream(opened[0], reset=True)
        await opened[1].write(frame(b"works"))
        assert await read_frame(opened[1], max_bytes=16) == b"works"


async def test_a_frame_is_written_whole_though_its_writer_is_cancelled() -> None:
    written: list[bytes] = []
    begun = trio.Event()

    class Connection:
        _write_lock = trio.Lock()
        peer_id = "peer"

        @property
        def secured_conn(self) -> Connection:
            return self

        async def write(self, data: bytes) -> None:
            begun.set()
            await trio.lowlevel.checkpoint()
            written.append(data)

    hardening.install()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Yamux._write_frame, Connection(), b"frame")
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert written == [b"frame"]


async def test_a_frame_beyond_its_bound_is_refused_before_it_is_read(bare_host: OpenHost) -> None:
    seen: list[str] = []
    done = trio.Event()

    async def handler(stream: Any) -> None:
        try:
            await read_frame(stream, max_bytes=100)
        except ValueError as error:
            seen.append(str(error))
        await close_stream(stream, reset=True)
        done.set()

    async with bare_host(1) as (server, address), bare_host(2) as (client, _):
        server.set_stream_handler(ECHO, handler)
        peer = await connect(client, parse_address(address))
        stream = await client.new_stream(ID.from_string(peer), [ECHO])
        await stream.write(b"\xff\xff\xff\xff")
        await done.wait()
        assert seen == ["frame of 4294967295 bytes exceeds 100"]
        with pytest.raises((StreamError, StreamFailure)):
            await read_exactly(stream, 1)
