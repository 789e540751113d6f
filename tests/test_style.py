"""What a reader may rely on in every file of the project, and no linter checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 600
CODE = {".py", ".sol", ".mjs", ".cjs", ".js", ".css", ".html", ".sh", ".toml", ".yaml", ".yml", ".service"}
GENERATED = {"contracts/package-lock.json", "constraints.txt", "LICENSE"}

# Each pattern would find itself, were it spelled out here.
BANNED = {
    "a folder of one machine": re.compile(
        r"(?<![\w.:/-])/(?:work|root|opt/pypi|home/(?!murmur\b)\w+|Users/\w+)(?:/|\b(?=['\"\s]))"
    ),
    "an unfinished thought": re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b"),
    "a merge conflict": re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE " + r"KEY-----"),
}
DESERIALIZES_CODE = re.compile(
    r"^\s*(?:import|from)\s+(?:pickle|cloudpickle|dill|joblib|marshal|shelve)\b|\btorch\.(?:load|save)\(|\bweights_"
    + r"only\b",
    re.MULTILINE,
)


def project_files() -> list[Path]:
    """List the files that are, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name and name not in GENERATED]
    return [path for path in files if path.is_file()]


def text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


@pytest.fixture(scope="module")
def files() -> list[Path]:
    try:
        return project_files()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")


def test_a_file_fits_in_one_head(files: list[Path]) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in files
        if path.suffix in CODE and (lines := len((text_of(path) or "").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines: {long}"


@pytest.mark.parametrize("what", BANNED)
def test_no_file_holds(what: str, files: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0].strip()}"
        for path in files
        if path.suffix != ".json" and (text := text_of(path)) is not None
        for match in BANNED[what].finditer(text)
    ]
    assert not found, f"{what}: {found}"


def test_nothing_deserializes_code(files: list[Path]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for path in files
        if path.suffix == ".py" and path != Path(__file__).resolve()
        for match in DESERIALIZES_CODE.finditer(text_of(path) or "")
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("cd /" + "root/x", True),
        ("'/" + "work'", True),
        ("/" + "Users/ann/", True),
        ("https://example.org/work/", False),
        ("./work/", False),
        ("/home/murmur/", False),
    ],
)
def test_the_path_pattern_knows_a_machine_from_an_address(text: str, caught: bool) -> None:
    assert bool(BANNED["a folder of one machine"].search(text)) is caught
