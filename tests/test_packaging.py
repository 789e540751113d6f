"""The lock, the wheel, the import names and the command, as a person who installs Murmur meets them."""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "murmur-network"
PACKAGES = ("murmur", "protocol", "training", "contracts", "verification", "node", "coordinator")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lock() -> dict[str, str]:
    """Read constraints.txt as {canonical name: version}."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, pinned = line.partition("==")
            pins[canonicalize_name(name)] = pinned
    return pins


def installed_requirements() -> set[str]:
    """Follow our requirements, those of the developers included, through what is installed."""
    found: set[str] = set()
    waiting = [(DISTRIBUTION, frozenset({"dev"}))]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if requirement.marker and not any(requirement.marker.evaluate(e) for e in environments):
                continue
            following = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            found.add(following[0])
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return found


# ---------------------------------------------------------------- import names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_an_import_name(package: str) -> None:
    owners = {canonicalize_name(owner) for owner in metadata.packages_distributions().get(package, [])}
    assert not owners - {DISTRIBUTION}, (
        f"{package} also belongs to {owners}; install Murmur into its own environment"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_name_leads_to_this_checkout(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None, f"{package} has no __init__.py"
    assert Path(spec.origin).resolve() == ROOT / package / "__init__.py"


def test_every_foreign_import_is_a_declared_dependency() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["keyring"], *extras["models"], *extras["tensorboard"]]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    owners = metadata.packages_distributions()
    undeclared = [
        f"{path.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "node_modules" not in path.parts
        for name in sorted(top_level_imports(path) - set(PACKAGES) - sys.stdlib_module_names)
        if not {canonicalize_name(owner) for owner in owners.get(name, [])} & declared
    ]
    assert not undeclared, f"imported, but not in pyproject.toml: {undeclared}"


def top_level_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            names |= {alias.name.split(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            names.add(statement.module.split(".")[0])
    return names


# ---------------------------------------------------------------- the command


def test_one_console_script() -> None:
    scripts = metadata.distribution(DISTRIBUTION).entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("murmur", "murmur.cli:main")]
    assert callable(scripts["murmur"].load())


def test_every_shipped_environment_is_registered() -> None:
    group = "murmur.environments"
    found = {
        one.name: one.value for one in metadata.distribution(DISTRIBUTION).entry_points.select(group=group)
    }
    assert found == PYPROJECT["project"]["entry-points"][group], (
        "make setup registers what pyproject.toml names"
    )


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys\n"
        "from murmur.cli import program\n"
        "program()\n"
        "print(*sorted({'torch', 'web3', 'libp2p', 'trio', 'fastapi', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_command_imports_only_what_its_own_group_needs() -> None:
    code = (
        "import sys\n"
        "from murmur.cli import group_of, program\n"
        "assert [group_of(one) for one in (['node', 'start'], ['up'], ['--help'], [])] == ['node', None, None, None]\n"
        "program('node')\n"
        "print(*sorted(name for name in sys.modules if name.endswith('cli') and '.' in name))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["murmur.cli", "node.cli"]


def test_torch_runs_only_in_child_processes() -> None:
    modules = ["node.service", "verification.service", "coordinator.service", "coordinator.api"]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name + ' imports torch')\n"
    )
    argv = [sys.executable, "-c", code, *modules]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- the lock


def test_every_installed_requirement_is_the_locked_version() -> None:
    pins = lock()
    wrong = {
        name: (pins.get(name), metadata.version(name))
        for name in installed_requirements()
        # A local version ("+cpu") is the same release, built for other hardware.
        if pins.get(name) != metadata.version(name).split("+")[0]
    }
    assert not wrong, f"locked and installed differ; make lock, or make setup: {wrong}"


def test_the_lock_holds_exact_versions_and_nothing_of_one_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert [line for line in lines if re.search(r"nvidia|cuda|triton|://|file:", line, re.IGNORECASE)] == []
    names = [canonicalize_name(line.split("==")[0]) for line in lines]
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in lines


def test_the_lock_satisfies_every_bound_in_pyproject() -> None:
    project, pins = PYPROJECT["project"], lock()
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        texts += extra
    for requirement in map(Requirement, texts):
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), str(requirement)


def test_node_packages_are_pinned_for_every_platform() -> None:
    package = json.loads((ROOT / "contracts/package.json").read_text())
    entries = json.loads((ROOT / "contracts/package-lock.json").read_text())["packages"]
    assert "@foundry-rs/anvil" in package["dependencies"]
    for name, pinned in {**package["dependencies"], **package["devDependencies"]}.items():
        entry = entries[f"node_modules/{name}"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", pinned), name
        assert entry["version"] == pinned
        # npm 11 refuses a lock that leaves out the binaries of other platforms.
        for platform, version in entry.get("optionalDependencies", {}).items():
            assert entries[f"node_modules/{platform}"]["version"] == version
    assert not [name for name, entry in entries.items() if "resolved" in entry], "the lock names a registry"


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module_and_all_package_data(wheel: zipfile.ZipFile) -> None:
    wanted = {
        str(path.relative_to(ROOT))
        for pattern in (
            *(f"{package}/**/*.py" for package in PACKAGES),
            "contracts/src/**/*.sol",
            "contracts/artifacts/*.json",
            "training/data/*",
            "verification/data/*",
        )
        for path in ROOT.glob(pattern)
        if path.is_file() and not {"node_modules", "test"} & set(path.relative_to(ROOT).parts)
    }
    assert wanted - {"murmur/bootstrap.py"} <= set(wheel.namelist())
    assert any(name.startswith("contracts/artifacts/") for name in wanted)
    assert any(name.startswith("training/data/") for name in wanted)
    assert "verification/data/calibration.json" in wanted


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    stray = re.compile(
        r"node_modules|/test/|/cache/|/out/|__pycache__|package(-lock)?\.json|bootstrap|\.[mc]js$"
    )
    assert [name for name in names if stray.search(name)] == []
    assert wheel.testzip() is None


def test_the_wheel_carries_the_licence(wheel: zipfile.ZipFile) -> None:
    (metadata_file,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: Apache-2.0" in wheel.read(metadata_file).decode()
    (licence,) = [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
    assert "Apache License" in wheel.read(licence).decode()
