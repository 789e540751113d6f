"""The audit's own replays: drawn units executed again where their opened files are at hand."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.lessons import NOTHING
from protocol.messages import PASSED, REJECTED, Opening, Signed
from protocol.pool import slot_of
from protocol.speakers import later_keys
from verification.audit_rounds import Found
from verification.commit import carried
from verification.duty import UnitKey
from verification.experience import experience
from verification.judge import disagreement
from verification.opening import check_opening, needed_files
from verification.public import PublicRun
from verification.replay import Units
from verification.report import Extent
from verification.ruling import fingerprint_fault
from verification.unit import DrawnUnit, ReplayReport, proven_false


@dataclass(frozen=True)
class OpenedUnit:
    """An opened segment, as far as it can be decided before any file is read."""

    unit: DrawnUnit
    opening: Signed[Opening]
    decided: ReplayReport | None  # by the signed opening alone
    files: Mapping[str, bytes] | None  # None: at least one is missing
    missing: str = ""  # what is missing, in words


def check_replays(run: PublicRun, extent: Extent, units: Units) -> Found:
    """Whatever is executed again gives what its verdicts say."""
    done, largest = 0, 0.0
    missing: list[str] = []
    drawn = [key for key in sorted(run.draws) if key[0] in run.scope]
    for key in drawn:
        opening = _opening(run, key)
        case = None if opening is None else at_hand(run, key, run.draws[key].segment, opening)
        if case is None:
            continue
        report = case.decided
        if report is None and case.files is None:
            missing.append(case.missing)
            continue
        if report is None:
            assert case.files is not None
            report = units.replay(run.manifest, case.unit, case.opening.body, case.files)
        _compare(run, case, report)
        if report.outcome == PASSED:
            largest = max(largest, report.distance)
        done += 1
        if extent == "first":
            break
    if missing and extent == "all":
        raise ProofInconclusive(
            f"{len(missing)} of {len(missing) + done} opened units cannot be executed again: {missing[0]}"
        )
    if not done:
        raise ProofInconclusive(
            f"no drawn unit can be executed again: {missing[0] if missing else f'{len(drawn)} drawn, none opened'}"
        )
    left = f", {len(missing)} without their files" if missing else ""
    return done, f"of {len(drawn)} drawn units executed again{left}; largest passed distance {largest:.3g}"


def _opening(run: PublicRun, key: UnitKey) -> Signed[Opening] | None:
    """Return what was opened of a drawn unit."""
    round_, number = key
    return next((one for one in run.dossiers[round_].openings if slot_of(one)[2] == (number, 0)), None)


def at_hand(run: PublicRun, key: UnitKey, segment: int, opening: Signed[Opening]) -> OpenedUnit | None:
    """Return an opened segment of a listed unit with the files that are at hand, or None without its round's beacon."""
    round_, number = key
    commitment, beacon = run.commitment(round_, number), run.chain.assignment_beacon(round_)
    sampling = run.chain.sampling_beacon(round_)
    if commitment is None or beacon is None or sampling is None:
        return None
    previous = run.commitment(round_ - 1, number)
    record = run.standing[round_ - 1] if round_ else None
    expected = carried(number, None if previous is None else previous.body, record)
    openers = later_keys(run.chain, number, round_)
    lessons = experience(run.manifest, run.standing.__getitem__, round_) or NOTHING
    unit = DrawnUnit(commitment, segment, beacon, expected, sampling, openers, lessons)
    try:
        check_opening(run.manifest, unit, opening)
    except ProofRejected as error:
        return OpenedUnit(unit, opening, proven_false(error), {})
    except Malformed as error:
        return OpenedUnit(unit, opening, ReplayReport(REJECTED, error.message), {})
    files: dict[str, bytes] = {}
    for needed in needed_files(run.manifest, unit, opening.body):
        data = run.find(needed.address, needed.bytes)
        if data is None:
            where = (
                f"{needed.role} ({needed.address[:16]}) of number {number} in round {round_} is not at hand"
            )
            return OpenedUnit(unit, opening, None, None, where)
        files[needed.address] = data
    return OpenedUnit(unit, opening, None, files)


def _compare(run: PublicRun, case: OpenedUnit, report: ReplayReport) -> None:
    """Hold a replay against the verdicts that were right, or against a lone one.

    Raises:
        ProofRejected: one of them says otherwise.
    """
    key = (case.unit.round, case.unit.number)
    verdicts = run.verdict_bodies(key)
    ruling = run.ruling(key)
    for judge in ruling.right or ruling.moot[: len(ruling.moot) == 1]:
        # Of one that met no opening, or another, this replay says nothing.
        answered = verdicts[judge].opening == case.opening.id
        difference = disagreement(verdicts[judge], report) or fingerprint_fault(
            run.manifest, case.unit.commitment.body, verdicts[judge], report
        )
        if answered and difference:
            raise ProofRejected(
                f"number {key[1]} in round {key[0]}: verifier {judge} {difference} "
                f"(distance {report.distance:.3g}) {report.reason}"
            )
