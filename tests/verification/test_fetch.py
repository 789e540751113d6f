"""A run outlives its coordinator: whoever has the chain and some peers gathers it and audits it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from protocol.errors import ConfigError, Malformed
from protocol.history import HISTORY_FILE
from protocol.manifest import MergingConfig
from protocol.peer import Peer, PeerConfig, open_peer
from protocol.shelf import Shelf
from tests.verification.testbed import Testbed, key
from training.outer import outer_layout
from verification.archive import Archive
from verification.audit import AuditReport, audit
from verification.blobs import find_blob
from verification.fetch import FetchConfig, FetchReport, fetch_archive
from verification.tarball import pack_folder, unpacked_folder

KEEPERS = (1, 4)  # a contributor and a verifier


@asynccontextmanager
async def opened(
    bed: Testbed, directory: Path, number: int, bootstrap: Iterable[str] = ()
) -> AsyncIterator[Peer]:
    config = PeerConfig(
        directory,
        bed.run,
        bootstrap=tuple(bootstrap),
        history=directory / HISTORY_FILE,
        poll_s=0.2,
        sync_interval_s=0.5,
    )
    async with open_peer(config, key(number), bed.chain, bed.manifest) as peer:
        yield peer


def messages(bed: Testbed) -> list[bytes]:
    found = [message for dossier in bed.dossiers.values() for message in dossier.messages()]
    return [message.wire for message in (*found, *bed.settlement.messages())]


async def follow(bed: Testbed, peer: Peer, count: int, max_bytes: int | None = None) -> None:
    """Live as a node does until everything public is here."""
    shelf = Shelf(peer, parameter_bytes=outer_layout(bed.manifest).file_bytes, max_bytes=max_bytes)
    while len(peer.pool) < count:
        await peer.changed()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shelf.run)
        while not (len(shelf.kept) > 1 and all(map(peer.store.has, shelf.kept))):  # noqa: ASYNC110
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()


async def coordinate(bed: Testbed, place: Path) -> None:
    """Let a coordinator tell two peers of a whole run; then its process ends and its disk is lost."""
    home = place / "coordinator"
    async with opened(bed, home, 0) as coordinator:
        for path in bed.public.root.glob("[0-9a-f][0-9a-f]/*"):
            coordinator.store.put(path.read_bytes())
        for wire in messages(bed):
            await coordinator.receive("its database", wire)
        address = coordinator.network.addresses[0]
        for number in KEEPERS:
            async with opened(bed, place / str(number), number, (address,)) as peer:
                await follow(bed, peer, len(coordinator.pool))
    shutil.rmtree(home)


async def gather(
    bed: Testbed, place: Path, out: Path, keepers: Iterable[int] = KEEPERS, patience_s: float = 60.0
) -> FetchReport:
    """Ask the peers, who have restarted since, as an observer."""
    async with trio.open_nursery() as nursery:
        addresses = []
        for number in keepers:
            peer = await nursery.start(serve, bed, place / str(number), number)
            addresses.append(peer.network.addresses[0])
        config = FetchConfig(bed.run, out, tuple(addresses), patience_s=patience_s)
        report = await fetch_archive(config, bed.chain, lambda line: None)
        nursery.cancel_scope.cancel()
    return report


async def serve(
    bed: Testbed, directory: Path, number: int, task_status: trio.TaskStatus[Peer] = trio.TASK_STATUS_IGNORED
) -> None:
    async with opened(bed, directory, number) as peer:
        task_status.started(peer)
        await trio.sleep_forever()


def audited(bed: Testbed, folder: Path) -> AuditReport:
    find = find_blob([folder / "blobs"])
    return audit(Archive(folder), bed.chain, bed.run, find, replay="sampled", shard=lambda: bed.shard)


async def test_a_run_is_audited_from_chain_and_peers_alone(played: Testbed, tmp_path: Path) -> None:
    await coordinate(played, tmp_path)
    # What the drawn peers opened they hold themselves; here all of them are one.
    for path in played.states.root.glob("[0-9a-f][0-9a-f]/*"):
        place = tmp_path / "1" / "blobs" / path.parent.name / path.name
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
    out = tmp_path / "gathered"
    report = await gather(played, tmp_path, out)
    assert (report.missing, report.rounds) == ([], 3)
    assert report.complete
    assert (report.states > 20, report.states_missing) == (True, 0)
    found = audited(played, out)
    assert found.exit_code == 0, [check for check in found.checks if not check.ok]
    assert {check.name: check.count for check in found.checks}["replays"] == 10
    for round_ in range(3):
        ours, theirs = Archive(out).round(played.manifest, round_), played.dossiers[round_]
        assert ours is not None
        assert {one.id for one in ours.messages()} == {one.id for one in theirs.messages()}


async def test_what_nobody_holds_is_named_and_brought_by_a_later_call(
    played: Testbed, tmp_path: Path
) -> None:
    await coordinate(played, tmp_path)
    lost = next(unit.blob for unit in played.records[1].body.units if unit.merged)
    assert lost is not None
    paths = [tmp_path / str(number) / "blobs" / lost[:2] / lost for number in KEEPERS]
    data = paths[0].read_bytes()
    for path in paths:
        path.unlink()
    out = tmp_path / "gathered"
    report = await gather(played, tmp_path, out)
    assert len(report.missing) == 1
    assert lost in report.missing[0]
    assert not report.complete
    assert report.states_missing > 0, "nobody kept what was opened"
    found = audited(played, out)
    assert found.exit_code == 7
    assert lost in " ".join(check.detail for check in found.checks)
    paths[0].write_bytes(data)
    assert (await gather(played, tmp_path, out, KEEPERS[:1])).complete


async def test_messages_that_nobody_holds_are_named(played: Testbed, tmp_path: Path) -> None:
    record, receipt = played.records[2], played.dossiers[1].receipts[0]
    async with opened(played, tmp_path / "1", 1) as peer:
        for wire in messages(played):
            if wire not in (record.wire, receipt.wire):
                await peer.receive("memory", wire)
    out = tmp_path / "gathered"
    report = await gather(played, tmp_path, out, (1,), patience_s=5.0)
    assert {"the record of round 2", f"receipt {receipt.id} of round 1"} <= set(report.missing)
    assert Archive(out).round(played.manifest, 1) is not None
    assert Archive(out).round(played.manifest, 2) is None


async def test_a_folder_at_hand_is_copied_through_the_pool_s_rules(
    played: Testbed, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gathered"
    config = FetchConfig(played.run, out, public=folder)
    report = await fetch_archive(config, played.chain, lambda line: None)
    assert report.complete
    assert audited(played, out).first_violation is None
    with pytest.raises(ConfigError, match="nobody was named"):
        await fetch_archive(FetchConfig(played.run, out), played.chain, lambda line: None)


async def test_a_peer_with_a_cap_keeps_a_part_of_its_own(played: Testbed, tmp_path: Path) -> None:
    async with opened(played, tmp_path / "one", 1) as peer:
        for wire in messages(played):
            await peer.receive("memory", wire)
        size = outer_layout(played.manifest).file_bytes
        whole = Shelf(peer, parameter_bytes=size)
        whole.look()
        updates = whole.kept - {played.manifest.initial_parameters}
        room = sum(len(played.public.get(one, max_size=1 << 20)) for one in updates) // 2
        kept = []
        for number in (1, 2, 3):
            shelf = Shelf(peer, parameter_bytes=size, number=number, max_bytes=size + room)
            shelf.look()
            kept.append(shelf.kept)
        assert all(played.manifest.initial_parameters in one for one in kept)
        assert all(1 < len(one) < len(whole.kept) for one in kept)
        assert len(set(kept)) > 1
        nothing = Shelf(peer, parameter_bytes=size, max_bytes=0)
        nothing.look()
        assert nothing.kept == frozenset()


async def test_a_peer_holds_every_joint_update_and_the_others_updates_that_it_is_asked_to(
    make_bed: Callable[..., Testbed], tmp_path: Path
) -> None:
    merging = MergingConfig(gate_windows=0, similarity=0, joint_k=48)
    bed = make_bed(merging=merging)
    bed.play_run()
    joint = {one.body.joint for one in bed.records.values()}
    async with opened(bed, tmp_path / "one", 1) as peer:
        for wire in messages(bed):
            await peer.receive("memory", wire)
        size = outer_layout(bed.manifest).file_bytes
        shelf = Shelf(peer, parameter_bytes=size, holds=lambda round_, number: (round_, number) == (1, 2))
        shelf.look()
        assert shelf.kept == {bed.manifest.initial_parameters, bed.made[1, 2].unit.work.blob, *joint}
    out = tmp_path / "gathered"
    config = FetchConfig(bed.run, out, public=bed.archive.root)
    report = await fetch_archive(config, bed.chain, lambda line: None)
    assert report.complete
    (missing,) = {one.body.joint for one in list(bed.records.values())[1:2]}
    bed.public.delete(missing)
    lacking = await fetch_archive(
        FetchConfig(bed.run, tmp_path / "again", public=bed.archive.root), bed.chain, lambda line: None
    )
    assert lacking.missing == [f"the joint update {missing} of round 1"]


def test_a_folder_is_packed_and_unpacked_unchanged(folder: Path, tmp_path: Path) -> None:
    packed, again = tmp_path / "run.tar", tmp_path / "again.tar"
    (folder / "blobs" / "partial").mkdir()
    (folder / "stray.txt").write_text("not of the run")
    pack_folder(folder, packed)
    with unpacked_folder(packed) as found:
        names = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
        assert "stray.txt" not in names
        assert {"manifest.json", "settlement.json", "rounds/000002.json"} <= names
        assert all((found / name).read_bytes() == (folder / name).read_bytes() for name in names)
        pack_folder(found, again)
    assert again.read_bytes() == packed.read_bytes()
    assert not found.exists()
    with pytest.raises(ConfigError, match="no manifest"):
        pack_folder(tmp_path, again)
    packed.write_bytes(packed.read_bytes()[:-512])
    with pytest.raises(Malformed), unpacked_folder(packed):
        pass
