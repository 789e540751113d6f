"""The daemon as a real process on a real chain and network, killed in mid-round and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio
from eth_account import Account

from contracts.anvil import rpc_url, set_coin, start_anvil, wait_ready
from contracts.client import Ledger
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import JuryTerms, LedgerTerms, Role
from contracts.wallet import save_unattended_wallet
from coordinator.run import create_run, plan_run
from murmur.ports import free_port
from protocol.canonical import canonical_json
from protocol.keys import PeerKey, save_peer_key
from protocol.manifest import RunManifest
from protocol.messages import Commitment, Ready, Receipt, ReceivedUpdate, Reveal, sign
from protocol.peer import Peer, PeerConfig, open_peer
from protocol.state import moments_root, residual_root, segment_root, update_root
from protocol.tensors import parameter_layout
from protocol.update import encode, symbols_digest
from tests.protocol.drand_network import LocalDrand
from training.assignment import assignment, assignment_digest
from training.codec import compress
from verification.archive import Archive
from verification.audit import audit
from verification.blobs import find_blob
from verification.commit import carried
from verification.report import Check
from verification.sources import connected

COORDINATOR, CONTRIBUTOR = PeerKey(b"\x11" * 32), PeerKey(b"\x22" * 32)
TOKEN = 10**18
TERMS = LedgerTerms(
    min_stake=TOKEN,
    run_bond=50 * TOKEN,
    proposal_bond=5 * TOKEN,
    unbonding_blocks=4000,
    dispute_blocks=2,
    force_blocks=2,
    timeout_blocks=1000,
)
JURY = JuryTerms(
    slot_stake=TOKEN,
    silent_penalty=TOKEN // 10,
    fee=TOKEN // 100,
    case_bond=TOKEN,
    seats=3,
    draw_blocks=12,
    vote_blocks=12,
    reveal_blocks=10,
    appeal_blocks=5,
    unbonding_blocks=10,
)
SALT = "5a" * 32
PATIENCE_S = 240.0  # for one thing to happen: the daemon starts three times, and others use the machine
TEXT = b"It was the best of times, it was the worst of times. " * 300


@dataclass
class Place:
    """A run on a chain of its own, with a drand network of its own."""

    directory: Path
    manifest: RunManifest
    rpc: str
    drand: str

    @property
    def run(self) -> str:
        return self.manifest.run_id

    def start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "murmur", "coordinator", "start", "--dir", str(self.directory)]
        argv += ["--run", self.run, "--rpc", self.rpc, "--listen", f"/ip4/127.0.0.1/tcp/{self.port}"]
        argv += ["--data-dir", str(self.directory / "data"), "--no-control"]
        argv += ["--drand", self.drand]
        with (self.directory / "log.txt").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    port: int = 0

    @property
    def bootstrap(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{COORDINATOR.peer_id}"

    def status(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.directory / "status.json").read_text())
        return found


@pytest.fixture
def drand() -> Iterator[tuple[LocalDrand, str]]:
    network = LocalDrand()
    with network.serve() as endpoint:
        yield network, endpoint


@pytest.fixture
def place(tmp_path: Path, drand: tuple[LocalDrand, str]) -> Iterator[Place]:
    with open_place(tmp_path, *drand) as place:
        yield place


@contextmanager
def open_place(
    tmp_path: Path, network: LocalDrand, endpoint: str, *, terms: LedgerTerms = TERMS, rounds: int = 2
) -> Iterator[Place]:
    """Make a run of one contributor, and keep its chain until the block ends."""
    port, log = free_port(), tmp_path / "anvil.log"
    process = start_anvil(port, 0.2, None, log_path=log)
    try:
        w3 = wait_ready(process, port, log_path=log)
        home = tmp_path / "coordinator"
        home.mkdir(mode=0o700)
        save_peer_key(home / "peer.key", COORDINATOR)
        wallet = save_unattended_wallet(home, b"\x33" * 32, scrypt_n=1024)
        staker = Account.from_key(b"\x44" * 32)
        for account in (wallet, staker):
            set_coin(w3, account.address, 100 * TOKEN)
        ledger = Ledger.deploy(w3, wallet, supply=10_000 * TOKEN, terms=terms, jury=JURY)
        sender = Sender(w3, wallet)
        ledger.transfer(sender, staker.address, TOKEN)
        ledger.register(Sender(w3, staker), Role.CONTRIBUTOR, CONTRIBUTOR, TOKEN)
        text = tmp_path / "text.txt"
        text.write_bytes(TEXT)
        model = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "context": 8}
        fields = {
            "rounds": rounds,
            "model": model,
            "inner": {"steps": 4, "batch": 2},
            "verification": {"segment_steps": 2, "schedule": {"fresh_probability": 0}},
            "deadlines": {"ready": 1, "commit": 400, "reveal": 200},
            "beacon": network.beacon().model_dump(),
            "penalties": {"window": 100},
        }
        plan = plan_run(
            home,
            ledger=ledger,
            coordinator=COORDINATOR,
            fund_wei=100 * TOKEN,
            contributors=1,
            data=text,
            fields=fields,
        )
        create_run(home, plan, ledger=ledger, sender=sender)
        yield Place(home, plan.manifest, rpc_url(port), endpoint, free_port())
    finally:
        process.terminate()
        process.wait()


class Contributor:
    """Say what an honest contributor says, with random updates."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.manifest = peer.manifest

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await self.peer.changed()

    async def ready(self) -> None:
        addresses = tuple(self.peer.network.addresses)
        body = Ready(number=1, program=self.manifest.program, addresses=addresses)
        await self.peer.publish(sign(CONTRIBUTOR, self.manifest, 0, "contributor", body))

    async def commit(self, round_: int, parameters: str) -> None:
        chain, manifest, run = self.peer.chain, self.manifest, self.peer.run
        await self.until(lambda: chain.assignment_beacon(round_) is not None)
        beacon = chain.assignment_beacon(round_)
        assert beacon is not None
        size = parameter_layout(manifest.model).size
        values = np.random.Generator(np.random.PCG64(round_)).normal(0, 1e-3, size).astype(np.float32)
        symbols, _ = compress(manifest.codec, values, None)
        container = encode(symbols)
        self.blob, self.size = self.peer.store.put(container), len(container)
        self.symbols = symbols_digest(symbols)
        before, record = self.peer.pool.commitments(round_ - 1), self.peer.pool.record(round_ - 1)
        expected = carried(1, before[1].body if before else None, record.body if record else None)
        state = f"{round_ + 1:064x}"
        body = Commitment(
            profile="cpu-fp32",
            number=1,
            parameters=parameters,
            assignment=assignment_digest(assignment(manifest, beacon, round_, 1)),
            moments_before=expected.moments,
            moments_after=moments_root(run, round_, 1, state),
            residual_before=expected.residual,
            residual_after=residual_root(run, round_, 1, state),
            segments=tuple(segment_root(run, round_, 1, index, state, state) for index in range(3)),
            update=update_root(run, round_, 1, self.symbols, SALT),
        )
        self.commitment = sign(CONTRIBUTOR, manifest, round_, "contributor", body)
        await self.peer.publish(self.commitment)
        await self.until(lambda: chain.commitments(round_) is not None)

    async def reveal(self, round_: int) -> None:
        body = Reveal(
            number=1,
            commitment=self.commitment.id,
            symbols=self.symbols,
            salt=SALT,
            blob=self.blob,
            blob_bytes=self.size,
            train_cpu_s=0.5,
        )
        await self.peer.publish(sign(CONTRIBUTOR, self.manifest, round_, "contributor", body))
        # The only one on the roster is the round's witness: without its receipt a round waits for its deadlines.
        received = ReceivedUpdate(number=1, symbols=self.symbols, blob=self.blob)
        receipt = Receipt(number=1, entries=(received,))
        await self.peer.publish(sign(CONTRIBUTOR, self.manifest, round_, "contributor", receipt))
        await self.until(lambda: self.peer.chain.anchor(round_) is not None)


async def _wait_for(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        # Another process is waited for, which tells by files only.
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110
            await trio.sleep(0.1)


def _parameters(place: Place, round_: int) -> str | None:
    """Ask the API for the parameters at the start of a round."""
    try:
        url = f"{place.status()['api']}/v1/runs/{place.run}/rounds/{round_}"
        found: str | None = httpx.get(url, timeout=2).raise_for_status().json()["parameters"]
    except (OSError, ValueError, httpx.HTTPError):
        return None
    return found


def _every_beacon_is_drands(place: Place) -> None:
    """Audit the beacons from the chain and the public folder, as they are and with one spoiled or missing."""
    archive = Archive(place.directory / "public")
    chain = connected(place.rpc, place.manifest, archive.beacons)  # asks nobody over HTTP
    used = [chain.drand_round(round_) for round_ in (-1, 0, 1)]
    assert None not in [chain.sampling_beacon(round_) for round_ in (-1, 0, 1)]
    assert {f"{round_}.json" for round_ in used} <= {path.name for path in archive.beacons.root.iterdir()}

    def found() -> Check:
        again = connected(place.rpc, place.manifest, archive.beacons)
        report = audit(archive, again, place.run, find_blob([archive.blobs]))
        return next(check for check in report.checks if check.name == "beacons")

    assert (found().result, found().count) == ("ok", 3)
    first = archive.beacons.root / f"{used[0]}.json"
    kept = first.read_bytes()
    other = LocalDrand(secret=666)
    first.write_bytes(canonical_json({"round": used[0], "signature": other.signature(int(used[0] or 0))}))
    assert found().result == "rejected"
    first.unlink()
    assert (found().result, str(used[0]) in found().detail) == ("inconclusive", True)
    first.write_bytes(kept)
    assert found().ok


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_killed_coordinator_goes_on_and_says_nothing_twice(place: Place, tmp_path: Path) -> None:
    lives = [place.start()]

    def kill_and_restart() -> None:
        os.kill(lives[-1].pid, signal.SIGKILL)
        lives[-1].wait()
        lives.append(place.start())

    async def main() -> Peer:
        await _wait_for(lambda: (place.directory / "status.json").exists())
        ledger = place.manifest.ledger
        chain = ChainRun.connect(place.rpc, ledger, place.run)
        config = PeerConfig(tmp_path / "peer", place.run, bootstrap=(place.bootstrap,), drand=(place.drand,))
        async with open_peer(config, CONTRIBUTOR, chain) as peer:
            contributor = Contributor(peer)
            await contributor.ready()
            await contributor.commit(0, place.manifest.initial_parameters)
            await contributor.until(lambda: peer.pool.commitment_list(0) is not None)
            listed = peer.pool.commitment_list(0)
            assert listed is not None
            assert [entry.commitment for entry in listed.body.entries] == [contributor.commitment.id]
            kill_and_restart()
            await contributor.reveal(0)
            kill_and_restart()
            await _wait_for(lambda: _parameters(place, 1) is not None)
            found = _parameters(place, 1)
            assert found is not None
            await contributor.commit(1, found)
            await contributor.reveal(1)
            await contributor.until(lambda: chain.finished() is not None)
            await _wait_for(lambda: place.status()["phase"] == "finished")
            return peer

    try:
        peer = trio.run(main)
        assert peer.pool.equivocations == []
        page = httpx.get(str(place.status()["api"]), timeout=5)
        assert page.is_success
        assert "finished" in page.text
        archive = Archive(place.directory / "public")
        for round_ in range(2):
            dossier = archive.round(place.manifest, round_)
            assert dossier is not None
            assert dossier.record is not None
            assert [unit.merged for unit in dossier.record.body.units] == [True]
            assert dossier.record.body.digest().hex() == peer.chain.record_hash(round_)
        settlement = archive.settlement(place.manifest)
        assert settlement.finish is not None
        assert settlement.finish.body.parameters == peer.chain.finished()
        entries = settlement.rewards[-1].body.entries
        assert [entry.cumulative_wei for entry in entries] == [2 * place.manifest.pay.unit_wei]
        _every_beacon_is_drands(place)
        lives[-1].send_signal(signal.SIGTERM)
        assert lives[-1].wait(20) == 0
        shown = subprocess.run(
            [sys.executable, "-m", "murmur", "run", "show", "--dir", str(place.directory), "--json"],
            capture_output=True,
            check=True,
        )
        assert json.loads(shown.stdout)["phase"] == "finished"
    finally:
        for life in lives:
            if life.poll() is None:
                life.kill()
                life.wait()
