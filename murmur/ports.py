"""TCP ports for the processes of a local network, which nobody else takes between their choice and their use.

A port that is merely free when it is looked for can go to an outgoing connection, or to a network that starts beside
this one. So ports lie below those that systems give to outgoing connections (Linux: from 32768; RFC 6335: from 49152),
in blocks whose first port the process that draws from them holds as long as it lives.
"""

import random
import socket
from collections.abc import Iterator
from typing import Final

from protocol.errors import ConfigError

FIRST: Final = 20_000
END: Final = 32_000
BLOCK: Final = 50
HOST: Final = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody has, and that no other network will draw.

    Raises:
        ConfigError: there is none left.
    """
    try:
        return next(_ports)
    except StopIteration:
        raise ConfigError(f"no port from {FIRST} to {END - 1} is free", hint="stop other processes") from None


def check_port(port: int) -> None:
    """Make sure that a port asked for is free.

    Raises:
        ConfigError: it is in use, or not ours to use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {error.strerror}", hint="choose another --port"
            ) from error


def _draw() -> Iterator[int]:
    for first in random.SystemRandom().sample(range(FIRST, END, BLOCK), (END - FIRST) // BLOCK):
        with socket.socket() as held:
            if _takes(held, first):
                yield from filter(_is_free, range(first + 1, first + BLOCK))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return _takes(probe, port)


def _takes(one: socket.socket, port: int) -> bool:
    try:
        one.bind((HOST, port))
    except OSError:
        return False
    return True


_ports: Final = _draw()
