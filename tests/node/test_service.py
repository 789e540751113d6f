"""The whole daemon over a real network with a real trainer; chain and coordinator are the test's own hands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from contracts.alerts import Alert
from contracts.types import CaseKind, CaseStage
from node.config import NodeConfig
from node.journal import Journal
from node.service import AlertsOf, no_alerts, run_node
from node.status import describe
from protocol.canonical import ZERO_DIGEST
from protocol.chain import PostedRoot
from protocol.checkpoints import Checkpoints
from protocol.daemon import read_status, stored_manifest
from protocol.errors import ConfigError, MurmurError
from protocol.keys import save_peer_key
from protocol.manifest import RunManifest
from protocol.merkle import commitments_root
from protocol.messages import Body, CommitmentEntry, CommitmentList, RoundRecord, UnitRecord, sign
from protocol.peer import HISTORY_FILE, Peer, PeerConfig, open_peer
from protocol.published import read_update
from protocol.tensors import pack, parameter_layout
from tests.node.conftest import Place
from tests.node.world import name
from tests.verification.testbed import SimChain, key
from training.model import initial_parameters
from training.outer import aggregate, load_parameters, parameters_file
from verification.cheats import Cheat
from verification.merge import check_published, check_reveal

STRIKES = 4  # malformed messages after which a peer is not heard for a while


class Coordinator:
    """Play the coordinator's part of a round for one contributor, number 1."""

    def __init__(self, peer: Peer, chain: SimChain) -> None:
        self.peer = peer
        self.chain = chain
        self.manifest = peer.manifest
        self.parameters = peer.manifest.initial_parameters

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.peer.changed()

    async def say(self, round_: int, body: Body) -> None:
        await self.peer.publish(sign(key(0), self.manifest, round_, "coordinator", body))

    async def collect(self, round_: int) -> None:
        """Wait for the commitment, and post the list."""
        await self.until(lambda: 1 in self.peer.pool.commitments(round_))
        entry = CommitmentEntry(number=1, commitment=self.peer.pool.commitments(round_)[1].id)
        listed = CommitmentList(entries=(entry,))
        await self.say(round_, listed)
        self.chain.height += 1
        self.chain.posted[round_] = PostedRoot(commitments_root(listed), 1, self.chain.height)

    async def anchor(self, round_: int) -> None:
        """Wait for the reveal, fetch and check the update, anchor the record, and aggregate."""
        await self.until(lambda: 1 in self.peer.pool.reveals(round_))
        commitment, reveal = self.peer.pool.commitments(round_)[1], self.peer.pool.reveals(round_)[1].body
        check_reveal(commitment, reveal, max_bytes=1 << 20)
        path = await self.peer.fetch(reveal.blob, max_size=1 << 20, deadline_s=20, numbers=(1,))
        check_published(self.manifest, ZERO_DIGEST, round_, reveal, path.read_bytes())
        unit = UnitRecord(
            number=1, commitment=commitment.id, merged=True, symbols=reveal.symbols, blob=reveal.blob
        )
        record = RoundRecord(parameters=self.parameters, units=(unit,), judged=())
        await self.say(round_, record)
        self.chain.height += 1
        self.chain.anchors[round_] = self.chain.height
        self.chain.records[round_] = record.digest().hex()
        self.chain.height += 1
        start = load_parameters(self.manifest, self.peer.store.get(self.parameters, max_size=1 << 20))
        update = read_update(self.manifest, path.read_bytes())
        after = parameters_file(self.manifest, aggregate(self.manifest, start, [update]))
        self.parameters = self.peer.store.put(after)


@asynccontextmanager
async def coordinating(directory: Path, manifest: RunManifest, chain: SimChain) -> AsyncIterator[Coordinator]:
    config = PeerConfig(directory / "coordinator", manifest.run_id)
    async with open_peer(config, key(0), chain, manifest) as peer:
        peer.store.put(pack(parameter_layout(manifest.model), initial_parameters(manifest.model, seed=1)))
        yield Coordinator(peer, chain)


@asynccontextmanager
async def contributing(
    config: NodeConfig, chain: SimChain, alerts: AlertsOf = no_alerts
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_node, config, chain, alerts)
        yield
        nursery.cancel_scope.cancel()


def config_of(place: Place, directory: Path, coordinator: Coordinator | None = None) -> NodeConfig:
    node = directory / "node"
    if not (node / "peer.key").exists():
        save_peer_key(node / "peer.key", key(1))
    return NodeConfig(
        directory=node,
        run=place.manifest.run_id,
        rpc="http://127.0.0.1:1",
        ledger=place.manifest.ledger,
        bootstrap=() if coordinator is None else tuple(coordinator.peer.network.addresses),
        data_dir=place.data_dir,
    )


def chain_of(manifest: RunManifest) -> SimChain:
    return SimChain(manifest, {1: "contributor", 8: "verifier", 9: "verifier"}, height=11)


def only(error: BaseException) -> BaseException:
    """Unwrap what nurseries wrapped."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error


def alarmed(number: int) -> list[dict[str, Any]]:
    """Say that somebody has accused a unit of this number."""
    alert = Alert(5, name("run"), CaseKind.ACCUSATION, 0, 1, CaseStage.CALLED, False, 90, 80, 100 * 10**18)
    return [alert.to_json()] if number == 1 else []


async def test_a_contributor_lives_rounds_and_goes_on_after_a_restart(place: Place, tmp_path: Path) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        shown = {"metrics_port": 0, "tensorboard": tmp_path / "board", "checkpoint_mib": 1}
        config = config_of(place, tmp_path, coordinator).model_copy(update=shown)
        async with contributing(config, chain, alarmed):
            await coordinator.collect(0)
            await coordinator.anchor(0)
            await coordinator.until(lambda: 1 in coordinator.peer.pool.commitments(1))
        assert 1 in coordinator.peer.pool.ready()
        assert (1, 0) in coordinator.peer.pool.openings(0), "everybody is drawn in this run"
        status = read_status(config.directory / "status.json", "node")
        assert (status["number"], status["error"]) == (1, None)
        assert "of 3" in describe(status)
        _check_figures(status, config)
        assert "ALERT    case 5: segment 1 of round 0 is accused; 100 tokens at stake" in describe(status)
        async with contributing(config, chain):
            await coordinator.collect(1)
            await coordinator.anchor(1)
            await coordinator.until(lambda: 1 in coordinator.peer.pool.commitments(2))
        assert coordinator.peer.pool.equivocations == []
        committed = coordinator.peer.pool.commitments(2)[1].body
        assert committed.parameters == coordinator.parameters
        assert committed.moments_before == coordinator.peer.pool.commitments(1)[1].body.moments_after


def _check_figures(status: dict[str, Any], config: NodeConfig) -> None:
    with Journal.open(config.directory / "journal.sqlite", key(1).address) as journal:
        unit = next(journal.history(config.run))
    assert unit.work.figures is not None
    figures, manifest = unit.work.figures.to_json(), stored_manifest(config.directory, config.run)
    assert manifest is not None
    tokens = manifest.inner.steps * manifest.inner.batch * manifest.model.context
    assert figures["tokens"] == tokens
    assert 0 < figures["train_s"] <= figures["unit_s"] <= figures["interval_s"]
    assert 0 < figures["mfu"] < 1
    assert min(figures[name] for name in ("gradient_norm", "pseudo_gradient_norm", "update_norm")) > 0
    assert figures["gradient_norm_max"] >= figures["gradient_norm"]
    assert status["metrics"].startswith("http://127.0.0.1:")
    assert json.loads((config.directory / "peak.json").read_text())["flops"] == figures["peak_flops"]
    assert config.tensorboard is not None
    assert len(list((config.tensorboard / "peer-1").glob("events.out.tfevents.*"))) == 1
    kept = Checkpoints(config.directory / "checkpoints").kept()
    assert [one.round for one in kept] == [0, 1]


async def test_a_node_restored_from_an_old_backup_contradicts_nothing_it_said_since(
    place: Place, tmp_path: Path
) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        config = config_of(place, tmp_path, coordinator)
        async with contributing(config, chain, alarmed):
            await coordinator.collect(0)
            files = [path for path in config.directory.glob("journal.sqlite*") if path.is_file()]
            backup = {path: path.read_bytes() for path in files}
            await coordinator.anchor(0)
            await coordinator.until(lambda: 1 in coordinator.peer.pool.commitments(1))
        said = coordinator.peer.pool.commitments(1)[1].id
        ready = coordinator.peer.pool.ready()[1].id
        (config.directory / HISTORY_FILE).unlink()  # nothing that it heard of itself helps it
        for path, data in backup.items():
            copy = path.with_suffix(".restored")
            copy.write_bytes(data)
            copy.replace(path)
        async with contributing(config, chain):
            await coordinator.until(lambda: coordinator.peer.pool.ready()[1].id != ready)
        status = read_status(config.directory / "status.json", "node")
        assert status["signs_from"] == 3
        assert coordinator.peer.pool.equivocations == []
        assert coordinator.peer.pool.commitments(1)[1].id == said
        with Journal.open(config.directory / "journal.sqlite", key(1).address) as journal:
            assert journal.restored
            signed = {(kind, round_) for _, kind, round_, _ in journal.statements()}
        assert {one for one in signed if one[0] == "commitment"} == {("commitment", 0)}


async def test_a_lying_coordinator_stops_the_node_with_both_roots(place: Place, tmp_path: Path) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        config = config_of(place, tmp_path, coordinator)
        with pytest.raises(ExceptionGroup) as caught:
            await _lie_in_round_1(coordinator, config)
        error = only(caught.value)
        assert isinstance(error, MurmurError)
        assert name("a lie") in error.message
        status = json.loads((config.directory / "status.json").read_text())
        assert status["error"]["message"] == error.message
        assert "error" in describe(status)


async def _lie_in_round_1(coordinator: Coordinator, config: NodeConfig) -> None:
    chain = coordinator.chain
    async with contributing(config, chain):
        await coordinator.collect(0)
        await coordinator.anchor(0)
        await coordinator.collect(1)
        await coordinator.until(lambda: 1 in coordinator.peer.pool.reveals(1))
        record = RoundRecord(parameters=name("a lie"), units=(), judged=())
        await coordinator.say(1, record)
        chain.anchors[1], chain.records[1] = chain.height + 1, record.digest().hex()
        chain.height += 1
        await trio.sleep_forever()


async def test_garbage_over_the_network_is_refused_and_harms_nobody(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(place.manifest)
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        config = config_of(place, tmp_path, coordinator).model_copy(update={"cheat": Cheat.GARBAGE})
        stats, pool, enough = coordinator.peer.network.stats, coordinator.peer.pool, trio.Event()
        refuse = stats.refuse

        def counted(kind: str, sender: str, reason: str) -> None:
            refuse(kind, sender, reason)
            if stats.refused.total() >= STRIKES:
                enough.set()

        monkeypatch.setattr(stats, "refuse", counted)
        async with contributing(config, chain):
            await coordinator.until(lambda: 1 in pool.ready())
            await enough.wait()
        assert "malformed message" in stats.refused
        listed = CommitmentList(entries=())
        await coordinator.say(0, listed)
        assert pool.commitment_list(0) is not None


async def test_a_stranger_to_the_ledger_is_told_to_register(place: Place, tmp_path: Path) -> None:
    chain = SimChain(place.manifest, {2: "contributor"})
    async with coordinating(tmp_path, place.manifest, chain) as coordinator:
        with pytest.raises(ExceptionGroup) as caught:
            await run_node(config_of(place, tmp_path, coordinator), chain)
    error = only(caught.value)
    assert isinstance(error, ConfigError)
    assert "stake deposit" in error.hint


async def test_a_machine_with_another_program_never_says_ready(place: Place, tmp_path: Path) -> None:
    manifest = place.manifest.model_copy(update={"program": name("another program")})
    place = Place(manifest, place.manifest_path, place.data_dir, place.store)
    chain = chain_of(manifest)
    async with coordinating(tmp_path, manifest, chain) as coordinator:
        with pytest.raises(ExceptionGroup) as caught:
            await run_node(config_of(place, tmp_path, coordinator), chain)
        assert coordinator.peer.pool.ready() == {}
    error = only(caught.value)
    assert isinstance(error, ConfigError)
    assert manifest.program in error.message


async def test_a_second_node_in_the_directory_is_refused(place: Place, tmp_path: Path) -> None:
    config = config_of(place, tmp_path)
    with (
        Journal.open(config.directory / "journal.sqlite", key(1).address),
        pytest.raises(ConfigError, match="another process"),
    ):
        await run_node(config, chain_of(place.manifest))


def test_status_of_a_directory_without_a_node_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_status(tmp_path / "status.json", "node")
    assert "node start" in caught.value.hint
