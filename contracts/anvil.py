"""The local chain: anvil, from npm's @foundry-rs/anvil, with its whole history in one file.

The state file is written every few seconds and on exit, and read on start: blocks with their hashes,
transactions, receipts and logs survive, so that an audit can be repeated from it. Two things do not: the hash
of block 0 may change between starts (anvil makes it anew from the clock), and state at old blocks (`eth_call`
with a block number) is gone.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic
from typing import cast

from eth_utils.address import to_checksum_address
from web3 import Web3
from web3.types import RPCEndpoint

from contracts.chain import connect, ledger_errors
from protocol.errors import ConfigError, LedgerError
from protocol.manifest import LOCAL_CHAIN_ID

HOST = "127.0.0.1"
ENVIRONMENT = "MURMUR_ANVIL"
# Enough for reads at a recent block. Without pruning, anvil keeps all states and swaps them to ~/.foundry,
# about 0.3 MB a block, which it never deletes.
KEPT_STATES = 128
STATE_INTERVAL_S = 5
PREVIOUS_SUFFIX = ".previous"


def find_anvil() -> Path:
    """Return the anvil binary: $MURMUR_ANVIL, the project's npm packages, or PATH.

    Raises:
        ConfigError: it is nowhere, or $MURMUR_ANVIL names no program.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise ConfigError(f"${ENVIRONMENT} names no program: {named}", hint=f"unset {ENVIRONMENT}")
        return Path(named)
    shipped = _npm_binary()
    if shipped.is_file():
        return shipped
    found = shutil.which("anvil")
    if found is None:
        raise ConfigError(
            "the local chain's program, anvil, is not installed",
            hint="`npm ci --omit=dev` in contracts/, or put anvil on PATH",
        )
    return Path(found)


def _npm_binary() -> Path:
    # The package's own `anvil` is a Node script around this binary; a signal would reach the script only.
    machine = platform.machine().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    program = "anvil.exe" if sys.platform == "win32" else "anvil"
    packages = Path(__file__).parent / "node_modules" / "@foundry-rs"
    return packages / f"anvil-{sys.platform}-{machine}" / "bin" / program


def start_anvil(
    port: int,
    block_time_s: float | None,
    state_path: Path | None,
    *,
    log_path: Path,
    mnemonic: str | None = None,
    accounts: int = 10,
) -> subprocess.Popen[bytes]:
    """Start the local chain as a child process; end it with SIGTERM and wait, so that it saves its state.

    Args:
        port: TCP port on 127.0.0.1.
        block_time_s: seconds between blocks; None makes a block for every transaction.
        state_path: file that holds the chain; read if it exists, and kept beside itself as `.previous`. None
            keeps nothing.
        log_path: receives its output, which is the reason when it does not start.
        mnemonic: BIP-39 words of the accounts that hold coin for gas; None is anvil's public test phrase.
        accounts: how many of them.

    Raises:
        ConfigError: anvil is not installed, the port is in use, or the state file is cut short.
    """
    program = find_anvil()
    _check_port(port)
    command = [str(program), "--host", HOST, "--port", str(port), "--chain-id", str(LOCAL_CHAIN_ID)]
    command += [
        "--hardfork",
        "prague",
        "--accounts",
        str(accounts),
        "--prune-history",
        str(KEPT_STATES),
        "--quiet",
    ]
    if block_time_s is not None:
        command += ["--block-time", str(block_time_s)]
    if state_path is not None:
        _keep_previous(state_path)
        command += ["--state", str(state_path), "--state-interval", str(STATE_INTERVAL_S)]
    if mnemonic is not None:
        command += ["--mnemonic", mnemonic]
    with log_path.open("ab") as log:
        # In its own session, so that Ctrl-C in a terminal reaches it only through its supervisor.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _keep_previous(state_path: Path) -> None:
    """Copy a whole state file aside: anvil writes in place, so that a kill can cut the file short."""
    state_path.parent.mkdir(parents=True, exist_ok=True)
    previous = state_path.with_name(state_path.name + PREVIOUS_SUFFIX)
    if not state_path.exists():
        return
    with state_path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        whole = file.read() == b"}"
    if not whole:
        raise ConfigError(
            f"{state_path} is cut short: the local chain was killed while it wrote it",
            hint=f"mv {previous} {state_path} (the chain as of its last start), or start a new network",
        )
    partial = previous.with_name(previous.name + ".partial")
    shutil.copyfile(state_path, partial)
    partial.replace(previous)


def _check_port(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"port {port}, wanted for the local chain, is in use",
                hint="stop the other program, or choose another port",
            ) from error


def wait_ready(
    process: subprocess.Popen[bytes], port: int, *, log_path: Path, timeout_s: float = 30.0
) -> Web3:
    """Wait until the chain that was started answers, and connect to it.

    Raises:
        LedgerError: it ended (the end of its log says why), or does not answer in time.
    """
    deadline = monotonic() + timeout_s
    pause = threading.Event()
    while process.poll() is None:
        try:
            w3 = connect(rpc_url(port), LOCAL_CHAIN_ID)
        except LedgerError:
            if monotonic() > deadline:
                raise
            pause.wait(0.02)
            continue
        # Another program that took the port meanwhile would have ended ours.
        if process.poll() is None:
            return w3
    raise LedgerError(
        f"the local chain ended with code {process.returncode}: {_tail(log_path)}", hint=f"see {log_path}"
    )


def rpc_url(port: int) -> str:
    """Return the local chain's RPC URL."""
    return f"http://{HOST}:{port}"


def set_coin(w3: Web3, address: str, amount: int) -> None:
    """Give an account that many wei of the local chain's coin, for gas.

    Raises:
        LedgerError: it is not a local chain.
    """
    request(w3, "anvil_setBalance", to_checksum_address(address), hex(amount))


def request(w3: Web3, method: str, *arguments: object) -> object:
    """Call a method that only the local chain has, such as `anvil_mine`; returns its result.

    Raises:
        LedgerError: the chain is not there or does not know it.
    """
    with ledger_errors():
        answer = w3.provider.make_request(cast(RPCEndpoint, method), list(arguments))
    if "error" in answer:
        raise LedgerError(f"{method}: {answer['error']}")
    return answer["result"]


def _tail(log_path: Path) -> str:
    try:
        lines = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "no log"
    return " / ".join(lines[-3:]) or "no output"
