"""A late joiner's download of one large blob: from one donor after the other, and from several at once.

`python -m tests.bench donors [--donors 1 2 4] [--rate 100] [--delay 50] [--joiner 4] [--megabytes 40] [--repeats 3]`.
Every host is a process in a network namespace of its own (`tests.bench._links`), which needs root: donors with links of
`--rate`, a joiner with a line `--joiner` times as fast, and `--delay` between any two of them. Both ways of
fetching are the product's and take turns in one run of the same processes; the joiner's blob is deleted in between.

`in turn` and `at once` are MB/s of the joiner, medians; `fetched` is what it downloads at once over what the blob has,
since at the end two donors may give the same piece; `parts` is how many donors gave more than a twentieth.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from protocol.blobs import BlobStore
from protocol.network import NetworkConfig, open_network
from protocol.ranges import ExchangeLimits
from tests.bench._crew import open_crew
from tests.bench._lines import MBIT, Link
from tests.bench._links import open_links
from tests.bench._meeting import hear, say
from tests.bench._rows import Rows
from tests.bench.blobs import pattern

RUN = "donors"
PORT = 4001
DEADLINE_S = 600.0


async def _discard(sender: str, data: bytes) -> None:
    return None


async def give(number: int, address: str, folder: Path, megabytes: int) -> None:
    """Hold the blob until the parent hangs up, and tell what was given of it whenever it asks."""
    store = BlobStore(folder / str(number))
    digest = store.put(pattern(megabytes))
    config = NetworkConfig(secret=bytes([number + 1]) * 32, run=RUN, listen=f"/ip4/{address}/tcp/{PORT}")
    async with open_network(config, store=store, inbox=_discard) as network:
        say({"address": network.addresses[0], "digest": digest})
        while await hear() is not None:
            say({"sent": network.stats.bytes_up})


async def join(address: str, folder: Path) -> None:
    """Fetch what the parent names, from as many donors at once as it says, and tell how long it took."""
    store = BlobStore(folder / "joiner")
    config = NetworkConfig(secret=b"\xee" * 32, run=RUN, listen=f"/ip4/{address}/tcp/{PORT}")
    # One network for each way, so that all connections are as old; the joiner's identity is another in each.
    single = replace(config, listen=f"/ip4/{address}/tcp/{PORT + 1}", blobs=ExchangeLimits(donors=1))
    async with (
        open_network(config, store=store, inbox=_discard) as several,
        open_network(replace(single, secret=b"\xef" * 32), store=store, inbox=_discard) as one,
    ):
        say({"ready": True})
        while (words := await hear()) is not None:
            network = several if words["at_once"] else one
            for donor in words["donors"]:
                await network.dial(donor)
            before, began = network.stats.bytes_down, time.perf_counter()
            await network.fetch(
                words["digest"],
                max_size=1 << 40,
                deadline_s=DEADLINE_S,
                providers=words["donors"],
                shared=True,
            )
            took = time.perf_counter() - began
            store.delete(words["digest"])
            say({"s": took, "bytes": network.stats.bytes_down - before})


def measure(donors: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of so many donors."""
    delay_s = options.delay / 2000
    links = [Link(options.rate * MBIT, delay_s)] * donors
    links.append(Link(options.joiner * options.rate * MBIT, delay_s))
    size = options.megabytes << 20
    took: dict[bool, list[float]] = {False: [], True: []}
    fetched, parts = list[float](), list[int]()
    with tempfile.TemporaryDirectory() as where, open_links(links) as opened:
        words = [
            {"number": number, "address": host.address, "folder": where, "megabytes": options.megabytes}
            for number, host in enumerate(opened.hosts)
        ]
        words[-1]["number"] = None
        commands = [
            [sys.executable, "-m", "tests.bench", "donors", "--process", json.dumps(one)] for one in words
        ]
        with open_crew(opened.hosts, commands, Path(where) / "logs", "donors") as crew:
            told = [crew.hear(place) for place in range(donors)]
            crew.hear(donors)

            def sent() -> list[int]:
                for place in range(donors):
                    crew.tell(place, {})
                return [int(crew.hear(place)["sent"]) for place in range(donors)]

            for repeat in range(options.repeats + 1):
                for at_once in (False, True):
                    before = sent()
                    job = {"digest": told[0]["digest"], "donors": [one["address"] for one in told]}
                    crew.tell(donors, {**job, "at_once": at_once})
                    found = crew.hear(donors)
                    if repeat == 0:  # connections are made, and their windows grow
                        continue
                    took[at_once].append(found["s"])
                    if at_once:
                        fetched.append(found["bytes"] / size)
                        given = [after - old for after, old in zip(sent(), before, strict=True)]
                        parts.append(sum(one > size / 20 for one in given))
    in_turn, together = (size / 1e6 / statistics.median(took[kind]) for kind in (False, True))
    return {
        "donors": donors,
        "in turn MB/s": round(in_turn, 2),
        "at once MB/s": round(together, 2),
        "ratio": round(together / in_turn, 2),
        "fetched": round(statistics.median(fetched), 3),
        "parts": min(parts),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each number of donors."""
    parser = argparse.ArgumentParser(prog="donors", description=__doc__.partition("\n")[0])
    parser.add_argument("--donors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=float, default=100.0, help="of a donor's link, Mbit/s")
    parser.add_argument("--delay", type=float, default=50.0, help="between any two hosts, ms each way")
    parser.add_argument("--joiner", type=float, default=4.0, help="how many times as fast the joiner's is")
    parser.add_argument("--megabytes", type=int, default=40, help="size of the blob, MiB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--process", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.process is not None:
        words = options.process
        folder = Path(words["folder"])
        if words["number"] is None:
            trio.run(join, words["address"], folder)
        else:
            trio.run(give, words["number"], words["address"], folder, words["megabytes"])
        return 0
    rows = Rows(options.json)
    for donors in options.donors:
        rows.add(measure(donors, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
