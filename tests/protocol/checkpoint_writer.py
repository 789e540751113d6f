"""A process that keeps checkpoints and is killed, by its own hand, at one chosen system call."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from protocol.checkpoints import Checkpoints


def main(directory: Path, call: str, nth: int, links: bool) -> None:
    """Keep rounds 0, 1, ... until the nth `call` of the process, which it does not survive."""
    count = 0
    real = getattr(os, call)

    def deadly(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    def unlinkable(*_: Any) -> None:
        raise PermissionError("no links here")

    setattr(os, call, deadly)
    if not links:
        os.link = unlinkable  # type: ignore[assignment]
    checkpoints = Checkpoints(directory / "checkpoints")
    for round_ in range(100):
        data = bytes([round_]) * (1 << 16)
        blob = directory / f"blob-{round_}"
        blob.write_bytes(data)
        checkpoints.add(round_, blake3(data).hexdigest(), blob)
        checkpoints.prune(1 << 19)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "links")
