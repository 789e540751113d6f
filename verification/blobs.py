"""Read blobs from directories that other programs own, without changing anything there."""

from collections.abc import Callable, Iterable
from pathlib import Path

from protocol.canonical import digest
from protocol.checkpoints import Checkpoints
from protocol.errors import NetworkError


def find_blob(roots: Iterable[Path]) -> Callable[[str, int], bytes | None]:
    """Return a function that reads a blob by its address from the first root that holds it intact.

    Args:
        roots: roots of blob stores (`protocol.blobs`).
    """
    places = tuple(roots)

    def find(address: str, max_bytes: int) -> bytes | None:
        for root in places:
            try:
                with (root / address[:2] / address).open("rb") as file:
                    data = file.read(max_bytes + 1)
            except OSError:
                continue
            if len(data) <= max_bytes and digest(data) == address:
                return data
        return None

    return find


def find_checkpoint(directory: Path) -> Callable[[str, int], bytes | None]:
    """Return a function that reads global parameters by their address from a directory of checkpoints."""
    checkpoints = Checkpoints(directory)

    def find(address: str, max_bytes: int) -> bytes | None:
        for one in checkpoints.kept():
            if one.root == address:
                try:
                    return checkpoints.read(one, max_bytes=max_bytes)
                except NetworkError:
                    continue
        return None

    return find
