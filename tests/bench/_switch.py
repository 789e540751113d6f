"""The process between the hosts of `_links`: it makes their network namespaces and carries their packets.

`python -m tests.bench._switch JSON`, with a list of links. Every host is a namespace with one TUN device, whose other
end is a descriptor here. Nothing has a name outside: namespaces and devices are gone when this process and those in
them are, however they end. It answers each line on stdin with one on stdout, and ends with stdin.
"""

import ctypes
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench._lines import Link, Middle

DEVICE: Final = "wire"
MTU: Final = (
    9000  # of Ethernet's jumbo frames: a sixth of the packets of 1500 bytes, which Python could not carry
)
BURST: Final = 64  # packets read from one host before the others' turn
PRIORITY: Final = -10  # a wire does not wait for a processor
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001


def address(host: int) -> str:
    """Return the address of a host by its place."""
    return f"10.77.0.{host + 1}"


def loopback_bytes(text: str) -> int:
    """Return the bytes that went over the loopback device, by /proc/net/dev."""
    for line in text.splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[0])
    return 0


class Hosts:
    """The namespaces, with this process's ends of their devices."""

    def __init__(self, count: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.spaces: list[int] = []
        self.devices: list[int] = []
        for host in range(count):
            self._call(self._libc.unshare(_CLONE_NEWNET))
            self.spaces.append(os.open("/proc/self/ns/net", os.O_RDONLY))
            self.devices.append(self._device(host))

    def _device(self, host: int) -> int:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN_NO_PI))
        for command in (
            f"link set {DEVICE} mtu {MTU} up",
            "link set lo up",
            f"address add {address(host)}/24 dev {DEVICE}",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        return device

    def loopback(self) -> list[int]:
        """Return how many bytes each host sent to itself."""
        found = []
        for space in self.spaces:
            self._call(self._libc.setns(space, _CLONE_NEWNET))
            found.append(loopback_bytes(Path("/proc/self/net/dev").read_text()))
        return found

    @staticmethod
    def _call(result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise SystemExit(f"no network namespaces here: {os.strerror(number)}; they need root")


def carry(hosts: Hosts, middle: Middle, source: int, now: float) -> None:
    """Take what a host has sent, as far as it is IPv4 to another."""
    for _ in range(BURST):
        try:
            packet = os.read(hosts.devices[source], MTU)
        except BlockingIOError:
            return
        destination = packet[19] - 1 if packet[0] >> 4 == 4 and packet[16:19] == b"\x0a\x4d\x00" else -1
        if 0 <= destination < len(hosts.devices):
            middle.take(now, source, destination, packet)


def traffic(hosts: Hosts, middle: Middle) -> list[dict[str, int]]:
    """Return what each host sent and received so far, and how many packets were dropped on their way."""
    return [
        {"sent": up.bytes, "received": down.bytes, "dropped": up.dropped + down.dropped, "loopback": own}
        for up, down, own in zip(middle.up, middle.down, hosts.loopback(), strict=True)
    ]


def main(arguments: Sequence[str]) -> int:
    """Carry packets until stdin ends."""
    links = [Link(**fields) for fields in json.loads(arguments[0])]
    hosts, middle = Hosts(len(links)), Middle(links)
    os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    told: list[dict[str, Any]] = [
        {"address": address(host), "space": f"/proc/{os.getpid()}/fd/{space}"}
        for host, space in enumerate(hosts.spaces)
    ]
    print(json.dumps(told), flush=True)
    while True:
        when = middle.next()
        wait = None if when is None else max(0.0, when - time.monotonic())
        ready, _, _ = select.select([sys.stdin, *hosts.devices], [], [], wait)
        now = time.monotonic()
        for source, device in enumerate(hosts.devices):
            if device in ready:
                carry(hosts, middle, source, now)
        for destination, packet in middle.due(time.monotonic()):
            try:
                os.write(hosts.devices[destination], packet)
            except OSError:  # its queue is full: one more lost packet
                middle.down[destination].dropped += 1
        if sys.stdin in ready:
            if not sys.stdin.readline():
                return 0
            print(json.dumps(traffic(hosts, middle)), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
