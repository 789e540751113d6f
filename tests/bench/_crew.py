"""Processes of one bench, each on a host of its own, that are asked and answer in lines of JSON."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.bench._links import ROOT, Host

ANSWER_S: Final = 600.0
TICKS: Final = os.sysconf("SC_CLK_TCK")  # a second
LOG_TAIL: Final = 2000


def family(root: int) -> list[int]:
    """Return the CPU ticks of a process and of every one below it, those that ended counted in their parents."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            ticks[int(path.parent.name)] = sum(map(int, fields[11:15]))

    def below(pid: int) -> bool:
        return pid == root or (pid in parents and below(parents[pid]))

    return [own for pid, own in ticks.items() if below(pid)]


class Crew:
    """Running processes, in the order of their hosts."""

    def __init__(self, processes: "list[subprocess.Popen[bytes]]", logs: list[Path]) -> None:
        self._processes, self._logs = processes, logs
        self._heard = [b"" for _ in processes]  # beyond the last line that was asked for

    def tell(self, place: int, words: Mapping[str, Any]) -> None:
        """Send one process a line."""
        stdin = self._processes[place].stdin
        assert stdin is not None
        stdin.write(json.dumps(words).encode() + b"\n")
        stdin.flush()

    def hear(self, place: int, patience_s: float = ANSWER_S) -> dict[str, Any]:
        """Return the next line of one process.

        Raises:
            RuntimeError: it ended, or said nothing for so long; with the end of its log.
        """
        stdout = self._processes[place].stdout
        assert stdout is not None
        while b"\n" not in self._heard[place]:
            ready, _, _ = select.select([stdout], [], [], patience_s)
            more = os.read(stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                log = self._logs[place].read_text(errors="replace")[-LOG_TAIL:]
                raise RuntimeError(f"process {place} said nothing\n{log}")
            self._heard[place] += more
        line, _, self._heard[place] = self._heard[place].partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, words: Mapping[str, Any], patience_s: float = ANSWER_S) -> list[dict[str, Any]]:
        """Send all the same line; return the answer of each, or raise as `hear` does."""
        for place in range(len(self._processes)):
            self.tell(place, words)
        return [self.hear(place, patience_s) for place in range(len(self._processes))]

    def cpu_s(self) -> float:
        """Return the CPU-seconds of all so far, of their children too."""
        return sum(sum(family(process.pid)) for process in self._processes) / TICKS


def gather(crew: Crew, peers: int) -> None:
    """Have our peers (`_meeting`) meet: each dials those before it, so that no two dial each other at once."""
    addresses = [crew.hear(place)["address"] for place in range(peers)]
    for place in range(peers):
        crew.tell(place, {"dial": addresses[:place]})
        crew.hear(place)
    crew.ask({"group": peers})


def gather_hivemind(crew: Crew, peers: int) -> None:
    """Have hivemind's peers meet, all by the first."""
    first: list[str] = []
    for place in range(peers):
        crew.tell(place, {"first": first})
        found = crew.hear(place)["addresses"]
        first = first or found
    crew.ask({"group": peers})


@contextmanager
def open_crew(
    hosts: Sequence[Host], commands: Sequence[Sequence[str]], logs: Path, name: str
) -> Iterator[Crew]:
    """Start a command on each host; in the end each sees its stdin close, and what stays is killed."""
    logs.mkdir(parents=True, exist_ok=True)
    processes, files = [], []
    try:
        for place, (host, argv) in enumerate(zip(hosts, commands, strict=True)):
            files.append(logs / f"{name}-{place}.log")
            with files[-1].open("w") as log:
                processes.append(
                    subprocess.Popen(
                        host.command(argv),
                        cwd=ROOT,
                        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        yield Crew(processes, files)
    finally:
        for process in processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        deadline = time.monotonic() + 20
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):  # else some of its session stay, as hivemind's do
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
