"""What the verifier's daemon asks its replay process, and what it answers. No torch here: the daemon reads this."""

from typing import Annotated, Any, cast

from pydantic import Field

from contracts.types import CaseOutcome
from protocol.canonical import canonical_json
from protocol.errors import OwnFault
from protocol.frozen import Digest, Frozen
from protocol.joint import Returned
from protocol.lessons import NOTHING, Lessons
from protocol.messages import Commitment, Opening, Signed, Tier, parse_message
from verification.commit import Carried
from verification.unit import DrawnUnit, Finding, ReplayReport


class ReplayRequest(Frozen):
    """Name one drawn unit and what was opened of it, both checked by the daemon already."""

    commitment: dict[str, Any]  # signed, in wire form
    opening: dict[str, Any]
    segment: int = Field(ge=0, le=1000)
    beacon: Digest
    sampling: Digest
    carried_moments: Digest
    carried_residual: Digest
    carried_tier: Tier | None = None
    carried_back: Returned | None = None
    carried_state: Digest
    carried_segments: int = Field(ge=0, le=1000)
    lessons: Lessons = NOTHING

    @classmethod
    def of(cls, unit: DrawnUnit, opening: Signed[Opening]) -> "ReplayRequest":
        """Write a request for a unit."""
        return cls(
            commitment=unit.commitment.to_json(),
            opening=opening.to_json(),
            segment=unit.segment,
            beacon=unit.beacon,
            sampling=unit.sampling,
            carried_moments=unit.carried.moments,
            carried_residual=unit.carried.residual,
            carried_tier=unit.carried.tier,
            carried_back=unit.carried.returned,
            carried_state=unit.carried.state,
            carried_segments=unit.carried.segments,
            lessons=unit.lessons,
        )

    def unit(self) -> DrawnUnit:
        """Return the unit."""
        commitment = parse_message(canonical_json(self.commitment))
        if not isinstance(commitment.body, Commitment):
            raise OwnFault("the daemon sent something else than a commitment")
        roots = self.carried_moments, self.carried_residual
        state = self.carried_state, self.carried_segments
        carried = Carried(*roots, self.carried_tier, self.carried_back, *state)
        return DrawnUnit(
            cast("Signed[Commitment]", commitment),
            self.segment,
            self.beacon,
            carried,
            self.sampling,
            lessons=self.lessons,
        )

    def opened(self) -> Opening:
        """Return what was opened."""
        opening = parse_message(canonical_json(self.opening)).body
        if not isinstance(opening, Opening):
            raise OwnFault("the daemon sent something else than an opening")
        return opening


class ReplayAnswer(Frozen):
    """Carry a `ReplayReport` between processes."""

    outcome: Annotated[int, Field(ge=1, le=4)]
    reason: Annotated[str, Field(max_length=200)]
    distance: float
    tensor: Annotated[str, Field(max_length=100)]
    cpu_s: Annotated[float, Field(ge=0)]
    forged_residual: bool
    distances: dict[str, float]
    exact: Digest | None
    exact_distance: Annotated[float, Field(ge=0, le=1e30)]
    fingerprint: Annotated[tuple[float, ...], Field(max_length=64)] = ()

    @classmethod
    def of(cls, report: ReplayReport) -> "ReplayAnswer":
        """Write an answer."""
        return cls.model_validate({**vars(report), "distances": dict(report.distances)})

    def report(self) -> ReplayReport:
        """Return the report."""
        return ReplayReport(**self.model_dump())


class FindAnswer(Frozen):
    """Carry a `Finding` between processes."""

    outcome: CaseOutcome
    result: Digest
    reason: Annotated[str, Field(max_length=200)]
    distance: Annotated[float, Field(ge=0, le=1e30)]
    tensor: Annotated[str, Field(max_length=100)]
    cpu_s: Annotated[float, Field(ge=0)]

    @classmethod
    def of(cls, finding: Finding) -> "FindAnswer":
        """Write an answer."""
        return cls.model_validate({**vars(finding), "result": finding.result.hex()})

    def finding(self) -> Finding:
        """Return the finding."""
        said = {**self.model_dump(), "outcome": self.outcome, "result": bytes.fromhex(self.result)}
        return Finding(**said)


class BeginAnswer(Frozen):
    """Carry the first half of a replay: a fingerprint to seal, or a report that needs no end."""

    fingerprint: Annotated[tuple[float, ...], Field(max_length=64)] = ()
    report: ReplayAnswer | None = None
