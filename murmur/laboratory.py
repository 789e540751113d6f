"""A run in one process, to try dishonest units on: the node's own code makes them, the network's own checks judge.

An honest run of a few rounds comes first, so that moments, residual and updates to copy are what they are in the
middle of a run. Then a contributor with a `Cheat` makes one more unit, and everything it says passes the checks in
the order in which a network meets it: gossip, commitment, reveal, merge, opening, files, replay.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import trio

from coordinator.choices import DEFAULT_ROUNDS
from murmur.machines import MACHINES, Machine
from node.cheats.casting import honesty_of, steps_of
from node.events import Train
from node.honesty import HonestSteps, Honesty
from node.trainer import Bench, TrainRequest
from node.unit import Unit, Work, commit, opening, reveal
from protocol.blobs import BlobStore
from protocol.canonical import ZERO_DIGEST, tagged_digest
from protocol.errors import Equivocation, Malformed, MurmurError, NetworkError, ProofRejected
from protocol.keys import PeerKey
from protocol.lessons import NOTHING, Lesson, Lessons
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import (
    MAX_MESSAGE_BYTES,
    PROVEN_FALSE,
    REJECTED,
    Commitment,
    Opening,
    Reveal,
    Signed,
    sign,
)
from protocol.pool import MessagePool
from protocol.published import max_published_bytes, read_update
from protocol.speakers import Speaker
from protocol.tensors import Floats, moment_layout, parameter_layout
from training.assignment import assignment, assignment_digest
from training.corpus import DEFAULT_NAME, Shard, dataset_config, prepare_corpus
from training.distance import PARAMETER_FLOOR
from training.inner import InnerState, prepare_process
from training.judging import Docket
from training.model import initial_parameters
from training.outer import aggregate, initial_state, parameters_file
from training.program import program_digest
from training.recipe import with_recipe
from training.workbench import TrainerLoadRequest
from verification.cheats import AnyCheat
from verification.commit import Carried, check_commitment
from verification.duty import opening_time
from verification.judge import is_fresh
from verification.merge import check_published, check_reveal, copied_from
from verification.opening import check_opening, needed_files
from verification.replay import Units
from verification.sample import Draw
from verification.unit import DrawnUnit, ReplayReport

ATTACKER, VICTIM, NEWCOMER = 1, 2, 3
JUDGES = (7, 8)
EMULATED = (
    *MACHINES,
    Machine("glibc without AVX2", {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA"}),
)
"""Machines that honest work is replayed on."""

CONTEXT_ROUNDS = 2
"""Honest rounds before the measured one."""


@dataclass(frozen=True)
class Finding:
    """Say what one check found."""

    check: str
    outcome: int  # PASSED, REJECTED (void) or PROVEN_FALSE of protocol.messages
    reason: str = ""
    report: ReplayReport | None = None  # of a replay that compared distances
    tolerance: float | None = None  # of that replay


@dataclass
class Trial:
    """Hold what the checks found of one contributor's unit."""

    public: list[Finding] = field(default_factory=list)  # before any draw, faults only
    drawn: dict[int, Finding] = field(default_factory=dict)  # by the segment that a draw asks for
    unit: Unit | None = None  # None: nothing was committed


@dataclass
class Shop:
    """Be the workshop of the contributor under trial (`node.honesty.Workshop`)."""

    manifest: RunManifest
    number: int
    key: PeerKey
    pool: MessagePool
    store: BlobStore
    bench: Bench
    announced: list[bytes] = field(default_factory=list)
    waited: int = 0  # blocks

    @property
    def run(self) -> str:
        """Return the run id."""
        return self.manifest.run_id

    async def train(self, job: Train) -> Work:
        """Make a unit in this very process."""
        return self.bench.train(_request(job, self.number), lambda progress: None)

    async def announce(self, data: bytes) -> None:
        """Take down what is said beside the ordinary."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise NetworkError("too long for gossip")
        self.announced.append(data)

    async def blocks(self, count: int) -> None:
        """Count how long it waits."""
        self.waited += count


def laboratory_manifest(
    directory: Path,
    *,
    profiles: tuple[NumericProfile, ...] | None = None,
    start: Floats | None = None,
    seed: int = 0,
    **fields: Any,
) -> RunManifest:
    """Return the manifest of a run over the packaged corpus, prepared in `directory`, that `run create` would make.

    Args:
        profiles: of the run, the measured one first; None takes the default.
        start: float32[P], the first parameters; None draws them by the seed.
        fields: of the manifest, instead of the defaults.
    """
    values: dict[str, Any] = {
        "name": "laboratory",
        "chain_id": 31337,
        "ledger": "0x" + "00" * 20,
        "coordinator": "0x" + "00" * 20,
        "rounds": DEFAULT_ROUNDS,
        "initial_parameters": ZERO_DIGEST,
        "program": program_digest(),
        **fields,
    }
    if "dataset" not in values:
        values["dataset"] = dataset_config(DEFAULT_NAME, prepare_corpus(None, directory))
    manifest = RunManifest.model_validate(with_recipe(values))
    if profiles is not None:
        verification = manifest.verification.model_copy(update={"profiles": profiles})
        manifest = manifest.model_copy(update={"verification": verification})
    vector = initial_parameters(manifest.model, seed) if start is None else start
    file = parameters_file(manifest, initial_state(manifest, vector))
    address = BlobStore(directory / "blobs").put(file)
    return manifest.model_copy(update={"initial_parameters": address})


class Laboratory:
    """Try units on the network's checks. Open one with `Laboratory.open`."""

    def __init__(self, directory: Path, manifest: RunManifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.store = BlobStore(directory / "blobs")
        self.round = 0
        self.parameters = [manifest.initial_parameters]
        """Content addresses of the global parameters, by round."""
        self.units: dict[int, list[Unit]] = {ATTACKER: [], VICTIM: [], NEWCOMER: []}
        """Honest units by number and round."""
        self._shown: dict[str, tuple[int, int]] = {}
        self._said: list[bytes] = []
        self._load = TrainerLoadRequest(
            manifest_path=directory / "manifest.json", store=self.store.root, data_dir=directory
        )
        self._load.manifest_path.write_bytes(manifest.to_bytes())
        self._honest = Bench(self._load, HonestSteps())
        self.replays = Units(Shard.open(manifest.dataset, directory))

    @classmethod
    def open(
        cls, directory: Path, manifest: RunManifest, *, rounds: int = CONTEXT_ROUNDS, threads: int = 1
    ) -> Self:
        """Live through the honest rounds.

        Args:
            manifest: as `laboratory_manifest` makes it; its shard and initial parameters are in `directory`.
        """
        prepare_process(threads)
        laboratory = cls(directory, manifest)
        for _ in range(rounds):
            laboratory._live_round()
        return laboratory

    @property
    def profile(self) -> NumericProfile:
        """Return the profile that the units are computed and judged under."""
        return self.manifest.verification.profiles[0]

    def beacon(self, round_: int) -> str:
        """Return what stands for the block hash that fixes a round's draws."""
        return tagged_digest("murmur/laboratory", self.manifest.run_id, round_)

    @property
    def sampling(self) -> str:
        """Return what stands for the beacon that draws units of the measured round."""
        return tagged_digest("murmur/laboratory-sampling", self.manifest.run_id, self.round)

    def try_cheat(self, cheat: AnyCheat | None) -> Trial:
        """Have a contributor make the next unit, dishonestly or not, and put all it says to the checks."""
        return trio.run(self._try, honesty_of(cheat))

    def path_factor(self, unit: Unit) -> float:
        """Return the length of a unit's path, segment by segment, over its length from start to end.

        Times the tolerance it bounds what unseen shifts of parameters add up to. Segments count with what distances
        are relative to: the change of each tensor, or the floor where that is larger.
        """
        model, inner = self.manifest.model, self.manifest.inner
        layout = parameter_layout(model)

        def length(change: Floats) -> float:
            norms = (
                max(_norm(change[place]), PARAMETER_FLOOR * inner.lr * math.sqrt(change[place].size))
                for place in layout.slices.values()
            )
            return math.hypot(*norms)

        states = [
            InnerState.from_files(model, self._get(files.parameters), None).parameters
            for files in unit.work.segments
        ]
        steps = sum(length(after - before) for before, after in pairwise(states))
        return steps / _norm(states[-1] - states[0])

    def drawn(self, unit: Unit, segment: int) -> tuple[DrawnUnit, Signed[Opening]]:
        """Return a unit as a draw asks for it, and its honest opening."""
        number = unit.commitment.number
        commitment = self._sign(number, unit.round, unit.commitment)
        asked = self._drawn(commitment, segment)
        said = opening(unit, segment, rollouts=self.manifest.rollouts is not None)
        return asked, self._sign(number, unit.round, said)

    def honest_unit(self) -> Unit:
        """Return the unit that an honest contributor makes in the measured round."""
        unit = self.try_cheat(None).unit
        assert unit is not None, "honesty commits"
        return unit

    def newcomer_unit(self) -> Unit:
        """Return the unit of an honest contributor for whom the measured round is the first."""
        work = self._honest.train(_request(self._job(NEWCOMER), NEWCOMER), lambda progress: None)
        return self._commit(NEWCOMER, work)

    def _live_round(self) -> None:
        """Have attacker and victim make, show and merge an honest unit each."""
        updates = []
        for number in (ATTACKER, VICTIM):
            work = self._honest.train(_request(self._job(number), number), lambda progress: None)
            unit = self._commit(number, work)
            self.units[number].append(unit)
            self._said += [
                self._sign(number, self.round, body).wire for body in (unit.commitment, reveal(unit))
            ]
            self._shown.setdefault(work.symbols, (self.round, number))
            updates.append(read_update(self.manifest, self._get(work.blob)))
        state = self._honest.work.parameters(self.parameters[-1])
        self.parameters.append(
            self.store.put(parameters_file(self.manifest, aggregate(self.manifest, state, updates)))
        )
        self.round += 1

    async def _try(self, honesty: Honesty) -> Trial:
        steps = steps_of(next(iter(honesty.trainer_arguments), None))
        shop = Shop(
            self.manifest, ATTACKER, _key(ATTACKER), self._pool(), self.store, Bench(self._load, steps)
        )
        if self.round:
            steps.start(self._state(self.round - 1))  # as a trainer has seen it that ran before
        trial = Trial()
        await honesty.round_begins(shop, self.round)
        self._hear(shop, trial)
        with trio.move_on_after(0) as scope:
            work = await honesty.work(shop, self._job(ATTACKER))
        if scope.cancelled_caught:
            return trial
        trial.unit = unit = self._commit(ATTACKER, work)
        message = self._sign(ATTACKER, self.round, unit.commitment)
        self._admit(message, shop, trial)
        await honesty.published(shop, message)
        self._hear(shop, trial)
        self._merge(message, await honesty.reveal(shop, unit, reveal(unit)), shop, trial)
        for segment in range(self.manifest.segments):
            shop.waited = 0
            asked = opening(unit, segment, rollouts=self.manifest.rollouts is not None)
            said = await honesty.opening(shop, unit, asked)
            trial.drawn[segment] = self._judge(message, segment, said, shop.waited)
        return trial

    def _hear(self, shop: Shop, trial: Trial) -> None:
        """Let the pool judge what was announced beside the ordinary."""
        for data in shop.announced:
            try:
                heard = shop.pool.accept(data)
                if heard is not None and isinstance(heard.body, Commitment):
                    self._check_commitment(heard.body)
            except MurmurError as error:
                trial.public.append(Finding("gossip", REJECTED, error.message))
        shop.announced.clear()

    def _admit(self, message: Signed[Commitment], shop: Shop, trial: Trial) -> None:
        try:
            shop.pool.accept(message.wire)
            self._check_commitment(message.body)
        except (Malformed, Equivocation) as error:
            trial.public.append(Finding("commitment", REJECTED, error.message))

    def _check_commitment(self, body: Commitment) -> None:
        drawn = assignment(self.manifest, self.beacon(self.round), self.round, ATTACKER)
        check_commitment(
            self.manifest,
            self.round,
            body,
            parameters=self.parameters[self.round],
            assignment=assignment_digest(drawn),
            expected=self._expected(ATTACKER, self.round),
        )

    def _merge(self, commitment: Signed[Commitment], said: Reveal | None, shop: Shop, trial: Trial) -> None:
        if said is None:
            trial.public.append(Finding("reveal", REJECTED, "not revealed in time"))
            return
        limit, beacon = max_published_bytes(self.manifest), self.beacon(self.round)
        try:
            shop.pool.accept(self._sign(ATTACKER, self.round, said).wire)
            check_reveal(commitment, said, limit)
            docket = Docket(self.manifest, beacon, self.round, self._lessons(self.round).judged, self._get)
            check_published(self.manifest, beacon, self.round, said, self._get(said.blob), docket)
        except Malformed as error:
            trial.public.append(Finding("reveal", REJECTED, error.message))
        if copied := copied_from(said.symbols, ATTACKER, self._shown):
            trial.public.append(Finding("merge", REJECTED, copied))

    def _judge(
        self, commitment: Signed[Commitment], segment: int, said: Opening | None, waited: int
    ) -> Finding:
        """Do what a verifier does with a drawn unit."""
        unit = self._drawn(commitment, segment)
        in_time = opening_time(self.manifest, Draw(ATTACKER, segment, JUDGES), JUDGES[0])
        if said is None or waited >= in_time:
            return Finding("opening", REJECTED, "not opened in time")
        message = self._sign(ATTACKER, self.round, said)
        try:
            check_opening(self.manifest, unit, message)
        except ProofRejected as error:
            return Finding("opening", PROVEN_FALSE, error.message)
        except Malformed as error:
            return Finding("opening", REJECTED, error.message)
        try:
            files = {
                file.address: self.store.get(file.address, max_size=file.bytes)
                for file in needed_files(self.manifest, unit, said)
            }
        except NetworkError as error:
            return Finding("opening", REJECTED, f"not served: {error.message}")
        report = self.replays.replay(self.manifest, unit, said, files)
        if not report.distances:
            return Finding("update", report.outcome, report.reason)
        tolerance = self.profile.bound(is_fresh(self.manifest, commitment.body, segment))
        return Finding("replay", report.outcome, report.reason, report, tolerance)

    def _pool(self) -> MessagePool:
        """Return a pool that has heard the honest rounds."""
        pool = MessagePool(self.manifest, lambda number, _: Speaker("contributor", (_key(number).address,)))
        pool.round = self.round
        for data in self._said:
            pool.accept(data)
        return pool

    def _job(self, number: int) -> Train:
        before = self.units[number][-1].work if self.units[number] else None
        return Train(
            self.round,
            self.beacon(self.round),
            self.parameters[self.round],
            None if before is None or not self.manifest.carries_moments else before.moments,
            None if before is None else before.residual,
            self._lessons(self.round),
        )

    def _lessons(self, round_: int) -> Lessons:
        """Return whose rollouts a round learns from."""
        rollouts = self.manifest.rollouts
        if rollouts is None or round_ < rollouts.lag:
            return NOTHING
        learned = round_ - rollouts.lag
        made = ((number, self.units[number][learned].work.blob) for number in (ATTACKER, VICTIM))
        return Lessons(learned=tuple(Lesson(number=number, blob=blob) for number, blob in made))

    def _drawn(self, commitment: Signed[Commitment], segment: int) -> DrawnUnit:
        number, round_ = commitment.body.number, commitment.round
        return DrawnUnit(
            commitment,
            segment,
            self.beacon(round_),
            self._expected(number, round_),
            self.sampling,
            lessons=self._lessons(round_),
        )

    def _expected(self, number: int, round_: int) -> Carried:
        return self.units[number][round_ - 1].carried if round_ and self.units[number] else Carried()

    def _commit(self, number: int, work: Work) -> Unit:
        run, round_ = self.manifest.run_id, self.round
        salt = tagged_digest("murmur/laboratory-salt", run, round_, number)
        body = commit(
            run,
            round_,
            number,
            profile=self.profile.name,
            parameters=self.parameters[round_],
            expected=self._expected(number, round_),
            salt=salt,
            work=work,
            carries_moments=self.manifest.carries_moments,
        )
        job = self._job(number)
        return Unit(
            round=round_,
            commitment=body,
            commitment_id=self._sign(number, round_, body).id,
            salt=salt,
            moments_before=job.moments,
            residual_before=job.residual,
            lessons=job.lessons,
            work=work,
        )

    def _state(self, round_: int) -> InnerState:
        """Return the state that the attacker's unit of a round started from."""
        files = self.units[ATTACKER][round_].work.segments[0]
        model = self.manifest.model
        return InnerState.from_files(model, self._get(files.parameters), self._get(files.moments))

    def _get(self, address: str) -> bytes:
        states = 2 * moment_layout(self.manifest.model).file_bytes
        return self.store.get(address, max_size=max(states, max_published_bytes(self.manifest)))

    def _sign(self, number: int, round_: int, body: Any) -> Signed[Any]:
        return sign(_key(number), self.manifest, round_, "contributor", body)


def _key(number: int) -> PeerKey:
    return PeerKey(bytes.fromhex(tagged_digest("murmur/laboratory-key", number)))


def _request(job: Train, number: int) -> TrainRequest:
    return TrainRequest(
        round=job.round,
        number=number,
        beacon=job.beacon,
        parameters=job.parameters,
        moments=job.moments,
        residual=job.residual,
        lessons=job.lessons,
    )


def _norm(vector: Floats) -> float:
    return float(np.linalg.norm(vector.astype(np.float64)))
