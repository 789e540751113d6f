"""Run one benchmark by name: `python -m tests.bench gap --json`."""

import importlib
import pkgutil
import sys

import tests.bench

NAMES = sorted(module.name for module in pkgutil.iter_modules(tests.bench.__path__) if module.name[0] != "_")


def main(arguments: list[str]) -> int:
    """Hand over to the named benchmark's `main(arguments) -> exit code`."""
    name = arguments[0].replace("-", "_") if arguments else ""
    if name not in NAMES:
        print(f"usage: python -m tests.bench {{{','.join(NAMES)}}} [options]", file=sys.stderr)
        return 2
    module = importlib.import_module(f"tests.bench.{name}")
    return int(module.main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
