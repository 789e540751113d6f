"""What comes of a joint update that is not the one of its round's updates.

A drawn witness that finds one says so and stops. Its word proves nothing, so whoever hears it makes the joint update
again from all the round's updates, before its next outer step, and stops only if the witness is right. A witness that
objected without reason has cost everybody one download, and is not listened to again.
"""

from collections.abc import Iterator
from typing import Final

from node.events import Publish, Recheck
from node.merging import aggregation, retracted_by
from node.state import State
from protocol.errors import Malformed
from protocol.messages import Objection

MISTRUST: Final = "stop trusting this coordinator: `murmur audit run` names the fault"


def objection(state: State, round_: int) -> Iterator[Publish]:
    """Yield what a drawn witness of a round says of a joint update that it cannot make again."""
    facts = state.facts.of(round_)
    if state.number in facts.witnesses and facts.record_hash is not None:
        yield Publish(round_, Objection(number=state.number, record=facts.record_hash))


def recheck(state: State) -> Recheck | None:
    """Return the job of making sure of the joint update of the round before, where witnesses object to it."""
    round_ = state.round - 1
    facts = state.facts.of(round_)
    record, objecting = facts.confirmed, facts.objecting - state.groundless
    if record is None or record.joint is None or not objecting:
        return None
    try:
        retracted = retracted_by(record, round_, state.facts)
    except Malformed:  # nobody took that step, so that we have its outcome from elsewhere
        return None
    if retracted is None:
        return None
    return Recheck(aggregation(round_, record, retracted, is_witness=True), objecting)
