"""CPU-seconds of one process by what they were spent on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

T, P = TypeVar("T"), ParamSpec("P")


@dataclass
class Clock:
    """Add up CPU-seconds by what they were spent on."""

    spent: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        began = time.process_time()
        result = work(*arguments, **named)
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
        return result
