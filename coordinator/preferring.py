"""Which of the preferences heard a round's record carries."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from coordinator.state import Effect, Refused, State
from protocol.canonical import canonical_json
from protocol.messages import (
    MAX_MESSAGE_BYTES,
    MAX_PREFERENCES,
    ListedPreference,
    Preference,
    RoundRecord,
    Signed,
)
from protocol.preferences import listed
from verification.preferences import check_listed, last_record, open_rounds
from verification.retract import MAX_RETRACTED

RESERVED = 1024 + 40 * MAX_RETRACTED
"""Bytes of a record's message around its body, and of what it takes back, which is known later."""


def hear(state: State, message: Signed[Preference]) -> tuple[State, tuple[Effect, ...]]:
    """Keep a preference until a record can carry it."""
    round_ = message.round
    if last_record(state.manifest, round_) < state.round:
        return state, (Refused(message, f"late: round {round_} is learned from without it"),)
    heard = {**state.preferences, round_: (*state.preferences.get(round_, ()), message)}
    return replace(state, preferences=heard), ()


def forget(state: State) -> State:
    """Drop the preferences that no record can carry any more."""
    kept = {
        round_: heard
        for round_, heard in state.preferences.items()
        if last_record(state.manifest, round_) >= state.round
    }
    return state if len(kept) == len(state.preferences) else replace(state, preferences=kept)


def carry(state: State, draft: RoundRecord, earlier: Mapping[int, RoundRecord], round_: int) -> RoundRecord:
    """Let a record carry the preferences that count and that it has room for.

    Rounds that will soon be learned from come first, then whoever has had the fewest of its preferences carried, then
    who spoke first.

    Args:
        earlier: what is in force of the records before it, by round.
    """
    said: Counter[tuple[int, int]] = Counter()
    queue: list[tuple[int, int, ListedPreference]] = []
    for about in open_rounds(state.manifest, round_):
        for message in state.preferences.get(about, ()):
            queue.append((about, said[about, message.body.person], listed(message)))
            said[about, message.body.person] += 1
    waiting = tuple(one for *_, one in sorted(queue, key=lambda entry: entry[:2]))
    known = {**earlier, round_: draft.model_copy(update={"preferences": waiting})}
    found: list[ListedPreference] = []
    room = MAX_MESSAGE_BYTES - RESERVED - len(canonical_json(draft.model_dump(mode="json")))
    for one, fault in check_listed(state.manifest, known.get, round_):
        if fault:
            continue
        room -= len(canonical_json(one.model_dump(mode="json"))) + 1
        if room < 0:
            break
        found.append(one)
        if len(found) == MAX_PREFERENCES:
            break
    return draft.model_copy(update={"preferences": tuple(found)})
