"""The command line of each process of a local network, and where each keeps its things."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.types import Role
from murmur.identities import Identity
from murmur.local import BLOCK_TIME_S, murmur_argv, thread_env
from murmur.ports import free_port
from murmur.supervisor import Child
from protocol.daemon import STATUS_FILE, find_status
from protocol.keys import PeerKey


@dataclass(frozen=True)
class Wiring:
    """Say what the processes must know of each other."""

    directory: Path
    run: str
    rpc: str
    ledger: str
    api_port: int
    listen_port: int  # of the coordinator, which the others meet first
    coordinator: PeerKey
    tensorboard: Path | None = None  # where event files are written

    @property
    def bootstrap(self) -> str:
        """Return the coordinator's full address."""
        return f"/ip4/127.0.0.1/tcp/{self.listen_port}/p2p/{self.coordinator.peer_id}"

    def child(self, identity: Identity) -> Child:
        """Return the process of a participant."""
        home = self.directory / identity.name
        common = ["--dir", str(home), "--run", self.run, "--rpc", self.rpc, "--ledger", self.ledger]
        common += ["--data-dir", str(self.directory / "data")]
        match identity.role:
            case Role.CONTRIBUTOR:
                command = ["node", "start", *common, *self._network(), *self._board()]
                command += ["--cheat", identity.cheat] if identity.cheat else []
                command += [] if identity.cpu_share == 1 else ["--cpu-share", str(identity.cpu_share)]
            case Role.VERIFIER:
                command = ["verifier", "start", *common, *self._network()]
                command += ["--cheat", identity.cheat] if identity.cheat else []
            case None:
                listen = f"/ip4/127.0.0.1/tcp/{self.listen_port}"
                command = [
                    "coordinator",
                    "start",
                    *common,
                    "--listen",
                    listen,
                    "--api-port",
                    str(self.api_port),
                    *self._board(),
                ]
        return Child(identity.name, murmur_argv(*command), home / "log.txt", env=thread_env())

    def _board(self) -> list[str]:
        return [] if self.tensorboard is None else ["--tensorboard", str(self.tensorboard)]

    def _network(self) -> list[str]:
        # A port of its own, kept over restarts, so that a restarted node is found where it was.
        return ["--listen", f"/ip4/127.0.0.1/tcp/{free_port()}", "--bootstrap", self.bootstrap]


def chain_child(directory: Path, port: int) -> Child:
    """Return the chain's process. Its state is in the directory, so that it can be started again from there alone."""
    from contracts.anvil import start_anvil

    state, log = directory / "chain" / "state.json", directory / "chain" / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Child("chain", (), log, spawn=lambda: start_anvil(port, BLOCK_TIME_S, state, log_path=log))


def read_status(home: Path) -> dict[str, Any]:
    """Return a daemon's status file; empty while there is none.

    Raises:
        ConfigError: it is there and is not one.
    """
    return find_status(home / STATUS_FILE) or {}
