"""Which drawn units a verifier should judge now: a pure look at chain and messages."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from protocol.chain import ChainView
from protocol.manifest import RunManifest
from protocol.merkle import commitments_root
from protocol.messages import (
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Opening,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
)
from protocol.pool import MessagePool
from protocol.speakers import later_keys
from verification.cases import blocks_since
from verification.commit import Carried, carried, carries_on
from verification.experience import experience
from verification.inclusion import counted_entries, forced_entries
from verification.lateness import in_force, is_void
from verification.ruling import fault, in_turn, may_judge, rule
from verification.sample import Draw, draws
from verification.seal import ends_are_due, may_speak
from verification.unit import DrawnUnit

UnitKey = tuple[int, int]
"""Name a unit: (round, number)."""


@dataclass(frozen=True)
class Duty:
    """Ask for a verdict on one unit."""

    round: int
    draw: Draw
    unit: DrawnUnit
    opening: Signed[Opening] | None
    overdue: bool  # the time to open is over: what is not open now counts as not opened
    ends_due: bool = False  # the end of the segment should be served
    ends_overdue: bool = False  # the time for that is over too
    may_speak: bool = True  # a fingerprint in the open helps nobody any more

    @property
    def key(self) -> UnitKey:
        """Return (round, number)."""
        return self.round, self.draw.number


def confirmed_list(chain: ChainView, pool: MessagePool, round_: int) -> Signed[CommitmentList] | None:
    """Return the commitment list of a round if it gives the root posted on chain."""
    posted, listed = chain.commitments(round_), pool.commitment_list(round_)
    if posted is None or listed is None:
        return None
    same = (commitments_root(listed.body), len(listed.body.entries)) == (posted.root, posted.count)
    return listed if same else None


def confirmed_entries(chain: ChainView, pool: MessagePool, round_: int) -> tuple[CommitmentEntry, ...] | None:
    """Return what a round's record must name, as far as it is forced in by now; None while its list is not here."""
    listed = confirmed_list(chain, pool, round_)
    return None if listed is None else counted_entries(listed.body, forced_entries(chain, round_))


def confirmed_record(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int
) -> RoundRecord | None:
    """Return what is in force of a round's record if its hash is anchored on chain."""
    record = pool.record(round_)
    if record is None or record.body.digest().hex() != chain.record_hash(round_):
        return None
    return in_force(record.body, void=is_void(manifest, chain, round_))


def round_draws(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int
) -> tuple[Draw, ...] | None:
    """Return the draws of a round, or None while something of it is not known here."""
    beacon, record = chain.sampling_beacon(round_), confirmed_record(manifest, chain, pool, round_)
    if beacon is None or record is None:
        return None
    verifiers = (one.number for one in chain.verifiers(round_))
    return draws(manifest, manifest.run_id, beacon, round_, record.units, verifiers)


def is_over(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int, drawn: tuple[Draw, ...]
) -> bool:
    """Tell whether all of a round is decided with whatever verdicts there are."""
    return all(blocks_since(chain, round_) > draw.closes_after(manifest) for draw in drawn) and (
        blocks_since(chain, round_) >= 0
    )


def _valid(
    manifest: RunManifest, pool: MessagePool, round_: int, draw: Draw, unit: DrawnUnit
) -> dict[int, Verdict]:
    """Return the valid verdicts heard on a drawn unit, by verifier."""
    commitment, seals = unit.commitment.body, seals_on(pool, round_, draw, unit)
    about = {
        judge: message.body
        for (number, judge), message in pool.verdicts(round_).items()
        if number == draw.number
    }
    return {
        judge: verdict
        for judge, verdict in about.items()
        if not fault(manifest, manifest.run_id, round_, commitment, verdict, seals.get(judge))
    }


def duties(
    manifest: RunManifest,
    chain: ChainView,
    pool: MessagePool,
    me: int,
    round_: int,
    drawn: tuple[Draw, ...],
    judged: Callable[[UnitKey], bool],
) -> Iterator[Duty]:
    """Yield the drawn units of one round that this verifier should judge now and can.

    A unit whose opening has not come is no duty before the opening time is over.

    Args:
        me: the verifier's registration number.
        drawn: what `round_draws` gave.
        judged: whether this verifier has given its verdict on a unit.
    """
    for draw in drawn:
        blocks = blocks_since(chain, round_)
        if judged((round_, draw.number)) or not 0 <= blocks <= draw.closes_after(manifest):
            continue
        unit = unit_of(manifest, chain, pool, round_, draw.number, draw.segment)
        if unit is None:
            continue
        commitment, seals = unit.commitment.body, seals_on(pool, round_, draw, unit)
        valid = _valid(manifest, pool, round_, draw, unit)
        others = {judge: verdict for judge, verdict in valid.items() if judge != me}
        heard = in_turn(manifest, commitment, draw, others, blocks)
        if rule(manifest, commitment, draw, heard, closed=False) is not None:
            continue
        if not may_judge(manifest, commitment, draw, me, heard, blocks):
            continue
        opening = pool.openings(round_).get((draw.number, 0))
        overdue = blocks >= opening_time(manifest, draw, me)
        if opening is None and not overdue:
            continue
        sealed = {one for one in seals if may_judge(manifest, commitment, draw, one, heard, blocks)}
        yield Duty(
            round_,
            draw,
            unit,
            opening,
            overdue,
            ends_due=ends_are_due(manifest, draw, blocks, sealed),
            ends_overdue=blocks >= _ends_time(manifest, draw, me),
            may_speak=may_speak(manifest, draw, blocks, sealed),
        )


def seals_on(pool: MessagePool, round_: int, draw: Draw, unit: DrawnUnit) -> dict[int, Seal]:
    """Return the seals heard on a drawn unit, by verifier of the round."""
    return {
        judge: message.body
        for (number, judge), message in pool.seals(round_).items()
        if number == draw.number and judge in draw.verifiers
        if (message.body.commitment, message.body.segment) == (unit.commitment.id, draw.segment)
    }


def opening_time(manifest: RunManifest, draw: Draw, me: int) -> int:
    """Return after how many blocks what is not open counts as not opened: half a deadline after our turn began."""
    turn = max(0, draw.verifiers.index(me) - manifest.verification.verifiers + 1)
    return turn * manifest.deadlines.verify + manifest.deadlines.verify // 2


def _ends_time(manifest: RunManifest, draw: Draw, me: int) -> int:
    """Return after how many blocks an end that is not served counts as not opened: a quarter deadline later still."""
    return opening_time(manifest, draw, me) + manifest.deadlines.verify // 4


def unit_of(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int, number: int, segment: int
) -> DrawnUnit | None:
    """Return a unit with one of its segments.

    None while a message about it is missing here, which is nobody's fault but ours.
    """
    entries, beacon = confirmed_entries(chain, pool, round_), chain.assignment_beacon(round_)
    sampling = chain.sampling_beacon(round_)
    if entries is None or beacon is None or sampling is None:
        return None
    commitment = told(pool, entries, round_, number)
    if commitment is None:
        return None
    expected = carried_into(manifest, chain, pool, round_, number)
    lessons = experience(manifest, lambda one: confirmed_record(manifest, chain, pool, one), round_)
    if expected is None or lessons is None:
        return None
    openers = later_keys(chain, number, round_)
    return DrawnUnit(commitment, segment, beacon, expected, sampling, openers, lessons)


def carried_into(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int, number: int
) -> Carried | None:
    """Return what a number must bring into a round; None while a message about it is missing here."""
    if round_ == 0:
        return carried(number, None, None)
    before = confirmed_entries(chain, pool, round_ - 1)
    record = confirmed_record(manifest, chain, pool, round_ - 1)
    if before is None or record is None:
        return None
    previous = None
    if carries_on(number, record) and any(entry.number == number for entry in before):
        previous = told(pool, before, round_ - 1, number)
        if previous is None:
            return None
    return carried(number, None if previous is None else previous.body, record)


def told(
    pool: MessagePool, entries: Iterable[CommitmentEntry], round_: int, number: int
) -> Signed[Commitment] | None:
    """Return the commitment that a round's entries name for a number, if it was heard."""
    commitment = pool.commitments(round_).get(number)
    named = {entry.number: entry.commitment for entry in entries}
    return commitment if commitment is not None and named.get(number) == commitment.id else None
