"""A run without tensors: a simulated chain, a real message pool, the coordinator's hand, and contributors that are
only machines with a memory of what they signed. Work is invented, because the machine never looks inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from node import machine
from node.events import (
    Aggregate,
    Aggregated,
    Cancel,
    CarryLost,
    Effect,
    Event,
    Fetch,
    Fetched,
    Force,
    Job,
    Prefetch,
    Progress,
    Publish,
    Receive,
    Received,
    Recheck,
    Refuted,
    Release,
    Restore,
    Restored,
    Start,
    Stop,
    StopReceiving,
    Sweep,
    Train,
    TrainAhead,
    Trained,
    Upheld,
    WentAhead,
)
from node.facts import observe
from node.keeping import STATE_CAP
from node.state import begin
from node.unit import Ahead, Files, Unit, Work, commit
from protocol.canonical import digest
from protocol.chain import PostedRoot
from protocol.manifest import DatasetConfig, RunManifest
from protocol.merkle import commitments_root
from protocol.messages import (
    Body,
    CommitmentEntry,
    CommitmentList,
    Finish,
    Judgement,
    Opening,
    Receipt,
    RoundRecord,
    UnitRecord,
    sign,
)
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from tests.verification.testbed import LEDGER, SimChain, key
from verification.commit import Carried
from verification.duty import confirmed_entries


def name(*parts: object) -> str:
    """Return some 64 hex digits for a name."""
    return digest(" ".join(map(str, parts)).encode())


def manifest(**changes: object) -> RunManifest:
    """Return a manifest of six rounds of five segments; nobody is drawn unless a test says so."""
    fields: dict[str, object] = {
        "name": "world",
        "chain_id": 31337,
        "ledger": LEDGER,
        "coordinator": key(0).address,
        "rounds": 6,
        "dataset": DatasetConfig(name="text", root=name("data"), tokens=100_000),
        "verification": {"schedule": {"fresh_probability": 0.0, "floor_probability": 0.0}},
        "initial_parameters": name("parameters", 0),
        "program": name("program"),
        "deadlines": {"appeal": 10},
        "penalties": {"window": 250},
    }
    return RunManifest.model_validate(fields | changes)


def work(round_: int, number: int, segments: int = 5, *, delayed: bool = False) -> Work:
    """Invent the work of a unit; `delayed`: of a run that delays outer steps."""

    def some(*parts: object) -> str:
        return name(round_, number, *parts)

    files = [Files(parameters=some("p", index), moments=some("m", index)) for index in range(segments + 1)]
    return Work(
        assignment=some("assignment"),
        segments=tuple(files),
        parameters=files[-1].parameters if delayed else None,
        moments=files[-1].moments,
        residual=some("residual"),
        symbols=some("symbols"),
        blob=some("blob"),
        blob_bytes=100,
        cpu_s=1.0,
        loss=4.0,
    )


def unit_of(manifest_: RunManifest, round_: int, done: Work, before: Unit | None, number: int = 1) -> Unit:
    """Return the unit that a contributor journals for some work after its unit of the round before."""
    body = commit(
        manifest_.run_id,
        round_,
        number,
        profile=manifest_.verification.profiles[0].name,
        parameters=done.segments[0].parameters,
        expected=Carried() if before is None else before.carried,
        salt=name("salt", round_),
        work=done,
    )
    return Unit(
        round=round_,
        commitment=body,
        commitment_id=sign(key(number), manifest_, round_, "contributor", body).id,
        salt=name("salt", round_),
        moments_before=None if before is None else before.work.moments,
        residual_before=None if before is None else before.work.residual,
        state_before=None if before is None else before.state,
        work=done,
    )


class World:
    """Hold what is public: contributors 1 to 3, verifiers 7 to 9, a run that has opened."""

    def __init__(self, manifest_: RunManifest | None = None) -> None:
        self.manifest = manifest_ or manifest()
        roles = dict.fromkeys((1, 2, 3), "contributor") | dict.fromkeys((7, 8, 9), "verifier")
        self.chain = SimChain(self.manifest, roles)
        speakers = partial(speaker_of, self.chain)
        self.pool = MessagePool(self.manifest, speakers, self._cases_of, forced_of=self.chain.forced)
        self.withheld: set[int] = set()  # numbers whose updates do not arrive
        self.damaged: set[int] = set()  # numbers whose updates are none
        self.mine(1)

    def _cases_of(self, round_: int) -> set[tuple[int, int]]:
        return {case.label for case in self.chain.cases(round_)}

    def mine(self, blocks: int = 1) -> None:
        self.chain.height += blocks

    def mine_to_window(self, round_: int) -> None:
        """Bring the last block in which the jury takes a case about a round."""
        anchor = self.chain.anchors[round_]
        self.chain.height = max(self.chain.height, anchor + self.manifest.penalties.window)

    def parameters(self, round_: int) -> str:
        return name("parameters", round_)

    def say(self, round_: int, body: Body, number: int = 0) -> None:
        """Let somebody speak; 0 is the coordinator."""
        role = self.chain.numbers.get(number, "coordinator")
        self.pool.add(sign(key(number), self.manifest, round_, role, body))  # type: ignore[arg-type]

    def heard(self, round_: int) -> dict[int, str]:
        """Return the commitments heard, by number."""
        return {number: message.id for number, message in self.pool.commitments(round_).items()}

    def post(self, round_: int, *, without: Iterable[int] = (), root: str | None = None) -> None:
        """List the commitments heard and post the list's root, or another one."""
        left = {number: id_ for number, id_ in self.heard(round_).items() if number not in set(without)}
        entries = tuple(CommitmentEntry(number=number, commitment=left[number]) for number in sorted(left))
        body = CommitmentList(entries=entries)
        self.say(round_, body)
        self.mine()
        self.chain.posted[round_] = PostedRoot(
            root or commitments_root(body), len(entries), self.chain.height
        )

    def force(self, round_: int, number: int, commitment: str) -> None:
        """Let the next block take a commitment, if the window is open."""
        posted = self.chain.posted[round_]
        if self.chain.height < posted.block + self.chain.force_blocks:
            self.mine()
            self.chain.forcings.setdefault(round_, {}).setdefault(number, commitment)

    def record(
        self, round_: int, *, judged: tuple[Judgement, ...] = (), parameters: str | None = None
    ) -> RoundRecord:
        """Return the record of a round in which everybody listed and revealed is merged."""
        entries, reveals = confirmed_entries(self.chain, self.pool, round_), self.pool.reveals(round_)
        units = []
        for entry in entries or ():
            reveal = reveals.get(entry.number)
            units.append(
                UnitRecord(
                    number=entry.number,
                    commitment=entry.commitment,
                    merged=reveal is not None,
                    reason="" if reveal is not None else "not revealed",
                    symbols=None if reveal is None else reveal.body.symbols,
                    blob=None if reveal is None else reveal.body.blob,
                )
            )
        start = parameters or self.parameters(round_)
        record = RoundRecord(parameters=start, units=tuple(units), judged=judged)
        joint = name("joint", round_) if record.has_joint(self.manifest) else None
        return record.model_copy(update={"joint": joint})

    def anchor(self, round_: int, record: RoundRecord | None = None, *, hash_: str | None = None) -> None:
        """Publish a record and anchor its hash, or another one; the next block brings the beacons."""
        record = record or self.record(round_)
        self.say(round_, record)
        self.mine()
        self.chain.anchors[round_] = self.chain.height
        self.chain.records[round_] = hash_ or record.digest().hex()

    def empty_round(self, round_: int) -> None:
        """Let a round pass in which nobody commits."""
        self.post(round_)
        self.anchor(round_)
        self.mine()

    def finish(self, parameters: str, judged: tuple[Judgement, ...] = ()) -> None:
        self.say(self.manifest.rounds - 1, Finish(parameters=parameters, judged=judged))
        self.chain.final = parameters


@dataclass
class Disk:
    """What survives a kill: the journal's rows and the store's blobs."""

    signed: dict[tuple[str, int, int], Body] = field(default_factory=dict)
    units: dict[int, Unit] = field(default_factory=dict)
    released: set[int] = field(default_factory=set)
    progress: Progress | None = None
    blobs: set[str] = field(default_factory=set)
    receipts: dict[int, Receipt] = field(default_factory=dict)


class Contributor:
    """Perform a machine's effects in memory, and record them in `effects`."""

    def __init__(
        self,
        world: World,
        number: int,
        disk: Disk | None = None,
        state_cap: int = STATE_CAP,
        signs_from: int = 0,
        commits_from: int = 0,
    ) -> None:
        self.world = world
        self.disk = disk or Disk()
        self.effects: list[Effect] = []
        self.job: Job | None = None
        self.arriving: list[Receive] = []
        self.state = begin(
            world.manifest,
            world.manifest.run_id,
            number,
            progress=self.disk.progress,
            units=self.disk.units,
            released=frozenset(self.disk.released),
            has=self.disk.blobs.__contains__,
            receipts=self.disk.receipts,
            state_cap=state_cap,
            signs_from=signs_from,
            commits_from=commits_from,
        )

    def look(self) -> list[Effect]:
        """Look at the world until nothing more follows, without doing any job."""
        before = len(self.effects)
        seen = None
        while seen != (self.state.round, self.state.others, len(self.effects)):
            seen = (self.state.round, self.state.others, len(self.effects))
            state, world = self.state, self.world
            self._take(
                observe(
                    world.manifest,
                    world.chain,
                    world.pool,
                    state.number,
                    round_=state.round,
                    others=state.others,
                    parameters=state.parameters,
                )
            )
            arrived, self.arriving = self.arriving, []
            for wanted in arrived:
                self.receive(wanted)
        return self.effects[before:]

    def receive(self, wanted: Receive) -> None:
        """Let an update arrive, unless its owner withholds it, or bytes that are not it."""
        reveal = wanted.reveal
        if reveal.number in self.world.withheld:
            self.arriving.append(wanted)
            return
        self.disk.blobs.add(reveal.blob)
        good = reveal.number not in self.world.damaged
        self._take(Received(wanted.round, reveal.number, good=good))

    def _ahead(self, job: TrainAhead) -> Ahead | None:
        """Make the first segments of what `work` invents."""
        if not {job.before.parameters, job.before.moments} <= self.disk.blobs:
            return None
        segments = work(job.round, self.state.number).segments[: self.world.manifest.outer.delay + 1]
        self.disk.blobs |= {a for f in segments for a in (f.parameters, f.moments)}
        return Ahead(
            segments=segments, losses=(4.0,), gradient_norms=(1.0,), cpu_s=0.1, train_s=0.1, unit_s=0.1
        )

    def do(self, parameters: str | None = None, *, same: bool = True) -> list[Effect]:
        """Finish the job at hand, and look again.

        Args:
            parameters: what an aggregation gives instead of the usual.
            same: whether a unit computed again has the same bits.
        """
        before = len(self.effects)
        job, blobs = self.job, self.disk.blobs
        assert job is not None
        self.job = None
        match job:
            case Fetch():
                blobs.add(job.parameters)
                self._take(Fetched(job.parameters))
            case TrainAhead():
                self._take(WentAhead(job, self._ahead(job)))
            case Train():
                made = work(job.round, self.state.number, delayed=self.world.manifest.outer.delay > 0)
                blobs |= {made.blob, made.residual} | {
                    a for f in made.segments for a in (f.parameters, f.moments)
                }
                self._take(Trained(job.round, made, name("salt", job.round)))
            case Restore():
                seeds = {job.train.parameters, job.train.moments, job.train.residual} - {None}
                assert seeds - {job.train.parameters} <= blobs
                blobs |= {a for f in job.work.segments for a in (f.parameters, f.moments)} if same else set()
                self._take(Restored(job.round, same))
            case Aggregate():
                blobs |= job.blobs
                after = parameters or self.world.parameters(job.round + 1)
                blobs.add(after)
                self._take(Aggregated(job.round, after))
            case Recheck():
                blobs |= job.aggregate.blobs
                self._take(Upheld(job.round))
        self.look()
        return self.effects[before:]

    def refute(self, fault: str) -> list[Effect]:
        """Find out that nobody can take the step at hand."""
        before = len(self.effects)
        assert isinstance(self.job, Aggregate | Recheck)
        round_, self.job = self.job.round, None
        self._take(Refuted(round_, fault))
        return self.effects[before:]

    def lose_carried(self) -> None:
        assert self.job is not None
        round_, self.job = self.job.round, None
        self._take(CarryLost(round_))
        self.look()

    def restarted(self) -> Contributor:
        """Return this contributor after a kill: only its disk remains."""
        return Contributor(self.world, self.state.number, self.disk)

    def ready_to_train(self) -> Contributor:
        """Fetch what round 0 starts from."""
        self.look()
        self.do()
        return self

    def said(self, kind: str) -> list[int]:
        """Return the rounds for which something of a kind was published."""
        return [e.round for e in self.effects if isinstance(e, Publish) and e.body.kind == kind]

    @property
    def stops(self) -> list[Stop]:
        return [effect for effect in self.effects if isinstance(effect, Stop)]

    def _take(self, event: Event) -> None:
        self.state, effects = machine.step(self.state, event)
        for effect in effects:
            self._perform(effect)
        self.effects += effects
        assert self.state.job == self.job

    def _perform(self, effect: Effect) -> None:
        disk = self.disk
        match effect:
            case Start():
                assert self.job is None, "one job at a time"
                self.job = effect.job
            case Cancel():
                assert self.job is not None, "something to cancel"
                self.job = None
            case Publish():
                case = effect.body.case if isinstance(effect.body, Opening) else 0
                slot = (effect.body.kind, effect.round, case)
                assert disk.signed.setdefault(slot, effect.body) == effect.body, "a second statement"
                if isinstance(effect.body, Receipt):
                    disk.receipts[effect.round] = effect.body
                if effect.unit is not None:
                    disk.units[effect.round] = effect.unit
                self.world.say(effect.round, effect.body, self.state.number)
            case Force():
                self.world.force(effect.round, self.state.number, effect.commitment)
            case Receive():
                self.arriving.append(effect)
            case Prefetch():
                self.disk.blobs |= set(effect.aggregate.moving.updates)
            case StopReceiving():
                assert self.arriving, "something to stop"
                self.arriving.clear()
            case Progress():
                disk.progress = effect
            case Release():
                disk.released.add(effect.round)
            case Sweep():
                assert self.job is None, "nothing is swept from under a job"
                assert not self.arriving, "nor from under an update on its way"
                disk.blobs &= effect.keep
