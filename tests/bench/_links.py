"""Hosts on one machine, each with a link of its own rate and delay, in which real processes run.

    with open_links([Link(rate=100 * MBIT, delay_s=0.025)] * 4) as links:
        process = subprocess.Popen(links.hosts[0].command(["program", "--listen", links.hosts[0].address]))
        ...
        links.traffic()

A host is a network namespace, so the kernel's own TCP meets rates, delays and losses; its loopback is its own too.
The kernel need not have netem: a process (`_switch`) carries packets by the rules of `_lines`. It needs root, the
commands `ip` and `nsenter`, and /dev/net/tun. Packets are of up to 9000 bytes with their IP header, which is what
counts as sent and received; that of frames on a real wire is left out. Delays come out up to a few milliseconds
longer where all processors are busy.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench._lines import Link

ROOT = Path(__file__).resolve().parents[2]
NEEDS = "needs root, iproute2, util-linux and /dev/net/tun"


def may_open() -> bool:
    """Tell whether this process can make hosts."""
    tools = all(map(shutil.which, ("ip", "nsenter")))
    return sys.platform == "linux" and os.geteuid() == 0 and tools and Path("/dev/net/tun").exists()


@dataclass(frozen=True)
class Host:
    """One end of a link."""

    address: str  # IPv4, known to the other hosts
    space: str  # file of its network namespace

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a command on this host, in the process that starts it."""
        return ["nsenter", f"--net={self.space}", "--", *argv]


@dataclass(frozen=True)
class Traffic:
    """Count what went over a host's link since it was made."""

    sent: int  # bytes
    received: int
    dropped: int  # packets, of both directions
    loopback: int  # bytes, from the host to itself

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.sent - other.sent,
            self.received - other.received,
            self.dropped - other.dropped,
            self.loopback - other.loopback,
        )


class Links:
    """The hosts, and what went over their links."""

    def __init__(self, switch: "subprocess.Popen[str]", hosts: list[Host]) -> None:
        self._switch = switch
        self.hosts = hosts

    def traffic(self) -> list[Traffic]:
        """Return what went over each host's link so far."""
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        self._switch.stdin.write("\n")
        self._switch.stdin.flush()
        return [Traffic(**fields) for fields in json.loads(self._switch.stdout.readline())]


@contextmanager
def open_links(links: Sequence[Link]) -> Iterator[Links]:
    """Make a host for each link, and take them down at the end; whoever runs in one must have ended by then.

    Raises:
        RuntimeError: this machine or its user may not; the reason is on stderr.
    """
    described = json.dumps([asdict(link) for link in links])
    switch = subprocess.Popen(
        [sys.executable, "-m", "tests.bench._switch", described],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches who uses it, who then ends it
    )
    with switch:
        assert switch.stdin is not None
        assert switch.stdout is not None
        try:
            line = switch.stdout.readline()
            if not line:
                raise RuntimeError("no links were made")
            yield Links(switch, [Host(**fields) for fields in json.loads(line)])
        finally:
            switch.stdin.close()
