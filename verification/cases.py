"""Cases before the jury, and what a unit is after everything that was said of it.

An accusation names a segment of any unit of an anchored round; the coordinator brings what verifiers proved false, and
what was not opened to them. A contest is its owner's: of a drawn segment that verifiers voided, called false, or did
not judge. The jury's ruling overrides the verifiers on that segment. Whatever the jury rules moves stake, and a fault
that it confirms forfeits what is unvested then; it changes what the unit itself earned only if the case was opened in
time for that, so that an epoch can be settled: within `deadlines.appeal` blocks of the sampling beacon, or of the last
moment at which what it is about was decided.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from protocol.chain import Case, ChainView
from protocol.manifest import RunManifest
from protocol.messages import Judgement, UnitRecord
from verification.judge import Outcome
from verification.sample import Draw

OutcomeOf = Callable[[Draw], Outcome | None]
"""Say what the verdicts made of a drawn unit; None while it is undecided."""

MAX_ACCUSATIONS: Final = 8
MAX_CONTESTS: Final = 16
"""How many of a round change pay, oldest first: bonds may be cheap, and a record holds so many judgements."""

_SEVERITY: Final[dict[Outcome, int]] = {"passed": 0, "unjudged": 1, "void": 2, "false": 3}


def blocks_since(chain: ChainView, round_: int) -> int:
    """Return how many blocks ago the block of a round's sampling beacon was; below 0 before it."""
    anchor = chain.anchor(round_)
    return -1 if anchor is None else chain.height - (anchor + 1)


def counted_cases(
    manifest: RunManifest,
    chain: ChainView,
    round_: int,
    units: Iterable[UnitRecord],
    drawn: Sequence[Draw],
    outcome: OutcomeOf,
) -> tuple[Case, ...]:
    """Return the cases about a round's units that change its pay, oldest first, ruled or not.

    Args:
        units: of the record in force.
        drawn: by the round's beacon.
        outcome: of what was drawn.
    """
    segments = {unit.number: manifest.at(unit.tier).segments for unit in units}
    found: list[Case] = []
    kinds = Counter[bool]()  # by whether it is a contest
    for case in chain.cases(round_):
        if case.segment >= segments.get(case.number, 0):
            continue
        prior = _drawn(drawn, case)
        early = _in_time(case, _accusable_until(manifest, chain, round_))
        if not _in_time(case, _last_block(manifest, chain, round_, prior)) and not early:
            continue
        if case.contests and prior is None:
            continue
        # Counted before anything that is known only later, so that nobody's case is displaced by an older one.
        kinds[case.contests] += 1
        if kinds[case.contests] > (MAX_CONTESTS if case.contests else MAX_ACCUSATIONS):
            continue
        said = None if prior is None else outcome(prior)
        if said not in ("void", "unjudged", "false") and (case.contests or not early):
            continue
        found.append(case)
    return tuple(found)


def may_still_open(
    manifest: RunManifest,
    chain: ChainView,
    round_: int,
    counted: Sequence[Case],
    drawn: Sequence[Draw],
    outcome: OutcomeOf,
) -> bool:
    """Tell whether a case that changes the round's pay is open, or may still be opened.

    Args:
        counted: what `counted_cases` gave.
    """
    if any(case.outcome is None for case in counted):
        return True
    until = _accusable_until(manifest, chain, round_)
    if until is None or chain.height <= until:
        return True
    taken = {(case.number, case.segment) for case in counted}
    for draw in drawn:
        said = outcome(draw)
        last = _last_block(manifest, chain, round_, draw)
        if said != "passed" and (draw.number, draw.segment) not in taken and _is_ahead(chain, last):
            return True
    return False


def confirmed_faults(manifest: RunManifest, chain: ChainView, epoch: int) -> frozenset[int]:
    """Return the numbers that a jury found at fault while an epoch lasted, in whatever round and however late.

    It lasts until its last record is anchored, from that of the epoch before on. What a jury rules after the last
    epoch finds no unvested pay of an epoch that is decided.
    """
    rounds = manifest.rounds_of(epoch)
    begin, end = chain.anchor(rounds[0] - 1), chain.anchor(rounds[-1])
    if begin is None or end is None:
        return frozenset()
    return frozenset(
        case.number
        for round_ in range(rounds[-1] + 1)
        for case in chain.cases(round_)
        if case.outcome == "false" and case.closed_at is not None and begin < case.closed_at <= end
    )


def standing(judged: Iterable[Judgement]) -> tuple[Judgement, ...]:
    """Return the judgement that stands for each judged segment of a unit: the jury's, where it ruled.

    Args:
        judged: all judgements on one unit, in any order.
    """
    found: dict[int, Judgement] = {}
    for one in sorted(judged, key=lambda one: one.case):
        if one.segment not in found or one.outcome != "unjudged":
            found[one.segment] = one
    return tuple(found.values())


def combined(judged: Iterable[Judgement]) -> Outcome:
    """Return what a unit is after everything that was judged of it; a hung jury says nothing.

    Args:
        judged: all judgements on one unit, in any order.
    """
    outcomes = [one.outcome for one in standing(judged) if not (one.case and one.outcome == "unjudged")]
    return max(outcomes, key=_SEVERITY.__getitem__, default="passed")


def forges(judged: Iterable[Judgement]) -> bool:
    """Tell whether a unit's residual was forged, after everything that was judged of it.

    Args:
        judged: all judgements on one unit, in any order.
    """
    return any(one.forged_residual for one in standing(judged))


def _drawn(drawn: Iterable[Draw], case: Case) -> Draw | None:
    about = (one for one in drawn if (one.number, one.segment) == (case.number, case.segment))
    return next(about, None)


def _in_time(case: Case, last: int | None) -> bool:
    return last is not None and case.block <= last


def _is_ahead(chain: ChainView, last: int | None) -> bool:
    return last is None or chain.height <= last


def _accusable_until(manifest: RunManifest, chain: ChainView, round_: int) -> int | None:
    """Return the last block in which any unit of a round can be accused with an effect on its pay."""
    anchor = chain.anchor(round_)
    return None if anchor is None else anchor + 1 + manifest.deadlines.appeal


def _last_block(manifest: RunManifest, chain: ChainView, round_: int, draw: Draw | None) -> int | None:
    """Return the last block for a case about what the verdicts on a drawn segment said."""
    anchor = chain.anchor(round_)
    if anchor is None or draw is None:
        return None
    last = anchor + 1 + draw.closes_after(manifest) + manifest.deadlines.appeal
    # The jury takes no case later, however long the verifiers take.
    return min(last, anchor + manifest.penalties.window)
