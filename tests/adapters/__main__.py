"""Make the environment if it is missing or made from other requirements, and test the adapters in it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENT = ROOT / ".venv-environments"
REQUIREMENTS = HERE / "requirements.txt"


def install() -> Path:
    """Return the environment's Python."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "requirements.txt"
    wanted = REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        print("setting up the adapters' libraries in .venv-environments", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return python


def main() -> int:
    """Run the tests; return pytest's exit code."""
    options = ["-c", HERE / "pytest.ini", "--rootdir", ROOT, "--confcutdir", HERE, "-p", "no:cacheprovider"]
    command = [install(), "-m", "pytest", *options, HERE, *sys.argv[1:]]
    return subprocess.run([str(one) for one in command], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
