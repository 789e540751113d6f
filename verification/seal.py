"""Seals: a verifier fixes the fingerprint of its replay before it can see where the replay should end.

    draw -> opening: addresses, the start is served -> verifiers replay and publish seals
         -> the end is served (`ends_are_due`) -> verdicts with the fingerprint in the open (`may_speak`)

Whoever seals without having replayed cannot name the fingerprint that honest replays give, and a verdict counts only
with a fingerprint that its seal fixed.
"""

import math
from collections.abc import Collection, Sequence

from protocol.canonical import canonical_json, tagged_digest
from protocol.manifest import RunManifest
from protocol.messages import INCONCLUSIVE, PROVEN_FALSE, Seal, Verdict
from verification.sample import Draw

TOLERANCE_FACTOR = 3.0
"""Of the profile's tolerance. Each of a fingerprint's values differs by about the replays' distance; their root mean
square then stays below three times the bound of that distance."""

LEAST_TOLERANCE = 1e-8  # exact replays agree to the last bit; their projections are added in any order


def seal_digest(
    run: str,
    round_: int,
    *,
    number: int,
    verifier: int,
    commitment: str,
    opening: str,
    segment: int,
    fingerprint: Sequence[float],
    salt: str,
) -> str:
    """Return the salted hash that fixes a fingerprint for one verifier, commitment and opening."""
    values = canonical_json(list(fingerprint))
    return tagged_digest(
        "murmur/seal", run, round_, number, verifier, commitment, opening, segment, values, salt
    )


def needs_seal(verdict: Verdict) -> bool:
    """Tell whether a verdict rests on a replay, which a sealed fingerprint has to show.

    What was not opened, what the signed messages or the start alone prove false, and what could not be judged needs
    none.
    """
    if verdict.outcome == INCONCLUSIVE or verdict.opening is None:
        return False
    return bool(verdict.fingerprint) or verdict.outcome != PROVEN_FALSE or verdict.distance > 0


def broken_seal(run: str, round_: int, verdict: Verdict, seal: Seal | None) -> str:
    """Return why a verdict is not the one that was sealed, or an empty string.

    Args:
        seal: of the same verifier on the same unit, if there is one.
    """
    if not needs_seal(verdict):
        return ""
    if not verdict.fingerprint or verdict.salt is None:
        return "no fingerprint of a replay"
    if seal is None:
        return "its fingerprint was not sealed before"
    assert verdict.opening is not None  # it needs a seal
    found = seal_digest(
        run,
        round_,
        number=verdict.number,
        verifier=verdict.verifier,
        commitment=verdict.commitment,
        opening=verdict.opening,
        segment=verdict.segment,
        fingerprint=verdict.fingerprint,
        salt=verdict.salt,
    )
    return "" if found == seal.seal else "its fingerprint is not the sealed one"


def fingerprint_tolerance(bound: float) -> float:
    """Return up to which distance two fingerprints of one segment agree.

    Args:
        bound: the profile's tolerance for the segment (`NumericProfile.bound`).
    """
    return max(LEAST_TOLERANCE, TOLERANCE_FACTOR * bound)


def fingerprint_distance(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the root mean square difference of two fingerprints; infinite if they have other lengths."""
    if len(ours) != len(theirs):
        return math.inf
    if not ours:
        return 0.0
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / len(ours))


def ends_are_due(manifest: RunManifest, draw: Draw, blocks: int, sealed: Collection[int]) -> bool:
    """Tell whether a drawn peer should serve the end of its segment, and not only the start.

    At once when all first ranks have sealed; else after half the deadline for verdicts, if anybody has.

    Args:
        blocks: since the sampling beacon.
        sealed: verifiers whose seal on the unit was heard.
    """
    if set(draw.verifiers[: manifest.verification.verifiers]) <= set(sealed) and sealed:
        return True
    on_roster = any(one in draw.verifiers for one in sealed)
    return on_roster and blocks >= manifest.deadlines.verify // 2


def may_speak(manifest: RunManifest, draw: Draw, blocks: int, sealed: Collection[int]) -> bool:
    """Tell whether a verifier should show its fingerprint: nobody is left who could copy it into a seal.

    As many as judge a unit have sealed, or hardly any time is left.

    Args:
        blocks: since the sampling beacon.
        sealed: verifiers whose seal on the unit was heard, oneself included.
    """
    enough = sum(one in draw.verifiers for one in sealed) >= manifest.verification.verifiers
    return enough or blocks >= draw.closes_after(manifest) - manifest.deadlines.verify // 2
