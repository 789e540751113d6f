"""Open real nodes on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from libp2p.abc import IHost

from protocol.blobs import BlobStore
from protocol.host import create_host, full_addresses, open_host, parse_address
from protocol.network import Network, NetworkConfig, open_network
from protocol.sync import MessageLog

LOOPBACK = parse_address("/ip4/127.0.0.1/tcp/0")


@dataclass
class Node:
    """A network with a log of what it was told."""

    network: Network
    store: BlobStore
    log: MessageLog
    received: list[tuple[str, bytes]] = field(default_factory=list)

    def tell(self, data: bytes, round_number: int = 0) -> None:
        """Hold a message as if it had been received, without announcing it."""
        self.log.add(round_number, data)

    async def has(self, count: int) -> None:
        """Wait until so many messages were received."""
        await self.network.wait_for(lambda: len(self.received) >= count)


class Nodes:
    """Open nodes by number; the number is the key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.defaults = NetworkConfig(secret=b"", run="run", redial_s=0.1, sync_interval_s=0.4)

    @asynccontextmanager
    async def open(
        self,
        number: int,
        *,
        accept: Callable[[bytes], None] = lambda data: None,
        config: NetworkConfig | None = None,
        may_serve: Callable[[str, str], bool] = lambda peer, digest: True,
        bootstrap: tuple[str, ...] = (),
    ) -> AsyncIterator[Node]:
        """Open a node; `accept` raises to refuse a message."""
        log = MessageLog()
        store = BlobStore(self._folder / str(number))

        async def inbox(sender: str, data: bytes) -> None:
            accept(data)
            node.received.append((sender, data))
            log.add(0, data)

        config = replace(config or self.defaults, secret=secret_of(number), bootstrap=bootstrap)
        async with open_network(
            config, store=store, inbox=inbox, summary=log.summary, missing=log.missing, may_serve=may_serve
        ) as network:
            node = Node(network, store, log)
            yield node


def secret_of(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


@pytest.fixture
def bare_host() -> Callable[[int], object]:
    """Open a hardened host with no protocol of ours on it: a peer that behaves as the test wants."""

    @asynccontextmanager
    async def opened(number: int) -> AsyncIterator[tuple[IHost, str]]:
        host = create_host(secret_of(number), LOOPBACK)
        async with open_host(host, LOOPBACK):
            yield host, full_addresses(host)[0]

    return opened
