"""Where a machine keeps what it can make or fetch again."""

import os
from pathlib import Path
from typing import Final

CACHE_ENVIRONMENT: Final = "MURMUR_CACHE_DIR"


def cache_directory() -> Path:
    """Return where what can be had again is kept: $MURMUR_CACHE_DIR, else murmur/ in the XDG cache directory."""
    if own := os.environ.get(CACHE_ENVIRONMENT):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "murmur"
