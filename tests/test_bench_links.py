"""Rules by which packets travel over links, on a clock that the tests set, and real processes where that is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench._lines import MBIT, Line, Link, Middle
from tests.bench._links import NEEDS, may_open, open_links
from tests.bench._switch import loopback_bytes

PACKET = bytes(1250)  # ten milliseconds at one megabit a second
SLOW = Link(rate=MBIT, delay_s=0.02)


def arrivals(middle, until):
    found = []
    while (when := middle.next()) is not None and when <= until:
        found += [(round(when, 6), destination) for destination, _ in middle.due(when)]
    return found


def test_a_packet_takes_both_lines_and_both_delays():
    middle = Middle([SLOW, SLOW])
    middle.take(1.0, 0, 1, PACKET)
    assert arrivals(middle, 9.0) == [(1.06, 1)]
    assert (middle.up[0].bytes, middle.down[1].bytes) == (len(PACKET), len(PACKET))
    assert (middle.down[0].bytes, middle.up[1].bytes) == (0, 0)


def test_connections_of_one_host_share_its_line():
    middle = Middle([SLOW, SLOW, SLOW])
    for destination in (1, 2, 1):
        middle.take(0.0, 0, destination, PACKET)
    assert arrivals(middle, 9.0) == [(0.06, 1), (0.07, 2), (0.08, 1)]


def test_senders_to_one_host_share_its_line():
    middle = Middle([SLOW, SLOW, SLOW])
    middle.take(0.0, 1, 0, PACKET)
    middle.take(0.0, 2, 0, PACKET)
    assert arrivals(middle, 9.0) == [(0.06, 0), (0.07, 0)]


def test_both_directions_of_a_link_are_separate():
    middle = Middle([SLOW, SLOW])
    middle.take(0.0, 0, 1, PACKET)
    middle.take(0.0, 1, 0, PACKET)
    assert arrivals(middle, 9.0) == [(0.06, 1), (0.06, 0)]


def test_what_waits_too_long_is_dropped_and_counts_for_nothing():
    line = Line(Link(rate=MBIT, buffer_s=0.025))
    sent = [line.send(0.0, len(PACKET)) for _ in range(5)]
    assert sent == [pytest.approx(0.01), pytest.approx(0.02), pytest.approx(0.03), None, None]
    assert (line.bytes, line.dropped) == (3 * len(PACKET), 2)
    assert line.send(0.03, len(PACKET)) == pytest.approx(0.04)  # the line is free again


def test_no_limit_is_no_time():
    middle = Middle([Link(), Link()])
    middle.take(3.0, 0, 1, PACKET)
    assert arrivals(middle, 3.0) == [(3.0, 1)]


def test_being_asked_late_delays_nothing_but_the_arrival():
    middle = Middle([SLOW, SLOW])
    middle.take(0.0, 0, 1, PACKET)
    assert middle.due(0.059) == []
    middle.take(0.059, 0, 1, PACKET)
    assert [destination for destination, _ in middle.due(0.5)] == [1, 1]
    assert middle.next() is None


def test_a_rate_holds_over_many_packets():
    middle = Middle([Link(rate=100 * MBIT, buffer_s=60), Link(rate=100 * MBIT, buffer_s=60)])
    for _ in range(1000):
        middle.take(0.0, 0, 1, PACKET)
    assert arrivals(middle, 60.0)[-1][0] == pytest.approx(8 * 1001 * len(PACKET) / 100e6)


@pytest.mark.parametrize("fields", [{"rate": 0.0}, {"rate": -1.0}, {"delay_s": -0.1}, {"buffer_s": 0.0}])
def test_impossible_links_are_refused(fields):
    with pytest.raises(ValueError, match="no link"):
        Link(**fields)


def test_loopback_is_read_by_its_name():
    text = "Inter-|   Receive\n face |bytes packets\n    lo: 4242 7 0 0\n  wire: 1 1 0 0\n"
    assert loopback_bytes(text) == 4242
    assert loopback_bytes("wire: 1 1 0 0\n") == 0


SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, _ = server.accept()
    count = 0
    while data := connection.recv(1 << 16):
        count += len(data)
    print(count, flush=True)
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    connection.sendall(bytes(100_000))
"""


@pytest.mark.skipif(not may_open(), reason=NEEDS)
def test_processes_on_two_hosts_talk_over_their_links_alone():
    python = [sys.executable, "-c"]
    with open_links([Link(rate=50 * MBIT, delay_s=0.001)] * 3) as links:
        first, second, third = links.hosts
        with subprocess.Popen(
            second.command([*python, SERVER, second.address]), stdout=subprocess.PIPE, text=True
        ) as server:
            port = server.stdout.readline().strip()
            subprocess.run(first.command([*python, CLIENT, second.address, port]), check=True)
            assert server.stdout.readline().strip() == "100000"
        sent, received, idle = links.traffic()
    assert 100_000 < sent.sent < 110_000
    assert 100_000 < received.received <= sent.sent  # the last packets may be under way
    assert 0 < sent.received <= received.sent
    assert (idle.sent, idle.received, idle.loopback) == (0, 0, 0)
    assert not Path(third.space).exists()
