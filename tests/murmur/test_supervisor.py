"""A child that dies is restarted with back-off; one that keeps dying ends the run with the reason."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from murmur.supervisor import Child, ChildFailed, Supervisor


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def supervisor(clock: Clock) -> Iterator[Supervisor]:
    told: list[str] = []
    found = Supervisor(clock, told.append)
    yield found
    found.stop()


def child(tmp_path: Path, code: str) -> Child:
    return Child("child", [sys.executable, "-c", code], tmp_path / "child.log")


def wait(one: Child) -> None:
    assert one.process is not None
    one.process.wait(20)


def test_a_child_that_is_taken_away_stays_away_until_it_is_brought_back(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    one = supervisor.start(child(tmp_path, "import time; time.sleep(60)"))
    for _ in range(4):  # more often than a child may die early
        supervisor.take_away(one)
        clock.now += 100.0
        supervisor.tend()
        assert not one.alive
        supervisor.bring_back(one)
        supervisor.tend()
        assert one.alive
    assert one.deaths == 0


def test_a_dead_child_comes_back_after_a_pause(supervisor: Supervisor, clock: Clock, tmp_path: Path) -> None:
    one = supervisor.start(child(tmp_path, "import time; time.sleep(60)"))
    assert one.process is not None
    first = one.process.pid
    clock.now = 100.0
    os.kill(first, signal.SIGKILL)
    wait(one)
    supervisor.tend()
    assert one.process is None
    supervisor.tend()
    assert one.process is None
    clock.now += 1.0
    supervisor.tend()
    assert one.alive
    assert one.process is not None
    assert one.process.pid != first


def test_three_early_deaths_end_the_run_with_the_reason(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    one = supervisor.start(child(tmp_path, "import sys; print('no key'); sys.exit(3)"))
    for _ in range(2):
        wait(one)
        supervisor.tend()
        clock.now += 9.0
        supervisor.tend()
    wait(one)
    with pytest.raises(ChildFailed, match=r"exit code 3(?s:.*)no key"):
        supervisor.tend()


def test_deaths_after_the_first_thirty_seconds_do_not_add_up(
    supervisor: Supervisor, clock: Clock, tmp_path: Path
) -> None:
    one = supervisor.start(child(tmp_path, "pass"))
    for _ in range(5):
        wait(one)
        clock.now += 31.0
        supervisor.tend()
        clock.now += 31.0
        supervisor.tend()
    assert one.deaths == 5


def test_stop_ends_a_child_that_ignores_sigterm(clock: Clock, tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    told: list[str] = []
    found = Supervisor(clock, told.append, stop_s=0.2)
    one = found.start(child(tmp_path, deaf))
    while not one.tail():
        assert one.alive
    found.stop()
    assert not one.alive
    assert "killed" in told[-1]
