"""Ports of a local network stay free until its processes take them."""

import socket
import subprocess
import sys

import pytest

from murmur import ports
from protocol.errors import ConfigError


def block(port: int) -> int:
    return (port - ports.FIRST) // ports.BLOCK


def test_every_port_is_another_one_that_can_be_bound() -> None:
    drawn = [ports.free_port() for _ in range(3 * ports.BLOCK)]
    assert len(set(drawn)) == len(drawn)
    assert all(ports.FIRST < port < ports.END for port in drawn)
    for port in drawn[-5:]:
        with socket.socket() as one:
            one.bind((ports.HOST, port))


def test_a_port_that_somebody_has_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", small)
    monkeypatch.setattr(ports, "END", small + 4)
    monkeypatch.setattr(ports, "BLOCK", 4)
    with socket.socket() as taken:
        taken.bind((ports.HOST, small + 2))
        assert list(ports._draw()) == [small + 1, small + 3]


def test_two_processes_never_draw_from_one_block() -> None:
    code = "from murmur.ports import free_port; print(free_port(), flush=True); input()"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    blocks = []
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    try:
        for one in running:
            assert one.stdout is not None
            blocks.append(block(int(one.stdout.readline())))
        blocks.append(block(ports.free_port()))
    finally:
        for one in running:
            one.communicate("\n", timeout=30)
    assert len(set(blocks)) == len(blocks)


def test_where_no_port_is_left_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_ports", iter(()))
    with pytest.raises(ConfigError, match="no port from"):
        ports.free_port()
