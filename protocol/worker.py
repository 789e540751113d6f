"""A child process spoken to over JSON lines: torch lives there, so that its crash costs a call and not the identity.

The parent writes {"id", "method", "params"}; the child answers any number of {"id", "progress"} and then one
of {"id", "result"} and {"id", "error": {"type", "message", "hint"}}. A line has at most `MAX_LINE_BYTES`. The
child's own stdout goes to stderr, so that a library that prints cannot break the protocol; it ends when its
stdin closes, even in the middle of a call, so that it never outlives its parent.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import trio

from protocol.errors import MurmurError, OwnFault, error_classes

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 1 << 20
NICE_VARIABLE = "MURMUR_WORKER_NICE"
_STOP_S = 3.0

Params = dict[str, Any]
Result = dict[str, Any]
Progress = Callable[[dict[str, Any]], None]
"""Tell the parent how far a call has come, in plain JSON data."""

Method = Callable[[Params, Progress], Result]


class WorkerError(OwnFault):
    """Report an exception of the child that is not a MurmurError."""


class WorkerDied(OwnFault):
    """Report a child that is gone; `restart` makes a new one."""


class WorkerTimeout(WorkerDied):
    """Report a call that missed its deadline; the child was killed, because nothing else stops it."""


class Worker:
    """Run one child process and call its methods, one at a time; other calls queue.

    A call that is cancelled or misses its deadline kills the child. Use as an async context manager, or
    `start` and `stop`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        nice: int = 0,
    ) -> None:
        self._argv = list(argv)
        self._log_path = log_path
        self._env = {**(os.environ if env is None else env), NICE_VARIABLE: str(nice)}
        self._cwd = cwd
        self._lock = trio.Lock()
        self._process: trio.Process | None = None
        self._unread = bytearray()
        self._next_id = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """Return the child's process id, or None when it is not running."""
        return self._process.pid if self.alive and self._process is not None else None

    @property
    def alive(self) -> bool:
        """Tell whether the child runs."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the child; do nothing if it runs.

        Raises:
            WorkerDied: the program cannot be started.
        """
        if self.alive:
            return
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._unread.clear()
        with self._log_path.open("ab") as errors:
            try:
                # A session of its own: Ctrl-C in the terminal reaches the parent, which decides.
                self._process = await trio.lowlevel.open_process(
                    self._argv,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors.fileno(),
                    env=self._env,
                    cwd=self._cwd,
                    start_new_session=True,
                )
            except OSError as error:
                raise WorkerDied(f"cannot start {self._argv[0]}: {error.strerror}") from error

    async def restart(self) -> None:
        """Stop the child if it runs, and start a new one; a call under way ends with WorkerDied."""
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        """Close the child's stdin, and kill it if it does not leave."""
        process = self._process
        if process is None:
            return
        with trio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            if process.poll() is None:
                with trio.move_on_after(_STOP_S):
                    await process.wait()
                await self._kill(process)
            if process.stdout is not None:
                await process.stdout.aclose()

    async def call(
        self,
        method: str,
        params: Params,
        *,
        deadline_s: float | None = None,
        on_progress: Progress | None = None,
    ) -> Result:
        """Call a method of the child and return its result.

        Args:
            params: plain JSON data, at most `MAX_LINE_BYTES` in all.
            deadline_s: seconds for the call itself, not for waiting in the queue; None waits for ever.
            on_progress: called in order with what the child tells on the way; it must not block.

        Raises:
            MurmurError: the class the child raised, if it was one of ours.
            WorkerError: the child raised something else.
            WorkerTimeout: no result in time; the child is dead.
            WorkerDied: the child is not running or ended during the call.
        """
        async with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                raise WorkerDied(f"worker is not running{self._exit(process)}", hint=f"see {self._log_path}")
            self._next_id += 1
            line = _encode({"id": self._next_id, "method": method, "params": params})
            done = False
            try:
                with trio.fail_after(float("inf") if deadline_s is None else deadline_s):
                    answer = await self._converse(process, line, on_progress)
                done = True
            except trio.TooSlowError:
                raise WorkerTimeout(f"{method} did not finish within {deadline_s:g} s") from None
            finally:
                if not done:
                    await self._kill(process)
        if "error" in answer:
            raise _revive(answer["error"])
        result = answer.get("result")
        if not isinstance(result, dict):
            raise WorkerError(f"{method} answered with something that is not an object")
        return result

    async def _converse(
        self, process: trio.Process, line: bytes, on_progress: Progress | None
    ) -> dict[str, Any]:
        assert process.stdin is not None
        try:
            await process.stdin.send_all(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._died(process) from None
        while True:
            answer = await self._read_line(process)
            if answer.get("id") != self._next_id:
                raise WorkerError("worker answered a call that was not made")
            if "progress" not in answer:
                return answer
            if on_progress is not None and isinstance(answer["progress"], dict):
                on_progress(answer["progress"])

    async def _read_line(self, process: trio.Process) -> dict[str, Any]:
        assert process.stdout is not None
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > MAX_LINE_BYTES:
                raise WorkerError(f"worker sent a line of more than {MAX_LINE_BYTES} bytes")
            try:
                piece = await process.stdout.receive_some(1 << 16)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                piece = b""
            if not piece:
                raise await self._died(process)
            self._unread += piece
        raw = bytes(self._unread[:end])
        del self._unread[: end + 1]
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise WorkerError("worker sent a line that is not JSON") from error
        if not isinstance(value, dict):
            raise WorkerError("worker sent a line that is not an object")
        return value

    async def _died(self, process: trio.Process) -> WorkerDied:
        with trio.move_on_after(_STOP_S):
            await process.wait()
        return WorkerDied(f"worker ended during a call{self._exit(process)}", hint=f"see {self._log_path}")

    @staticmethod
    async def _kill(process: trio.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its session: what it started must not outlive it
        with trio.CancelScope(shield=True):
            await process.wait()

    @staticmethod
    def _exit(process: trio.Process | None) -> str:
        code = None if process is None else process.returncode
        if code is None:
            return ""
        return f" (killed by signal {-code})" if code < 0 else f" (exit code {code})"


def _encode(value: dict[str, Any]) -> bytes:
    line = json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise WorkerError(f"a line of {len(line)} bytes exceeds {MAX_LINE_BYTES}: pass large data as files")
    return line


def _revive(told: Any) -> MurmurError:
    if not isinstance(told, dict):
        return WorkerError("worker failed without a word")
    kind = error_classes().get(str(told.get("type")))
    message, hint = str(told.get("message", "")), str(told.get("hint", ""))
    if kind is None:
        return WorkerError(f"{told.get('type')}: {message}", hint=hint)
    return kind(message, hint=hint)


def serve(methods: Mapping[str, Method]) -> None:
    """Be the child: answer calls from stdin until it closes, one at a time, on this thread.

    SIGINT is ignored, because the parent decides when to end. Closing stdin ends the process at once, even
    during a call.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(int(os.environ.get(NICE_VARIABLE, "0")))
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_calls, args=(sys.stdin.buffer, calls), daemon=True).start()
    while True:
        output.write(_answer(methods, calls.get(), output))
        output.flush()


def _read_calls(source: BinaryIO, calls: "queue.SimpleQueue[bytes]") -> None:
    while (line := source.readline(MAX_LINE_BYTES + 1)).endswith(b"\n"):
        calls.put(line)
    # The parent has gone or asks us to; a call under way has nobody left to answer to.
    os._exit(0)


def _answer(methods: Mapping[str, Method], line: bytes, output: BinaryIO) -> bytes:
    request = json.loads(line)
    number = request["id"]

    def progress(value: dict[str, Any]) -> None:
        output.write(_encode({"id": number, "progress": value}))
        output.flush()

    try:
        method = methods.get(request["method"])
        if method is None:
            raise WorkerError(f"worker has no method {request['method']!r}")
        return _encode({"id": number, "result": method(request["params"], progress)})
    except Exception as error:  # a process edge: the parent gets the reason, the log gets the traceback
        log.exception("%s failed", request["method"])
        told = {"type": type(error).__name__, "message": str(error), "hint": getattr(error, "hint", "")}
        return _encode({"id": number, "error": {name: text[:4096] for name, text in told.items()}})
