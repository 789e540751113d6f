"""Appeals: with a bond on the ledger, anybody has a segment judged that no draw picked, or that was judged wrongly.

An accusation names a segment of any unit of an anchored round, within `deadlines.appeal` blocks of its sampling beacon.
A contest is its owner's: of a segment that was found void, or that nobody judged. Either is a case of its own, which
the ledger numbers: the beacon of the block that holds the appeal ranks the verifiers anew, and those who had the first
word before come last. Of the cases about one segment the newest that somebody judged stands; a unit is as bad as the
worst of its segments, and a proven fault stays one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from protocol.beacon import APPEAL, draw, seed
from protocol.chain import Appeal, ChainView
from protocol.manifest import RunManifest
from protocol.messages import Judgement, UnitRecord
from verification.judge import Outcome
from verification.sample import Draw

OutcomeOf = Callable[[Draw], Outcome | None]
"""Say what became of a case; None while it is undecided."""

MAX_ACCUSATIONS: Final = 8
MAX_CONTESTS: Final = 16
"""How many of a round count, oldest first: bonds may be cheap to somebody, and a record holds so many judgements."""

_SEVERITY: Final[dict[Outcome, int]] = {"passed": 0, "unjudged": 1, "void": 2, "false": 3}


def blocks_since(chain: ChainView, round_: int, case: Draw) -> int:
    """Return how many blocks ago the block of a case's beacon was; below 0 before it."""
    began = _began(chain, round_, case)
    return -1 if began is None else chain.height - (began + 1)


def beacon_of(chain: ChainView, round_: int, case: Draw) -> str | None:
    """Return the beacon of a case, which also fixes the projections of its fingerprints."""
    return chain.appeal_beacon(case.case) if case.case else chain.sampling_beacon(round_)


def appealed(
    manifest: RunManifest,
    run: str,
    chain: ChainView,
    round_: int,
    units: Iterable[UnitRecord],
    drawn: Sequence[Draw],
    outcome: OutcomeOf,
) -> tuple[Draw, ...]:
    """Return the appeals about a round's units that count and whose beacon is there, oldest first.

    Args:
        units: of the record in force.
        drawn: by the round's own beacon.
        outcome: of what was drawn, and of earlier appeals.
    """
    numbers = {unit.number for unit in units}
    judges = [one.number for one in chain.verifiers(round_)]
    found: list[Draw] = []
    kinds = Counter[bool]()  # by whether it is a contest
    for appeal in chain.appeals(round_):
        if appeal.number not in numbers or appeal.segment >= manifest.segments:
            continue
        prior = _prior((*drawn, *found), appeal)
        last = _last_block(manifest, chain, round_, prior if appeal.contests else None)
        if last is None or appeal.block > last or (appeal.contests and prior is None):
            continue
        # Counted before anything that is known only later, so that nobody's appeal is displaced by an older one.
        kinds[appeal.contests] += 1
        if kinds[appeal.contests] > (MAX_CONTESTS if appeal.contests else MAX_ACCUSATIONS):
            continue
        beacon = chain.appeal_beacon(appeal.case)
        if beacon is None or (appeal.contests and not (prior and outcome(prior) in ("void", "unjudged"))):
            continue
        first = () if prior is None else prior.verifiers[: manifest.verification.verifiers]
        ranks = _ranks(seed(APPEAL, beacon, run, round_), appeal, judges, first)
        found.append(Draw(appeal.number, appeal.segment, ranks, appeal.case, appeal.block))
    return tuple(found)


def may_still_appeal(
    manifest: RunManifest, chain: ChainView, round_: int, cases: Sequence[Draw], outcome: OutcomeOf
) -> bool:
    """Tell whether an appeal that counts may still come, or has come and waits for its beacon or an outcome.

    Args:
        cases: what was drawn and the appeals that count, as far as they are known.
    """
    known = {case.case for case in cases}
    if any(appeal.case not in known and _waits(chain, appeal) for appeal in chain.appeals(round_)):
        return True
    ends = [_last_block(manifest, chain, round_, None)]
    contested = {(one.number, one.segment) for one in chain.appeals(round_) if one.contests}
    ends += (
        _last_block(manifest, chain, round_, case)
        for case in cases
        if outcome(case) in ("void", "unjudged", None) and (case.number, case.segment) not in contested
    )
    return any(end is None or chain.height <= end for end in ends)


def _waits(chain: ChainView, appeal: Appeal) -> bool:
    return chain.appeal_beacon(appeal.case) is None


def standing(judged: Iterable[Judgement]) -> tuple[Judgement, ...]:
    """Return the judgement that stands for each judged segment of a unit.

    Args:
        judged: all judgements on one unit, in any order.
    """
    found: dict[int, Judgement] = {}
    for one in sorted(judged, key=lambda one: one.case):
        before = found.get(one.segment)
        if before is None or (one.outcome != "unjudged" and before.outcome != "false"):
            found[one.segment] = one
    return tuple(found.values())


def combined(judged: Iterable[Judgement]) -> Outcome:
    """Return what a unit is after everything that was judged of it; an accusation that nobody judged says nothing.

    Args:
        judged: all judgements on one unit, in any order.
    """
    outcomes = [one.outcome for one in standing(judged) if not (one.case and one.outcome == "unjudged")]
    return max(outcomes, key=_SEVERITY.__getitem__, default="passed")


def _began(chain: ChainView, round_: int, case: Draw) -> int | None:
    return chain.anchor(round_) if case.filed is None else case.filed


def _prior(cases: Iterable[Draw], appeal: Appeal) -> Draw | None:
    """Return the newest earlier case about the segment of an appeal."""
    about = [one for one in cases if (one.number, one.segment) == (appeal.number, appeal.segment)]
    return about[-1] if about else None


def _last_block(manifest: RunManifest, chain: ChainView, round_: int, contested: Draw | None) -> int | None:
    """Return the last block in which a case can be contested, or without one a unit of the round accused."""
    appeal = manifest.deadlines.appeal
    if contested is None:
        anchor = chain.anchor(round_)
        return None if anchor is None else anchor + 1 + appeal
    began = _began(chain, round_, contested)
    return None if began is None else began + 1 + contested.closes_after(manifest) + appeal


def _ranks(seed_: str, appeal: Appeal, judges: Sequence[int], first: Sequence[int]) -> tuple[int, ...]:
    """Rank the verifiers, but not the appellant; who had the first word before comes last."""

    def rank(judge: int) -> tuple[bool, int, int]:
        return judge in first, draw(seed_, appeal.case, appeal.number, judge), judge

    return tuple(sorted((judge for judge in judges if judge != appeal.appellant), key=rank))
