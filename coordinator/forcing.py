"""What was forced into the round in progress: taken in beside the list, or put down as a unit that does not count."""

from collections.abc import Callable
from dataclasses import replace

from coordinator.state import Admitted, CurrentRound, Effect, Refused, State
from protocol.chain import ChainView
from protocol.errors import Malformed
from protocol.messages import Body, Commitment, CommitmentEntry, RoundRecord, Signed
from verification.inclusion import counted_entries, forced_entries, is_final

Check = Callable[[Signed[Commitment]], None]
"""Raise `Malformed` where a commitment breaks a public rule."""


def entries_of(state: State, current: CurrentRound, chain: ChainView) -> tuple[CommitmentEntry, ...]:
    """Return what the record of the round must name, as far as it is forced in by now, in the record's order."""
    return counted_entries(state.lists[current.round].body, forced_entries(chain, current.round))


def is_closed(state: State, current: CurrentRound, chain: ChainView) -> bool:
    """Tell whether nothing that counts can be forced into the round any more."""
    return is_final(chain, current.round, state.lists[current.round].body)


def take_forced(
    state: State, current: CurrentRound, chain: ChainView, check: Check
) -> tuple[State, tuple[Effect, ...]]:
    """Take in the commitments that were forced in; once nothing more can be, all others are late."""
    round_ = current.round
    effects: list[Effect] = []
    wanted = {
        entry.number: entry.commitment
        for entry in entries_of(state, current, chain)
        if entry.number not in current.commitments.keys() | current.unsound.keys()
    }
    final, rest = is_closed(state, current, chain), list[Signed[Body]]()
    commitments, unsound, refused = dict(current.commitments), dict(current.unsound), dict(current.refused)
    known = {message.id for message in refused.values()}
    for message in (*refused.values(), *state.inbox.get(round_, ())):
        if not isinstance(message.body, Commitment):
            rest.append(message)
            continue
        number = message.body.number
        told: Signed[Commitment] = message  # type: ignore[assignment]
        if wanted.get(number) == message.id:
            try:
                check(told)
            except Malformed as error:
                unsound[number], refused[number] = error.message, told
                effects.append(Refused(message, error.message))
            else:
                commitments[number] = told
                effects.append(Admitted(told))
        elif final and message.id not in known:
            effects.append(Refused(message, f"late: the list of round {round_} is closed"))
        elif message.id not in known:
            rest.append(message)
    current = replace(current, commitments=commitments, unsound=unsound, refused=refused)
    inbox = {**state.inbox, round_: tuple(rest)}
    return replace(state, current=current, inbox=inbox), tuple(effects)


def why_ignored(current: CurrentRound, number: int) -> str:
    """Return why a forced commitment makes no unit that counts, or an empty string."""
    if number in current.commitments:
        return ""
    if number in current.unsound:
        return f"invalid: {current.unsound[number]}"[:200]
    return "late: its commitment was forced in and not told"


def split_told(
    current: CurrentRound, record: RoundRecord
) -> tuple[dict[int, Signed[Commitment]], tuple[Signed[Commitment], ...]]:
    """Part the commitments of a round by its record: of units that count, by number, and others that it names."""
    counted: dict[int, Signed[Commitment]] = {}
    ignored: list[Signed[Commitment]] = []
    for unit in sorted(record.units, key=lambda unit: unit.number):
        told = current.commitments.get(unit.number) or current.refused.get(unit.number)
        if told is None or told.id != unit.commitment:
            continue
        if unit.counts:
            counted[unit.number] = told
        else:
            ignored.append(told)
    return counted, tuple(ignored)
