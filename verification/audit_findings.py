"""The audit's own findings: what juries ruled, judged again in exact arithmetic."""

from contracts.cases import CaseState
from contracts.jury import vote_digest
from contracts.types import CaseOutcome
from protocol.errors import ProofInconclusive, ProofRejected
from verification.audit_replays import at_hand
from verification.audit_rounds import Found
from verification.public import PublicRun
from verification.replay import Units
from verification.report import Extent
from verification.unit import Finding, nothing_there


def check_findings(run: PublicRun, extent: Extent, units: Units) -> Found:
    """What a jury ruled of a segment is what exact arithmetic gives."""
    ruled = [
        case
        for case in run.chain.every_case()
        if case.closed and case.outcome and case.number and case.round in run.scope
    ]
    # Whether something could be fetched in time is past; that most jurors could not is on chain.
    judged = [case for case in ruled if case.outcome != CaseOutcome.UNAVAILABLE]
    if not judged:
        return 0, f"{len(ruled)} rulings, none on what was opened"
    done, missing = 0, ""
    for case in judged:
        found = _find(run, units, case)
        if isinstance(found, str):
            missing = missing or found
            continue
        if vote_digest(found.outcome, found.result) != case.vote:
            said = CaseOutcome(case.outcome).name.lower()
            raise ProofRejected(
                f"the jury of case {case.case} ruled {said}, exact arithmetic says {found.outcome.name.lower()}"
                f" {found.reason}".rstrip()
            )
        done += 1
        if extent == "first":
            break
    if missing and (extent == "all" or not done):
        raise ProofInconclusive(
            f"{len(judged) - done} of {len(judged)} rulings cannot be judged again: {missing}"
        )
    return done, f"{done} of {len(judged)} rulings judged again"


def _find(run: PublicRun, units: Units, case: CaseState) -> Finding | str:
    """Return what a juror should have found, or what is missing to know."""
    commitment = run.commitment(case.round, case.number)
    if commitment is None or case.segment >= run.manifest.at(commitment.body.tier).segments:
        return nothing_there("no such unit or segment")
    missing = f"nothing that was opened of case {case.case} is at hand"
    for opening in run.dossiers[case.round].openings:
        if (opening.body.number, opening.body.segment) != (case.number, case.segment):
            continue
        unit = at_hand(run, (case.round, case.number), case.segment, opening)
        if unit is None or unit.decided is not None:
            continue
        if unit.files is None:
            missing = unit.missing
            continue
        return units.find(run.manifest, unit.unit, opening.body, unit.files)
    return missing
