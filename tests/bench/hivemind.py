"""Ours against hivemind in one run on this machine: averaging ten million parameters, among a few processes.

`python -m tests.bench hivemind [--peers 4] [--rate 100] [--delay 50] [--repeats 5] [--keep DIRECTORY] [--json]`.
hivemind 1.1.12 is installed in an environment of its own under DIRECTORY on first use (about 1.2 GB, pip), and never
in ours. It needs root: over links, every peer is a process in a network namespace (`tests.bench._links`).

Every peer has the pseudo-gradient of a third round of real training, with its residual, and all need the mean. Ours
compress, announce by gossip, fetch from each other, decode, and take the clipped mean as an outer step; theirs run
`DecentralizedAverager`. Time is from the word to start until the last has the mean, CPU that of all peers, bytes those
of IP packets a peer, and error the distance from the exact mean over its norm, the worst peer's. The first
of all repeats is left out, the others' median is told.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.bench._averaging import COMPRESSIONS, FEW, Group, make_vectors
from tests.bench._hivemind_venv import cache_directory, hivemind_python
from tests.bench._lines import MBIT, Link
from tests.bench._rows import Rows


def averaging(options: argparse.Namespace, rows: Rows) -> None:
    """Print a row for each way to average, over loopback and over links."""
    vectors = options.keep / f"vectors-{options.peers}-{options.seed}"
    if not (vectors / "complete").exists():
        vectors.mkdir(parents=True, exist_ok=True)
        make_vectors(vectors, options.peers, options.seed)
    python = hivemind_python(options.keep)
    link = Link(rate=options.rate * MBIT, delay_s=options.delay / 2000)
    for where in (None, link):
        group = Group(python, vectors, options.peers, where, options.matchmaking)
        rows.add(group.nobody())
        for row in group.ours(options.repeats):
            rows.add(row)
        for compression in COMPRESSIONS:
            rows.add(group.hivemind(options.repeats, compression))
        rows.add(group.hivemind(options.repeats, "fp16", FEW))


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench hivemind", description=__doc__)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100.0, help="of each peer's link, Mbit/s each way")
    parser.add_argument("--delay", type=float, default=50.0, help="between any two peers, ms each way")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matchmaking", type=float, default=1.0, help="hivemind's least time for it, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=cache_directory(), help="of hivemind and of vectors")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    options.keep.mkdir(parents=True, exist_ok=True)
    averaging(options, Rows(options.json))
    return 0
