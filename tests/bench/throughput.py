"""How many rollouts a second a network on this machine samples, learns from and settles, against one process alone.

`python -m tests.bench throughput [--env sort] [--peers 3] [--rounds 8] [--json]`. The network is `murmur up` with
`--kind rollout`: chain, coordinator, contributors, two verifiers, every one a process. Alone, one process of one thread
does the same sampling, checking of rewards, learning and outer steps for as many peers. Time is by the clock, CPU that
of all processes, both over the rounds that learn. On few cores a network cannot win: it does the same work, checks it,
and waits for blocks and for each other between. Linux only.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench._clock import Clock
from tests.bench._crew import TICKS, family
from tests.bench._swarm import Swarm, few_rounds
from training.base import base_model

ROUND = re.compile(r"^round (\d+) of \d+:")


def row(swarm: Swarm, who: str, processes: int, wall_s: float, cpu_s: float) -> dict[str, object]:
    """Return the figures of rounds that took so long each."""
    sampling = swarm.preset.sampling
    samples = len(swarm.crowd) * sampling.groups * sampling.group_size
    return {
        "who": who,
        "processes": processes,
        "rollouts a round": samples,
        "s a round": round(wall_s, 2),
        "rollouts a second": round(samples / wall_s, 1),
        "cpu s a round": round(cpu_s, 2),
        "rollouts a cpu s": round(samples / cpu_s, 1),
        "cores busy": round(cpu_s / wall_s, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def alone(swarm: Swarm) -> dict[str, object]:
    """Run the swarm in this process."""
    start = base_model(swarm.preset).parameters
    ends = [(time.perf_counter(), time.process_time()) for _ in swarm.play(start, Clock())]
    (wall, cpu), (last_wall, last_cpu) = ends[swarm.lag - 1], ends[-1]
    rounds = len(ends) - swarm.lag
    return row(swarm, "one process", 1, (last_wall - wall) / rounds, (last_cpu - cpu) / rounds)


def network(swarm: Swarm, directory: Path) -> dict[str, object]:
    """Run it as a network; its CPU seconds are those of all its processes."""
    peers, rounds = len(swarm.crowd), swarm.manifest.rounds
    argv = [sys.executable, "-m", "murmur", "up", "--kind", "rollout", "--env", swarm.preset.environment]
    argv += ["--peers", str(peers), "--rounds", str(rounds), "--cheat", "none", "--json"]
    argv += ["--dir", str(directory / "up")]
    began: dict[int, tuple[float, list[int]]] = {}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        for line in up.stderr:
            sys.stderr.write(line)
            if match := ROUND.match(line):
                began.setdefault(int(match[1]), (time.perf_counter(), family(up.pid)))
        document = up.stdout.read()
    if not document:
        sys.exit("murmur up ended without a document; what it said is above")
    said = json.loads(document)
    if said["not_demonstrated"]:
        print(f"murmur up: {'; '.join(said['not_demonstrated'])}", file=sys.stderr)
    first, last = min(number for number in began if number > swarm.lag), max(began)
    (wall, before), (last_wall, after) = began[first], began[last]
    who = f"network of {peers}, {len(said['verifiers'])} verifiers"
    cpu_s = (sum(after) - sum(before)) / TICKS
    return row(swarm, who, len(after), (last_wall - wall) / (last - first), cpu_s / (last - first))


def main(arguments: list[str]) -> int:
    """Print a row for one process and one for the network."""
    swarm, rows = few_rounds("throughput", __doc__, arguments)
    rows.add(alone(swarm))
    with tempfile.TemporaryDirectory(prefix="murmur-throughput-") as name:
        rows.add(network(swarm, Path(name)))
    return 0
