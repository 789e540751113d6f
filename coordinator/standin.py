"""What a stand-in needs before it can carry a run on: a place of its own, the manifest, a key with stake."""

from pathlib import Path

from contracts.run import ChainRun
from coordinator.config import STAND_IN_DIRECTORY, CoordinatorConfig
from protocol.chain import ChainView
from protocol.daemon import MANIFEST_FILE, check_key, stored_manifest
from protocol.errors import ConfigError
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from verification.archive import Archive


def prepare(home: Path, run: str, heard: Path | None = None) -> Path:
    """Make the place in an operator's directory from which it stands in, and put the run's manifest there.

    Database and public folder begin empty: all that was said is heard again from the peers, or read from a public
    folder, and counts as far as the chain confirms it.

    Args:
        heard: a public folder of the run.

    Raises:
        ConfigError: nobody has the manifest, or it is damaged or another run's.
    """
    manifest = stored_manifest(home, run)
    if manifest is None and heard is not None:
        manifest = Archive(heard).manifest()
    if manifest is None or manifest.run_id != run:
        raise ConfigError(
            f"{home} has not the manifest of run {run}",
            hint="`murmur node start` or `murmur verifier start` fetches it; or name a public folder with --from",
        )
    place = home / STAND_IN_DIRECTORY
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    data, path = manifest.to_bytes(), place / MANIFEST_FILE
    if path.exists() and path.read_bytes() != data:
        raise ConfigError(
            f"{place} is of another run", hint="move it away: one directory stands in for one run"
        )
    path.write_bytes(data)
    return place


def outlook(manifest: RunManifest, chain: ChainView) -> str:
    """Say how long a stand-in waits, and what becomes of the round in which the coordinator was lost."""
    waits, deadlines = chain.timeout_blocks, manifest.deadlines
    said = f"the first step waits until the run stood still for {waits} blocks, later ones do not"
    if deadlines.reveal + deadlines.record > waits:
        return said
    return (
        f"{said}; a record has {deadlines.reveal + deadlines.record} blocks after its list, so that a round whose "
        "list is posted already is void"
    )


def check_author(config: CoordinatorConfig, manifest: RunManifest, key: PeerKey) -> None:
    """Make sure that the key at hand is the coordinator's, or for a stand-in another one.

    Raises:
        ConfigError: it is not.
    """
    own = manifest.coordinator == key.address
    if config.operator is None and not own:
        raise ConfigError(
            f"the run's coordinator key is {manifest.coordinator}, this directory's is {key.address}",
            hint="start it from the directory in which `murmur run create` made the run; who is staked can "
            "stand in for it: `murmur coordinator stand-in`",
        )
    if config.operator is not None and own:
        raise ConfigError(
            "nobody stands in for himself: the key is the run's coordinator's",
            hint="`murmur coordinator start`",
        )


def check_stake(chain: ChainRun, key: PeerKey, wallet: str) -> None:
    """Make sure that the ledger will let an operator act.

    Raises:
        ConfigError: the key is nobody's or was replaced, the wallet another's, or the stake too low.
    """
    numbers = {link.peer: one.number for one in chain.operators() for link in chain.keys(one.number)}
    found = chain.operator(numbers.get(key.address, 0))
    if found is None:
        raise ConfigError(
            f"peer {key.address} is not registered",
            hint="`murmur stake deposit --role verifier` registers it with its stake",
        )
    check_key(chain, found.number, key)
    if found.wallet.lower() != wallet.lower():
        raise ConfigError(f"number {found.number} is wallet {found.wallet}'s, not {wallet}'s")
    if found.stake_wei < chain.min_stake_wei:
        raise ConfigError(
            f"number {found.number} has {found.stake_wei} wei at stake; who stands in needs {chain.min_stake_wei}",
            hint="`murmur stake deposit`",
        )
