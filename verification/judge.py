"""From verdicts to an outcome. Only two proven faults slash; doubt costs at most the unit's pay."""

from collections.abc import Mapping
from typing import Literal

from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Commitment, Verdict
from protocol.state import NOTHING_CARRIED
from verification.sample import Draw

Outcome = Literal["passed", "void", "false", "unjudged"]


def grade(profile: NumericProfile, distance: float, *, fresh: bool) -> Literal[1, 2, 3]:
    """Turn the largest relative distance of a replay into a verdict's outcome.

    Args:
        profile: of the unit.
        fresh: the segment starts from zero moments.
    """
    if distance <= profile.bound(fresh):
        return PASSED
    return PROVEN_FALSE if distance > profile.slash_tolerance else REJECTED


def is_fresh(commitment: Commitment, segment: int) -> bool:
    """Tell whether a segment starts from zero moments."""
    return segment == 0 and commitment.moments_before == NOTHING_CARRIED


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
    fresh = is_fresh(commitment, verdict.segment)
    if verdict.distance and verdict.outcome != grade(profile, verdict.distance, fresh=fresh):
        return f"the distance {verdict.distance:.3g} does not give its outcome"
    if verdict.opening is None and verdict.outcome != REJECTED:
        return "nothing was opened"
    return ""


def inconclusive(verdicts: Mapping[int, Verdict]) -> frozenset[int]:
    """Return the verifiers that found nothing to say, whose place the next rank takes at once.

    Args:
        verdicts: of one unit, by verifier.
    """
    return frozenset(judge for judge, one in verdicts.items() if one.outcome == INCONCLUSIVE)


def counted(manifest: RunManifest, draw: Draw, verdicts: Mapping[int, Verdict]) -> tuple[int, ...]:
    """Return the verifiers whose verdicts decide a unit, best rank first; only those are paid."""
    said = (one for one in draw.verifiers if one in verdicts and verdicts[one].outcome != INCONCLUSIVE)
    return tuple(said)[: manifest.verification.verifiers]


def outcome(
    manifest: RunManifest, draw: Draw, verdicts: Mapping[int, Verdict], *, closed: bool
) -> Outcome | None:
    """Decide a drawn unit, or return None while verdicts may still come.

    All passed: passed. All proven false: false, which slashes. Anything mixed or merely out of tolerance:
    void. When the time is over, one lone verdict passes or voids the unit and none leaves it unjudged, paid
    like undrawn.

    Args:
        verdicts: by the verifier's registration number.
        closed: the time for verdicts is over.
    """
    judges = counted(manifest, draw, verdicts)
    if len(judges) < manifest.verification.verifiers:
        if not closed:
            return None
        if not judges:
            return "unjudged"
        return "passed" if all(verdicts[judge].outcome == PASSED for judge in judges) else "void"
    outcomes = {verdicts[judge].outcome for judge in judges}
    if outcomes == {PASSED}:
        return "passed"
    return "false" if outcomes == {PROVEN_FALSE} else "void"
