"""The wall clock, read here and handed down. Nothing that is signed or paid depends on it."""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Return the Unix time in seconds."""


def unix_time() -> float:
    """Return the Unix time in seconds."""
    return time.time()
