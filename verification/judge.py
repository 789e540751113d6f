"""What one verdict says, and whether it contradicts itself. How several make a ruling is in `verification.ruling`."""

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Commitment, Verdict
from protocol.state import NOTHING_CARRIED
from verification.unit import ReplayReport

Outcome = Literal["passed", "void", "false", "unjudged"]

OUTCOME_NAMES: Final = {
    PASSED: "passed",
    REJECTED: "rejected",
    PROVEN_FALSE: "proven false",
    INCONCLUSIVE: "inconclusive",
}
_ROUNDING: Final = 1e-6  # of float64 norms summed in another order, with room


def is_disputed(profile: NumericProfile, distance: float, *, fresh: bool) -> bool:
    """Tell whether a replay's largest relative distance is beyond what honest replays of a unit's profile reach.

    Args:
        fresh: the segment starts from zero moments.
    """
    return distance > profile.bound(fresh)


def grade(profile: NumericProfile, exact_distance: float, *, fresh: bool) -> Literal[2, 3]:
    """Turn a disputed segment's largest relative distance from the exact reference into a verdict's outcome."""
    return PROVEN_FALSE if exact_distance > profile.slash_bound(fresh) else REJECTED


def is_fresh(manifest: RunManifest, commitment: Commitment, segment: int) -> bool:
    """Tell whether a segment starts from zero moments, from which small gradients step as far as large ones.

    Where a run's moments start anew in every round they start from an estimate, and steps are no longer than others.
    """
    return segment == 0 and manifest.carries_moments and commitment.moments_before == NOTHING_CARRIED


def contradiction(manifest: RunManifest, commitment: Commitment, verdict: Verdict) -> str:
    """Return why a verdict contradicts itself and does not count, or an empty string.

    Args:
        commitment: that the verdict is about.
    """
    profile = manifest.verification.profile(commitment.profile)
    if verdict.outcome == INCONCLUSIVE:
        return ""
    if profile is None or verdict.profile not in (profile.name, *profile.judged_by):
        return f"a replay under {verdict.profile} cannot judge a unit of {commitment.profile}"
    if verdict.forged_residual and verdict.outcome != PROVEN_FALSE:
        return "a forged residual proves the unit false"
    if verdict.opening is None and verdict.outcome != REJECTED:
        return "nothing was opened"
    fresh = is_fresh(manifest, commitment, verdict.segment)
    disputed = is_disputed(profile, verdict.distance, fresh=fresh)
    if disputed and verdict.exact is None:
        return f"the distance {verdict.distance:.3g} is out of tolerance, and no exact replay is named"
    if not disputed and (verdict.exact is not None or verdict.exact_distance):
        return "an exact replay is named, and the distance is within tolerance"
    if disputed and verdict.outcome != grade(profile, verdict.exact_distance, fresh=fresh):
        return f"the distance {verdict.exact_distance:.3g} from exact arithmetic does not give its outcome"
    if not disputed and verdict.distance and verdict.outcome != PASSED:
        return f"the distance {verdict.distance:.3g} does not give its outcome"
    if not disputed and verdict.opening is not None and verdict.outcome == REJECTED:
        return "what was opened is rejected without a distance"
    return ""


def inconclusive(verdicts: Mapping[int, Verdict]) -> frozenset[int]:
    """Return the verifiers that found nothing to say, whose place the next rank takes at once.

    Args:
        verdicts: of one unit, by verifier.
    """
    return frozenset(judge for judge, one in verdicts.items() if one.outcome == INCONCLUSIVE)


def disagreement(verdict: Verdict, report: ReplayReport) -> str:
    """Return how a verdict differs from our own replay of what it was given, or an empty string.

    Distances of two replays differ by rounding; the exact reference, and the distance from it, must not.
    """
    if verdict.outcome != report.outcome:
        return f"says {OUTCOME_NAMES[verdict.outcome]}, our replay says {OUTCOME_NAMES[report.outcome]}"
    if verdict.forged_residual != report.forged_residual:
        return "is wrong about the residual, which " + (
            "does not follow" if report.forged_residual else "follows"
        )
    if verdict.exact != report.exact:
        return f"names the exact reference {_short(verdict.exact)}, ours is {_short(report.exact)}"
    if not math.isclose(verdict.exact_distance, report.exact_distance, rel_tol=_ROUNDING):
        return f"is {verdict.exact_distance:.6g} from the exact reference, by our count {report.exact_distance:.6g}"
    return ""


def _short(root: str | None) -> str:
    return "none" if root is None else root[:16]


def refused(manifest: RunManifest, verdicts: Iterable[Verdict]) -> bool:
    """Tell whether so many verdicts say that nothing was opened as it takes to judge a unit.

    One alone could be a lie that costs another's epoch.

    Args:
        verdicts: those that were right.
    """
    return sum(verdict.opening is None for verdict in verdicts) >= manifest.verification.verifiers


def forged_residual(outcome: Outcome, judges: Iterable[Verdict]) -> bool:
    """Tell whether a unit was found false because what it carries on does not follow.

    Args:
        judges: those that were right.
    """
    accusers = [verdict for verdict in judges if verdict.outcome == PROVEN_FALSE]
    return outcome == "false" and bool(accusers) and all(verdict.forged_residual for verdict in accusers)
