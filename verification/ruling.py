"""From several verifiers' verdicts to one ruling: who is right, who is wrong, and what that makes of the unit.

The first ranks of a draw judge. If they agree, in what they say and in the fingerprints of their replays, the unit is
decided. If not, the next rank steps in at once, until a majority agrees; whoever said otherwise is wrong and is not
paid. Without a majority the unit is void, which slashes nobody.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.manifest import RunManifest
from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Commitment, Seal, Verdict
from verification.judge import Outcome, contradiction, inconclusive, is_fresh
from verification.sample import Draw
from verification.seal import broken_seal, fingerprint_distance, fingerprint_tolerance
from verification.unit import ReplayReport

OUTCOMES: Final[dict[int, Outcome]] = {PASSED: "passed", REJECTED: "void", PROVEN_FALSE: "false"}


@dataclass(frozen=True)
class Ruling:
    """Say what a unit is, and which of those who judged it are right."""

    outcome: Outcome
    right: tuple[int, ...] = ()  # best rank first; only these are paid
    wrong: tuple[int, ...] = ()  # said something else than the majority
    moot: tuple[int, ...] = ()  # judged where no majority agreed, so that nobody can tell


def fault(
    manifest: RunManifest, run: str, round_: int, commitment: Commitment, verdict: Verdict, seal: Seal | None
) -> str:
    """Return why a verdict does not count, or an empty string.

    Args:
        commitment: that the verdict is about.
        seal: of the same verifier on the same unit, if there is one.
    """
    return contradiction(manifest, commitment, verdict) or broken_seal(run, round_, verdict, seal)


def agree(manifest: RunManifest, commitment: Commitment, one: Verdict, other: Verdict) -> bool:
    """Tell whether two verdicts on a unit say the same: outcome, exact reference, and fingerprint within tolerance.

    Of two rejections one may be of a unit that was not opened, and then has no fingerprint.
    """
    if one.outcome != other.outcome:
        return False
    if one.outcome == REJECTED and (one.opening is None or other.opening is None):
        return True
    if (one.exact, one.forged_residual) != (other.exact, other.forged_residual):
        return False
    distance = fingerprint_distance(one.fingerprint, other.fingerprint)
    return distance <= _tolerance(manifest, commitment, one.segment)


def fingerprint_fault(
    manifest: RunManifest, commitment: Commitment, verdict: Verdict, report: ReplayReport
) -> str:
    """Return how the fingerprint of a verdict differs from that of our own replay, or an empty string."""
    if not verdict.fingerprint or not report.fingerprint:
        return ""
    distance = fingerprint_distance(verdict.fingerprint, report.fingerprint)
    if distance <= _tolerance(manifest, commitment, verdict.segment):
        return ""
    return f"shows a fingerprint {distance:.3g} away from that of our replay"


def _tolerance(manifest: RunManifest, commitment: Commitment, segment: int) -> float:
    profile = manifest.verification.profile(commitment.profile)
    return fingerprint_tolerance(
        0.0 if profile is None else profile.bound(is_fresh(manifest, commitment, segment))
    )


def counted(manifest: RunManifest, draw: Draw, verdicts: Mapping[int, Verdict]) -> tuple[int, ...]:
    """Return the verifiers whose verdicts can make a ruling, best rank first: twice as many as needed, less one."""
    said = (one for one in draw.verifiers if one in verdicts and verdicts[one].outcome != INCONCLUSIVE)
    return tuple(said)[: 2 * manifest.verification.verifiers - 1]


def rule(
    manifest: RunManifest,
    commitment: Commitment,
    draw: Draw,
    verdicts: Mapping[int, Verdict],
    *,
    closed: bool,
) -> Ruling | None:
    """Decide a drawn unit, or return None while verdicts may still come.

    When the time is over, verdicts that make no majority decide nothing about each other and are not paid: a lone one
    passes or voids the unit, several void it, and none leaves it unjudged.

    Args:
        verdicts: by the verifier's registration number; valid (`fault`) and in turn (`in_turn`).
        closed: the time for verdicts is over.
    """
    needed = manifest.verification.verifiers
    judges = counted(manifest, draw, verdicts)
    for size in range(needed, len(judges) + 1):
        heard = judges[:size]
        for one in heard:
            same = tuple(j for j in heard if agree(manifest, commitment, verdicts[one], verdicts[j]))
            if len(same) >= needed:
                wrong = tuple(judge for judge in heard if judge not in same)
                return Ruling(OUTCOMES[verdicts[one].outcome], same[:needed], wrong)
    if len(judges) == 2 * needed - 1:
        return Ruling("void", moot=judges)
    if not closed:
        return None
    if not judges:
        return Ruling("unjudged")
    passed = len(judges) < needed and all(verdicts[judge].outcome == PASSED for judge in judges)
    return Ruling("passed" if passed else "void", moot=judges)


def may_judge(
    manifest: RunManifest,
    commitment: Commitment,
    draw: Draw,
    verifier: int,
    verdicts: Mapping[int, Verdict],
    blocks: int,
) -> bool:
    """Tell whether a verifier's turn has come, whether or not the unit is decided.

    The first ranks' has at once; a later rank's after each further deadline, and at once for each earlier rank that
    found nothing to say, and for each that a disagreement of earlier ones asks for.

    Args:
        verdicts: valid ones on the unit, by verifier; only those of earlier ranks matter.
        blocks: since the sampling beacon.
    """
    if verifier not in draw.verifiers:
        return False
    earlier = draw.verifiers[: draw.verifiers.index(verifier)]
    before = {judge: verdicts[judge] for judge in earlier if judge in verdicts}
    needed, judges = manifest.verification.verifiers, counted(manifest, draw, before)
    further = 0
    if len(judges) >= needed and rule(manifest, commitment, draw, before, closed=False) is None:
        further = len(judges) - needed + 1
    silent = inconclusive(before)
    return draw.due(manifest, verifier, blocks, verdicts=0, inconclusive=silent, further=further)


def may_seal(
    manifest: RunManifest,
    draw: Draw,
    verifier: int,
    sealed: Collection[int],
    verdicts: Mapping[int, Verdict],
) -> bool:
    """Tell whether a seal still counts: before any fingerprint is in the open, or where more judges are called for.

    Otherwise a verifier could stay silent, read what the others found, and seal it as its own.

    Args:
        sealed: verifiers whose seal on the unit counts already.
        verdicts: those that are in the open, by verifier.
    """
    if not any(one.fingerprint for judge, one in verdicts.items() if judge != verifier):
        return True
    needed, judges = manifest.verification.verifiers, counted(manifest, draw, verdicts)
    wanted = needed if len(judges) < needed else len(judges) + 1
    return sum(judge in draw.verifiers for judge in sealed if judge != verifier) < wanted


def in_turn(
    manifest: RunManifest, commitment: Commitment, draw: Draw, verdicts: Mapping[int, Verdict], blocks: int
) -> dict[int, Verdict]:
    """Return the verdicts of those whose turn has come: a later rank must not displace an earlier one on time.

    Args:
        verdicts: valid ones, by verifier.
        blocks: since the sampling beacon.
    """
    found: dict[int, Verdict] = {}
    for judge in draw.verifiers:
        if judge in verdicts and may_judge(manifest, commitment, draw, judge, found, blocks):
            found[judge] = verdicts[judge]
    return found


def silent(
    manifest: RunManifest, draw: Draw, ruling: Ruling, verdicts: Mapping[int, Verdict]
) -> tuple[int, ...]:
    """Return the verifiers who were replaced, or waited for in vain, because they said nothing.

    Args:
        verdicts: those that the ruling rests on, inconclusive ones included.
    """
    heard = (*ruling.right, *ruling.wrong, *ruling.moot)
    if len(heard) < manifest.verification.verifiers:
        last = len(draw.verifiers)  # the time ran out for everybody
    else:
        last = max(draw.verifiers.index(judge) for judge in heard)
    return tuple(judge for judge in draw.verifiers[:last] if judge not in verdicts)
