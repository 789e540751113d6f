from __future__ import annotations

from pathlib import Path

import pytest
import trio

from murmur.machines import BASE, MACHINES, SWITCHES, Machine, Replay, open_fleet
from node.unit import Files
from protocol.blobs import BlobStore
from protocol.errors import NetworkError
from protocol.manifest import RunManifest
from tests.verification.testbed import Testbed, tiny_manifest
from training.distance import segment_distances
from training.inner import InnerState

OLDEST = MACHINES[-1]


def test_switches_of_this_process_do_not_leak_into_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "leaked")
    monkeypatch.setenv("PATH_OF_SOMEBODY", "kept")
    for machine in MACHINES:
        environment = machine.environment()
        assert {name: environment[name] for name in SWITCHES if name in environment} == machine.switches
        assert environment["OMP_NUM_THREADS"] == str(machine.threads)
        assert environment["PATH_OF_SOMEBODY"] == "kept"


def test_no_two_machines_share_a_name_or_their_switches() -> None:
    assert len({one.name for one in MACHINES}) == len(MACHINES)
    assert len({(tuple(sorted(one.switches.items())), one.threads) for one in MACHINES}) == len(MACHINES)
    assert MACHINES[0] == BASE == Machine(BASE.name)


def read(manifest: RunManifest, store: BlobStore, files: Files) -> InnerState:
    addresses = (files.parameters, files.moments)
    return InnerState.from_files(manifest.model, *(store.get(one, max_size=1 << 24) for one in addresses))


@pytest.fixture
def place(tmp_path: Path) -> tuple[Testbed, dict[str, Path]]:
    text = tmp_path / "text"
    text.write_text("To be, or not to be: that is the question. " * 200, encoding="ascii")
    bed = Testbed(tmp_path, tiny_manifest(text, tmp_path / "data"), contributors=1, verifiers=2)
    bed.chain.height += 1
    bed.play_round(0)
    (tmp_path / "manifest.json").write_bytes(bed.manifest.to_bytes())
    return bed, {
        "manifest": tmp_path / "manifest.json",
        "store": bed.states.root,
        "shards": bed.data_dir,
        "logs": tmp_path,
    }


def replays_of(bed: Testbed) -> list[Replay]:
    made = bed.made[0, 1]
    return [
        Replay(
            profile=bed.manifest.verification.profiles[0].name,
            start=start,
            beacon=bed.drawn(made, 0).beacon,
            round=0,
            number=1,
            segment=segment,
        )
        for segment, start in enumerate(made.unit.work.segments[:-1])
    ]


def test_the_same_machine_repeats_every_bit_and_an_old_one_stays_within_tolerance(
    place: tuple[Testbed, dict[str, Path]],
) -> None:
    bed, folders = place
    replays = replays_of(bed)
    claimed = bed.made[0, 1].unit.work.segments[1:]
    missing = replays[0].model_copy(update={"start": Files(parameters="ab" * 32, moments="cd" * 32)})

    async def run() -> dict[str, tuple[Files, ...]]:
        async with open_fleet((BASE, OLDEST), **folders) as fleet:
            assert {one.threads for one in fleet.facts.values()} == {1}
            assert all(one.torch and one.capability for one in fleet.facts.values())
            found = await fleet.replay(replays)
            cheats = await fleet.replay(
                [one.model_copy(update={"cheat": "lr-0.9"}) for one in replays], (BASE.name,)
            )
            assert cheats.keys() == {BASE.name}
            assert not set(cheats[BASE.name]) & set(found[BASE.name])
            with pytest.raises(NetworkError, match="not in the store"):
                await fleet.replay([missing])
            return found

    ends = trio.run(run)
    assert ends[BASE.name] == claimed
    for segment, (replay, end) in enumerate(zip(replays, ends[OLDEST.name], strict=True)):
        start, there, here = (
            read(bed.manifest, bed.states, files) for files in (replay.start, end, claimed[segment])
        )
        distances = segment_distances(bed.manifest, start, there, here)
        assert max(distances.values()) <= bed.manifest.verification.profiles[0].bound(fresh=segment == 0)
