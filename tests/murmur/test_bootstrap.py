"""Set-up as its user meets it, without a network: what it names, what it skips, what it takes up again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from murmur import bootstrap

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what set-up reads into an empty folder whose name holds a space."""
    copy = tmp_path / "a checkout"
    for name in ("murmur/bootstrap.py", "constraints.txt", "pyproject.toml", "Makefile"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    (copy / "contracts").mkdir()
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / "contracts" / name, copy / "contracts" / name)
    return copy


def programs(folder: Path, **scripts: str) -> str:
    """Write shell scripts and return a PATH with them in front."""
    folder.mkdir(exist_ok=True)
    for name, body in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def set_up(checkout: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "murmur/bootstrap.py", *arguments],
        cwd=checkout,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def finish(checkout: Path, monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    """Leave the stamps of a finished set-up, as set-up itself names them."""
    monkeypatch.setattr(bootstrap, "ROOT", checkout)
    monkeypatch.setattr(bootstrap, "LOCK", checkout / "constraints.txt")
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").touch()
    for step in steps:
        bootstrap.stamp(checkout / ".venv", step, bootstrap.python_key())


def test_missing_gmp_headers_are_named_before_anything_is_created(checkout: Path, tmp_path: Path) -> None:
    compiler = 'for word; do case "$word" in *.c) grep -q gmp.h "$word" && exit 1;; esac; done; exit 0'
    path = programs(tmp_path / "bin", fakecc=compiler, **{"apt-get": "exit 1"})
    done = set_up(checkout, "up", PATH=path, CC="fakecc")
    assert done.returncode == 1
    assert "gmp.h" in done.stderr
    assert "apt-get install libgmp-dev\n" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_missing_compiler_is_named_once_and_hides_nothing_else(checkout: Path, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", fakecc="exit 1", **{"apt-get": "exit 1"})
    done = set_up(checkout, "system", PATH=path, CC="fakecc")
    assert done.returncode == 1
    assert "C compiler" in done.stderr
    assert "gmp.h" not in done.stderr


def test_a_finished_setup_runs_nothing(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-up", "setup-dev")
    done = set_up(checkout, "check", PATH=programs(tmp_path / "bin", fakecc="exit 1"), CC="fakecc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_developers_tools_are_a_step_of_their_own(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-up")
    done = set_up(checkout, "check", PATH=programs(tmp_path / "bin", fakecc="exit 1"), CC="fakecc")
    assert "C compiler" in done.stderr, "set-up should have begun"


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml"])
def test_a_changed_lock_is_applied_again(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    finish(checkout, monkeypatch, "setup-up")
    text = (checkout / changed).read_text()
    (checkout / changed).write_text(text.replace("rich>=13", "rich>=14").replace("rich==", "rich==0"))
    done = set_up(checkout, "up", PATH=programs(tmp_path / "bin", fakecc="exit 1"), CC="fakecc")
    assert "C compiler" in done.stderr, "set-up should have begun"


def test_a_change_that_pip_does_not_read_sets_nothing_up(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-dev")
    text = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(text.replace("line-length = 110", "line-length = 100"))
    done = set_up(checkout, "check", PATH=programs(tmp_path / "bin", fakecc="exit 1"), CC="fakecc")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_anvil_of_ones_own_needs_no_node(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-up")
    path = programs(tmp_path / "bin", anvil="exit 0", npm="exit 1", node="exit 1")
    done = set_up(checkout, "up", PATH=path, MURMUR_ANVIL=str(tmp_path / "bin/anvil"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_path_to_anvil_is_said_at_once(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(checkout, monkeypatch, "setup-up")
    done = set_up(checkout, "up", MURMUR_ANVIL="/nowhere/anvil")
    assert done.returncode == 1
    assert "MURMUR_ANVIL=/nowhere/anvil" in done.stderr


def test_a_failing_npm_shows_its_words_and_is_tried_again(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-up")
    node = "echo v22.0.0"
    failing = programs(tmp_path / "failing", node=node, npm="echo registry unreachable; exit 1")
    done = set_up(checkout, "up", PATH=failing, MURMUR_ANVIL="")
    assert done.returncode == 1
    assert "registry unreachable" in done.stderr
    working = programs(tmp_path / "working", node=node, npm="mkdir -p node_modules; echo $* > called")
    assert set_up(checkout, "up", PATH=working, MURMUR_ANVIL="").returncode == 0
    assert (checkout / "contracts/called").read_text().startswith("ci --omit=dev")
    (checkout / "contracts/called").unlink()
    assert set_up(checkout, "up", PATH=working, MURMUR_ANVIL="").stderr == ""
    assert not (checkout / "contracts/called").exists()


def test_a_missing_browser_is_told_with_what_it_costs_and_how_to_get_one(
    checkout: Path, tmp_path: Path
) -> None:
    nowhere = set_up(checkout, "browser", PATH=str(tmp_path), MURMUR_CHROMIUM="")
    assert nowhere.returncode == 1
    assert "the tests of the pages are skipped" in nowhere.stderr
    assert "apt-get install chromium" in nowhere.stderr
    there = programs(tmp_path / "bin", **{"google-chrome": "exit 0"})
    assert set_up(checkout, "browser", PATH=there, MURMUR_CHROMIUM="").returncode == 0
    wrong = set_up(checkout, "browser", PATH=there, MURMUR_CHROMIUM=str(tmp_path / "chromium"))
    assert wrong.returncode == 1, "who names one means that one"


def test_an_unknown_command_is_a_usage_error(checkout: Path) -> None:
    done = set_up(checkout, "sideways")
    assert done.returncode == 1
    assert "usage:" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_up_passes_its_arguments_on_and_keeps_stdout_for_the_result(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(checkout, monkeypatch, "setup-up")
    programs(checkout / ".venv/bin", murmur='printf "%s\\n" "$@"')
    done = subprocess.run(
        ["make", "up", "ARGS=--rounds 6 --json", f"PYTHON={sys.executable}"],
        cwd=checkout,
        # As typed in a shell: under `make test`, make would print the directories that it enters.
        env={**os.environ, "MURMUR_ANVIL": sys.executable, "MAKEFLAGS": "", "MAKELEVEL": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["up", "--rounds", "6", "--json"]
