"""A drawn unit, and the one seam between units of different kinds: what is opened, and how it is compared.

The opening's addresses are judged from signatures alone; the files they name are fetched by content address,
so their bytes equal the addresses by construction; a replay then compares what was computed with what was
opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from contracts.types import CaseOutcome
from protocol.canonical import ZERO_DIGEST
from protocol.errors import ProofRejected
from protocol.lessons import NOTHING, Lessons
from protocol.manifest import RunManifest
from protocol.messages import PROVEN_FALSE, Commitment, Opening, Signed
from protocol.state import NOTHING_CARRIED
from verification.commit import Carried

Grade = Literal[1, 2, 3, 4]  # PASSED, REJECTED, PROVEN_FALSE, INCONCLUSIVE of protocol.messages


@dataclass(frozen=True)
class DrawnUnit:
    """Hold what a verifier knows of one drawn unit before it fetches anything."""

    commitment: Signed[Commitment]
    segment: int  # drawn
    beacon: str  # assignment beacon of the round, 64 hex digits
    carried: Carried  # what the peer must have brought into the round
    sampling: str = ZERO_DIGEST  # beacon of the draw, which seeds fingerprints
    openers: tuple[str, ...] = ()  # keys that were linked to its number later, and may open it too
    lessons: Lessons = NOTHING  # what it builds on of earlier rounds

    @property
    def round(self) -> int:
        """Return the unit's round."""
        return self.commitment.round

    @property
    def number(self) -> int:
        """Return the peer's registration number."""
        return self.commitment.body.number

    def goes_on(self, manifest: RunManifest) -> bool:
        """Tell whether the unit starts from its peer's own final state, and takes the outer step later."""
        return bool(manifest.outer.delay) and self.carried.state != NOTHING_CARRIED

    def view(self, manifest: RunManifest) -> RunManifest:
        """Return the run as the unit has it: with the steps and the batch of its tier.

        Raises:
            Malformed: the run has no such tier, so that the commitment should not have been listed.
        """
        return manifest.at(self.commitment.body.tier)


@dataclass(frozen=True)
class NeededFile:
    """Name one file that a replay reads."""

    role: str  # field of the opening, or "parameters" for the round's public start
    address: str
    bytes: int  # largest length of a valid file
    public: bool = False  # held by everyone; its absence is not the accused's
    late: bool = False  # served only once verifiers have sealed what their own replay gave


@dataclass(frozen=True)
class ReplayReport:
    """Say what a replay found."""

    outcome: Grade
    reason: str = ""  # printable ASCII, at most 200 characters; empty when passed
    distance: float = 0.0  # largest over tensors, relative
    tensor: str = ""  # where it was largest
    cpu_s: float = 0.0
    forged_residual: bool = False  # proven false: what it carries on does not follow, or is no residual
    distances: Mapping[str, float] = field(default_factory=dict)  # by tensor
    exact: str | None = None  # root of the exact reference, where the segment was disputed
    exact_distance: float = 0.0  # of the committed end from it, largest over tensors
    fingerprint: tuple[float, ...] = ()  # of the replay; empty if none was needed


NO_RESULT: Final = bytes(32)
"""Stands for a finding's result where nothing was recomputed."""


@dataclass(frozen=True)
class Finding:
    """Say what a juror votes for, and why."""

    outcome: CaseOutcome
    result: bytes  # 32 bytes
    reason: str = ""  # printable ASCII, at most 200 characters; empty where the segment is right
    distance: float = 0.0  # of the committed end from exact arithmetic, largest over tensors
    tensor: str = ""  # where it was largest
    cpu_s: float = 0.0


def nothing_there(reason: str) -> Finding:
    """Return what is found where no unit or segment is that could be wrong."""
    return Finding(CaseOutcome.RIGHT, NO_RESULT, reason[:200])


def not_opened(reason: str) -> Finding:
    """Return what is found where nobody delivers files that give the committed roots."""
    return Finding(CaseOutcome.UNAVAILABLE, NO_RESULT, reason[:200])


class ForgedResidual(ProofRejected):
    """Report that what a unit carries on does not follow, which voids its peer's units back to the last zero."""


def proven_false(error: ProofRejected) -> ReplayReport:
    """Return the report of a fault that needs no tolerance."""
    return ReplayReport(PROVEN_FALSE, error.message[:200], forged_residual=isinstance(error, ForgedResidual))


class UnitKind(Protocol):
    """Replay one kind of unit: pre-training updates today."""

    def check_opening(self, manifest: RunManifest, unit: DrawnUnit, opening: Signed[Opening]) -> None:
        """Compare the signed addresses with the committed roots.

        Raises:
            Malformed: the opening does not answer the draw.
            ProofRejected: its addresses do not give the committed roots, which signatures alone prove.
        """
        ...

    def needed_files(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening
    ) -> tuple[NeededFile, ...]:
        """Return the files to fetch for a replay."""
        ...

    def begin(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> "ReplayReport | Replayed":
        """Execute the drawn segment again from its start; a report says that no end is needed.

        Args:
            files: content by address, those that are not late; each hashes to its address.
        """
        ...

    def compare(
        self,
        manifest: RunManifest,
        unit: DrawnUnit,
        opening: Opening,
        files: Mapping[str, bytes],
        replayed: Any,
    ) -> ReplayReport:
        """Compare what `begin` returned with the opened end, the late files."""
        ...

    def find(
        self, manifest: RunManifest, unit: DrawnUnit, opening: Opening, files: Mapping[str, bytes]
    ) -> Finding:
        """Judge a segment as a juror does, with the same bits on every machine.

        Args:
            files: content by address, all that are needed; each hashes to its address.
        """
        ...


class Replayed(Protocol):
    """Hold a replay before anybody saw the opened end."""

    @property
    def fingerprint(self) -> tuple[float, ...]:
        """Return what a verifier seals."""
        ...
