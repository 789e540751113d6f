"""The audit's own replays: drawn units executed again where their opened files are at hand."""

from collections.abc import Callable, Iterator

from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.messages import PASSED, Opening, Signed
from training.corpus import Shard
from verification.audit_rounds import Found
from verification.commit import carried
from verification.judge import counted
from verification.opening import check_opening, needed_files
from verification.public import PublicRun
from verification.replay import TrainingUnits
from verification.unit import DrawnUnit


def check_replays(run: PublicRun, wanted: int, open_shard: Callable[[], Shard] | None, device: str) -> Found:
    """Replay drawn units, spread over the run, and compare with their verdicts."""
    if open_shard is None:
        raise ProofInconclusive("the dataset is needed for replays")
    units = TrainingUnits(open_shard(), device)
    done, largest = 0, 0.0
    for unit, opening in _opened(run, wanted):
        files = _files(run, unit, opening)
        if files is None:
            continue
        report = units.replay(run.manifest, unit, opening.body, files)
        key = (unit.round, unit.number)
        verdicts = run.verdict_bodies(key)
        for judge in counted(run.manifest, run.draws[key], verdicts):
            # Of one that met no opening, or another, this replay says nothing.
            if verdicts[judge].opening == opening.id and verdicts[judge].outcome != report.outcome:
                raise ProofRejected(
                    f"number {unit.number} in round {unit.round}: verifier {judge} says otherwise than our "
                    f"replay (distance {report.distance:.3g}) {report.reason}"
                )
        if report.outcome == PASSED:
            largest = max(largest, report.distance)
        done += 1
        if done == wanted:
            break
    if not done:
        raise ProofInconclusive("the files of no drawn unit are at hand")
    return done, f"units replayed as judged, largest passed distance {largest:.3g}"


def _opened(run: PublicRun, wanted: int) -> Iterator[tuple[DrawnUnit, Signed[Opening]]]:
    """Yield the units whose opening gives the committed roots, the first ones spread over the run."""
    found = [unit for key in sorted(run.draws) if (unit := _unit(run, *key)) is not None]
    stride = max(1, len(found) // wanted)
    for first in range(stride):
        yield from found[first::stride]


def _unit(run: PublicRun, round_: int, number: int) -> tuple[DrawnUnit, Signed[Opening]] | None:
    opening = next((one for one in run.dossiers[round_].openings if one.body.number == number), None)
    commitment, beacon = run.commitment(round_, number), run.chain.assignment_beacon(round_)
    if opening is None or commitment is None or beacon is None:
        return None
    previous = run.commitment(round_ - 1, number)
    record = run.records[round_ - 1].body if round_ else None
    expected = carried(number, None if previous is None else previous.body, record)
    unit = DrawnUnit(commitment, run.draws[round_, number].segment, beacon, expected)
    try:
        check_opening(run.manifest, unit, opening)
    except (ProofRejected, Malformed):
        return None  # decided without a file, so there is nothing to replay
    return unit, opening


def _files(run: PublicRun, unit: DrawnUnit, opening: Signed[Opening]) -> dict[str, bytes] | None:
    files = {}
    for needed in needed_files(run.manifest, unit, opening.body):
        data = run.find(needed.address, needed.bytes)
        if data is None:
            return None
        files[needed.address] = data
    return files
