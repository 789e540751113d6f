"""What a contributor's machine knows (`node.machine`), and what follows from it: files to keep, roots, a phase."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from node.events import Aggregate, Carry, Fetch, Job, Progress, Recheck, Restore, Train, TrainAhead, WentAhead
from node.facts import Facts
from node.forcing import FORCED
from node.keeping import STATE_CAP, Served, unit_bytes
from node.unit import Unit
from node.witnessing import Watch
from protocol.lessons import Lessons
from protocol.manifest import RunManifest
from protocol.messages import Receipt
from verification.commit import Carried, returned
from verification.experience import experience, learned_rounds
from verification.retract import moving_units, moving_updates

KEEP_ROUNDS = 3  # how long updates stay here at least, for peers that are behind


@dataclass(frozen=True)
class State:
    """Hold all that a contributor knows. Build the first one with `begin`."""

    manifest: RunManifest
    run: str  # run id
    number: int  # registration number
    round: int
    parameters: str  # content address of the round's global parameters
    held: bool  # they are in the store
    profile: str  # numeric profile that we compute under
    carry: Carry = "nothing"
    units: Mapping[int, Unit] = field(default_factory=dict)  # by round
    released: frozenset[int] = frozenset()  # rounds whose draw is settled
    # by round whose draw fell on us: what of the unit may be served
    opened: Mapping[int, frozenset[str]] = field(default_factory=dict)
    said: frozenset[tuple[str, int, int]] = frozenset()  # (kind, round, case) published since the start
    served: Mapping[int, Served] = field(default_factory=dict)  # updates of recent rounds
    previous: str | None = None  # parameters of the round before, for peers one round behind
    facts: Facts = field(default_factory=Facts)
    job: Job | None = None
    ahead: WentAhead | None = None  # what is made already of the unit of this round or the next
    room: int = 1  # so many undrawn units' states fit on the disk
    dropped: frozenset[int] = frozenset()  # rounds whose states are gone, to be computed again if drawn
    lost: frozenset[int] = frozenset()  # of those, rounds that gave other bits or have nothing to start from
    kept: frozenset[str] | None = None  # what the store was last reduced to; None: it may hold more
    receipts: Mapping[int, Receipt] = field(default_factory=dict)  # signed before the start, by round
    watch: Watch | None = None  # what we have of the round's updates as its witness
    groundless: frozenset[int] = frozenset()  # witnesses who objected to a joint update that is right
    signs_from: int = 0  # first round for which something new is signed; above 0 if the journal was restored
    commits_from: int = 0  # first round whose roster has our key; above 0 if our number had another before
    stopped: bool = False

    @property
    def owned(self) -> frozenset[str]:
        """Return the addresses of every blob that must stay in the store."""
        blobs = {self.parameters} | ({self.previous} if self.previous is not None else set())
        if self.manifest.judge is not None:
            blobs.add(self.manifest.judge.parameters)
        for round_, unit in self.units.items():
            if round_ not in self.released:
                blobs |= unit.seeds if round_ in self.dropped else unit.files
            if round_ == self.round or (round_ == self.round - 1 and self.carry == "unit"):
                blobs |= unit.carried_files
            if round_ > self.round - KEEP_ROUNDS:
                blobs.add(unit.work.blob)
        if self.ahead is not None and self.ahead.ahead is not None:
            blobs.update(*((one.parameters, one.moments) for one in self.ahead.ahead.segments))
        if self.manifest.outer.delay and (record := self.facts.of(self.round).confirmed) is not None:
            # They may be here before the job is.
            blobs.update(
                moving_updates(moving_units(record)).updates, () if record.joint is None else (record.joint,)
            )
        watched = frozenset[str]() if self.watch is None else self.watch.blobs
        return frozenset(blobs.union(watched, *(one.blobs for one in self.served.values())))

    @property
    def withheld(self) -> frozenset[str]:
        """Return the blobs that nobody is given: states that no draw has asked for, or whose seals are awaited.

        What one unit must serve is served, even where another withholds the same bytes.
        """
        states = frozenset[str]().union(*(unit.files - {unit.work.blob} for unit in self.units.values()))
        units = self.units.values()
        public = {self.parameters, self.previous} | {unit.commitment.parameters for unit in units}
        return (states - public).difference(
            *self.opened.values(),
            *(unit.returned_files for unit in units),
            *(one.blobs for one in self.served.values()),
        )

    @property
    def interest(self) -> frozenset[int]:
        """Return the rounds whose facts matter beside the current one's: those with units to be settled."""
        return frozenset(self.units) - self.released

    @property
    def others(self) -> frozenset[int]:
        """Return the rounds to look at beside the current one: of interest, or with units that it needs."""
        learned = learned_rounds(self.manifest, self.round)
        joint = self.manifest.merging.joint_k > 0  # of the round before: somebody may object to it
        before = {self.round - 1} if self.carry == "unit" or joint else set[int]()
        following = {self.round + 1} if self.manifest.outer.delay else set[int]()
        old = set[int]()
        for round_ in {self.round, *before}:
            record = self.facts.of(round_).confirmed
            old |= set() if record is None else {one.round for one in record.retracted if one.round < round_}
        return self.interest | {*learned} | before | following | old

    @property
    def lessons(self) -> Lessons | None:
        """Return what the round's units build on; None while a record that says so was not heard."""
        return experience(self.manifest, lambda one: self.facts.of(one).confirmed, self.round)

    @property
    def finished(self) -> bool:
        """Tell whether the last round has been aggregated."""
        return self.round >= self.manifest.rounds

    @property
    def expected(self) -> Carried:
        """Return the roots that this peer must start its round with, and what comes back to it.

        Where something may come back, that is known once the record of the round before was heard (`knows_returned`).
        """
        if self.carry != "unit":
            return Carried()
        carried, record = self.units[self.round - 1].carried, self.facts.of(self.round - 1).confirmed
        return carried if record is None else replace(carried, returned=returned(self.number, record))

    @property
    def knows_returned(self) -> bool:
        """Tell whether what comes back to the round's unit is known here."""
        may_come = self.carry == "unit" and self.manifest.merging.joint_k > 0
        return not may_come or self.facts.of(self.round - 1).confirmed is not None

    @property
    def phase(self) -> str:
        """Name what the machine is waiting for or doing, in one word or two."""
        if self.finished:
            return "finished"
        match self.job:
            case Fetch():
                return "fetching"
            case TrainAhead() | Train():
                return "training"
            case Restore():
                return "restoring"
            case Aggregate() | Recheck():
                return "aggregating"
        facts = self.facts.of(self.round)
        if facts.commit_closes is None:
            return "waiting for the run to open"
        if self.round < max(self.signs_from, self.commits_from):
            return "holding back"
        if ("reveal", self.round, 0) in self.said:
            return "revealed"
        unit, entries = self.units.get(self.round), facts.units
        if unit is not None and entries is not None and entries.get(self.number) != unit.commitment_id:
            forcing = (FORCED, self.round, 0) in self.said and facts.anchored is None
            return "forcing in" if forcing else "left out"
        if unit is not None:
            return "committed"
        return "waiting" if self.number in facts.roster else "following"


def begin(
    manifest: RunManifest,
    run: str,
    number: int,
    *,
    progress: Progress | None,
    units: Mapping[int, Unit],
    released: frozenset[int],
    has: Callable[[str], bool],
    profile: str | None = None,
    receipts: Mapping[int, Receipt] | None = None,
    state_cap: int = STATE_CAP,
    signs_from: int = 0,
    commits_from: int = 0,
) -> State:
    """Return the state of a peer that starts, from what its journal and its store hold.

    Args:
        progress: the round reached; None for a newcomer, who starts from the run's initial parameters.
        has: tells whether a blob is in the store.
        profile: name of our numeric profile; None takes the run's first.
        receipts: those in the journal, by round.
        state_cap: bytes of undrawn units' states that are kept; others are computed again when drawn.
        signs_from: first round for which something new may be signed.
        commits_from: first round whose roster has our key.
    """
    now = progress or Progress(0, manifest.initial_parameters, "nothing")
    carry = now.carry
    if carry == "unit":
        unit = units.get(now.round - 1)
        if unit is None or not all(map(has, unit.carried_files)):
            carry = "lost"
    return State(
        manifest,
        run,
        number,
        now.round,
        now.parameters,
        has(now.parameters),
        profile or manifest.verification.profiles[0].name,
        carry,
        units=dict(units),
        released=released,
        receipts=dict(receipts or {}),
        room=state_cap // unit_bytes(manifest),
        dropped=frozenset(
            round_
            for round_, unit in units.items()
            if round_ not in released and not all(map(has, unit.files))
        ),
        signs_from=signs_from,
        commits_from=commits_from,
    )
