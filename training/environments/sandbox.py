"""Run code that somebody else wrote, for graders: a fresh interpreter that can do nothing but compute and print.

It has a network of its own without a single interface that is up, a read-only file system of the system's libraries
and Python, no environment, bounded time, memory, output and processes. Where the machine does not allow that (user
namespaces are off, or this is not Linux), nothing runs: a grader that trusts its input is worse than none.

A verdict that depends on a limit of time may differ between machines; a grader that wants to be `verifiable` gives
tasks far from their limits.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from protocol.errors import ConfigError, Malformed
from training.environments import jail

MAX_SOURCE_BYTES: Final = 64 * 1024
MAX_INPUT_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bound what a program may take."""

    cpu_s: int = 2
    wall_s: float = 5.0
    memory_bytes: int = 256 << 20
    output_bytes: int = 64 * 1024  # of each of the two streams
    processes: int = 1


@dataclass(frozen=True)
class Run:
    """Hold what a program did."""

    status: int  # as a shell says it: 128 and the signal's number if it was killed
    timed_out: bool  # killed because its wall time was over
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Tell whether it ended by itself and without an error."""
        return self.status == 0 and not self.timed_out


def run_python(source: str, stdin: bytes = b"", limits: Limits | None = None) -> Run:
    """Run Python source in a sandbox; whatever it does, this returns.

    Raises:
        Malformed: the source or its input is too long, or the source is no text.
        ConfigError: this machine cannot shut a program in.
    """
    limits = limits or Limits()
    if len(source) > MAX_SOURCE_BYTES or len(stdin) > MAX_INPUT_BYTES:
        raise Malformed(
            f"a program of at most {MAX_SOURCE_BYTES} bytes and {MAX_INPUT_BYTES} bytes of input, please"
        )
    try:
        encoded = source.encode()
    except UnicodeEncodeError as error:
        raise Malformed("a program that is not Unicode text") from error
    if len(encoded) > MAX_SOURCE_BYTES or b"\0" in encoded:
        raise Malformed(f"a program of at most {MAX_SOURCE_BYTES} bytes without NUL")
    if sys.platform != "linux":
        raise _unable("namespaces are a feature of Linux")
    # Files, whose size the kernel bounds, rather than pipes, which somebody would have to empty in time.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        status, timed_out, words = _run(encoded, limits, given, out, err)
        if words:
            raise _unable(words.decode(errors="replace"))
        return Run(status, timed_out, _read(out, limits.output_bytes), _read(err, limits.output_bytes))


def _run(
    source: bytes, limits: Limits, given: BinaryIO, out: BinaryIO, err: BinaryIO
) -> tuple[int, bool, bytes]:
    wanted = {
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "output_bytes": limits.output_bytes,
        "processes": limits.processes,
    }
    program = Path(jail.__file__).resolve()
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as words:
        try:
            process = subprocess.Popen(
                [
                    os.path.realpath(sys.executable),
                    "-I",
                    "-S",
                    program,
                    json.dumps(wanted),
                    source,
                    str(writer),
                ],
                stdin=given,
                stdout=out,
                stderr=err,
                env={},
                cwd="/",
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        timed_out = False
        try:
            process.wait(limits.wall_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # Nobody is left: the kernel ends a namespace's processes with its first one, which dies with the jail.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        return (128 - status if status < 0 else status), timed_out, words.read(1000)


def _read(stream: BinaryIO, most: int) -> bytes:
    stream.seek(0)
    return stream.read(most)


def _unable(why: str) -> ConfigError:
    return ConfigError(
        f"this machine cannot shut a program in, so that none was run: {why}",
        hint="allow unprivileged user namespaces (in a container: --security-opt seccomp=unconfined), or use "
        "environments that execute no code",
    )
