"""Ours against hivemind in one run on this machine: averaging ten million parameters, and training to a loss.

`python -m tests.bench hivemind [--peers 4] [--rate 100] [--delay 50] [--repeats 5] [--parts averaging training]
[--keep DIRECTORY] [--json]`.
hivemind 1.1.12 is installed in an environment of its own under DIRECTORY on first use (about 1.2 GB, pip), and never
in ours. It needs root: over links, every peer is a process in a network namespace (`tests.bench._links`).

Every peer has the pseudo-gradient of a third round of real training, with its residual, and all need the mean. Ours
compress, announce by gossip, fetch from each other, decode, and take the clipped mean as an outer step; theirs run
`DecentralizedAverager`. Time is from the word to start until the last has the mean, CPU that of all peers, bytes those
of IP packets a peer, and error the distance from the exact mean over its norm, the worst peer's. The first
of all repeats is left out, the others' median is told.

All train the product's default model on the packaged corpus over links, with the product's batches and inner rates, for
as many steps a peer as a run of `--rounds` has. Of ours there are the contributors alone, and a whole network as
`murmur up` lives it, with chain, coordinator and two verifiers on hosts of their own; of hivemind's optimizer,
several ways to use it, all with 16-bit floats. Held-out loss is the product's. Time is from the first step, after
everything is set up. Seconds, tokens of all peers, megabytes that a peer sent (a contributor, in the whole
network) and CPU-seconds of all processes are those to the last of the targets, and to the end.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench._averaging import COMPRESSIONS, FEW, Group, make_vectors
from tests.bench._hivemind_venv import cache_directory, hivemind_python
from tests.bench._lines import MBIT, Link
from tests.bench._rows import Rows
from tests.bench._training import TRIALS, Course


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


def training(options: argparse.Namespace, rows: Rows) -> None:
    """Print a row for each way to train; details go to stderr."""
    link = Link(rate=options.rate * MBIT, delay_s=options.delay / 2000)
    with tempfile.TemporaryDirectory() as directory:
        course = Course.prepare(
            Path(directory),
            options.seed,
            options.rounds,
            python=hivemind_python(options.keep),
            peers=options.peers,
            link=link,
            matchmaking_s=options.matchmaking,
            limit_s=options.limit,
        )
        for name in options.trials:
            trial = course.trial(name)
            rows.add(trial.row(options.targets))
            print(json.dumps({"how": name, **trial.more}), file=sys.stderr, flush=True)


PARTS: Final = {"averaging": averaging, "training": training}


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench hivemind", description=__doc__)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=100.0, help="of each peer's link, Mbit/s each way")
    parser.add_argument("--delay", type=float, default=50.0, help="between any two peers, ms each way")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--matchmaking", type=float, default=1.0, help="hivemind's least time for it, s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40, help="that each peer trains for")
    parser.add_argument("--targets", type=float, nargs="+", default=[2.5, 2.2, 2.1], help="held-out losses")
    parser.add_argument("--limit", type=float, default=240.0, help="of a training of hivemind's, s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="of training")
    parser.add_argument("--keep", type=Path, default=cache_directory(), help="of hivemind and of vectors")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or hosts' processes would stay
    options.keep.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        PARTS[part](options, Rows(options.json))
    return 0
