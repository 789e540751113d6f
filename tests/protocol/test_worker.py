"""A worker is a real child process: it answers, fails, dies and is started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.errors import ConfigError, Malformed
from protocol.worker import MAX_LINE_BYTES, Worker, WorkerDied, WorkerError, WorkerTimeout

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, sys, threading
from protocol.errors import ConfigError, Malformed
from protocol.worker import serve

def add(params, progress):
    print("noise on stdout")
    return {"sum": params["a"] + params["b"]}

def count(params, progress):
    for n in range(params["to"]):
        progress({"n": n})
    return {}

def fail(params, progress):
    raise {"malformed": Malformed, "config": ConfigError, "zero": ZeroDivisionError}[params["how"]]("because")

def hang(params, progress):
    progress({"pid": os.getpid()})
    threading.Event().wait()

def die(params, progress):
    os._exit(3)

def babble(params, progress):
    return {"text": "x" * params["size"]}

def facts(params, progress):
    return {"nice": os.nice(0), "environment": os.environ.get("MARK", ""), "folder": os.getcwd()}

serve({f.__name__: f for f in (add, count, fail, hang, die, babble, facts)})
"""


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return new_worker(tmp_path)


def new_worker(folder: Path, **options: Any) -> Worker:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MARK": "set"}
    return Worker([sys.executable, "-c", CHILD], log_path=folder / "log" / "worker.log", env=env, **options)


async def test_calls_are_answered_one_after_the_other(worker: Worker) -> None:
    async with worker:
        answers: dict[int, int] = {}

        async def ask(n: int) -> None:
            answers[n] = (await worker.call("add", {"a": n, "b": 1}))["sum"]

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(ask, n)
        assert answers == {n: n + 1 for n in range(5)}
    assert not worker.alive


async def test_progress_arrives_in_order(worker: Worker) -> None:
    seen: list[dict[str, Any]] = []
    async with worker:
        assert await worker.call("count", {"to": 3}, on_progress=seen.append) == {}
    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_our_own_errors_keep_their_class_across_the_process(worker: Worker, tmp_path: Path) -> None:
    async with worker:
        with pytest.raises(Malformed, match="because"):
            await worker.call("fail", {"how": "malformed"})
        with pytest.raises(ConfigError, match="because"):
            await worker.call("fail", {"how": "config"})
        with pytest.raises(WorkerError, match="ZeroDivisionError: because"):
            await worker.call("fail", {"how": "zero"})
        with pytest.raises(WorkerError, match="no method 'nothing'"):
            await worker.call("nothing", {})
        assert (await worker.call("add", {"a": 1, "b": 1}))["sum"] == 2
    log = (tmp_path / "log" / "worker.log").read_text()
    assert "noise on stdout" in log
    assert "Traceback" in log


async def test_a_dead_worker_is_reported_and_can_be_restarted(worker: Worker) -> None:
    async with worker:
        with pytest.raises(WorkerDied, match="exit code 3") as caught:
            await worker.call("die", {})
        assert "worker.log" in caught.value.hint
        with pytest.raises(WorkerDied, match="not running"):
            await worker.call("add", {"a": 1, "b": 1})
        await worker.restart()
        assert (await worker.call("add", {"a": 1, "b": 1}))["sum"] == 2


async def test_a_worker_killed_in_a_call_is_reported(worker: Worker) -> None:
    async with worker:
        with pytest.raises(WorkerDied, match="killed by signal 9"):
            await worker.call("hang", {}, on_progress=lambda told: os.kill(told["pid"], signal.SIGKILL))


async def test_a_call_beyond_its_deadline_kills_the_worker(worker: Worker) -> None:
    async with worker:
        with pytest.raises(WorkerTimeout, match=r"hang did not finish within 0\.3 s"):
            await worker.call("hang", {}, deadline_s=0.3)
        assert not worker.alive


async def test_a_cancelled_call_kills_the_worker(worker: Worker) -> None:
    async with worker:
        with trio.CancelScope() as scope:
            await worker.call("hang", {}, on_progress=lambda told: scope.cancel())
        assert scope.cancelled_caught
        assert not worker.alive


async def test_a_line_is_bounded_in_both_directions(worker: Worker) -> None:
    async with worker:
        with pytest.raises(WorkerError, match="pass large data as files"):
            await worker.call("add", {"a": "x" * MAX_LINE_BYTES, "b": ""})
        with pytest.raises(WorkerError, match="pass large data as files"):
            await worker.call("babble", {"size": MAX_LINE_BYTES})
        assert (
            len((await worker.call("babble", {"size": MAX_LINE_BYTES - 100}))["text"]) == MAX_LINE_BYTES - 100
        )


async def test_a_child_that_does_not_speak_the_protocol_is_refused(tmp_path: Path) -> None:
    for program, reason in (
        ("print('hello', flush=True)", "not JSON"),
        ("print('[1]', flush=True)", "not an object"),
        ('print(\'{"id": 7, "result": {}}\', flush=True)', "a call that was not made"),
        ('print(\'{"id": 1, "result": 5}\', flush=True)', "not an object"),
        (f"print('x' * {2 * MAX_LINE_BYTES}, flush=True)", "a line of more than"),
    ):
        lines = f"import sys; {program}; sys.stdin.read()"
        async with Worker([sys.executable, "-c", lines], log_path=tmp_path / "log") as odd:
            with pytest.raises(WorkerError, match=reason):
                await odd.call("anything", {})


async def test_a_program_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(WorkerDied, match="cannot start"):
        await Worker([str(tmp_path / "missing")], log_path=tmp_path / "log").start()


async def test_environment_folder_and_priority_are_the_childs_own(tmp_path: Path) -> None:
    async with new_worker(tmp_path, cwd=tmp_path, nice=5) as worker:
        facts = await worker.call("facts", {})
        assert facts == {"nice": os.nice(0) + 5, "environment": "set", "folder": str(tmp_path)}


async def test_the_child_ignores_ctrl_c(worker: Worker) -> None:
    async with worker:
        assert (await worker.call("add", {"a": 1, "b": 1}))["sum"] == 2
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        assert (await worker.call("add", {"a": 2, "b": 2}))["sum"] == 4


def test_a_child_ends_with_its_parent_even_in_a_call(tmp_path: Path) -> None:
    parent = f"""
import sys, trio
from pathlib import Path
from protocol.worker import Worker

async def main():
    async with Worker([sys.executable, "-c", {CHILD!r}], log_path=Path({str(tmp_path / "log")!r})) as worker:
        await worker.call("hang", {{}}, on_progress=lambda told: print(told["pid"], flush=True))

trio.run(main)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        handle = os.pidfd_open(int(process.stdout.readline()))
        process.kill()

    async def gone() -> None:
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(handle)

    try:
        trio.run(gone)
    finally:
        os.close(handle)
