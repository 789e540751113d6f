"""Run slither over the contracts and hold its findings against the answers: `make audit-contracts`.

Slither lives in its own environment (.venv-audit): it needs another web3 than Murmur does. The compiler is npm's solc
behind solcshim.cjs. Every finding must be answered in slither.answers.toml, whose entries name the detector, the
element and the reason; an answer to nothing is an error too, so that the file says what is true today.

Exit 0 if every finding is answered, 1 if not.
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venv-audit"
REQUIREMENTS = HERE / "slither.requirements.txt"
ANSWERS = HERE / "slither.answers.toml"
CONTRACTS = ("Token", "Ledger", "Jury", "BlockBeacon", "DrandBeacon")
IMPORT = re.compile(r'^import .*?"([^"]+)";|^\} from "([^"]+)";', re.MULTILINE)

Finding = tuple[str, str]  # detector, element


def install() -> Path:
    """Make the environment if it is missing or made from other requirements; return its slither."""
    wanted = REQUIREMENTS.read_text()
    stamp = ENVIRONMENT / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("setting up slither in .venv-audit", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        python = ENVIRONMENT / "bin" / "python"
        subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        stamp.write_text(wanted)
    return ENVIRONMENT / "bin" / "slither"


def sources(root: Path) -> dict[str, dict[str, str]]:
    """Return every source unit that the contracts read, by its name under `root`."""
    found: dict[str, dict[str, str]] = {}
    waiting = [f"src/{name}.sol" for name in CONTRACTS]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        text = (root / name).read_text()
        found[name] = {"content": text}
        for match in IMPORT.finditer(text):
            path = match[1] or match[2]
            waiting.append(path if path.startswith("@") else posixpath.normpath(f"{name}/../{path}"))
    return found


def analyse(slither: Path) -> list[tuple[Finding, str]]:
    """Run slither; return its findings, each with its first line.

    Raises:
        RuntimeError: slither did not analyse the contracts.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "src").symlink_to(HERE / "src")
        (root / "@openzeppelin").symlink_to(HERE / "node_modules" / "@openzeppelin")
        settings = {
            "evmVersion": "prague",
            "optimizer": {"enabled": True, "runs": 100},
            "outputSelection": {"*": {"*": ["abi", "evm.bytecode", "evm.deployedBytecode"], "": ["ast"]}},
        }
        document = {"language": "Solidity", "sources": sources(root), "settings": settings}
        (root / "std.json").write_text(json.dumps(document))
        command = [
            slither,
            "std.json",
            "--compile-force-framework",
            "solc-json",
            "--solc",
            str(HERE / "solc"),
        ]
        command += ["--exclude-dependencies", "--filter-paths", "@openzeppelin", "--json", "out.json"]
        done = subprocess.run(
            [str(one) for one in command], cwd=root, capture_output=True, text=True, check=False
        )
        try:
            report = json.loads((root / "out.json").read_text())
        except FileNotFoundError:
            raise RuntimeError(f"slither wrote no report; it said:\n{done.stderr[-2000:]}") from None
        if not report["success"]:
            raise RuntimeError(f"slither failed: {report['error']}")
    return [
        ((one["check"], element(one["elements"][0])), one["description"].split("\n")[0])
        for one in report["results"].get("detectors", [])
    ]


def element(found: dict[str, object]) -> str:
    """Name what a finding is about: `Contract.function`, `Contract.variable` or `Contract.function.variable`."""
    names: list[str] = []
    at: object = found
    while isinstance(at, dict):
        if at.get("type") in ("contract", "function", "variable"):
            names.append(str(at["name"]))
        at = at.get("type_specific_fields", {}).get("parent")
    return ".".join(reversed(names))


def answers() -> dict[Finding, str]:
    """Read the answers; `"*"` answers a detector wherever it speaks.

    Raises:
        ValueError: an answer gives no reason.
    """
    found: dict[Finding, str] = {}
    for one in tomllib.loads(ANSWERS.read_text())["answer"]:
        if not one["reason"].strip():
            raise ValueError(f"{ANSWERS.name}: {one['check']} has no reason")
        for where in one["where"]:
            found[one["check"], where] = one["reason"]
    return found


def main() -> int:
    """Print the unanswered findings and the unused answers; return the exit code."""
    known = answers()
    used: set[Finding] = set()
    findings = analyse(install())
    unanswered = 0
    for (check, where), text in findings:
        answer = next((one for one in ((check, where), (check, "*")) if one in known), None)
        if answer is None:
            unanswered += 1
            print(f"unanswered: {check} in {where}: {text}")
        else:
            used.add(answer)
    for check, where in sorted(known.keys() - used):
        print(f"answers nothing: {check} in {where}")
    if unanswered or known.keys() - used:
        print(f"fix it, or answer it in contracts/{ANSWERS.name}", file=sys.stderr)
        return 1
    print(f"{len(findings)} findings, all answered in contracts/{ANSWERS.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
