"""The whole daemon with joint updates: one is made again that nobody serves, and a wrong one is the end, of whoever
finds it and of who hears of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from node import workshop
from node.config import NodeConfig
from protocol.canonical import digest
from protocol.errors import MurmurError
from protocol.manifest import MergingConfig, RunManifest
from protocol.messages import Objection, RoundRecord, UnitRecord, sign
from protocol.published import read_update
from protocol.update import encode
from tests.node.conftest import Place
from tests.node.test_service import Coordinator, chain_of, config_of, contributing, coordinating, only
from tests.verification.testbed import SimChain, key, tiny_manifest
from training.joint import merge
from training.outer import aggregate, load_parameters, parameters_file
from verification.witness import witnesses


@pytest.fixture
def joint_place(place: Place, data_dir: Path) -> Place:
    merging = MergingConfig(gate_windows=0, similarity=0, joint_k=48)
    manifest = tiny_manifest(data_dir / "text.txt", data_dir, merging=merging)
    return Place(manifest, place.manifest_path, place.data_dir, place.store)


async def anchor(coordinator: Coordinator, round_: int, *, serve: bool = True, wrong: bool = False) -> str:
    """Anchor a record of the only unit, whose joint update is served or not; return that one's address."""
    peer, manifest = coordinator.peer, coordinator.manifest
    await coordinator.until(lambda: 1 in peer.pool.reveals(round_))
    commitment, reveal = peer.pool.commitments(round_)[1], peer.pool.reveals(round_)[1].body
    path = await peer.fetch(reveal.blob, max_size=1 << 20, deadline_s=20, numbers=(1,))
    update = read_update(manifest, path.read_bytes())
    joint = merge(manifest, [update], [1])
    if wrong:
        joint = replace(joint, codes=joint.codes ^ 1)  # the other way
    file = encode(joint)
    if serve:
        peer.store.put(file)
    unit = UnitRecord(
        number=1, commitment=commitment.id, merged=True, symbols=reveal.symbols, blob=reveal.blob
    )
    record = RoundRecord(parameters=coordinator.parameters, units=(unit,), judged=(), joint=digest(file))
    await coordinator.say(round_, record)
    coordinator.chain.height += 1
    coordinator.chain.anchors[round_] = coordinator.chain.height
    coordinator.chain.records[round_] = record.digest().hex()
    coordinator.chain.height += 1
    start = load_parameters(manifest, peer.store.get(coordinator.parameters, max_size=1 << 20))
    coordinator.parameters = peer.store.put(parameters_file(manifest, aggregate(manifest, start, [joint])))
    return digest(file)


async def test_a_witness_makes_a_joint_update_again_and_what_it_leaves_out_comes_back(
    joint_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "FETCH_DEADLINE_S", 0.5)
    manifest = joint_place.manifest
    chain = chain_of(manifest)
    async with coordinating(tmp_path, manifest, chain) as coordinator:
        config = config_of(joint_place, tmp_path, coordinator)
        pool = coordinator.peer.pool
        async with contributing(config, chain):
            await coordinator.collect(0)
            joint = await anchor(coordinator, 0, serve=False)
            await coordinator.until(lambda: 1 in pool.commitments(1))
            await coordinator.peer.fetch(joint, max_size=1 << 20, deadline_s=20, numbers=(1,))
            await coordinator.collect(1)
            await anchor(coordinator, 1)
            await coordinator.until(lambda: 1 in pool.commitments(2))
        assert pool.commitments(2)[1].body.parameters == coordinator.parameters
        before, after = (pool.commitments(round_)[1].body for round_ in (0, 1))
        assert after.residual_before == before.residual_after, "what comes back breaks no chain"


async def test_a_wrong_joint_update_stops_the_node(joint_place: Place, tmp_path: Path) -> None:
    manifest = joint_place.manifest
    async with coordinating(tmp_path, manifest, chain_of(manifest)) as coordinator:
        config = config_of(joint_place, tmp_path, coordinator)
        with pytest.raises(ExceptionGroup) as caught:
            await _lie_in_round_0(coordinator, config)
    error = only(caught.value)
    assert isinstance(error, MurmurError)
    assert "the record of round 0 cannot be followed" in error.message
    assert "is not the joint update of the round's updates" in error.message
    assert "murmur audit run" in error.hint
    said = coordinator.peer.pool.objections(0)
    assert said[1].body.record == coordinator.chain.records[0], "it was said before the node stopped"


@pytest.fixture
def unwitnessed_place(joint_place: Place) -> Place:
    """A run that draws number 2 as the only witness of its first two rounds."""
    for index in range(100):
        verification = joint_place.manifest.verification.model_copy(update={"witnesses": 1})
        found = joint_place.manifest.model_copy(update={"name": f"run {index}", "verification": verification})
        chain = two_contributors(found)
        beacons = [chain.assignment_beacon(round_) or "" for round_ in (0, 1)]
        drawn = [witnesses(found, found.run_id, one, n, (1, 2)) for n, one in enumerate(beacons)]
        if drawn == [(2,), (2,)]:
            return replace(joint_place, manifest=found)
    raise AssertionError("two draws of 100 runs fall on others")


def two_contributors(manifest: RunManifest) -> SimChain:
    return SimChain(manifest, {1: "contributor", 2: "contributor", 8: "verifier", 9: "verifier"}, height=11)


@asynccontextmanager
async def unwitnessed(place: Place, directory: Path) -> AsyncIterator[tuple[Coordinator, NodeConfig]]:
    """Coordinate two contributors; the configuration is number 1's, which is no witness."""
    manifest = place.manifest
    async with coordinating(directory, manifest, two_contributors(manifest)) as coordinator:
        yield coordinator, config_of(place, directory, coordinator)


async def object_to_round_0(coordinator: Coordinator) -> None:
    """Speak as number 2, once number 1 has taken the round's outer step."""
    await coordinator.until(lambda: 1 in coordinator.peer.pool.commitments(1))
    body = Objection(number=2, record=coordinator.chain.records[0])
    await coordinator.peer.publish(sign(key(2), coordinator.manifest, 0, "contributor", body))
    await coordinator.collect(1)
    await anchor(coordinator, 1)


async def test_who_hears_of_a_wrong_joint_update_makes_sure_and_stops(
    unwitnessed_place: Place, tmp_path: Path
) -> None:
    async with unwitnessed(unwitnessed_place, tmp_path) as (coordinator, config):
        with pytest.raises(ExceptionGroup) as caught:
            await _lie_in_round_0(coordinator, config, objected=True)
    error = only(caught.value)
    assert isinstance(error, MurmurError)
    assert "is not the joint update of the round's updates" in error.message


async def test_a_groundless_objection_costs_a_download_and_no_more(
    unwitnessed_place: Place, tmp_path: Path
) -> None:
    async with (
        unwitnessed(unwitnessed_place, tmp_path) as (coordinator, config),
        contributing(config, coordinator.chain),
    ):
        await coordinator.collect(0)
        await anchor(coordinator, 0)
        await object_to_round_0(coordinator)
        await coordinator.until(lambda: 1 in coordinator.peer.pool.commitments(2))
    assert coordinator.peer.pool.commitments(2)[1].body.parameters == coordinator.parameters


async def _lie_in_round_0(coordinator: Coordinator, config: NodeConfig, *, objected: bool = False) -> None:
    async with contributing(config, coordinator.chain):
        await coordinator.collect(0)
        await anchor(coordinator, 0, wrong=True)
        if objected:
            await object_to_round_0(coordinator)
        await coordinator.until(lambda: False)
