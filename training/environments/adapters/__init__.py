"""Environments of other libraries behind our protocol: thin, and the library is imported when one is opened.

A run's configuration comes from somebody else. No adapter imports a module or opens an address that it names.
"""

import importlib
from typing import Any

from training.environments.registry import missing


def load(module: str, environment: str, requires: str) -> Any:
    """Import a foreign module.

    Raises:
        ConfigError: it is not installed; the hint installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(environment, requires) from error


def clamp(value: object, low: float = 0.0, high: float = 1.0) -> float:
    """Return a foreign reward as a number in its range; what is no number is the lowest."""
    if not isinstance(value, int | float) or value != value:
        return low
    return float(min(max(value, low), high))
