"""One run, several who speak for it: what a coordinator and its stand-ins take over from each other.

`protocol.succession` has the rule. Here it becomes behaviour, the same for both sides. What others said is kept beside
our own statements; once the chain holds another root or hash than ours, the statement that gives it takes the place of
ours, with what it declares. A stand-in takes its first step when the run stands still; a coordinator steps at any time.
"""

from dataclasses import replace
from typing import TypeVar, cast

from coordinator.state import (
    Adopted,
    AnchoredRound,
    CurrentRound,
    Decision,
    Effect,
    State,
    declared_keys,
)
from protocol.chain import ChainView
from protocol.merkle import commitments_root, rewards_root
from protocol.messages import (
    Body,
    CommitmentList,
    Finish,
    Judgement,
    RewardTable,
    RoundRecord,
    Signed,
)
from protocol.succession import acts_from
from verification.ruling import rule, silent
from verification.sample import Draw

B = TypeVar("B", bound=Body)
Step = tuple[State, tuple[Effect, ...]]


def may_act(state: State, chain: ChainView) -> bool:
    """Tell whether the next step on chain is ours to take."""
    begins = acts_from(chain, state.stand_in)
    return not state.stand_in or (begins is not None and chain.height >= begins)


def is_behind(state: State, chain: ChainView) -> bool:
    """Tell whether the chain holds a record that is not taken over yet; what it declares is not ours to decide."""
    return chain.record_hash(state.round) is not None


def is_said(state: State, message: Signed[Body]) -> bool:
    """Tell whether a statement of ours still stands, so that peers should have it.

    One that the state has not taken in yet does: it was written down a moment before.
    """
    match message.body:
        case CommitmentList():
            return state.lists.get(message.round) in (None, message)
        case RoundRecord():
            return state.records.get(message.round) in (None, message)
        case _:
            return True


def asks_since(state: State, chain: ChainView) -> int | None:
    """Return from which round on to ask peers for everything; None once what they tell by themselves will do."""
    if is_behind(state, chain) or chain.height < state.resumed_at + state.manifest.deadlines.reveal:
        return min((*state.judging, state.round))
    return None


def overhear(state: State, message: Signed[Body]) -> State:
    """Keep what another said for the run."""
    said = state.foreign.get(message.round, ())
    if any(one.id == message.id for one in said):
        return state
    return replace(state, foreign={**state.foreign, message.round: (*said, message)})


def _others(state: State, kind: type[B], round_: int) -> list[Signed[B]]:
    said = state.foreign.get(round_, ())
    return [cast("Signed[B]", one) for one in said if isinstance(one.body, kind)]


def adopt_list(state: State, chain: ChainView, round_: int) -> Step:
    """Take the list that gives the posted root in the place of ours, or of none."""
    posted, own = chain.commitments(round_), state.lists.get(round_)
    if posted is None or (own is not None and commitments_root(own.body) == posted.root):
        return state, ()
    for message in _others(state, CommitmentList, round_):
        if (commitments_root(message.body), len(message.body.entries)) == (posted.root, posted.count):
            return replace(state, lists={**state.lists, round_: message}), (Adopted(message),)
    return state, ()


def adopt_record(state: State, chain: ChainView, round_: int) -> Step:
    """Take the anchored record in the place of ours, or of none, with its parameters and what it declares."""
    anchored, own = chain.record_hash(round_), state.records.get(round_)
    if anchored is None or (own is not None and own.body.digest().hex() == anchored):
        return state, ()
    for message in _others(state, RoundRecord, round_):
        if message.body.digest().hex() == anchored:
            break
    else:
        return state, ()
    record = message.body
    state = _take_judgements(state, record.judged, () if own is None else own.body.judged)
    state = replace(
        state,
        records={**state.records, round_: message},
        parameters={**state.parameters, round_: record.parameters},
    )
    return state, (Adopted(message),)


def missing(current: CurrentRound, record: RoundRecord) -> str:
    """Name a message that another's record names and that is not here, or return an empty string."""
    unrevealed = [one.number for one in record.units if one.merged and one.number not in current.reveals]
    if unrevealed:
        return f"the reveal of number {unrevealed[0]}"
    heard = {message.id for message in current.receipts.values()}
    return next((f"receipt {one[:8]}" for one in record.receipts if one not in heard), "")


def _take_judgements(
    state: State, judged: tuple[Judgement, ...], instead: tuple[Judgement, ...] = ()
) -> State:
    """Hold outcomes for declared that another declared; those that only our own statement did are undeclared again."""
    keys = declared_keys(judged)
    again = tuple(one for one in instead if not declared_keys((one,)) <= keys)
    undeclared = tuple(one for one in (*again, *state.undeclared) if not declared_keys((one,)) <= keys)
    return replace(
        state,
        undeclared=undeclared,
        declared=(state.declared - declared_keys(again)) | keys,
        taken={**state.taken, **{(one.round, one.number, one.case): one for one in judged}},
    )


def adopt_tables(state: State) -> Step:
    """Hold tables for said that others said, and that are what we would say."""
    tables = dict(state.settling.tables)
    adopted: list[Effect] = []
    for table in state.settling.due:
        if table.epoch in tables:
            continue
        for one in _others(state, RewardTable, state.manifest.rounds_of(table.epoch)[-1]):
            if one.body == table:
                tables[table.epoch] = one
                adopted.append(Adopted(one))
                break
    if not adopted:
        return state, ()
    return replace(state, settling=replace(state.settling, tables=tables)), tuple(adopted)


def awaits_finish(state: State, chain: ChainView) -> bool:
    """Tell whether who closed the last round may have said the closing word, and peers had no time to bring it yet."""
    theirs = state.records[state.manifest.rounds - 1].author != state.author
    return theirs and chain.height < state.resumed_at + state.manifest.deadlines.reveal


def adopt_finish(state: State, chain: ChainView) -> Step:
    """Take the closing word of whose last reward table the ledger took: it says what that pay rests on."""
    last = state.manifest.rounds - 1
    if state.finish is not None or state.finishing or chain.record_hash(last) is None:
        return state, ()
    paid = {
        one.author
        for one in _others(state, RewardTable, last)
        if one.body.entries and rewards_root(one.body.entries) in chain.reward_roots()
    }
    for message in _others(state, Finish, last):
        if message.author in paid and message.body.parameters == state.parameters.get(last + 1):
            return replace(_take_judgements(state, message.body.judged), finish=message), (Adopted(message),)
    return state, ()


def taken_decision(state: State, anchored: AnchoredRound, draw: Draw) -> Decision | None:
    """Return what follows from the verdicts that another declared as heard; None while one of them is missing here.

    What it declared as their outcome counts for nothing: everybody who recomputes pay works that out again.
    """
    judgement = state.taken[anchored.round, draw.number, 0]
    messages = anchored.verdicts.get(draw.number, {})
    if any(judge not in messages for judge in judgement.heard):
        return None
    heard = {judge: messages[judge].body for judge in judgement.heard}
    commitment = anchored.commitments[draw.number].body
    ruling = rule(state.manifest, commitment, draw, heard, closed=True)
    assert ruling is not None, "what is closed is decided"
    return Decision(
        anchored.round,
        draw.number,
        0,
        draw.segment,
        ruling.outcome,
        ruling.right,
        tuple(messages[judge].id for judge in sorted(heard)),
        ruling.wrong,
        silent(state.manifest, draw, ruling, heard),
        tuple(sorted(heard)),
    )


def agrees(decision: Decision, judgement: Judgement) -> bool:
    """Tell whether a decision rests on the verdicts that were declared as heard."""
    return set(decision.heard) == set(judgement.heard)


def accuse(state: State, chain: ChainView) -> Step:
    """Bring what was noted before the jury: in rounds that are ours, in others once the next step is ours to take."""
    if not state.accusing:
        return state, ()
    acting = may_act(state, chain)
    due = tuple(one for one in state.accusing if acting or state.records[one.round].author == state.author)
    return replace(state, accusing=tuple(one for one in state.accusing if one not in due)), due
