"""What the shell of every daemon needs: its settings, status file, manifest, registration, log and way to stop."""

import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import trio
from pydantic import BeforeValidator, Field, ValidationError

from protocol.beacons import PUBLIC_ENDPOINTS
from protocol.chain import OPENING_ROUND, ChainView
from protocol.errors import ConfigError, Malformed
from protocol.frozen import Address, Digest, Frozen
from protocol.journal import SigningJournal
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.networks import Network

log = logging.getLogger(__name__)

PEER_KEY_FILE = "peer.key"
MANIFEST_FILE = "manifest.json"
STATUS_FILE = "status.json"
JOURNAL_FILE = "journal.sqlite"

Daemon = Literal["node", "verifier", "coordinator"]
"""Name a daemon as the command that starts it does."""

Endpoint = Annotated[str, Field(pattern=r"^https?://[^\s/]+")]
"""Name an HTTP endpoint of a drand network."""

Rpc = Annotated[
    Network, BeforeValidator(lambda value: Network.of(value) if isinstance(value, str) else value)
]
"""Name a network, or the RPC URLs of its endpoints."""

PeerRole = Literal["contributor", "verifier"]


class DaemonConfig(Frozen):
    """Set one daemon up for one run."""

    directory: Path
    run: Digest
    rpc: Rpc
    bootstrap: tuple[str, ...] = ()
    listen: str = "/ip4/127.0.0.1/tcp/0"
    drand: tuple[Endpoint, ...] = PUBLIC_ENDPOINTS  # of the network that the manifest names, if any
    data: Path | None = None  # text to make the token shard of; None: the packaged one
    data_dir: Path | None = None  # token shards; None: <directory>/data
    threads: Annotated[int, Field(ge=1, le=1024)] = 1  # of the child that computes

    @property
    def shards(self) -> Path:
        """Return where token shards lie."""
        return self.data_dir or self.directory / "data"


class PeerDaemonConfig(DaemonConfig):
    """Set one registered peer up for one run."""

    ledger: Address
    device: str = "cpu"
    public_mib: Annotated[int, Field(ge=0)] | None = None  # cap on public blobs that are kept; None: all
    peer_password_file: Path | None = None  # of an encrypted peer key

    @property
    def public_bytes(self) -> int | None:
        """Return the cap on public blobs in bytes."""
        return None if self.public_mib is None else self.public_mib << 20


_Config = TypeVar("_Config", bound=DaemonConfig)


def parse_config(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """Return the configuration that the options of a command line make.

    Args:
        values: by field, whose option has the same name.

    Raises:
        ConfigError: one of them is out of bounds; the message names its option.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from error


def log_to_stderr() -> None:
    """Send the log of this process to stderr, without libp2p's small talk."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("libp2p").setLevel(logging.ERROR)


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace the status file at once, so that nobody reads half of it."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(json.dumps(status, indent=1), encoding="utf-8")
    scratch.replace(path)


def find_status(path: Path) -> dict[str, Any] | None:
    """Read a status file; None while there is none.

    Raises:
        ConfigError: it cannot be read, or is not one.
    """
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(status, dict):
        raise ConfigError(f"{path} is not a status file")
    return status


def read_status(path: Path, daemon: Daemon) -> dict[str, Any]:
    """Read the status file that a daemon must have written.

    Raises:
        ConfigError: there is none, it cannot be read, or is not one.
    """
    status = find_status(path)
    if status is None:
        raise ConfigError(f"no {daemon} has run in {path.parent}", hint=f"`murmur {daemon} start --dir ...`")
    return status


def stored_manifest(directory: Path, run: str) -> RunManifest | None:
    """Return the manifest that an earlier start kept; None where there is none, or another run's.

    Raises:
        ConfigError: it is damaged.
    """
    path = directory / MANIFEST_FILE
    try:
        manifest = RunManifest.read(path)
    except FileNotFoundError:
        return None
    except Malformed as error:
        raise ConfigError(
            f"{path} is damaged: {error}", hint=f"delete {path}; it is fetched again"
        ) from error
    return manifest if manifest.run_id == run else None


def check_ledger(manifest: RunManifest, ledger: str) -> None:
    """Compare the run's ledger with the one that the operator named.

    Raises:
        ConfigError: the run lives on another.
    """
    if manifest.ledger.lower() != ledger.lower():
        raise ConfigError(
            f"the run lives on ledger {manifest.ledger}, not {ledger}", hint=f"--ledger {manifest.ledger}"
        )


def own_number(chain: ChainView, key: PeerKey, role: PeerRole) -> int:
    """Return the number under which a key is registered.

    Raises:
        ConfigError: it is not registered, or in another role, or its number was given another key.
    """
    for operator in chain.operators():
        if key.address in (one.peer for one in chain.keys(operator.number)):
            check_key(chain, operator.number, key)
            if operator.role != role:
                command = "verifier" if operator.role == "verifier" else "node"
                raise ConfigError(
                    f"number {operator.number} is registered as a {operator.role}",
                    hint=f"`murmur {command} start` runs a {operator.role}",
                )
            return operator.number
    raise ConfigError(
        f"peer {key.address} is not registered",
        hint=f"`murmur stake deposit --role {role}` registers it with its stake",
    )


def check_key(chain: ChainView, number: int, key: PeerKey) -> None:
    """Make sure that a number still has the key with which a daemon signs.

    Raises:
        ConfigError: it was given another one, so that whoever signs on with this says what counts no more.
    """
    linked = chain.keys(number)
    if linked and linked[-1].peer != key.address:
        raise ConfigError(
            f"number {number} was given another peer key, {linked[-1].peer}, in block {linked[-1].block}; "
            f"{key.address} speaks no more for rounds that begin since",
            hint="`murmur keys rotate --dir ...` finishes what was begun in this directory; else start the daemon "
            "where the other key is, and if that was not you, unbond: your wallet's key is stolen",
        )


def settle_journal(journal: SigningJournal, manifest: RunManifest, chain: ChainView) -> int:
    """Return the first round for which a daemon may sign: 0, unless its journal came from a backup."""
    under_way = None if chain.anchor(OPENING_ROUND) is None else 0
    while under_way is not None and chain.anchor(under_way) is not None:
        under_way += 1
    before = journal.settle(manifest.run_id, under_way, manifest.pay.epoch_rounds)
    if under_way is not None and under_way < before:
        log.warning(
            "the journal in this directory came from a backup and may lack what was signed since; "
            "nothing new is signed before round %d (the run is at round %d)",
            before,
            under_way,
        )
    return before


async def stop_on_signal(scope: trio.CancelScope) -> None:
    """Wait for SIGTERM or SIGINT, then cancel."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("%s: stopping", signal.Signals(number).name)
            scope.cancel()
            return
