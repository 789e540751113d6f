"""Fuzz the readers of hostile bytes with atheris for as long as you like: `make fuzz ARGS="bundle 600"`.

Arguments: a target's name (default: each in turn) and seconds for each (default 60). A finding is written to the
current directory by libFuzzer, and the exit code is then not 0.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np


def _seeds() -> dict[str, list[bytes]]:
    """Return valid inputs of every target to start from."""
    from tests.fuzz import targets
    from tests.verification.testbed import Testbed, tiny_manifest
    from verification.anchor import AnchorFile
    from verification.blobs import find_blob
    from verification.bundle import export_bundle
    from verification.facts import chain_facts
    from verification.tarball import pack_folder

    with TemporaryDirectory(prefix="murmur-fuzz-") as directory:
        place = Path(directory)
        text = place / "text.txt"
        text.write_bytes(np.random.default_rng(7).integers(97, 123, 6000, dtype=np.uint8).tobytes())
        bed = Testbed(place, tiny_manifest(text, place / "data", rounds=2))
        bed.play_run()
        facts = chain_facts(bed.chain, bed.manifest)
        find = find_blob([bed.archive.blobs, bed.states.root])
        export_bundle(bed.archive, facts, find, 1, 1, place / "bundle")
        pack_folder(bed.archive.root, place / "run.tar")
        blob = bed.records[0].body.units[0].blob
        assert blob is not None
        return {
            "message": list(targets.messages().values()),
            "manifest": [bed.manifest.to_bytes()],
            "dossier": [targets.dossier()],
            "settlement": [targets.settlement()],
            "bundle": [(place / "bundle").read_bytes()],
            "packed folder": [(place / "run.tar").read_bytes()],
            "anchors": [AnchorFile.of(facts, 9).to_bytes()],
            "update": [bed.public.get(blob, max_size=1 << 20)],
            "rollouts": [targets.rollouts.encode(targets.groups(), targets.SHAPE)],
            "group": targets.groups()[:1],
            "model": [targets.model_file()],
        }


def _fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["protocol", "verification", "training", "rfc8785", "json"]):
        from tests.fuzz.targets import TARGETS

    options = [f"-max_total_time={seconds}", "-max_len=262144", "-rss_limit_mb=2048", "-timeout=25"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main(arguments: list[str]) -> int:
    """Start a process for each target; return the first exit code that is not 0."""
    if arguments[:1] == ["--one"]:
        _fuzz(arguments[1], int(arguments[2]), Path(arguments[3]))
        return 0
    seconds = int(arguments.pop()) if arguments and arguments[-1].isdigit() else 60
    seeds = _seeds()
    name = " ".join(arguments)
    if name and name not in seeds:
        print(f"no target is called {name!r}: {', '.join(seeds)}", file=sys.stderr)
        return 2
    for target in [name] if name else seeds:
        with TemporaryDirectory(prefix="murmur-corpus-") as corpus:
            for index, data in enumerate(seeds[target]):
                (Path(corpus) / str(index)).write_bytes(data)
            print(f"== {target}: {seconds} s", file=sys.stderr, flush=True)
            argv = [sys.executable, "-m", "tests.fuzz", "--one", target, str(seconds), corpus]
            code = subprocess.run(argv, check=False).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
