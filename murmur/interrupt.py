"""Ctrl-C and SIGTERM as one exception, so that a command cleans up after itself and exits with 130."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(BaseException):
    """Say that somebody asked the process to stop.

    Not a KeyboardInterrupt: when one of those passes through `exec` of a string, as in the making of a dataclass,
    CPython ends the process by SIGINT whatever exit code it asks for.
    """


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Raise Interrupted in the main thread when SIGINT or SIGTERM comes while the block runs.

    Gives a function that raises it again, for the exception is lost when the signal falls into a finalizer.
    """
    asked = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        asked.set()
        raise Interrupted

    def check() -> None:
        if asked.is_set():
            raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterruptible() -> Iterator[None]:
    """Ignore both signals while the block runs: a second Ctrl-C must not leave children behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
