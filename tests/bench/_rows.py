"""Rows of a table, printed as they are found."""

import json
from collections.abc import Mapping
from typing import Any


class Rows:
    """Print rows under the names of the first one's values, or each as one JSON document a line.

    Values are text, numbers or lists of them.
    """

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._widths: dict[str, int] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Print one more row, of the same names."""
        if self._json:
            print(json.dumps(row), flush=True)
            return
        cells = {name: _text(value) for name, value in row.items()}
        if not self._widths:
            self._widths = {name: max(len(name), len(cell), 8) for name, cell in cells.items()}
            self._print({name: name for name in cells})
        self._print(cells)

    def _print(self, cells: Mapping[str, str]) -> None:
        print("  ".join(cell.ljust(self._widths[name]) for name, cell in cells.items()).rstrip(), flush=True)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
