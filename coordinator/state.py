"""What the coordinator's state machine knows, hears and wants: frozen values only.

Facts come in as events and stay; decisions follow from facts, chain and manifest alone (`coordinator.rounds`). So a
restart is the same facts read back from the database, and gives the same decisions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from protocol.chain import Case, ChainView
from protocol.manifest import RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentList,
    Finish,
    Judgement,
    Opening,
    Preference,
    Ready,
    Receipt,
    Retraction,
    Reveal,
    RewardTable,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
)
from training.merging import Merit
from training.workbench import AggregateRequest, WeighRequest
from verification.archive import RoundDossier
from verification.judge import Outcome
from verification.lateness import in_force, is_void
from verification.retract import Units
from verification.sample import Draw, Standing
from verification.settle import EpochEarnings, SettledRound

Label = tuple[int, int]
"""Name what was judged of a round's unit: (number, case), where case 0 is the beacon's draw."""

CaseKey = tuple[int, int, int]
"""The same with the round first."""

# Events


@dataclass(frozen=True)
class Heard:
    """A peer's message that the pool let in."""

    message: Signed[Body]


@dataclass(frozen=True)
class Said:
    """A statement of our own, signed and stored."""

    message: Signed[Body]


@dataclass(frozen=True)
class Fetched:
    """A revealed update is here and was decoded; `fault` says why it does not count, empty if it does."""

    round: int
    number: int
    blob: str  # encoding
    fault: str = ""


@dataclass(frozen=True)
class Aggregated:
    """The global parameters at the start of a round."""

    round: int
    parameters: str


@dataclass(frozen=True)
class Weighed:
    """What a round's merged updates are worth, and how many of the units that wait it takes back."""

    round: int
    merits: tuple[Merit, ...]  # in the order of the request
    count: int
    joint: str | None = None  # address of the round's joint update


@dataclass(frozen=True)
class Decision:
    """A drawn unit was decided by its verifiers, or a case by the jury, and is never decided again."""

    round: int
    number: int
    case: int  # before the jury; 0: the round's draw
    segment: int
    outcome: Outcome
    judges: tuple[int, ...] = ()  # whose verdicts were right
    verdicts: tuple[str, ...] = ()  # message ids of all that were there
    wrong: tuple[int, ...] = ()  # who said otherwise than the majority
    silent: tuple[int, ...] = ()  # who said nothing in time
    heard: tuple[int, ...] = ()  # whose verdicts were there

    @property
    def label(self) -> Label:
        """Return (number, case)."""
        return self.number, self.case


@dataclass(frozen=True)
class Pending:
    """A proposed reward root on chain."""

    root: str  # 64 hex digits
    final_at: int  # first block at which it can be made final


@dataclass(frozen=True)
class Rewards:
    """What the ledger says of the run's rewards: the epoch to propose next, or its pending root."""

    height: int  # block of this look
    next_epoch: int
    pending: Pending | None
    final_root: str = "00" * 32  # the last one, zero before the first


@dataclass(frozen=True)
class Proposed:
    """A proposal of ours was mined, whether or not its pending root was ever seen."""

    epoch: int
    block: int


@dataclass(frozen=True)
class Looked:
    """The chain moved; the view that goes with every event says how."""


Event = Heard | Said | Fetched | Aggregated | Weighed | Decision | Rewards | Proposed | Looked


# Effects


@dataclass(frozen=True)
class Say:
    """Sign this, store it, and only then tell it; never two for one round and kind."""

    round: int
    body: Body


@dataclass(frozen=True)
class Open:
    """Open the run on chain."""


@dataclass(frozen=True)
class Post:
    """Post a round's commitment root."""

    round: int
    root: str
    count: int


@dataclass(frozen=True)
class Anchor:
    """Anchor a round's record."""

    round: int
    record: str


@dataclass(frozen=True)
class Accuse:
    """Bring a unit that verifiers proved false, or that was not opened to them, before the jury."""

    round: int
    number: int
    segment: int
    finder: str  # wallet of the verifier who is paid for the find
    evidence: str  # message id of its verdict
    refusal: bool = False  # it was not opened


@dataclass(frozen=True)
class Propose:
    """Propose an epoch's cumulative reward root."""

    epoch: int  # as the ledger counts
    previous: str  # the last final root
    root: str
    total_wei: int


@dataclass(frozen=True)
class Finalize:
    """Make the pending root of an epoch final."""

    epoch: int  # as the ledger counts


@dataclass(frozen=True)
class Close:
    """End the run on chain with its final parameters."""

    parameters: str


@dataclass(frozen=True)
class FetchUpdate:
    """Fetch a revealed update until the reveal phase closes, and decode it."""

    reveal: Signed[Reveal]
    blob: str  # the encoding that its owner revealed, or one that a witness holds


@dataclass(frozen=True)
class Aggregate:
    """Take the outer step over the updates of a round that move the parameters."""

    round: int
    request: AggregateRequest


@dataclass(frozen=True)
class Weigh:
    """Have a round's merged updates judged, and ask how much of what waits its norm bound lets it take back."""

    request: WeighRequest


@dataclass(frozen=True)
class Admitted:
    """Note a valid commitment."""

    message: Signed[Commitment]


@dataclass(frozen=True)
class Refused:
    """Note a message that does not count, and why."""

    message: Signed[Body]
    reason: str


@dataclass(frozen=True)
class Drawn:
    """Note which units of a round verifiers ask for."""

    round: int
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Ruled:
    """Note what a unit is after all that was judged of it so far."""

    round: int
    number: int
    outcome: Outcome


@dataclass(frozen=True)
class Voided:
    """Note that a round's record was anchored too late, so that nothing of it merged."""

    round: int


@dataclass(frozen=True)
class Adopted:
    """Note that what another said for the run counts, in the place of ours."""

    message: Signed[Body]


@dataclass(frozen=True)
class Export:
    """Rewrite the public file of a round."""

    dossier: RoundDossier


Transaction = Open | Post | Anchor | Accuse | Propose | Finalize | Close
Effect = (
    Say
    | Transaction
    | FetchUpdate
    | Aggregate
    | Weigh
    | Admitted
    | Refused
    | Drawn
    | Decision
    | Ruled
    | Voided
    | Adopted
    | Export
)


# State

Phase = Literal["commit", "post", "reveal", "anchor"]


@dataclass(frozen=True)
class CurrentRound:
    """The round in progress."""

    round: int
    phase: Phase = "commit"
    commitments: Mapping[int, Signed[Commitment]] = field(
        default_factory=dict
    )  # valid ones; once listed, exactly the listed and those forced in
    refused: Mapping[int, Signed[Commitment]] = field(default_factory=dict)  # not valid, by number
    unsound: Mapping[int, str] = field(default_factory=dict)  # why what was forced in is not valid
    reveals: Mapping[int, Signed[Reveal]] = field(default_factory=dict)  # that open their commitment
    faults: Mapping[int, str] = field(default_factory=dict)  # why a listed unit does not merge
    delivered: Mapping[int, str] = field(
        default_factory=dict
    )  # whose update is here and decodes, in which blob
    fetching: frozenset[tuple[int, str]] = frozenset()  # (number, blob) asked for
    receipts: Mapping[int, Signed[Receipt]] = field(default_factory=dict)  # by witness
    asked: bool = False  # the phase's transaction
    draft: RoundRecord | None = None  # its record, all but what it takes back
    waiting: tuple[Retraction, ...] = ()  # for that, oldest first


@dataclass(frozen=True)
class AnchoredRound:
    """A round whose record is anchored: its drawn units are being judged, or it waits for its epoch."""

    round: int
    listed: Signed[CommitmentList]
    commitments: Mapping[int, Signed[Commitment]]  # of the units that count
    reveals: Mapping[int, Signed[Reveal]]
    record: Signed[RoundRecord]
    ignored: tuple[Signed[Commitment], ...] = ()  # forced in, and of no unit that counts
    receipts: tuple[Signed[Receipt], ...] = ()  # that the record names
    void: bool = False  # its record was anchored too late
    draws: tuple[Draw, ...] | None = None  # None: the sampling beacon is not there yet
    cases: tuple[Case, ...] = ()  # that change the round's pay
    openings: Mapping[Label, Signed[Opening]] = field(default_factory=dict)
    # number -> verifier -> seal
    seals: Mapping[int, Mapping[int, Signed[Seal]]] = field(default_factory=dict)
    # number -> verifier -> verdict
    verdicts: Mapping[int, Mapping[int, Signed[Verdict]]] = field(default_factory=dict)
    decisions: Mapping[Label, Decision] = field(default_factory=dict)

    @property
    def standing(self) -> RoundRecord:
        """Return what is in force of the record."""
        return in_force(self.record.body, void=self.void)

    @property
    def decided(self) -> bool:
        """Tell whether every drawn unit and every case has its outcome."""
        if self.draws is None:
            return False
        labels = [*((draw.number, 0) for draw in self.draws), *(case.label for case in self.cases)]
        return all(label in self.decisions for label in labels)

    def outcome(self, draw: Draw) -> Outcome | None:
        """Return what the verdicts made of a drawn unit; None while it is undecided."""
        decision = self.decisions.get((draw.number, 0))
        return None if decision is None else decision.outcome


@dataclass(frozen=True)
class Settling:
    """Where the pay of the run stands."""

    settled: Mapping[int, SettledRound] = field(
        default_factory=dict
    )  # decided rounds of epochs that are not complete
    earned: tuple[EpochEarnings, ...] = ()  # by complete epoch
    forged: Units = frozenset()  # units of complete epochs whose residual was forged
    due: tuple[RewardTable, ...] = ()  # tables of complete epochs; the ledger's epoch is the index
    tables: Mapping[int, Signed[RewardTable]] = field(default_factory=dict)  # said, by epoch of the manifest
    saying: int = 0  # how many of `due` were given out to be signed
    rewards: Rewards | None = None
    asked: tuple[int, int] | None = None  # (epoch, attempt) of the last proposal
    mined: int | None = None  # block in which that proposal was seen to stand
    attempt: int = 0  # cancelled proposals so far
    finalizing: int | None = None  # epoch


@dataclass(frozen=True)
class State:
    """Everything the machine knows."""

    manifest: RunManifest
    run: str
    resumed_at: int = 0  # height of the chain at the start; deadlines that passed before get some grace
    stand_in: str = ""  # address of our key where we stand in for the run's coordinator
    ready: Mapping[int, Signed[Ready]] = field(default_factory=dict)
    # Own statements by round, and those of others that took their place.
    lists: Mapping[int, Signed[CommitmentList]] = field(default_factory=dict)
    records: Mapping[int, Signed[RoundRecord]] = field(default_factory=dict)
    # What others said for the run, by round.
    foreign: Mapping[int, tuple[Signed[Body], ...]] = field(default_factory=dict)
    taken: Mapping[CaseKey, Judgement] = field(default_factory=dict)  # what they declared, and counts
    accusing: tuple[Accuse, ...] = ()  # what has to come before the jury, once it is ours to bring
    finish: Signed[Finish] | None = None
    parameters: Mapping[int, str] = field(default_factory=dict)  # at the start of each round
    # by round: what waits for its time
    inbox: Mapping[int, tuple[Signed[Body], ...]] = field(default_factory=dict)
    # by (round, number, case): decisions read back from storage
    stored: Mapping[CaseKey, Decision] = field(default_factory=dict)
    # by the round whose samples they are about, in order of arrival
    preferences: Mapping[int, tuple[Signed[Preference], ...]] = field(default_factory=dict)
    current: CurrentRound | None = None
    previous: AnchoredRound | None = None  # the round before the current one, for what is carried
    judging: Mapping[int, AnchoredRound] = field(default_factory=dict)  # rounds with undecided draws
    undeclared: tuple[Judgement, ...] = ()  # decided, in no record yet
    declared: frozenset[CaseKey] = frozenset()  # (round, number, case) of every judgement in a record
    # symbols -> (round, number) that revealed them first
    shown: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    standings: Mapping[int, Standing] = field(
        default_factory=dict
    )  # by number, after the last anchored record
    settling: Settling = field(default_factory=Settling)
    opening: bool = False  # the transaction was asked for
    finishing: bool = False  # the closing word was given out to be signed
    closing: bool = False  # its transaction was asked for
    trouble: str = ""  # why it cannot go on by itself, for status and log

    @property
    def author(self) -> str:
        """Return the address of the key that signs our statements."""
        return self.stand_in or self.manifest.coordinator

    @property
    def round(self) -> int:
        """Return the number of the round in progress; the number of rounds when all are anchored."""
        if self.current is not None:
            return self.current.round
        return 0 if self.previous is None else self.previous.round + 1


def declared_keys(judged: Iterable[Judgement]) -> frozenset[CaseKey]:
    """Return what judgements are about."""
    return frozenset((one.round, one.number, one.case) for one in judged)


def records_in_force(state: State, chain: ChainView, stop: int) -> dict[int, RoundRecord]:
    """Return what is in force of the records before a round."""
    return {
        round_: in_force(state.records[round_].body, void=is_void(state.manifest, chain, round_))
        for round_ in range(stop)
    }
