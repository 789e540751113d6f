"""Seed every test, name the seed when one fails, run `async def` tests on trio, and report the time of each package."""

from __future__ import annotations

import hashlib
import inspect
import os
import random
import sys
from collections import defaultdict
from collections.abc import Generator

# Before anything imports torch: the tensors here are small, and node processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import trio
from hypothesis import settings

settings.register_profile("murmur", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("murmur")

PATIENCE_S = {
    "coordinator": 60.0,
    "node": 60.0,
    "protocol": 40.0,
    "verification": 90.0,
}  # for one `async def` test

_seconds: defaultdict[str, float] = defaultdict(float)
_tests: defaultdict[str, set[str]] = defaultdict(set)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="base of every test's seed (default 0)")


def seed_of(item: pytest.Item) -> int:
    """Derive a test's seed from the base and its name, so that no test depends on its neighbours."""
    text = f"{item.config.getoption('--seed')} {item.nodeid}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of the requesting test; it changes with --seed only."""
    return seed_of(request.node)


@pytest.fixture(autouse=True)
def _seeded_globals(request: pytest.FixtureRequest) -> None:
    # For dependencies that draw from global generators; our own code takes its generator as a parameter.
    value = seed_of(request.node)
    random.seed(value)  # noqa: TID251
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(value)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(value)


def package_of(nodeid: str) -> str:
    """Return the package that a test is of: its folder under tests/."""
    folders = nodeid.split("::")[0].split("/")
    return folders[1] if len(folders) > 2 else "project"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def bounded() -> None:
        with trio.fail_after(PATIENCE_S[package_of(pyfuncitem.nodeid)]):
            await pyfuncitem.obj(**arguments)

    trio.run(bounded)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        base = item.config.getoption("--seed")
        again = f"make test ARGS='{item.nodeid} --seed {base}'"
        report.sections.append(("seed", f"{seed_of(item)} (base {base}); again: {again}"))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    package = package_of(report.nodeid)
    _seconds[package] += report.duration
    _tests[package].add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _seconds:
        return
    terminalreporter.section("time per package")
    for package, seconds in sorted(_seconds.items(), key=lambda entry: -entry[1]):
        terminalreporter.write_line(f"{package:<14}{len(_tests[package]):>6} tests {seconds:>8.1f} s")
