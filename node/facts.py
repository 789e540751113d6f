"""What a contributor's machine looks at: the public facts of its rounds, chain and messages together."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from protocol.chain import OPENING_ROUND, Case, ChainView, PostedRoot
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.merkle import commitments_root
from protocol.messages import CommitmentEntry, CommitmentList, Judgement, Reveal, RoundRecord
from protocol.pool import MessagePool
from protocol.published import max_published_bytes
from training.assignment import assignment, assignment_digest
from verification.commit import check_commitment
from verification.duty import carried_into, round_draws, told
from verification.inclusion import counted_entries, forced_entries, is_full, last_force_block
from verification.lateness import in_force, is_void
from verification.merge import check_reveal
from verification.sample import Draw
from verification.witness import witnesses


@dataclass(frozen=True)
class RoundFacts:
    """Say what is public of one round; a field is None while nobody can know it."""

    roster: frozenset[int] = frozenset()  # contributors, by registration number
    beacon: str | None = None  # assignment beacon
    commit_closes: int | None = None  # last block in which a commitment is on time
    posted: PostedRoot | None = None
    force_by: int | None = None  # last block in which a commitment can be forced in
    announced: CommitmentList | None = None
    forced: tuple[CommitmentEntry, ...] = ()  # by the roster, first forced first
    sound: frozenset[int] = frozenset()  # of these, whose commitment was heard and breaks no public rule
    record: RoundRecord | None = None
    record_hash: str | None = None
    anchored: int | None = None  # block
    void: bool = False  # the record was anchored too late
    sampling_beacon: str | None = None
    verifiers: tuple[int, ...] = ()
    draw: Draw | None = None  # of our unit
    cases: tuple[Case, ...] = ()  # open ones about our unit, each of which has to be opened
    disputable: bool = True  # the jury may still be asked about a unit of the round
    sealed: frozenset[int] = frozenset()  # verifiers whose seal on our unit was heard
    own: str | None = None  # id of a commitment of ours that the network has heard
    witnesses: tuple[int, ...] = ()
    reveals: Mapping[int, Reveal] = field(default_factory=dict)  # that open a commitment heard, by number
    reveals_close: int | None = None  # block from which a reveal is late
    testified: bool = False  # the network has heard a receipt of ours
    objections: Mapping[int, str] = field(default_factory=dict)  # hash of the record objected to, by number

    @property
    def confirmed(self) -> RoundRecord | None:
        """Return what is in force of the record if its hash is the one anchored on chain."""
        if self.record is None or self.record_hash is None or self.record.digest().hex() != self.record_hash:
            return None
        return in_force(self.record, void=self.void)

    @property
    def objecting(self) -> frozenset[int]:
        """Return the drawn witnesses who say that the anchored record's joint update is wrong."""
        said = self.objections.items()
        return frozenset(one for one, record in said if one in self.witnesses and record == self.record_hash)

    @cached_property
    def listed(self) -> CommitmentList | None:
        """Return the coordinator's list, if it gives the root on chain."""
        if self.announced is None or self.posted is None:
            return None
        entries = self.announced.entries
        if commitments_root(self.announced) != self.posted.root or len(entries) != self.posted.count:
            return None
        return self.announced

    @cached_property
    def units(self) -> dict[int, str] | None:
        """Return the commitment ids of the round's units by number, as far as they are forced in by now."""
        listed = self.listed
        if listed is None:
            return None
        return {entry.number: entry.commitment for entry in counted_entries(listed, self.forced)}

    @cached_property
    def awaited(self) -> frozenset[int]:
        """Return whose updates are waited for: everybody listed, and who was forced in with a sound commitment."""
        listed = () if self.listed is None else self.listed.entries
        return frozenset(self.units or ()) & (frozenset(entry.number for entry in listed) | self.sound)

    def is_final(self, height: int) -> bool:
        """Tell whether the list is here and nothing that counts can be forced in beside it any more."""
        if self.listed is None or self.force_by is None:
            return False
        return height >= self.force_by or is_full(self.listed, self.roster)

    def is_left_out(self, number: int) -> bool:
        """Tell whether the list on chain is here and does not name a number."""
        return self.listed is not None and all(entry.number != number for entry in self.listed.entries)

    def makes_unit(self, number: int, commitment: str) -> bool:
        """Tell whether a commitment would be one of the round's units if it were forced in now."""
        if self.listed is None:
            return True  # for all we know
        forced = (*self.forced, CommitmentEntry(number=number, commitment=commitment))
        return forced[-1] in counted_entries(self.listed, forced)


@dataclass(frozen=True)
class Facts:
    """Give one look at the world."""

    height: int = 0
    newest: int | None = None  # newest round with an anchored record
    rounds: Mapping[int, RoundFacts] = field(default_factory=dict)
    closing: tuple[Judgement, ...] = ()  # judged after the last record
    final: str | None = None  # parameters that the chain names as the run's result

    def of(self, round_: int) -> RoundFacts:
        """Return the facts of a round, empty if nobody looked."""
        return self.rounds.get(round_, RoundFacts())

    def judged(self, number: int) -> frozenset[tuple[int, int]]:
        """Return the cases about a number's units that have an outcome in a record, by (round, case)."""
        found = list(self.closing)
        for facts in self.rounds.values():
            if facts.confirmed is not None:
                found += facts.confirmed.judged
        return frozenset((one.round, one.case) for one in found if one.number == number)


def observe(
    manifest: RunManifest,
    chain: ChainView,
    pool: MessagePool,
    number: int,
    *,
    round_: int,
    others: Iterable[int],
    parameters: str | None = None,
) -> Facts:
    """Look at the chain and at what was heard.

    Args:
        parameters: that we start the round from, if it is known.
        round_: the round the machine is in; from here on the newest anchored round is looked for.
        others: further rounds of interest, such as those with units that may still be drawn.
    """
    newest = _newest(manifest, chain, round_)
    wanted = {round_, *others} | ({newest} if newest is not None else set())
    finish = pool.finish()
    return Facts(
        height=chain.height,
        newest=newest,
        rounds={
            one: _of_round(manifest, chain, pool, number, one, parameters if one == round_ else None)
            for one in wanted
            if 0 <= one < manifest.rounds
        },
        closing=() if finish is None else finish.body.judged,
        final=chain.finished(),
    )


def _newest(manifest: RunManifest, chain: ChainView, round_: int) -> int | None:
    newest = round_ - 1 if round_ > 0 and chain.anchor(round_ - 1) is not None else None
    for later in range(round_, manifest.rounds):
        if chain.anchor(later) is None:
            break
        newest = later
    return newest


def _of_round(
    manifest: RunManifest,
    chain: ChainView,
    pool: MessagePool,
    number: int,
    round_: int,
    parameters: str | None,
) -> RoundFacts:
    begun = chain.anchor(OPENING_ROUND if round_ == 0 else round_ - 1)
    anchored = chain.anchor(round_)
    announced, record = pool.commitment_list(round_), pool.record(round_)
    own = pool.commitments(round_).get(number)
    roster = frozenset() if begun is None else frozenset(one.number for one in chain.roster(round_))
    beacon, posted = chain.assignment_beacon(round_), chain.commitments(round_)
    drawn = () if beacon is None or begun is None else witnesses(manifest, pool.run, beacon, round_, roster)
    everybody = round_draws(manifest, chain, pool, round_)
    asked = [case for case in chain.cases(round_) if case.number == number and case.outcome is None]
    watching = number in drawn and posted is not None and anchored is None
    forced = forced_entries(chain, round_)
    sound = _sound(manifest, chain, pool, round_, forced, parameters) if watching else ()
    return RoundFacts(
        roster=roster,
        beacon=beacon,
        commit_closes=None if begun is None else begun + 1 + manifest.deadlines.commit,
        posted=posted,
        force_by=last_force_block(chain, round_),
        forced=forced,
        sound=frozenset(sound),
        announced=None if announced is None else announced.body,
        record=None if record is None else record.body,
        record_hash=chain.record_hash(round_),
        anchored=anchored,
        void=is_void(manifest, chain, round_),
        sampling_beacon=chain.sampling_beacon(round_),
        verifiers=() if anchored is None else tuple(one.number for one in chain.verifiers(round_)),
        draw=next((one for one in everybody or () if one.number == number), None),
        cases=tuple(case for case in asked if case.segment < manifest.segments),
        disputable=_is_disputable(manifest, chain, anchored),
        sealed=frozenset(judge for accused, judge in pool.seals(round_) if accused == number),
        own=None if own is None else own.id,
        witnesses=drawn,
        reveals=dict(_reveals(manifest, pool, round_)) if watching else {},
        reveals_close=None if posted is None else posted.block + manifest.deadlines.reveal,
        testified=number in pool.receipts(round_),
        objections={one: said.body.record for one, said in pool.objections(round_).items()},
    )


def _sound(
    manifest: RunManifest,
    chain: ChainView,
    pool: MessagePool,
    round_: int,
    forced: Iterable[CommitmentEntry],
    parameters: str | None,
) -> Iterator[int]:
    """Yield the numbers whose forced commitment was heard and breaks no rule that we can check."""
    beacon = chain.assignment_beacon(round_)
    for entry in forced:
        number, commitment = entry.number, told(pool, (entry,), round_, entry.number)
        if commitment is None or beacon is None:
            continue
        expected = carried_into(manifest, chain, pool, round_, number)
        if expected is None:
            continue
        try:
            body = commitment.body
            check_commitment(
                manifest,
                round_,
                body,
                parameters=parameters or body.parameters,
                assignment=assignment_digest(assignment(manifest.at(body.tier), beacon, round_, number)),
                expected=expected,
            )
        except Malformed:
            continue
        yield number


def _is_disputable(manifest: RunManifest, chain: ChainView, anchored: int | None) -> bool:
    """Tell whether the jury still takes cases about a round's units: they cost stake, whatever is paid or finished."""
    held = chain.penalties()
    window = manifest.penalties.window if held is None else held.window_blocks
    return anchored is None or chain.height <= anchored + window


def _reveals(manifest: RunManifest, pool: MessagePool, round_: int) -> Iterator[tuple[int, Reveal]]:
    """Yield the reveals that open the commitment heard of their number."""
    limit = max_published_bytes(manifest)
    commitments = pool.commitments(round_)
    for number, reveal in pool.reveals(round_).items():
        try:
            if number in commitments:
                check_reveal(commitments[number], reveal.body, limit)
                yield number, reveal.body
        except Malformed:
            continue
