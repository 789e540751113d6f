"""A run whose coordinator is killed for good in mid-round, carried to its end and its pay by a verifier."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from eth_account import Account

from contracts.anvil import set_coin
from contracts.chain import connect
from contracts.claims import prove_reward
from contracts.client import Ledger
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import Role
from contracts.wallet import save_unattended_wallet
from coordinator.config import STAND_IN_DIRECTORY, CoordinatorConfig
from coordinator.standin import check_author, outlook, prepare
from protocol.errors import ConfigError
from protocol.keys import PeerKey, save_peer_key
from protocol.peer import PeerConfig, open_peer
from tests.coordinator.conftest import make_manifest
from tests.coordinator.simchain import SimulatedChain
from tests.coordinator.test_service import (
    CONTRIBUTOR,
    TERMS,
    TOKEN,
    Contributor,
    Place,
    _parameters,
    _wait_for,
    open_place,
)
from tests.protocol.drand_network import LocalDrand
from training.outer import outer_layout
from verification.archive import Archive
from verification.audit import audit
from verification.blobs import find_blob
from verification.duty import confirmed_record
from verification.sources import connected

VERIFIER = PeerKey(b"\x55" * 32)
TIMEOUT = 25  # blocks of 0.2 s


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    network = LocalDrand()
    terms = replace(TERMS, timeout_blocks=TIMEOUT)
    with network.serve() as endpoint, open_place(tmp_path, network, endpoint, terms=terms, rounds=3) as place:
        yield place


def register_verifier(place: Place, home: Path) -> None:
    """Stake a verifier whose key and wallet are in a directory, as its daemon would have left it."""
    home.mkdir(mode=0o700)
    save_peer_key(home / "peer.key", VERIFIER)
    wallet = save_unattended_wallet(home, b"\x66" * 32, scrypt_n=1024)
    w3 = connect(place.rpc)
    set_coin(w3, wallet.address, 100 * TOKEN)
    ledger = Ledger(w3, place.manifest.ledger)
    treasury = Sender(w3, Account.from_key(b"\x33" * 32))
    ledger.transfer(treasury, wallet.address, TOKEN + TERMS.proposal_bond)
    ledger.register(Sender(w3, wallet), Role.VERIFIER, VERIFIER, TOKEN)
    (home / "manifest.json").write_bytes(place.manifest.to_bytes())


def start_stand_in(place: Place, home: Path, bootstrap: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "murmur", "coordinator", "stand-in", "--dir", str(home)]
    argv += [
        "--run",
        place.run,
        "--rpc",
        place.rpc,
        "--ledger",
        place.manifest.ledger,
        "--drand",
        place.drand,
    ]
    argv += ["--bootstrap", bootstrap, "--data-dir", str(place.directory / "data")]
    with (home / "log.txt").open("ab") as log:
        return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)


def status(directory: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((directory / "status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_outlives_its_coordinator(place: Place, tmp_path: Path) -> None:
    home = tmp_path / "verifier"
    successor = home / STAND_IN_DIRECTORY
    register_verifier(place, home)
    lives = [place.start()]

    async def main() -> None:
        await _wait_for(lambda: (place.directory / "status.json").exists())
        chain = ChainRun.connect(place.rpc, place.manifest.ledger, place.run)
        config = PeerConfig(tmp_path / "peer", place.run, bootstrap=(place.bootstrap,), drand=(place.drand,))
        async with open_peer(config, CONTRIBUTOR, chain) as peer:
            contributor = Contributor(peer)
            await contributor.ready()
            size = outer_layout(peer.manifest).file_bytes  # what every node holds, so that it can train
            await peer.fetch(peer.manifest.initial_parameters, max_size=size, deadline_s=30)
            await contributor.commit(0, place.manifest.initial_parameters)
            await contributor.reveal(0)
            await _wait_for(lambda: _parameters(place, 1) is not None)
            await contributor.commit(1, str(_parameters(place, 1)))
            os.kill(lives[0].pid, signal.SIGKILL)  # between root and record
            lives[0].wait()
            address = f"{peer.network.addresses[0]}"
            lives.append(start_stand_in(place, home, address))
            await contributor.reveal(1)
            theirs = Place(successor, place.manifest, place.rpc, place.drand)
            await _wait_for(lambda: status(successor).get("api") and _parameters(theirs, 2) is not None)
            await contributor.until(lambda: confirmed_record(peer.manifest, chain, peer.pool, 1) is not None)
            await contributor.commit(2, str(_parameters(theirs, 2)))
            await contributor.reveal(2)
            await _wait_for(lambda: status(successor).get("phase") == "finished")
            for message in (peer.pool.commitment_list(2), peer.pool.record(1), peer.pool.record(2)):
                assert message is not None
                assert message.author == VERIFIER.address
            record = confirmed_record(peer.manifest, chain, peer.pool, 1)
            assert record is not None
            assert [unit.merged for unit in record.units] == [True], "its round was not void"
            assert chain.finished() is None
            # Whoever comes back takes over what the chain holds, and ends the run.
            lives.append(place.start())
            await contributor.until(lambda: chain.finished() is not None)
            await _wait_for(lambda: status(place.directory).get("phase") == "finished")
            assert peer.pool.equivocations == []

    try:
        trio.run(main)
        archive = Archive(successor / "public")
        chain = connected(place.rpc, place.manifest, archive.beacons)
        report = audit(archive, chain, place.run, find_blob([archive.blobs]))
        found = {check.name: check for check in report.checks}
        assert {name for name, check in found.items() if not check.ok} <= {"replays", "weights"}, (
            report.to_json()
        )
        assert "by stand-ins" in found["authors"].detail
        ledger = chain.ledger
        info = ledger.run_info(place.run)
        assert info is not None
        staker = Account.from_key(b"\x44" * 32)
        tables = [message.body for message in archive.settlement(place.manifest).rewards]
        reward = prove_reward(tables, info.final_root, staker.address)
        assert reward is not None
        ledger.claim(
            Sender(ledger.w3, staker), place.run, reward.account, reward.cumulative_wei, reward.proof
        )
        assert ledger.claimed(place.run, staker.address) == 3 * place.manifest.pay.unit_wei
    finally:
        for life in lives:
            if life.poll() is None:
                life.kill()
                life.wait()


def test_who_has_no_manifest_is_told_where_it_comes_from(tmp_path: Path) -> None:
    manifest = make_manifest()
    with pytest.raises(ConfigError, match="has not the manifest"):
        prepare(tmp_path, manifest.run_id)
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    place = prepare(tmp_path, manifest.run_id)
    assert (place / "manifest.json").read_bytes() == manifest.to_bytes()
    assert prepare(tmp_path, manifest.run_id) == place
    other = make_manifest(name="other")
    (tmp_path / "manifest.json").write_bytes(other.to_bytes())
    with pytest.raises(ConfigError, match="another run"):
        prepare(tmp_path, other.run_id)


def test_who_stands_in_is_told_whether_the_round_under_way_is_lost() -> None:
    manifest, chain = make_manifest(), SimulatedChain()
    assert "void" not in outlook(manifest, chain)
    chain.timeout_blocks = manifest.deadlines.reveal + manifest.deadlines.record
    assert "void" in outlook(manifest, chain)


def test_a_coordinators_key_and_a_stand_ins_are_not_confused(tmp_path: Path) -> None:
    manifest = make_manifest()
    own = CoordinatorConfig(directory=tmp_path, run=manifest.run_id, rpc="http://127.0.0.1:1")
    other = own.model_copy(update={"operator": tmp_path})
    key = PeerKey(b"\x77" * 32)
    with pytest.raises(ConfigError, match="coordinator key") as error:
        check_author(own, manifest, key)
    assert "murmur coordinator stand-in" in error.value.hint
    check_author(other, manifest, key)
    with pytest.raises(ConfigError, match="nobody stands in for himself"):
        check_author(other, manifest.model_copy(update={"coordinator": key.address}), key)
