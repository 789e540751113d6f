"""A run under a simulated clock: the product's own machines of contributors and coordinator, and nobody's hardware.

`node.machine` and `coordinator.rounds` decide everything, each on messages as they reach it and on the chain as it last
looked at it. Around them time is simulated: steps take what steps were measured to take, one after the other; blobs and
messages pass over `tests.bench._network`; a transaction waits for the next block. Work is invented, because no machine
looks inside. Nobody cheats and nobody is drawn: verification happens beside the rounds and holds none of them up.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from typing import Any, Final

from coordinator import rounds
from coordinator.state import Aggregate as CoordinatorAggregate
from coordinator.state import Aggregated as CoordinatorAggregated
from coordinator.state import Anchor, FetchUpdate, Heard, Looked, Post, Said, Say, Weigh, Weighed
from coordinator.state import Fetched as CoordinatorFetched
from node import machine
from node.events import (
    Aggregate,
    Aggregated,
    Cancel,
    Fetch,
    Fetched,
    Job,
    Prefetch,
    Publish,
    Receive,
    Received,
    Start,
    StopReceiving,
    Train,
    TrainAhead,
    Trained,
    WentAhead,
)
from node.facts import observe
from node.state import begin
from node.unit import Ahead, Files, Work
from node.workshop import FETCHES_AT_ONCE
from protocol.canonical import digest
from protocol.chain import Operator, PostedRoot
from protocol.errors import Premature
from protocol.frozen import Frozen
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Body, Role, Signed, sign
from protocol.peer import PeerConfig
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from tests.bench._network import Clock, Links
from tests.coordinator.simchain import SimulatedChain
from training.assignment import assignment, assignment_digest
from training.merging import Merit
from training.workbench import AggregateRequest

COORDINATOR: Final = 0
LIMIT_S: Final = 1e6
Action = Callable[[], None]


class Machine(Frozen):
    """Say what computing takes, in seconds as they were measured."""

    steps: tuple[float, ...]  # of inner steps in a row, which are repeated
    compress: float  # an update, its residual and the states of one unit
    aggregate: float  # a round's updates
    judge: float  # a round's updates, as the coordinator does


class Setting(Frozen):
    """Say over what a run is simulated."""

    mbit_s: float  # of each host's link, each way
    delay_ms: float  # between any two hosts, one way
    block_s: float = 2.0
    update_bytes: int
    parameter_bytes: int


@dataclass(frozen=True)
class Outcome:
    """What a simulated run came to between its first round and its last: nobody trains beside that one."""

    share: float  # of the contributors' wall time that was spent in inner steps
    round_s: float
    waits_s: float  # of a round, in which a contributor computes nothing
    up_bytes: float  # of a contributor a round, mean
    down_bytes: float


def invented(manifest: RunManifest, beacon: str, round_: int, number: int, update_bytes: int) -> Work:
    """Return work that passes every public rule."""

    def some(*parts: object) -> str:
        return digest(" ".join(map(str, (round_, number, *parts))).encode())

    files = tuple(
        Files(parameters=some("p", index), moments=some("m", index)) for index in range(manifest.segments + 1)
    )
    return Work(
        assignment=assignment_digest(assignment(manifest, beacon, round_, number)),
        segments=files,
        parameters=files[-1].parameters if manifest.outer.delay else None,
        moments=files[-1].moments,
        residual=some("residual"),
        symbols=some("symbols"),
        blob=some("blob"),
        blob_bytes=update_bytes,
        cpu_s=1.0,
        loss=4.0,
    )


def next_parameters(request: AggregateRequest) -> str:
    """Return the address of what an aggregation gives, the same to everybody."""
    return digest(" ".join((request.parameters, *request.updates, *map(str, request.weights))).encode())


class Host(ABC):
    """Hold what one process sees: messages that reached it, and the chain of its last look."""

    def __init__(self, run: "SimulatedRun", place: int) -> None:
        self.run, self.place = run, place
        self.chain = run.snapshot()
        self.pool = MessagePool(run.manifest, lambda number, round_: speaker_of(self.chain, number, round_))
        self._early: list[Signed[Body]] = []

    def look(self) -> None:
        """Look at the chain as it is now, and at messages that came before what they speak of."""
        self.chain = self.run.snapshot()
        early, self._early = self._early, []
        for message in early:
            self.hear(message)

    def hear(self, message: Signed[Body]) -> bool:
        """Take in a message; tell whether it is new and speaks of what we see."""
        try:
            return self.pool.add(message) is not None
        except Premature:
            self._early.append(message)
            return False

    @abstractmethod
    def wake(self) -> None:
        """Draw the conclusions."""


class Contributor(Host):
    """Perform a contributor's effects."""

    def __init__(self, run: "SimulatedRun", place: int) -> None:
        super().__init__(run, place)
        self.state = begin(
            run.manifest,
            run.manifest.run_id,
            place,
            progress=None,
            units={},
            released=frozenset(),
            has=run.manifest.initial_parameters.__eq__,
        )
        self.held: set[str] = set()
        self._inner_s = 0.0  # of steps that were taken
        self._stepping: tuple[float, float] | None = (
            None  # since when steps are taken, and how long they take
        )
        self.marks: dict[int, tuple[float, float]] = {}  # by round: when it began, and inner seconds by then
        self._job = 0  # counts jobs: what an ended one delivers is nobody's
        self._steps = cycle(run.machine.steps)

    @property
    def inner_s(self) -> float:
        """Return the seconds spent in inner steps until now."""
        if self._stepping is None:
            return self._inner_s
        began, takes = self._stepping
        return self._inner_s + min(takes, self.run.clock.now - began)

    def wake(self) -> None:
        seen = None
        while seen != (self.state.round, self.state.others):
            seen = (self.state.round, self.state.others)
            found = observe(
                self.run.manifest,
                self.chain,
                self.pool,
                self.place,
                round_=self.state.round,
                others=self.state.others,
                parameters=self.state.parameters,
            )
            self._take(found)

    def hear(self, message: Signed[Body]) -> bool:
        new = super().hear(message)
        if new:
            self.wake()
        return new

    def _take(self, event: Any) -> None:
        before = self.state.round
        self.state, effects = machine.step(self.state, event)
        if self.state.round != before or not self.marks:
            self.marks[self.state.round] = self.run.clock.now, self.inner_s
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Any) -> None:
        match effect:
            case Start(job):
                self._job += 1
                self._begin(job, self._job)
            case Cancel():
                raise AssertionError("nothing happens here that ends a job")
            case Publish(round_, body):
                message = self.run.signed(self.place, "contributor", round_, body)
                self.pool.add(message)
                self.run.tell(self.place, message)
            case Receive(round_, reveal):
                self._fetch(
                    reveal.blob,
                    reveal.number,
                    lambda: self._later(Received(round_, reveal.number, good=True)),
                )
            case Prefetch(aggregate):
                self._bring(aggregate, lambda: None)
            case StopReceiving():
                pass  # what is on its way still comes, and is used
            case _:
                pass

    def _later(self, event: Any) -> None:
        self._take(event)
        self.wake()

    def _deliver(self, event: Any, job: int) -> None:
        if job == self._job:
            self._later(event)

    def _begin(self, job: Job, number: int) -> None:
        run, manifest = self.run, self.run.manifest
        match job:
            case Fetch():
                done = partial(self._deliver, Fetched(job.parameters), number)
                run.links.fetch(COORDINATOR, self.place, run.setting.parameter_bytes, done)
            case TrainAhead():
                work = invented(manifest, job.beacon, job.round, self.place, run.setting.update_bytes)
                ahead = Ahead(
                    segments=work.segments[: manifest.outer.delay + 1],
                    losses=(4.0,),
                    gradient_norms=(1.0,),
                    cpu_s=0.0,
                    train_s=0.0,
                    unit_s=0.0,
                )
                self._train(manifest.outer.delay, 0.0, WentAhead(job, ahead), number)
            case Train():
                work = invented(manifest, job.beacon, job.round, self.place, run.setting.update_bytes)
                left = manifest.segments - (0 if job.ahead is None else manifest.outer.delay)
                self.held.add(work.blob)
                self._train(
                    left, run.machine.compress, Trained(job.round, work, digest(work.blob.encode())), number
                )
            case Aggregate():
                moving = job.moving
                request = AggregateRequest(
                    parameters=job.parameters, updates=moving.updates, weights=moving.weights
                )
                event = Aggregated(job.round, next_parameters(request))
                computed = partial(
                    run.clock.after, run.machine.aggregate, partial(self._deliver, event, number)
                )
                self._bring(job, computed)

    def _train(self, segments: int, more_s: float, event: Any, number: int) -> None:
        steps = segments * self.run.manifest.verification.segment_steps
        spent = sum(islice(self._steps, steps))

        self._stepping = self.run.clock.now, spent

        def done() -> None:
            self._inner_s, self._stepping = self.inner_s, None
            self._deliver(event, number)

        self.run.clock.after(spent + more_s, done)

    def _bring(self, job: Aggregate, done: Action) -> None:
        """Fetch what an aggregation reads, so many at once as the product does."""
        wanted = [(unit.blob, unit.number) for unit in job.units if unit.blob is not None]
        missing = [one for one in wanted if one[0] not in self.held]
        left, queue = [len(missing)], iter(missing)
        if not missing:
            done()
            return

        def one_here() -> None:
            left[0] -= 1
            if not left[0]:
                done()
            else:
                start()

        def start() -> None:
            found = next(queue, None)
            if found is not None:
                self._fetch(*found, one_here)

        for _ in range(min(FETCHES_AT_ONCE, len(missing))):
            start()

    def _fetch(self, blob: str, number: int, done: Action) -> None:
        if blob in self.held:
            done()
            return

        def here() -> None:
            self.held.add(blob)
            done()

        self.run.links.fetch(number, self.place, self.run.setting.update_bytes, here)


class Coordinator(Host):
    """Perform the coordinator's effects; its computing is one thing after the other."""

    def __init__(self, run: "SimulatedRun") -> None:
        super().__init__(run, COORDINATOR)
        self.state = rounds.initial(run.manifest)

    def wake(self) -> None:
        self._take(Looked())

    def hear(self, message: Signed[Body]) -> bool:
        new = super().hear(message)
        if new:
            self._take(Heard(message))
        return new

    def _take(self, event: Any) -> None:
        self.state, effects = rounds.step(self.state, event, self.chain)
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Any) -> None:
        run = self.run
        match effect:
            case Say(round_, body):
                message = run.signed(COORDINATOR, "coordinator", round_, body)
                self.pool.add(message)
                run.tell(COORDINATOR, message)
                self._take(Said(message))
            case Post(round_, root, count):
                run.include(
                    lambda height: run.chain.roots.__setitem__(round_, PostedRoot(root, count, height))
                )
            case Anchor(round_, record):
                run.include(lambda height: run.chain.records.__setitem__(round_, (record, height)))
            case FetchUpdate(reveal, blob):
                event = CoordinatorFetched(reveal.round, reveal.body.number, blob)
                done = partial(self._take, event)
                run.links.fetch(reveal.body.number, COORDINATOR, run.setting.update_bytes, done)
            case Weigh(request):
                merits = tuple(Merit(passed=True, reason="") for _ in request.units)
                run.clock.after(run.machine.judge, partial(self._take, Weighed(request.round, merits, 0)))
            case CoordinatorAggregate(round_, request):
                event = CoordinatorAggregated(round_ + 1, next_parameters(request))
                run.clock.after(run.machine.aggregate, partial(self._take, event))
            case _:
                pass


@dataclass(eq=False)
class SimulatedRun:
    """Run a manifest with so many contributors."""

    manifest: RunManifest
    machine: Machine
    setting: Setting
    peers: int
    key: PeerKey  # the coordinator's, which the manifest names
    clock: Clock = field(default_factory=Clock)
    chain: SimulatedChain = field(default_factory=SimulatedChain)

    def __post_init__(self) -> None:
        rate, delay = self.setting.mbit_s * 1e6 / 8, self.setting.delay_ms / 1000
        self.links = Links(self.clock, self.peers + 1, rate, delay)
        self.keys = {place: PeerKey(bytes([place]) * 32) for place in range(1, self.peers + 1)}
        self.keys[COORDINATOR] = self.key
        for place in range(1, self.peers + 1):
            key, wallet = self.keys[place], "0x" + f"{place:040x}"
            self.chain.members[place] = Operator(place, wallet, key.address, key.peer_id, "contributor", 100)
        self.chain.follow_beacon(None, None, ahead=self.manifest.ahead)
        self.chain.mine()
        self.chain.opened_at = self.chain.height
        self._waiting: list[Callable[[int], None]] = []
        self.contributors = [Contributor(self, place) for place in range(1, self.peers + 1)]
        self.coordinator = Coordinator(self)
        self.hosts: list[Host] = [self.coordinator, *self.contributors]

    def measure(self) -> Outcome:
        """Let the run happen and return what it came to."""
        last = self.manifest.rounds
        self.clock.after(self.setting.block_s, self._mine)
        for host in self.hosts:
            self.clock.after(PeerConfig.poll_s * host.place / len(self.hosts), partial(self._poll, host))
        self.clock.run(lambda: all(one.state.round >= last for one in self.contributors), LIMIT_S)
        wall = inner = 0.0
        for one in self.contributors:
            (began, before), (ended, after) = one.marks[1], one.marks[last - 1]
            wall, inner = wall + ended - began, inner + after - before
        count = (last - 2) * self.peers
        return Outcome(
            share=inner / wall,
            round_s=wall / count,
            waits_s=(wall - inner) / count,
            up_bytes=sum(self.links.sent[1:]) / (last * self.peers),
            down_bytes=sum(self.links.received[1:]) / (last * self.peers),
        )

    def signed(self, place: int, role: Role, round_: int, body: Body) -> Signed[Body]:
        """Sign as a host."""
        return sign(self.keys[place], self.manifest, round_, role, body)

    def tell(self, place: int, message: Signed[Body]) -> None:
        """Let everybody hear a message of a host."""
        others = [host.place for host in self.hosts if host.place != place]
        size = len(message.wire)
        self.links.tell(place, others, size, lambda target: self.hosts[target].hear(message) and None)

    def include(self, transaction: Callable[[int], None]) -> None:
        """Have the next block include a transaction."""
        self._waiting.append(transaction)

    def snapshot(self) -> SimulatedChain:
        """Return the chain as whoever looks at it sees it from then on."""
        return replace(self.chain, roots=dict(self.chain.roots), records=dict(self.chain.records))

    def _mine(self) -> None:
        self.chain.mine()
        waiting, self._waiting = self._waiting, []
        for transaction in waiting:
            transaction(self.chain.height)
        self.clock.after(self.setting.block_s, self._mine)

    def _poll(self, host: Host) -> None:
        if host.chain.height != self.chain.height:
            host.look()
            host.wake()
        self.clock.after(PeerConfig.poll_s, partial(self._poll, host))


def simulate(manifest: RunManifest, machine_: Machine, setting: Setting, peers: int, key: PeerKey) -> Outcome:
    """Run a manifest under a simulated clock."""
    return SimulatedRun(manifest, machine_, setting, peers, key).measure()


def per_step_share(machine_: Machine, setting: Setting, peers: int, values: int) -> float:
    """Return the share of wall time in steps if fp32 gradients are summed in a ring after every one.

    Each of 2(K - 1) messages waits for a delay, and 2(K - 1)/K of the vector passes each link.
    """
    hops = 2 * (peers - 1)
    exchange = hops * setting.delay_ms / 1000 + 4 * values * hops / peers * 8 / (setting.mbit_s * 1e6)
    step = sum(machine_.steps) / len(machine_.steps)
    return step / (step + exchange)


def sequence(values: Sequence[float]) -> tuple[float, ...]:
    """Return recorded times as they are kept: microseconds are enough."""
    return tuple(round(value, 6) for value in values)
