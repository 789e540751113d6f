"""Where a run's evidence lies on this machine: the public folder, opened files, and a chain to ask.

A directory may be that of a whole local network, of a coordinator, or a public folder by itself.
"""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from protocol.beacons import SignatureSource
from protocol.checkpoints import CHECKPOINTS_DIRECTORY
from protocol.errors import ConfigError, LedgerError, Malformed, ProofRejected
from protocol.manifest import RunManifest
from protocol.networks import Network
from verification.archive import Archive
from verification.blobs import find_blob, find_checkpoint
from verification.bundle import FindBlob
from verification.public import AuditChain
from verification.tarball import MARK, unpacked_folder

if TYPE_CHECKING:
    from contracts.run import ChainRun

STOP_S = 10.0
BUNDLE_MARK = b"bundle.json\0"


@dataclass(frozen=True)
class Sources:
    """Name the parts of a directory."""

    directory: Path
    public: Path

    @classmethod
    def of(cls, directory: Path) -> "Sources":
        """Find the public folder of a directory.

        Raises:
            ConfigError: there is none.
        """
        for public in (directory / "coordinator" / "public", directory / "public", directory):
            if (public / "manifest.json").is_file():
                return cls(directory, public)
        raise ConfigError(
            f"no public folder of a run in {directory}",
            hint="name the directory of a local network or of a coordinator with --dir",
        )

    @property
    def archive(self) -> Archive:
        """Return the public folder."""
        return Archive(self.public)

    @property
    def find(self) -> FindBlob:
        """Return a reader of public blobs, of every daemon's files here, and of the coordinator's checkpoints."""
        around = sorted(path for path in self.directory.glob("*/blobs") if path != self.public / "blobs")
        blob = find_blob([self.public / "blobs", self.directory / "blobs", *around])
        checkpoint = find_checkpoint(self.public.parent / CHECKPOINTS_DIRECTORY)

        def find(address: str, max_bytes: int) -> bytes | None:
            data = blob(address, max_bytes)
            return checkpoint(address, max_bytes) if data is None else data

        return find

    @property
    def names(self) -> dict[str, int]:
        """Return the registration numbers of the names in a local network; empty elsewhere."""
        try:
            facts = json.loads((self.directory / "up.json").read_text(encoding="utf-8"))
            return {str(name): int(number) for name, number in facts["names"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    @property
    def has_chain(self) -> bool:
        """Tell whether the state of a local chain is kept here."""
        return self._chain_state.is_file()

    @property
    def _chain_state(self) -> Path:
        return self.directory / "chain" / "state.json"

    @property
    def shards(self) -> Path:
        """Return where token shards lie in a local network."""
        return self.directory / "data"

    def number(self, chain: AuditChain, peer: str) -> int:
        """Return the registration number of a peer given by name, number, peer id or address.

        Raises:
            ConfigError: nobody is called that.
        """
        if peer.isascii() and peer.isdigit() and len(peer) < 16:
            return int(peer)
        named = self.names.get(peer)
        if named is not None:
            return named
        for operator in chain.operators():
            keys = chain.keys(operator.number)
            addresses = {operator.wallet.lower(), *(one.peer.lower() for one in keys)}
            if peer.lower() in addresses or peer in {one.peer_id for one in keys}:
                return operator.number
        known = ", ".join(sorted(self.names)) or "a number, peer id or address"
        raise ConfigError(f"no peer is called {peer!r}", hint=f"--peer takes {known}")

    @contextmanager
    def chain(self, manifest: RunManifest, run: str, rpc: Network | None) -> "Iterator[ChainRun]":
        """Give the run on its chain: by RPC, or the local network's, started again from a copy of its state.

        Raises:
            LedgerError: there is neither, it is another chain, or the ledger is not there.
            ConfigError: the local chain's program is not installed.
        """
        if rpc is not None:
            yield connected(rpc, manifest, self.archive.beacons)
            return
        if not self.has_chain:
            raise LedgerError(
                f"no RPC URL was given, and there is no {self._chain_state}", hint="add --rpc URL"
            )
        with _restarted(self._chain_state) as url:
            yield connected(url, manifest, self.archive.beacons)


def is_bundle(path: Path) -> bool:
    """Tell whether a path is a file that begins like a bundle, whatever follows."""
    return _begins_with(path, BUNDLE_MARK)


@contextmanager
def open_sources(path: Path) -> Iterator[Sources]:
    """Find the public folder in a directory, or in a file that `murmur audit fetch` packed.

    Raises:
        ConfigError: there is none.
        ProofRejected: the file is not well formed.
    """
    if not _begins_with(path, MARK):
        yield Sources.of(path)
        return
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(unpacked_folder(path))
        except Malformed as error:
            raise ProofRejected(f"{path}: {error.message}") from error
        yield Sources(folder, folder)


def _begins_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def connected(rpc: Network | str, manifest: RunManifest, signatures: SignatureSource) -> "ChainRun":
    """Return a manifest's run as a chain shows it now, with beacons as far as there are signatures.

    Raises:
        LedgerError: the chain does not answer, it is another one, or the ledger is not there.
    """
    from contracts.run import ChainRun

    chain = ChainRun.connect(rpc, manifest.ledger, manifest.run_id, chain_id=manifest.chain_id)
    chain.follow_beacon(manifest.beacon, signatures, at_once=manifest.rounds + 1, ahead=manifest.ahead)
    chain.refresh()
    return chain


@contextmanager
def _restarted(state: Path) -> Iterator[str]:
    from contracts.anvil import rpc_url, start_anvil, wait_ready

    with TemporaryDirectory(prefix="murmur-audit-") as scratch:
        # The chain writes its state on exit, and an audit changes nothing: it works on a copy.
        copy, log_path = Path(scratch) / "state.json", Path(scratch) / "anvil.log"
        shutil.copyfile(state, copy)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        process = start_anvil(port, None, copy, log_path=log_path)
        try:
            wait_ready(process, port, log_path=log_path)
            yield rpc_url(port)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
