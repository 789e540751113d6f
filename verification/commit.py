"""What a commitment must say before it counts: everything in it that is already public."""

from dataclasses import dataclass
from typing import Self

from protocol.errors import Malformed
from protocol.joint import Returned
from protocol.manifest import RunManifest
from protocol.messages import Commitment, RoundRecord
from protocol.state import NOTHING_CARRIED


@dataclass(frozen=True)
class Carried:
    """Name the moments and the residual a peer brings into a round, by their roots, and the tier that it declared.

    Where the round before had a joint update, what it left out of the peer's own comes back (`training.joint`).
    Where outer steps are delayed it also brings its last unit's whole final state, which its next one goes on from.
    """

    moments: str = NOTHING_CARRIED
    residual: str = NOTHING_CARRIED
    tier: int | None = None  # None: none was declared
    returned: Returned | None = None  # None: nothing comes back
    state: str = NOTHING_CARRIED  # at the end of its last unit, which has
    segments: int = 0

    @classmethod
    def after(cls, unit: Commitment, back: Returned | None = None) -> Self:
        """Return what a unit leaves to its peer's next one, and what comes back of it."""
        last = len(unit.segments) - 1
        return cls(unit.moments_after, unit.residual_after, unit.next_tier, back, unit.segments[last], last)

    def tier_of(self, manifest: RunManifest) -> int:
        """Return the tier of the unit that starts with this: the smallest where none was declared."""
        return manifest.smallest_tier if self.tier is None else self.tier


def holds_unit(number: int, record: RoundRecord) -> bool:
    """Tell whether what is in force of a record holds a unit of a number."""
    return any(unit.number == number for unit in record.units)


def carries_on(number: int, previous_record: RoundRecord | None) -> bool:
    """Tell whether a peer carries anything into the round after this record, which alone decides it.

    Args:
        previous_record: what is in force of it; None for round 0.
    """
    if previous_record is None or not holds_unit(number, previous_record):
        return False
    return not any(j.number == number and j.outcome in ("void", "false") for j in previous_record.judged)


def carried(number: int, previous: Commitment | None, previous_record: RoundRecord | None) -> Carried:
    """Return what a peer must carry into a round.

    It starts with the roots its unit committed in the round before, and the tier it declared there, merged or not; with
    nothing as a newcomer, after a round without a commitment that counts or a void one, or once the record before says
    that a unit of its was found void or false.

    Args:
        number: the peer's registration number.
        previous: its commitment in the round before, listed or forced in, if any.
        previous_record: what is in force of the anchored record of the round before (`verification.lateness`);
            None for round 0.
    """
    if previous is None or not carries_on(number, previous_record):
        return Carried()
    back = None if previous_record is None else returned(number, previous_record)
    return Carried.after(previous, back)


def returned(number: int, record: RoundRecord) -> Returned | None:
    """Return what a peer gets back after a round: nothing unless it moved the parameters through a joint update.

    Args:
        record: what is in force of the round's.
    """
    own = next((unit.blob for unit in record.units if unit.number == number and unit.moves), None)
    return None if own is None or record.joint is None else Returned(update=own, joint=record.joint)


def check_commitment(
    manifest: RunManifest,
    round_: int,
    commitment: Commitment,
    *,
    parameters: str,
    assignment: str,
    expected: Carried,
) -> None:
    """Check what is public of a commitment: start, tier, batches, carried roots, and the number of segment roots.

    Args:
        parameters: content address of the round's global parameters.
        assignment: digest of the batches drawn for the peer in its tier.
        expected: what the peer must carry, by `carried`.

    Raises:
        Malformed: something differs; the message says what.
    """
    check_tier(manifest, round_, commitment, expected)
    segments = manifest.at(commitment.tier).segments
    if len(commitment.segments) != segments + 1:
        raise Malformed(f"commitment with {len(commitment.segments)} segment roots instead of {segments + 1}")
    if manifest.verification.profile(commitment.profile) is None:
        raise Malformed(f"commitment under profile {commitment.profile}, which the run does not have")
    if commitment.parameters != parameters:
        raise Malformed("commitment starts from other parameters")
    if commitment.assignment != assignment:
        raise Malformed("commitment to other batches than the assigned ones")
    check_carried(manifest, commitment, expected)


def check_carried(manifest: RunManifest, commitment: Commitment, expected: Carried) -> None:
    """Check the roots of what a peer carries into a round, and that it carries no moments out where the run has none.

    Raises:
        Malformed: something differs.
    """
    if (commitment.moments_before, commitment.residual_before) != (expected.moments, expected.residual):
        raise Malformed("commitment breaks the chain of carried moments or residual")
    if not manifest.carries_moments and commitment.moments_after != NOTHING_CARRIED:
        raise Malformed("commitment carries moments out of a round of a run whose moments are fresh")


def check_tier(manifest: RunManifest, round_: int, commitment: Commitment, expected: Carried) -> None:
    """Check that a unit has the tier that was declared before its beacon, and may declare the one of the next.

    A tier holds for an epoch: another begins with an epoch's first round, or follows the first unit of a newcomer.

    Raises:
        Malformed: another tier, one that the run does not have, or a change within an epoch.
    """
    tier = expected.tier_of(manifest)
    if commitment.tier != tier:
        raise Malformed(f"commitment of tier {commitment.tier}, declared was {tier}")
    if commitment.next_tier > manifest.smallest_tier:
        raise Malformed(f"commitment that declares tier {commitment.next_tier}, which the run does not have")
    if commitment.next_tier != tier and not may_change_tier(manifest, round_, expected):
        raise Malformed(f"commitment that changes its tier within epoch {manifest.epoch_of(round_)}")


def may_change_tier(manifest: RunManifest, round_: int, expected: Carried) -> bool:
    """Tell whether a unit may declare another tier for the next round than its own."""
    return expected.tier is None or manifest.epoch_of(round_ + 1) != manifest.epoch_of(round_)
