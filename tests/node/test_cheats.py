"""Each cheat really cheats, in its one way, and each is found by the rule that is there for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from node.cheats.casting import honesty_of, steps_of
from node.cheats.claims import Copycat
from node.cheats.garbage import Garbage, garbage
from node.cheats.silence import Equivocate, LateOpening
from node.events import Train
from node.honesty import HonestSteps, Honesty
from node.trainer import Bench, TrainRequest
from node.unit import Unit, Work, opening, reveal
from protocol.blobs import BlobCorrupt, BlobStore
from protocol.errors import Equivocation, Malformed, MurmurError, NetworkError, ProofRejected
from protocol.keys import PeerKey
from protocol.manifest import CPU_FP32, RunManifest
from protocol.messages import PASSED, PROVEN_FALSE, Commitment, Opening, Reveal, parse_message, sign
from protocol.pool import MessagePool
from tests.node.conftest import Place
from tests.node.world import World, name, unit_of, work
from tests.verification.testbed import key
from training.assignment import assignment, assignment_digest
from training.corpus import Shard
from training.workbench import TrainerLoadRequest
from verification.cheats import Cheat
from verification.commit import Carried, check_commitment
from verification.merge import check_reveal, copied_from
from verification.opening import check_opening, needed_files
from verification.replay import Units
from verification.unit import DrawnUnit, ReplayReport

BEACON = name("beacon")


def train(place: Place, cheat: str | None) -> Work:
    bench = Bench(
        TrainerLoadRequest(
            manifest_path=place.manifest_path, store=place.store.root, data_dir=place.data_dir
        ),
        steps_of(cheat),
    )
    asked = TrainRequest(
        round=0,
        number=1,
        beacon=BEACON,
        parameters=place.manifest.initial_parameters,
        moments=None,
        residual=None,
    )
    return bench.train(asked, lambda progress: None)


def judge(place: Place, unit: Unit, segment: int) -> ReplayReport:
    """Do what a verifier does with a unit of number 1 in round 0."""
    manifest = place.manifest
    commitment = sign(key(1), manifest, 0, "contributor", unit.commitment)
    drawn = DrawnUnit(commitment, segment, BEACON, Carried())
    said = sign(key(1), manifest, 0, "contributor", opening(unit, segment))
    check_opening(manifest, drawn, said)
    files = {
        file.address: place.store.get(file.address, max_size=file.bytes)
        for file in needed_files(manifest, drawn, said.body)
    }
    units = Units(Shard.open(manifest.dataset, place.data_dir))
    return units.replay(manifest, drawn, said.body, files)


def check(place: Place, unit: Unit) -> None:
    check_commitment(
        place.manifest,
        unit.round,
        unit.commitment,
        parameters=place.manifest.initial_parameters,
        assignment=assignment_digest(assignment(place.manifest, BEACON, 0, 1)),
        expected=Carried(),
    )


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_honest_work_passes(place: Place, segment: int) -> None:
    unit = unit_of(place.manifest, 0, train(place, None), None)
    check(place, unit)
    assert judge(place, unit, segment).outcome == PASSED


@pytest.mark.parametrize("cheat", ["skip-steps", "wrong-data"])
@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_lazy_or_disobedient_unit_looks_right_and_replays_far_away(
    place: Place, cheat: str, segment: int
) -> None:
    unit = unit_of(place.manifest, 0, train(place, cheat), None)
    check(place, unit)
    report = judge(place, unit, segment)
    assert report.outcome == PROVEN_FALSE
    assert report.distance > 100 * CPU_FP32.slash_tolerance / 10


def test_skipping_steps_takes_fewer_of_them_and_hides_it(place: Place) -> None:
    honest, lazy = train(place, None), train(place, "skip-steps")
    assert honest.assignment == lazy.assignment
    assert honest.segments[0] == lazy.segments[0]
    for index in range(1, place.manifest.segments + 1):
        assert honest.segments[index] != lazy.segments[index]
        steps = [
            int.from_bytes(place.store.path(one.segments[index].moments).read_bytes()[-8:], "little")
            for one in (honest, lazy)
        ]
        assert steps[0] == steps[1]


@dataclass
class Bench1:
    """A workshop over a simulated world; trains by invention and records what it announces."""

    world: World
    number: int
    store: BlobStore
    announced: list[bytes] = field(default_factory=list)
    waited: int = 0

    @property
    def manifest(self) -> RunManifest:
        return self.world.manifest

    @property
    def run(self) -> str:
        return self.world.manifest.run_id

    @property
    def key(self) -> PeerKey:
        return key(self.number)

    @property
    def pool(self) -> MessagePool:
        return self.world.pool

    async def train(self, job: Train) -> Work:
        return work(job.round, self.number)

    async def blocks(self, count: int) -> None:
        self.waited += count

    async def announce(self, data: bytes) -> None:
        if len(data) > 60 * 1024:
            raise NetworkError("too long")
        self.announced.append(data)


@pytest.fixture
def shop(tmp_path: Path) -> Bench1:
    return Bench1(World(), 3, BlobStore(tmp_path / "blobs"))


def job(round_: int) -> Train:
    return Train(round_, BEACON, name("parameters", round_), None, None)


async def test_a_copycat_trains_the_first_round(shop: Bench1) -> None:
    assert await Copycat().work(shop, job(0)) == work(0, 3)


async def test_a_copycat_with_nothing_to_copy_commits_nothing(shop: Bench1) -> None:
    with trio.move_on_after(0) as scope:
        await Copycat().work(shop, job(1))
    assert scope.cancelled_caught


async def test_a_copied_commitment_passes_in_public_but_cannot_be_opened(shop: Bench1) -> None:
    world, copycat = shop.world, Copycat()
    victim = unit_of(world.manifest, 0, work(0, 1), None, number=1)
    world.say(0, victim.commitment, 1)
    world.say(0, reveal(victim), 1)
    copied = await copycat.work(shop, job(1))
    assert (copied.symbols, copied.blob) == (victim.work.symbols, victim.work.blob)
    unit = unit_of(world.manifest, 1, copied, None, number=3)
    check_commitment(
        world.manifest,
        unit.round,
        unit.commitment,
        parameters=unit.commitment.parameters,
        assignment=assignment_digest(assignment(world.manifest, BEACON, 1, 3)),
        expected=Carried(),
    )
    commitment = sign(key(3), world.manifest, 1, "contributor", unit.commitment)
    check_reveal(commitment, reveal(unit), max_bytes=100)
    assert copied_from(copied.symbols, 3, {victim.work.symbols: (0, 1)})
    for segment in range(world.manifest.segments):
        said = await copycat.opening(shop, unit, opening(unit, segment))
        assert said is not None
        assert shop.store.has(said.start_moments)
        signed = sign(key(3), world.manifest, 1, "contributor", said)
        with pytest.raises(ProofRejected):
            check_opening(world.manifest, DrawnUnit(commitment, segment, BEACON, Carried()), signed)


async def test_a_copycat_opens_its_honest_first_unit_honestly(shop: Bench1) -> None:
    unit = unit_of(shop.manifest, 0, work(0, 3), None, number=3)
    assert await Copycat().opening(shop, unit, opening(unit, 2)) == opening(unit, 2)


async def test_a_late_opening_comes_after_the_time_to_open(shop: Bench1) -> None:
    unit, verify = unit_of(shop.manifest, 0, work(0, 3), None, number=3), shop.manifest.deadlines.verify
    assert await LateOpening().opening(shop, unit, opening(unit, 2)) == opening(unit, 2)
    assert verify // 2 < shop.waited < verify


async def test_an_equivocator_contradicts_its_commitment_and_nothing_else(shop: Bench1) -> None:
    unit = unit_of(shop.manifest, 0, work(0, 3), None, number=3)
    said = [sign(key(3), shop.manifest, 0, "contributor", body) for body in (unit.commitment, reveal(unit))]
    for message in said:
        shop.world.pool.add(message)
        await Equivocate().published(shop, message)
    [contradiction] = shop.announced
    with pytest.raises(Equivocation):
        shop.world.pool.accept(contradiction)


async def test_garbage_is_bounded_and_holds_no_valid_commitment(shop: Bench1) -> None:
    await Garbage().round_begins(shop, 0)
    assert 10 < len(shop.announced) <= 20
    refused, taken = 0, []
    for data in shop.announced:
        try:
            message = shop.world.pool.accept(data)
        except MurmurError:
            refused += 1
        else:
            taken.append(message)
    assert refused >= len(shop.announced) - 3
    assert {type(message.body) for message in taken if message is not None} <= {Commitment, Reveal, Opening}
    for message in taken:
        assert message is not None
        if isinstance(message.body, Commitment):
            with pytest.raises(Malformed):
                check_commitment(
                    shop.manifest,
                    message.round,
                    message.body,
                    parameters=shop.manifest.initial_parameters,
                    assignment=name("assignment"),
                    expected=Carried(),
                )
    assert len(shop.world.pool.equivocations) == 2, "a second commitment and a second reveal"


def test_a_planted_blob_does_not_hash_to_its_name(shop: Bench1) -> None:
    said = [data for data in garbage(shop, 0) if b'"kind":"reveal"' in data]
    blob = parse_message(said[0]).body.blob  # type: ignore[attr-defined]
    with pytest.raises(BlobCorrupt):
        shop.store.get(blob, max_size=1 << 20)


async def test_garbage_makes_no_unit(shop: Bench1) -> None:
    with trio.move_on_after(0) as scope:
        await Garbage().work(shop, job(0))
    assert scope.cancelled_caught


def test_only_the_dishonest_part_is_replaced() -> None:
    assert type(steps_of(None)) is HonestSteps
    assert type(honesty_of(None)) is Honesty
    for cheat in Cheat:
        in_trainer = type(steps_of(cheat)) is not HonestSteps
        behaviour = type(honesty_of(cheat))
        hooks = ("work", "reveal", "opening", "published", "round_begins")
        in_daemon = any(getattr(behaviour, hook) is not getattr(Honesty, hook) for hook in hooks)
        assert in_trainer or in_daemon
        if in_trainer:
            assert tuple(honesty_of(cheat).trainer_arguments) == (cheat.value,)
        for argument in honesty_of(cheat).trainer_arguments:
            assert type(steps_of(argument)) is not HonestSteps
    with pytest.raises(ValueError, match="nap"):
        steps_of("nap")
