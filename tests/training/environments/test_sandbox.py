"""What a grader runs may try anything: it fails harmlessly, and the grader learns that it failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError, Malformed
from training.environments import jail, sandbox
from training.environments.sandbox import MAX_SOURCE_BYTES, Limits, Run, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux's namespaces")


def test_a_program_computes_and_prints() -> None:
    assert run_python("print(sum(map(int, input().split())))", b"2 3 4\n") == Run(0, False, b"9\n", b"")


def test_an_error_is_told_from_success() -> None:
    found = run_python("assert 1 + 1 == 3")
    assert found.status == 1
    assert not found.ok
    assert b"AssertionError" in found.stderr


def test_a_fork_bomb_has_no_second_process() -> None:
    bomb = "import os\ntry:\n    while True: os.fork()\nexcept OSError as error: print(error.errno)"
    assert run_python(bomb).stdout == b"11\n"  # EAGAIN, once


def test_threads_count_as_processes() -> None:
    found = run_python("import threading\nthreading.Thread(target=print).start()")
    assert b"can't start new thread" in found.stderr
    assert not found.ok


def test_big_memory_is_refused() -> None:
    found = run_python("data = bytearray(1 << 30)")
    assert b"MemoryError" in found.stderr
    assert not found.ok


def test_an_endless_loop_is_killed_by_its_cpu_time() -> None:
    found = run_python("while True: pass", limits=Limits(cpu_s=1, wall_s=30))
    assert found.status == 128 + 9
    assert not found.timed_out


def test_a_sleeper_is_killed_by_the_wall_time() -> None:
    found = run_python(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(99)",
        limits=Limits(wall_s=1),
    )
    assert found.timed_out
    assert not found.ok


@pytest.mark.parametrize("address", ["('192.0.2.1', 53)", "('127.0.0.1', 22)"])
def test_there_is_no_network(address: str) -> None:
    found = run_python(f"import socket\nsocket.create_connection({address}, 1)")
    assert b"Network is unreachable" in found.stderr
    assert not found.ok


def test_nothing_of_the_machine_is_seen_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("secret")
    program = f"""
import os
for path in {str(secret)!r}, {str(Path(__file__))!r}, "/etc/passwd", "/proc/self/environ", "/dev/null":
    assert not os.path.exists(path), path
for path in "/x", "/usr/x", "/tmp/x", os.__file__, {str(tmp_path / "x")!r}:
    try:
        open(path, "a")
    except OSError:
        continue
    raise AssertionError(path)
try:
    os.remove(os.__file__)
except OSError as error:
    print(error.errno)
"""
    found = run_python(program)
    assert (found.stdout, found.stderr) == (b"30\n", b"")  # EROFS
    assert os.path.exists(os.__file__)


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR_PASSWORD", "secret")
    program = """
import os
assert "MURMUR_PASSWORD" not in os.environ
for number in range(3, 32):
    try:
        os.fstat(number)
    except OSError:
        continue
    raise AssertionError(number)
"""
    assert run_python(program) == Run(0, False, b"", b"")


def test_no_capability_comes_back() -> None:
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.unshare(0x10000000), libc.mount(b"x", b"/usr", b"tmpfs", 0, b""), libc.chroot(b"/usr"))
"""
    assert run_python(program).stdout == b"-1 -1 -1\n"


def test_output_is_bounded() -> None:
    found = run_python("print('x' * 10**7)")
    assert len(found.stdout) == Limits().output_bytes
    assert not found.ok


def test_it_cannot_kill_whoever_watches() -> None:
    found = run_python("import os\nprint(os.getpid(), os.getppid())\nos.kill(-1, 9)")
    assert found.stdout == b"1 0\n"
    assert b"ProcessLookupError" in found.stderr


def test_sets_have_one_order() -> None:
    program = "print({'a', 'b', 'c', 'd', 'e', 'f'})"
    assert run_python(program).stdout == run_python(program).stdout


@pytest.mark.parametrize("source", ["x" * (MAX_SOURCE_BYTES + 1), "\ud800", "a\0b"])
def test_a_source_that_is_no_source_is_refused(source: str) -> None:
    with pytest.raises(Malformed):
        run_python(source)


def test_a_program_cannot_pretend_that_the_machine_is_at_fault() -> None:
    found = run_python("import os, sys\nsys.stderr.write('sandbox: no')\nos._exit(125)")
    assert found.status == jail.UNABLE
    assert not found.ok


def test_where_nobody_can_be_shut_in_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "jail.py"
    source = Path(jail.__file__).read_text()
    assert "_NEWNS | _NEWIPC" in source
    broken.write_text(source.replace("_NEWNS | _NEWIPC", "0x40 | _NEWIPC"))  # a flag that no kernel knows
    monkeypatch.setattr(sandbox.jail, "__file__", str(broken))
    with pytest.raises(ConfigError, match="Invalid argument") as caught:
        run_python("print('ran')")
    assert "namespaces" in caught.value.hint
