"""The audit of weights: every merged update judged again by what it does to the loss."""

from collections.abc import Callable

from protocol.errors import ProofInconclusive, ProofRejected
from protocol.messages import RoundRecord, UnitRecord
from training.corpus import Shard
from training.gate import judge_round
from training.outer import load_parameters, outer_layout
from verification.audit_rounds import Found, decoded
from verification.public import PublicRun
from verification.report import Extent
from verification.weighing import unweighed, weigh, weigh_request


def check_weights(run: PublicRun, extent: Extent | None, shard: Callable[[], Shard] | None) -> Found:
    """Every merged update has the weight that what it does to the loss, and its direction, give it."""
    manifest = run.manifest
    if not manifest.merging.judges:
        return _check_unjudged(run)
    if extent is None or (manifest.merging.gate_windows and shard is None):
        raise ProofInconclusive("no update was judged again, so weights are only believed: --replay sampled")
    opened = shard() if manifest.merging.gate_windows and shard is not None else None
    judged = doubted = 0
    for round_ in run.scope:
        record = run.standing[round_]
        units = [unit for unit in record.units if unit.merged]
        if not units:
            continue
        for unit, expected in zip(units, _judged(run, round_, record, opened), strict=True):
            _compare(round_, unit, expected)
        judged += len(units)
        doubted += sum(not unit.weight for unit in units)
        if extent == "first":
            break
    return judged, f"merged updates judged again; {doubted} without weight"


def _check_unjudged(run: PublicRun) -> Found:
    units = [(round_, unit) for round_ in run.scope for unit in run.standing[round_].units if unit.merged]
    for round_, unit in units:
        _compare(round_, unit, unweighed(run.manifest, unit))
    return len(units), "merged updates, which this run does not judge"


def _judged(run: PublicRun, round_: int, record: RoundRecord, shard: Shard | None) -> tuple[UnitRecord, ...]:
    """Return the merged units of a record as they are to be."""
    manifest = run.manifest
    draft = record.model_copy(
        update={"units": tuple(unweighed(manifest, unit) for unit in record.units if unit.merged)}
    )
    salts = {number: reveal.salt for number, reveal in run.reveals(round_).items()}
    request = weigh_request(
        round_, draft, salts, {earlier: run.standing[earlier] for earlier in range(round_)}
    )
    file = run.find(record.parameters, outer_layout(manifest).file_bytes)
    if file is None:
        raise ProofInconclusive(f"the parameters of round {round_} are missing")
    state, updates = load_parameters(manifest, file), decoded(run, request.updates)
    return weigh(draft, judge_round(manifest, shard, request, state, updates)).units


def _compare(round_: int, unit: UnitRecord, expected: UnitRecord) -> None:
    found, wanted = ((one.weight, one.score, one.reason) for one in (unit, expected))
    if found != wanted:
        raise ProofRejected(
            f"number {unit.number} has weight {found[0]} and score {found[1]} in round {round_}, "
            f"but weight {wanted[0]} and score {wanted[1]} follow from its update"
        )
