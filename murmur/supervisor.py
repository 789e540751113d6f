"""Keep child processes alive: start, restart with back-off, give up with the reason, stop in order.

Children run in sessions of their own, so that Ctrl-C reaches only the parent, which then stops them itself; on Linux
they also receive SIGTERM when the parent is killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from protocol.errors import MurmurError

EARLY_S = 30.0
EARLY_DEATHS = 3
FIRST_PAUSE_S = 0.5
PAUSE_MAX_S = 10.0
LOG_TAIL_BYTES = 2000
_PR_SET_PDEATHSIG = 1


class ChildFailed(MurmurError):
    """Report a child that died again and again just after its start; the hint names its log."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """A command that should be running."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    spawn: Callable[[], "subprocess.Popen[bytes]"] | None = None  # instead of argv, env and log
    dependent: "Child | None" = None  # must start afresh after this one was restarted
    restart: bool = True
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    early_deaths: int = 0
    deaths: int = 0

    @property
    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        """Return the end of the log, for an error message."""
        try:
            data = self.log.read_bytes()[-LOG_TAIL_BYTES:]
        except OSError:
            return ""
        return data.decode(errors="replace").strip()


def _start(child: Child) -> "subprocess.Popen[bytes]":
    child.log.parent.mkdir(parents=True, exist_ok=True)
    with child.log.open("ab") as log:
        return subprocess.Popen(
            list(child.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **child.env},
            start_new_session=True,
            preexec_fn=_die_with_parent,  # safe here: no other thread of this process runs while it forks
        )


class Supervisor:
    """Own a set of children. Call `tend` regularly from the thread that starts them, and `stop` at the end."""

    def __init__(
        self, clock: Callable[[], float], tell: Callable[[str], None], *, stop_s: float = 8.0
    ) -> None:
        """Own nothing yet.

        Args:
            clock: monotonic seconds.
            tell: takes one line about what happened to a child.
            stop_s: how long a child may take to stop after SIGTERM.
        """
        self._stop_s = stop_s
        self._clock = clock
        self._tell = tell
        self.children: list[Child] = []

    def start(self, child: Child) -> Child:
        """Start a child and keep it."""
        self.children.append(child)
        self._spawn(child)
        return child

    def tend(self) -> None:
        """Notice deaths, and restart what is due.

        Raises:
            ChildFailed: a child died three times within its first 30 seconds.
        """
        for child in self.children:
            if child.process is None:
                if child.restart and self._clock() >= child.restart_at:
                    self._spawn(child)
                    if child.dependent is not None and child.dependent.process is not None:
                        child.dependent.process.terminate()
            elif child.process.poll() is not None:
                self._bury(child)

    def take_away(self, child: Child) -> None:
        """Kill a child's process as a power cut would, and do not start it again before `bring_back`."""
        if child.process is not None:
            child.process.kill()
            child.process.wait()
        child.process, child.restart_at = None, inf

    def bring_back(self, child: Child) -> None:
        """Let the next `tend` start a child that was taken away."""
        child.restart_at = self._clock()

    def stop(self) -> None:
        """Stop every child, the last started first: SIGTERM, then SIGKILL for those that stay."""
        for child in reversed(self.children):
            child.restart = False
            if child.alive and child.process is not None:
                child.process.terminate()
        deadline = self._clock() + self._stop_s
        for child in reversed(self.children):
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline - self._clock()))
            except subprocess.TimeoutExpired:
                self._tell(f"{child.name} does not stop and is killed")
                child.process.kill()
                child.process.wait()

    def _spawn(self, child: Child) -> None:
        child.process = child.spawn() if child.spawn is not None else _start(child)
        child.started_at = self._clock()

    def _bury(self, child: Child) -> None:
        code = child.process.returncode if child.process else 0
        child.process = None
        if not child.restart:
            return
        child.deaths += 1
        early = self._clock() - child.started_at < EARLY_S
        child.early_deaths = child.early_deaths + 1 if early else 0
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        if child.early_deaths >= EARLY_DEATHS:
            raise ChildFailed(
                f"{child.name} died {EARLY_DEATHS} times within its first {EARLY_S:.0f} seconds "
                f"({reason})\n{child.tail()}",
                hint=f"its log is {child.log}",
            )
        pause = min(PAUSE_MAX_S, FIRST_PAUSE_S * 2 ** max(0, child.early_deaths - 1))
        child.restart_at = self._clock() + pause
        self._tell(f"{child.name} died ({reason}); restarting in {pause:g} s")
