"""What a contributor's machine takes in and asks for: events, jobs of the trainer, effects of the shell."""

from dataclasses import dataclass, field
from typing import Literal

from node.facts import Facts
from node.unit import Ahead, Files, Unit, Work
from protocol.joint import Returned
from protocol.lessons import NOTHING, Lessons
from protocol.messages import Body, Reveal, UnitRecord
from training.workbench import MovingUpdates, RetractedRound
from verification.retract import moving_updates

Carry = Literal["nothing", "unit", "lost"]
"""What a peer brings into a round: nothing, the end of its unit of the round before, or something lost."""


@dataclass(frozen=True)
class Fetch:
    """Ask for the parameters of a round."""

    round: int
    parameters: str


@dataclass(frozen=True)
class TrainAhead:
    """Ask for a unit's first segments, which the round's parameters are not needed for (`training.delay`)."""

    round: int
    beacon: str
    before: Files  # our final state of the round before, which it goes on from
    moments: str | None
    tier: int = 0


@dataclass(frozen=True)
class Train:
    """Ask for a unit: inner steps from the parameters on the batches that the beacon assigns."""

    round: int
    beacon: str
    parameters: str
    moments: str | None
    residual: str | None
    lessons: Lessons = NOTHING  # what a policy builds on
    tier: int = 0
    returned: Returned | None = None  # what comes back of the peer's update of the round before
    before: Files | None = None  # our final state of the round before, where outer steps are delayed
    ahead: Ahead | None = field(default=None, compare=False)  # what was made of it already
    keep: bool = field(default=True, compare=False)  # write its states; else only hash them


@dataclass(frozen=True)
class Aggregate:
    """Ask for the next round's parameters."""

    round: int
    parameters: str
    units: tuple[UnitRecord, ...]  # whose updates move them, in the record's order
    retracted: tuple[RetractedRound, ...] = ()  # what the record takes back
    joint: str | None = None  # address of what moves them in the place of all these updates
    check: bool = False  # hold the joint update against all that it was made of

    @property
    def fetched(self) -> tuple[UnitRecord, ...]:
        """Return the units whose updates are needed."""
        return self.units if self.joint is None or self.check else ()

    @property
    def moving(self) -> MovingUpdates:
        """Return the updates as an aggregation takes them."""
        return moving_updates(self.fetched)

    @property
    def blobs(self) -> frozenset[str]:
        """Return what is needed that the round published."""
        return frozenset(self.moving.updates).union(() if self.joint is None else (self.joint,))

    @property
    def old(self) -> frozenset[str]:
        """Return the blobs of earlier rounds that are needed to take something back."""
        return frozenset(blob for round_ in self.retracted for blob in round_.blobs)


@dataclass(frozen=True)
class Restore:
    """Ask for the states of a unit again, which were dropped; they must be those of `work`."""

    round: int
    train: Train
    work: Work


@dataclass(frozen=True)
class Recheck:
    """Ask whether the joint update of a round that we aggregated is the one that its updates make."""

    aggregate: Aggregate  # holds it against all of them
    objecting: frozenset[int]  # witnesses who say that it is not

    @property
    def round(self) -> int:
        """Return the round that was aggregated."""
        return self.aggregate.round


Job = Fetch | TrainAhead | Train | Aggregate | Restore | Recheck


@dataclass(frozen=True)
class Start:
    """Have a job done until it is, or until `Cancel`; its failures are retried."""

    job: Job


@dataclass(frozen=True)
class Cancel:
    """End the job that runs; nobody needs its result."""


@dataclass(frozen=True)
class Publish:
    """Sign, journal and then publish a statement; `unit` is to be journalled with its commitment."""

    round: int
    body: Body
    unit: Unit | None = None


@dataclass(frozen=True)
class Force:
    """Put the id of our commitment on chain ourselves, because the round's list leaves it out."""

    round: int
    commitment: str
    until: int  # last block in which the chain takes it


@dataclass(frozen=True)
class Receive:
    """Fetch a revealed update and check it, beside any job, until it is here or `StopReceiving`."""

    round: int
    reveal: Reveal
    lessons: Lessons = NOTHING  # of the round


@dataclass(frozen=True)
class StopReceiving:
    """End every `Receive` that is still under way."""


@dataclass(frozen=True)
class Progress:
    """Journal the round reached."""

    round: int
    parameters: str
    carry: Carry


@dataclass(frozen=True)
class Release:
    """Journal that a unit's draw is settled: its states are no longer needed."""

    round: int


@dataclass(frozen=True)
class Sweep:
    """Delete every blob but these; nothing runs that could be writing another."""

    keep: frozenset[str]


@dataclass(frozen=True)
class Stop:
    """End: the run is over, or (`error`) something is wrong that waiting cannot mend."""

    error: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Prefetch:
    """Fetch what an aggregation will read, beside any job, once; whatever fails is left to the aggregation."""

    aggregate: Aggregate


Effect = (
    Start | Cancel | Publish | Force | Receive | StopReceiving | Progress | Release | Sweep | Stop | Prefetch
)


@dataclass(frozen=True)
class Trained:
    """Tell that a unit is trained."""

    round: int
    work: Work
    salt: str  # 32 fresh random bytes as hex
    wish: int | None = None  # tier for the units from the next round on; None: as it is


@dataclass(frozen=True)
class WentAhead:
    """Tell what was made of a unit's first segments; None: the state to go on from is gone, or leads nowhere."""

    job: TrainAhead
    ahead: Ahead | None


@dataclass(frozen=True)
class Fetched:
    """Tell that these parameters are in the store."""

    parameters: str


@dataclass(frozen=True)
class Aggregated:
    """Tell the parameters of the round after `round`; they are in the store."""

    round: int
    parameters: str


@dataclass(frozen=True)
class Refuted:
    """Tell that nobody can follow what a round's record says its updates came to."""

    round: int
    fault: str


@dataclass(frozen=True)
class Upheld:
    """Tell that a round's joint update is right, whatever a witness said."""

    round: int


@dataclass(frozen=True)
class CarryLost:
    """Tell that the files this peer must start its round with are not in the store any more."""

    round: int


@dataclass(frozen=True)
class Received:
    """Tell that a revealed update is in the store, or (not `good`) that its bytes are not that update."""

    round: int
    number: int
    good: bool


@dataclass(frozen=True)
class Restored:
    """Tell whether the states of a unit are in the store again, bit by bit."""

    round: int
    same: bool


Event = (
    Facts | Restored | WentAhead | Trained | Fetched | Aggregated | Refuted | Upheld | CarryLost | Received
)
