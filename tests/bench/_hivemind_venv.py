"""hivemind in an environment of its own: never a dependency of ours, made on first use and kept."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from tests.bench._links import ROOT

VERSION: Final = "1.1.12"
PACKAGES: Final = (
    "torch==2.13.0",
    f"hivemind=={VERSION}",
    # What the product's model and batches import, so that both sides train the same.
    "blake3",
    "py_arkworks_bls12381",
    "pydantic",
    "rfc8785",
    "zstandard",
)


def cache_directory() -> Path:
    """Return where things are kept that take long to make."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "murmur-bench"


def hivemind_python(directory: Path) -> Path:
    """Return the interpreter of an environment with hivemind, which is made if it is not there.

    Raises:
        subprocess.CalledProcessError: pip failed; its reason is on stderr.
    """
    where = directory / f"hivemind-{VERSION}"
    python, complete = where / "bin" / "python", where / "complete"
    if not complete.exists():
        print(f"installing hivemind {VERSION} in {where}; it takes minutes, once", file=sys.stderr)
        venv.create(where, with_pip=True, clear=True)
        pins = ["--constraint", str(ROOT / "constraints.txt")]
        install = [str(python), "-m", "pip", "install", "--quiet", *pins, *PACKAGES]
        subprocess.run(install, check=True, stdout=sys.stderr)
        complete.touch()
    return python
