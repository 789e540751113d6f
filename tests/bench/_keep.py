"""What was computed once is kept as a line of a file, so that a table of many hours goes on where it was."""

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol.canonical import canonical_json, digest
from protocol.frozen import Frozen
from training.program import program_digest


def key_of(cell: Frozen) -> str:
    """Return what a cell is kept under: a hash of its whole configuration."""
    return digest(canonical_json(_described(cell)))[:16]


def _described(cell: Frozen) -> dict[str, Any]:
    return cell.model_dump(mode="json", exclude_none=True)


class Kept:
    """Hold figures of cells in DIRECTORY/NAME.jsonl, each under the hash of its configuration.

    Args:
        directory: where lines are kept; None keeps nothing.
    """

    def __init__(self, directory: Path | None, name: str) -> None:
        self._path = directory and directory / f"{name}.jsonl"
        self._found: dict[str, dict[str, Any]] = {}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._path.read_text().splitlines() if self._path.exists() else []
            self._found = {found["key"]: found for found in map(json.loads, filter(str.strip, lines))}

    @property
    def lines(self) -> Collection[Mapping[str, Any]]:
        """Return all lines that are kept."""
        return self._found.values()

    def has(self, cell: Frozen) -> bool:
        """Tell whether a cell's figures are kept."""
        return key_of(cell) in self._found

    def figures(self, cell: Frozen, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Return a cell's figures, computing them if nobody has."""
        key = key_of(cell)
        if key not in self._found:
            began = time.process_time()
            found = dict(compute())
            spent = round(time.process_time() - began, 1)
            line = {
                "key": key,
                "cell": _described(cell),
                **found,
                "cpu_s": spent,
                "program": program_digest(),
            }
            self._found[key] = line
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        return self._found[key]

    def warn(self, cells: Sequence[Frozen]) -> None:
        """Say on stderr if figures of a table were computed by different programs."""
        if len({self._found[key_of(cell)]["program"] for cell in cells}) > 1:
            print("warning: these cells were computed by different programs", file=sys.stderr)

    def tell(self, done: int, planned: int) -> None:
        """Say on stderr how far a table is, and about how long it will take."""
        spent = [found["cpu_s"] for found in self._found.values()]
        left = (planned - done) * sum(spent) / max(1, len(spent)) / 60
        print(f"{done} of {planned}; about {left:.0f} CPU-minutes left", file=sys.stderr, flush=True)
