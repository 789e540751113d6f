"""Rows of a table, printed as they are found."""

import json
from collections.abc import Mapping
from typing import Any, Final

TEXT: Final = 22
NUMBER: Final = 8
"""Least width of a column, by what the first row has in it."""


class Rows:
    """Print rows under the names of the first one's values, or each as one JSON document a line.

    Values are text, numbers, lists of them, or None where there is none.
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
            least = {name: TEXT if isinstance(value, str) else NUMBER for name, value in row.items()}
            self._widths = {name: max(len(name), least[name]) for name in cells}
            self._print({name: name for name in cells})
        self._print(cells)

    def _print(self, cells: Mapping[str, str]) -> None:
        print("  ".join(cell.ljust(self._widths[name]) for name, cell in cells.items()).rstrip(), flush=True)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
