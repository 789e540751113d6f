"""From verdicts to an outcome. Only two proven faults slash; doubt costs at most the unit's pay."""

from collections.abc import Mapping
from typing import Literal

from protocol.manifest import RunManifest
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED, Verdict
from verification.sample import Draw

Outcome = Literal["passed", "void", "false", "unjudged"]


def grade(manifest: RunManifest, distance: float) -> Literal[1, 2, 3]:
    """Turn the largest relative distance of a replay into a verdict's outcome."""
    tolerance = manifest.verification.tolerance
    if distance <= tolerance:
        return PASSED
    return PROVEN_FALSE if distance > tolerance * manifest.verification.slash_factor else REJECTED


def contradiction(manifest: RunManifest, verdict: Verdict) -> str:
    """Return why a verdict contradicts itself and does not count, or an empty string."""
    if verdict.distance and verdict.outcome != grade(manifest, verdict.distance):
        return f"the distance {verdict.distance:.3g} does not give its outcome"
    if verdict.opening is None and verdict.outcome != REJECTED:
        return "nothing was opened"
    return ""


def counted(manifest: RunManifest, draw: Draw, verdicts: Mapping[int, Verdict]) -> tuple[int, ...]:
    """Return the verifiers whose verdicts decide a unit, best rank first; only those are paid."""
    return tuple(judge for judge in draw.verifiers if judge in verdicts)[: manifest.verification.verifiers]


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
