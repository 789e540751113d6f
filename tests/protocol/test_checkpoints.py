"""Checkpoints: what is listed is whole, whatever happened to the process that wrote it, and stays below its cap."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from protocol.blobs import BlobCorrupt, BlobMissing, BlobStore, BlobTooLarge
from protocol.checkpoints import Checkpoints, spared
from protocol.keeper import Keeper

ROOT = Path(__file__).parents[2]


def kept_blob(directory: Path, data: bytes) -> tuple[str, Path]:
    blob = directory / blake3(data).hexdigest()
    blob.write_bytes(data)
    return blob.name, blob


def test_a_checkpoint_is_listed_and_read_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.kept() == []
    roots = [kept_blob(tmp_path, bytes([round_]) * 100) for round_ in range(3)]
    for round_, (root, blob) in enumerate(roots):
        assert checkpoints.add(round_, root, blob)
    found = Checkpoints(tmp_path / "checkpoints").kept()
    assert [(one.round, one.root, one.bytes) for one in found] == [
        (round_, root, 100) for round_, (root, _) in enumerate(roots)
    ]
    assert checkpoints.read(found[1], max_bytes=100) == bytes([1]) * 100
    assert not checkpoints.add(1, *roots[1])


def test_a_round_has_one_checkpoint_though_the_chain_took_blocks_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.add(1, *kept_blob(tmp_path, b"before"))
    checkpoints.add(1, *kept_blob(tmp_path, b"after"))
    (one,) = checkpoints.kept()
    assert checkpoints.read(one, max_bytes=100) == b"after"


def test_it_outlives_its_blob(tmp_path: Path) -> None:
    store, checkpoints = BlobStore(tmp_path / "blobs"), Checkpoints(tmp_path / "checkpoints")
    root = store.put(b"parameters")
    checkpoints.add(4, root, store.path(root))
    store.delete(root)
    assert checkpoints.read(checkpoints.kept()[0], max_bytes=100) == b"parameters"


def test_without_hard_links_it_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    root, blob = kept_blob(tmp_path, b"parameters")
    checkpoints.add(0, root, blob)
    assert checkpoints.path(checkpoints.kept()[0]).stat().st_nlink == 1
    assert checkpoints.read(checkpoints.kept()[0], max_bytes=100) == b"parameters"


def test_a_blob_that_is_not_its_root_is_not_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    root, blob = kept_blob(tmp_path, b"parameters")
    blob.write_bytes(b"other bytes")
    with pytest.raises(BlobCorrupt):
        checkpoints.add(0, root, blob)
    with pytest.raises(BlobMissing):
        checkpoints.add(0, "ab" * 32, tmp_path / "nothing")
    assert list(checkpoints.directory.iterdir()) == []


def test_bytes_that_changed_on_the_disk_are_not_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    root, blob = kept_blob(tmp_path, b"parameters")
    checkpoints.add(0, root, blob)
    (one,) = checkpoints.kept()
    with pytest.raises(BlobTooLarge):
        checkpoints.read(one, max_bytes=9)
    checkpoints.path(one).write_bytes(b"parameterz")
    with pytest.raises(BlobCorrupt):
        checkpoints.read(one, max_bytes=100)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("notes.txt", "0000001-ab.safetensors", f"1-{'ab' * 32}.safetensors", f"{'ab' * 32}"):
        (tmp_path / name).write_bytes(b"x")
    assert Checkpoints(tmp_path).kept() == []


def test_first_last_and_evenly_spread_ones_stay() -> None:
    assert spared(range(5), 10) == frozenset(range(5))
    assert spared([], 3) == frozenset()
    assert spared(range(100), 2) == {0, 99}
    assert spared(range(100), 0) == {0, 99}
    kept = sorted(spared(range(1024), 8))
    assert (kept[0], kept[-1], len(kept)) == (0, 1023, 8)
    ratios = [(after + 1) / (before + 1) for before, after in pairwise(kept)]
    assert max(ratios) / min(ratios) < 3


def test_one_goes_after_the_other_whose_neighbours_are_closest() -> None:
    def slowly(rounds: list[int], room: int) -> set[int]:
        kept = sorted(rounds)
        while len(kept) > room:
            gaps = [
                math.log((after + 1) / (before + 1)) for before, after in zip(kept, kept[2:], strict=False)
            ]
            del kept[1 + gaps.index(min(gaps))]
        return set(kept)

    generator = random.Random(5)
    for count, room in ((3, 2), (30, 7), (90, 13), (90, 80)):
        rounds = generator.sample(range(1000), count)
        assert spared(rounds, room) == slowly(rounds, room)


def test_asked_round_by_round_the_choice_stays_spread() -> None:
    kept: frozenset[int] = frozenset()
    for round_ in range(1000):
        kept = spared({*kept, round_}, 10)
    found = sorted(kept)
    assert (found[0], found[-1], len(found)) == (0, 999, 10)
    assert max((after + 1) / (before + 1) for before, after in pairwise(found)) < 8


def test_pruning_keeps_below_the_cap(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for round_ in range(20):
        checkpoints.add(round_, *kept_blob(tmp_path, bytes([round_]) * 1000))
    gone = checkpoints.prune(5500)
    kept = checkpoints.kept()
    assert len(kept) == 5
    assert len(gone) == 15
    assert (kept[0].round, kept[-1].round) == (0, 19)


KILLS = [("link", 1), ("link", 4), ("fsync", 1), ("fsync", 2), ("fsync", 7), ("replace", 3), ("unlink", 9)]


@pytest.mark.parametrize(
    ("call", "nth", "links"),
    [
        (*kill, links)
        for kill in KILLS
        for links in ("links", "copies")
        if (kill[0], links) != ("link", "copies")
    ],
)
def test_a_kill_at_any_call_leaves_whole_checkpoints(tmp_path: Path, call: str, nth: int, links: str) -> None:
    writer = [sys.executable, "-m", "tests.protocol.checkpoint_writer", str(tmp_path), call, str(nth), links]
    died = subprocess.run(writer, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert died.returncode == -signal.SIGKILL
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    kept = checkpoints.kept()
    for one in kept:
        assert checkpoints.read(one, max_bytes=1 << 20) == bytes([one.round]) * (1 << 16)
    # Whoever comes next finishes what was begun, and nothing half written stays.
    begun = max((one.round for one in kept), default=-1) + 1
    data = bytes([begun]) * (1 << 16)
    assert checkpoints.add(begun, *kept_blob(tmp_path, data))
    checkpoints.prune(1 << 30)
    names = [path.name for path in checkpoints.directory.iterdir()]
    assert len(names) == len(checkpoints.kept()) == len(kept) + 1


def test_a_kill_in_the_middle_of_writing_leaves_whole_checkpoints(tmp_path: Path) -> None:
    writer = [sys.executable, "-m", "tests.protocol.checkpoint_writer", str(tmp_path), "abort", "1", "copies"]
    with subprocess.Popen(writer, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        while len(checkpoints.kept()) < 3 and process.poll() is None:
            pass
        process.kill()
    kept = checkpoints.kept()
    assert len(kept) >= 3
    for one in kept:
        assert checkpoints.read(one, max_bytes=1 << 20) == bytes([one.round]) * (1 << 16)


def test_the_keeper_keeps_beside_everything_else_and_lets_settled_blobs_go(tmp_path: Path) -> None:
    store, checkpoints = BlobStore(tmp_path / "blobs"), Checkpoints(tmp_path / "checkpoints")
    parameters = {round_: store.put(bytes([round_]) * 1000) for round_ in range(6)}
    parameters[6] = parameters[2]  # a round that merged nothing may come back to what was
    later = store.put(b"another branch of the chain")
    keeper = Keeper(checkpoints, store, 100_000)

    async def live() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            keeper.wake({round_: parameters[round_] for round_ in range(3)})
            while len(checkpoints.kept()) < 3:
                await trio.lowlevel.checkpoint()
            keeper.wake(parameters, settled=5)
            while store.has(parameters[4]):
                await trio.lowlevel.checkpoint()
            keeper.wake({6: later}, settled=5)
            while checkpoints.kept()[-1].root != later:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(live)
    assert [one.round for one in checkpoints.kept()] == list(range(7))
    here = {round_ for round_ in parameters if store.has(parameters[round_])}
    assert here == {0, 2, 5, 6}


def test_a_slow_disk_holds_up_nothing_but_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, checkpoints = BlobStore(tmp_path / "blobs"), Checkpoints(tmp_path / "checkpoints")
    begun, stuck, add = threading.Event(), threading.Event(), checkpoints.add

    def slowly(round_: int, root: str, blob: Path) -> bool:
        begun.set()
        assert stuck.wait(60)
        return add(round_, root, blob)

    monkeypatch.setattr(checkpoints, "add", slowly)
    keeper = Keeper(checkpoints, store, 100_000)
    parameters = {round_: store.put(bytes([round_]) * 1000) for round_ in range(4)}

    async def live() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            for round_ in range(4):  # the rounds go on
                keeper.wake({one: parameters[one] for one in range(round_ + 1)}, settled=round_)
                await trio.lowlevel.checkpoint()
            while not begun.is_set():
                await trio.lowlevel.checkpoint()
            assert checkpoints.kept() == []
            assert all(map(store.has, parameters.values())), "what is not kept yet does not go"
            stuck.set()
            while len(checkpoints.kept()) < 4 or store.has(parameters[1]):
                await trio.lowlevel.checkpoint()
            assert all(map(store.has, (parameters[0], parameters[2], parameters[3]))), (
                "a successor starts there"
            )
            nursery.cancel_scope.cancel()

    trio.run(live)


def test_the_keeper_goes_on_after_what_is_gone(tmp_path: Path) -> None:
    store, checkpoints = BlobStore(tmp_path / "blobs"), Checkpoints(tmp_path / "checkpoints")
    first = store.put(b"first")
    checkpoints.add(3, first, store.path(first))
    keeper = Keeper(checkpoints, store, 100_000)
    last = store.put(b"last")

    async def live() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            keeper.wake({0: "ab" * 32, 3: first, 4: "cd" * 32, 5: last})
            while len(checkpoints.kept()) < 2:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(live)
    assert [one.round for one in checkpoints.kept()] == [3, 5]
