"""What a round's record says: every unit, merged or why not, and what was decided of earlier rounds."""

from collections.abc import Iterable

from coordinator import witnessing
from coordinator.forcing import why_ignored
from coordinator.state import CurrentRound, State
from protocol.messages import CommitmentEntry, RoundRecord, UnitRecord
from verification.merge import copied_from
from verification.sample import NEWCOMER, doubt
from verification.witness import RoundReceipts

MAX_JUDGED = (
    70  # judgements in a record, so that it stays a single message; what is left over goes into the next
)


def compose(
    state: State, current: CurrentRound, heard: RoundReceipts, entries: Iterable[CommitmentEntry]
) -> RoundRecord:
    """Write the record: every unit, merged or why not, and what was decided since the last."""
    earlier = dict(state.shown)
    judged = state.undeclared[:MAX_JUDGED]
    standings = doubt(state.manifest, state.standings, judged)
    units = []
    for entry in entries:
        number, ignored = entry.number, why_ignored(current, entry.number)
        standing = standings.get(number, NEWCOMER)
        told = current.commitments.get(number)
        unit = UnitRecord(
            number=number,
            commitment=entry.commitment,
            tier=0 if told is None else told.body.tier,
            earlier=standing.earlier,
            suspect=standing.suspect,
            counts=not ignored,
            merged=False,
            reason=ignored,
        )
        if ignored:
            units.append(unit)
            continue
        reveal = current.reveals.get(number)
        if reveal is None:
            reason = current.faults.get(number, "late: not revealed in time")
            units.append(unit.model_copy(update={"reason": reason}))
            continue
        body = reveal.body
        reason = witnessing.why_left_out(current, heard, number) or copied_from(body.symbols, number, earlier)
        earlier.setdefault(body.symbols, (current.round, number))
        blob = current.delivered.get(number, body.blob)
        shown = {"merged": not reason, "reason": reason, "symbols": body.symbols, "blob": blob}
        weight = state.manifest.tier_weights[unit.tier]
        units.append(unit.model_copy(update=shown | {"weight": weight}))
    return RoundRecord(
        parameters=state.parameters[current.round],
        units=tuple(units),
        judged=judged,
        receipts=tuple(message.id for _, message in sorted(current.receipts.items())),
    )
