"""The coordinator's rounds as a pure state machine: `step(state, event, chain) -> (state, effects)`.

    waiting -> (run opened) -> commit -> post -> reveal -> anchor -> next round
                                                              '-> judging (beside later rounds) -> settling -> finish

Nothing here signs, sends, waits or looks at a clock: deadlines are heights of the chain. Transactions are asked for
once in a process's life; whoever performs them repeats them until they stand. Statements are asked for with `Say` and
count when they come back as `Said`, so a statement that was stored before a crash is the one that is used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

from coordinator import preferring, succeeding, witnessing
from coordinator.composing import compose
from coordinator.forcing import entries_of, is_closed, split_told, take_forced
from coordinator.judging import export, judge
from coordinator.settling import settle
from coordinator.state import (
    Admitted,
    Aggregate,
    Aggregated,
    Anchor,
    AnchoredRound,
    CurrentRound,
    Decision,
    Effect,
    Event,
    Export,
    Fetched,
    Heard,
    Looked,
    Open,
    Post,
    Proposed,
    Refused,
    Rewards,
    Said,
    Say,
    State,
    Voided,
    Weigh,
    Weighed,
    records_in_force,
)
from protocol.chain import ChainView
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.merkle import commitments_root
from protocol.messages import (
    Body,
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Finish,
    Ready,
    Receipt,
    Reveal,
    RewardTable,
    RoundRecord,
    Signed,
)
from protocol.preferences import is_preference
from protocol.published import max_published_bytes
from training.assignment import assignment, assignment_digest
from verification.commit import carried, check_commitment
from verification.inclusion import MAX_LISTED
from verification.lateness import is_late, is_void
from verification.merge import check_reveal
from verification.retract import MAX_RETRACTED, aggregate_request, moving_units, waiting
from verification.sample import count_listed, doubt
from verification.weighing import weigh, weigh_request
from verification.witness import check_receipt

COPY = "waiting for a peer's copy"

Step = tuple[State, tuple[Effect, ...]]
B = TypeVar("B", bound=Body)


def initial(manifest: RunManifest, *, resumed_at: int = 0, stand_in: str = "") -> State:
    """Return the state in which nothing has been heard.

    Args:
        stand_in: address of our key where we stand in for the run's coordinator.
        resumed_at: height of the chain when a run is taken up again; deadlines that passed while nobody listened get
            as much grace as the reveal phase is long, so that peers can repeat what was missed.
    """
    return State(
        manifest=manifest,
        run=manifest.run_id,
        resumed_at=resumed_at,
        stand_in=stand_in,
        parameters={0: manifest.initial_parameters},
    )


def restore(
    manifest: RunManifest,
    *,
    statements: Iterable[Signed[Body]],
    heard: Iterable[Signed[Body]],
    parameters: Mapping[int, str],
    decisions: Iterable[Decision],
    resumed_at: int,
    stand_in: str = "",
) -> State:
    """Return the state after these facts; the first step then draws every conclusion again."""
    state = initial(manifest, resumed_at=resumed_at, stand_in=stand_in)
    for statement in statements:
        state = _said(state, statement)
    state = replace(
        state,
        parameters={**state.parameters, **parameters},
        stored={(one.round, *one.label): one for one in decisions},
    )
    ready: dict[int, Signed[Ready]] = {}
    inbox: dict[int, list[Signed[Body]]] = {}
    for message in heard:
        if message.role == "coordinator":
            state = succeeding.overhear(state, message)
        elif isinstance(message.body, Ready):
            if message.body.program == manifest.program:
                ready[message.body.number] = cast("Signed[Ready]", message)
        elif preference := is_preference(message):
            state, _ = preferring.hear(state, preference)
        else:
            inbox.setdefault(message.round, []).append(message)
    return replace(state, ready=ready, inbox={round_: tuple(found) for round_, found in inbox.items()})


def step(state: State, event: Event, chain: ChainView) -> Step:
    """Take in one fact and return the new state with everything that follows from it."""
    state, effects = _absorb(state, event)
    while True:
        state, more, moved = _advance_round(state, chain)
        effects += more
        if not moved:
            break
    for part in (judge, settle):
        state, more = part(state, chain)
        effects += more
    return state, effects


def _absorb(state: State, event: Event) -> Step:
    match event:
        case Looked():
            return state, ()
        case Heard(message):
            return _hear(state, message)
        case Said(message):
            return _said(state, message), ()
        case Aggregated(round_, parameters):
            return replace(state, parameters={**state.parameters, round_: parameters}), ()
        case Fetched():
            return _fetched(state, event), ()
        case Weighed():
            return _weighed(state, event)
        case Decision():
            return replace(state, stored={**state.stored, (event.round, *event.label): event}), ()
        case Rewards():
            return replace(state, settling=replace(state.settling, rewards=event)), ()
        case Proposed(epoch, block):
            asked = state.settling.asked
            if asked is None or asked[0] != epoch:
                return state, ()
            return replace(state, settling=replace(state.settling, mined=block)), ()


def _hear(state: State, message: Signed[Body]) -> Step:
    body, round_ = message.body, message.round
    if message.role == "coordinator":
        ours = message.author == state.author  # of a life whose memory is lost
        return (_said(state, message) if ours else succeeding.overhear(state, message)), ()
    if isinstance(body, Ready):
        if body.program != state.manifest.program:
            return state, (Refused(message, "its program digest is not the run's"),)
        return replace(state, ready={**state.ready, body.number: cast("Signed[Ready]", message)}), ()
    if preference := is_preference(message):
        return preferring.hear(state, preference)
    if round_ < state.round and round_ not in state.judging:
        return state, (Refused(message, f"late: round {round_} is over"),)
    inbox = {**state.inbox, round_: (*state.inbox.get(round_, ()), message)}
    return replace(state, inbox=inbox), ()


def _said(state: State, message: Signed[Body]) -> State:
    """Take in a statement of our own; the first one of its kind and round stays."""
    round_ = message.round
    match message.body:
        case CommitmentList():
            listed = cast("Signed[CommitmentList]", message)
            return replace(state, lists={round_: listed, **state.lists})
        case RoundRecord() as record:
            declared = {(one.round, one.number, one.case) for one in record.judged}
            return replace(
                state,
                records={round_: cast("Signed[RoundRecord]", message), **state.records},
                parameters={round_: record.parameters, **state.parameters},
                undeclared=tuple(
                    one for one in state.undeclared if (one.round, one.number, one.case) not in declared
                ),
                declared=state.declared | declared,
            )
        case RewardTable(epoch=epoch):
            tables = {epoch: cast("Signed[RewardTable]", message), **state.settling.tables}
            return replace(state, settling=replace(state.settling, tables=tables))
        case Finish():
            return replace(state, finish=state.finish or cast("Signed[Finish]", message))
        case _:
            return state


def _fetched(state: State, event: Fetched) -> State:
    current = state.current
    if current is None or current.round != event.round or event.number not in current.reveals:
        return state
    if not event.fault:
        current = replace(current, delivered={event.number: event.blob, **current.delivered})
    elif event.blob == current.reveals[event.number].body.blob:
        current = replace(current, faults={**current.faults, event.number: event.fault})
    return replace(state, current=current)


def passed(state: State, chain: ChainView, deadline: int) -> bool:
    """Tell whether a deadline is over, with the grace that follows a restart."""
    grace = state.resumed_at + state.manifest.deadlines.reveal if state.resumed_at else 0
    return chain.height >= max(deadline, grace)


def _advance_round(state: State, chain: ChainView) -> tuple[State, tuple[Effect, ...], bool]:
    """Take one step in the round in progress; tell whether another may follow at once."""
    if state.current is None:
        return _begin(state, chain)
    phases = {"commit": _commit, "post": _post, "reveal": _reveal, "anchor": _anchor}
    before = state.current
    state, effects = phases[before.phase](state, before, chain)
    after = state.current
    return state, effects, after is None or after.phase != before.phase


def _begin(state: State, chain: ChainView) -> tuple[State, tuple[Effect, ...], bool]:
    round_ = state.round
    if round_ >= state.manifest.rounds:
        return state, (), False
    if chain.anchor(round_ - 1) is not None:
        return replace(state, current=CurrentRound(round_)), (), True
    if round_ == 0 and not state.stand_in and not state.opening and may_open(state, chain):
        return replace(state, opening=True), (Open(),), False
    return state, (), False


def may_open(state: State, chain: ChainView) -> bool:
    """Tell whether the run can start: everybody staked is ready, or the wait is over and enough are."""
    created = chain.created()
    if created is None:
        return False
    staked = [one for one in chain.operators() if one.stake_wei >= chain.min_stake_wei]
    contributors = {one.number for one in staked if one.role == "contributor"}
    verifiers = {one.number for one in staked if one.role == "verifier"}
    ready = set(state.ready)
    if len(contributors & ready) < state.manifest.min_peers:
        return False
    if contributors <= ready and len(verifiers & ready) >= state.manifest.verification.verifiers:
        return True
    return chain.height >= created + state.manifest.deadlines.ready


# Commit phase


def _commit(state: State, current: CurrentRound, chain: ChainView) -> Step:
    round_ = current.round
    beacon, opened = chain.assignment_beacon(round_), chain.anchor(round_ - 1)
    if beacon is None or opened is None:
        return state, ()
    state, adopted = succeeding.adopt_list(state, chain, round_)
    if round_ in state.lists:
        state, effects = _take_listed(state, current)
        return state, (*adopted, *effects)
    if round_ not in state.parameters:
        return state, ()
    roster = {one.number for one in chain.roster(round_)}
    state, effects = _admit(state, current, beacon, roster)
    current = _current(state)
    if chain.commitments(round_) is not None:
        return replace(state, trouble=f"the list of round {round_} is not here; {COPY}"), effects
    complete = bool(roster) and roster <= current.commitments.keys() | current.refused.keys()
    closes = opened + 1 + state.manifest.deadlines.commit
    if current.asked or not (complete or passed(state, chain, closes)):
        return state, effects
    if not succeeding.may_act(state, chain):
        return state, effects
    entries = tuple(
        CommitmentEntry(number=number, commitment=message.id)
        for number, message in sorted(current.commitments.items())[:MAX_LISTED]
    )
    state = replace(state, current=replace(current, asked=True))
    return state, (*effects, Say(round_, CommitmentList(entries=entries)))


def _admit(state: State, current: CurrentRound, beacon: str, roster: set[int]) -> Step:
    """Check the commitments that have come in."""
    effects: list[Effect] = []
    commitments, refused = dict(current.commitments), dict(current.refused)
    mine, rest = _split(state, current.round, Commitment)
    for message in mine:
        number = message.body.number
        try:
            if number not in roster:
                raise Malformed(f"number {number} is not on the roster of round {current.round}")
            _check_commitment(state, beacon, message)
        except Malformed as error:
            refused[number] = message
            effects.append(Refused(message, error.message))
        else:
            commitments[number] = message
            effects.append(Admitted(message))
    current = replace(current, commitments=commitments, refused=refused)
    return replace(state, current=current, inbox={**state.inbox, current.round: rest}), tuple(effects)


def _check_commitment(state: State, beacon: str, message: Signed[Commitment]) -> None:
    body, number, round_ = message.body, message.body.number, message.round
    check_commitment(
        state.manifest,
        round_,
        body,
        parameters=state.parameters[round_],
        assignment=assignment_digest(assignment(state.manifest.at(body.tier), beacon, round_, number)),
        expected=carried(number, *_before(state, number)),
    )


def _before(state: State, number: int) -> tuple[Commitment | None, RoundRecord | None]:
    if state.previous is None:
        return None, None
    commitment = state.previous.commitments.get(number)
    return None if commitment is None else commitment.body, state.previous.standing


def _take_listed(state: State, current: CurrentRound) -> Step:
    """Close the commit phase with the list that was said, whatever has been heard since."""
    listed = state.lists[current.round].body
    mine, rest = _split(state, current.round, Commitment)
    known = (*current.refused.values(), *current.commitments.values(), *mine)
    heard = {message.id: message for message in known}
    missing = [entry.number for entry in listed.entries if entry.commitment not in heard]
    if missing:
        return replace(state, trouble=f"waiting for listed commitments of {missing}"), ()
    taken = {entry.number: heard[entry.commitment] for entry in listed.entries}
    told = {message.id for message in taken.values()}
    refused = {number: message for number, message in current.refused.items() if message.id not in told}
    effects = tuple(Admitted(message) for message in mine if message.id in told)
    # The others may still be forced in.
    told |= {message.id for message in refused.values()}
    rest = (*rest, *(message for message in heard.values() if message.id not in told))
    current = replace(current, phase="post", commitments=taken, refused=refused, asked=False)
    return replace(state, current=current, inbox={**state.inbox, current.round: rest}, trouble=""), effects


def _post(state: State, current: CurrentRound, chain: ChainView) -> Step:
    listed = state.lists[current.round].body
    root, posted = commitments_root(listed), chain.commitments(current.round)
    if posted is None:
        if current.asked or not succeeding.may_act(state, chain):
            return state, ()
        post = Post(current.round, root, len(listed.entries))
        return replace(state, current=replace(current, asked=True)), (post,)
    if posted.root != root:
        state, adopted = succeeding.adopt_list(state, chain, current.round)
        if adopted:
            return replace(state, current=replace(current, phase="commit", asked=False)), adopted
        trouble = f"the chain holds another root for round {current.round} than our list; {COPY}"
        return replace(state, trouble=trouble), ()
    return replace(state, current=replace(current, phase="reveal", asked=False), trouble=""), ()


# Reveal phase


def _reveal(state: State, current: CurrentRound, chain: ChainView) -> Step:
    state, effects = succeeding.adopt_record(state, chain, current.round)
    if effects:
        current = replace(current, draft=None)
    if current.round not in state.parameters:  # another's list was taken over while they are computed
        lacking_record = chain.anchor(current.round) is not None
        trouble = f"the record of round {current.round} is not here; {COPY}" if lacking_record else ""
        return replace(state, trouble=trouble), effects
    state, more = _take_forced(state, current, chain)
    effects += more
    state, more = _check_reveals(state, _current(state), chain)
    effects += more
    state, more = _check_receipts(state, _current(state), chain)
    effects += more
    current = _current(state)
    if current.round in state.records:
        record = state.records[current.round].body
        counted, _ = split_told(current, record)
        missing = [unit.number for unit in record.units if unit.counts and unit.number not in counted]
        if missing:
            return replace(
                state, trouble=f"waiting for commitments of {missing}, which the record names"
            ), effects
        return replace(state, current=replace(current, phase="anchor", asked=False)), effects
    posted = chain.commitments(current.round)
    assert posted is not None  # the phase began with it
    if chain.anchor(current.round) is not None:
        return replace(state, trouble=f"the record of round {current.round} is not here; {COPY}"), effects
    heard = witnessing.round_receipts(state, current, chain)
    deadlines = state.manifest.deadlines
    closes = posted.block + deadlines.reveal + (deadlines.receipt if heard.drawn else 0)
    over = passed(state, chain, closes)
    ready = is_closed(state, current, chain) and (over or witnessing.is_complete(current, heard))
    if current.asked or not ready or not succeeding.may_act(state, chain):
        return state, effects
    numbers = [one.number for one in entries_of(state, current, chain) if one.number not in current.unsound]
    lacking = [number for number in numbers if witnessing.is_lacking(current, heard, number)]
    if lacking and not is_late(state.manifest, posted.block, chain.height):
        # A record without them would be a lie, and one that comes too late is none.
        trouble = f"waiting for updates of {lacking}, which witnesses say they hold" if over else ""
        return replace(state, trouble=trouble), effects
    return _finish_record(replace(state, trouble=""), current, chain, effects)


def _take_forced(state: State, current: CurrentRound, chain: ChainView) -> Step:
    beacon = chain.assignment_beacon(current.round)
    assert beacon is not None  # the list was made with it
    return take_forced(state, current, chain, partial(_check_commitment, state, beacon))


def _finish_record(
    state: State, current: CurrentRound, chain: ChainView, effects: tuple[Effect, ...]
) -> Step:
    """Say the record; first have the updates judged, and weighed against what waits to be taken back."""
    heard, round_ = witnessing.round_receipts(state, current, chain), current.round
    earlier = records_in_force(state, chain, round_)
    draft = compose(state, current, heard, entries_of(state, current, chain))
    draft = preferring.carry(state, draft, earlier, round_)
    queue = waiting([*earlier.values(), draft])[:MAX_RETRACTED]
    if not moving_units(draft) or not (queue or state.manifest.merging.weighs):
        return replace(state, current=replace(current, asked=True)), (*effects, Say(round_, draft))
    salts = {number: message.body.salt for number, message in current.reveals.items()}
    request = weigh_request(round_, draft, salts, earlier, queue)
    current = replace(current, asked=True, draft=draft, waiting=queue)
    return replace(state, current=current), (*effects, Weigh(request))


def _weighed(state: State, event: Weighed) -> Step:
    current = state.current
    if current is None or current.round != event.round or current.draft is None:
        return state, ()
    told = {"retracted": current.waiting[: event.count], "joint": event.joint}
    record = weigh(current.draft, event.merits).model_copy(update=told)
    return replace(state, current=replace(current, draft=None)), (Say(event.round, record),)


def _check_reveals(state: State, current: CurrentRound, chain: ChainView) -> Step:
    effects: list[Effect] = []
    early: list[Signed[Body]] = []  # of whoever may be forced in, or was and is to tell its commitment
    entries = {entry.number for entry in entries_of(state, current, chain)} - current.unsound.keys()
    reveals, faults = dict(current.reveals), dict(current.faults)
    mine, rest = _split(state, current.round, Reveal)
    limit = max_published_bytes(state.manifest)
    for message in mine:
        number = message.body.number
        commitment = current.commitments.get(number)
        if commitment is None and (number in entries or not is_closed(state, current, chain)):
            early.append(message)
            continue
        if commitment is None:
            effects.append(
                Refused(message, f"number {number} has no commitment that counts in round {current.round}")
            )
            continue
        try:
            check_reveal(commitment, message.body, limit)
        except Malformed as error:
            faults[number] = error.message
            effects.append(Refused(message, error.message))
        else:
            reveals[number] = message
            faults.pop(number, None)  # of another reveal, which did not open the commitment
    current = replace(current, reveals=reveals, faults=faults)
    current, more = witnessing.fetch(current)
    effects += more
    inbox = {**state.inbox, current.round: (*rest, *early)}
    return replace(state, current=current, inbox=inbox), tuple(effects)


def _check_receipts(state: State, current: CurrentRound, chain: ChainView) -> Step:
    if not is_closed(state, current, chain):
        return state, ()  # a witness may have seen more forced in than we
    effects: list[Effect] = []
    receipts = dict(current.receipts)
    mine, rest = _split(state, current.round, Receipt)
    drawn = witnessing.round_receipts(state, current, chain).drawn if mine else ()
    numbers = [entry.number for entry in entries_of(state, current, chain)]
    for message in mine:
        try:
            check_receipt(message.body, drawn, numbers)
        except Malformed as error:
            effects.append(Refused(message, error.message))
        else:
            receipts[message.body.number] = message
    current, more = witnessing.fetch(replace(current, receipts=receipts))
    effects += more
    return replace(state, current=current, inbox={**state.inbox, current.round: rest}), tuple(effects)


# Anchoring


def _anchor(state: State, current: CurrentRound, chain: ChainView) -> Step:
    round_ = current.round
    record = state.records[round_]
    state, effects = _check_reveals(state, current, chain)
    state, more = _check_receipts(state, _current(state), chain)
    effects += more
    current = _current(state)
    digest, anchored = record.body.digest().hex(), chain.record_hash(round_)
    if anchored is None:
        posted = chain.commitments(round_)
        forcing = chain.force_blocks and (posted is None or chain.height <= posted.block + chain.force_blocks)
        if current.asked or forcing or not succeeding.may_act(state, chain):
            return state, effects
        return replace(state, current=replace(current, asked=True)), (*effects, Anchor(round_, digest))
    if anchored != digest:
        state, adopted = succeeding.adopt_record(state, chain, round_)
        if adopted:
            return replace(state, current=replace(current, phase="reveal", asked=False)), (*effects, *adopted)
        trouble = f"the chain holds another hash for round {round_} than our record; {COPY}"
        return replace(state, trouble=trouble), effects
    if missing := succeeding.missing(current, record.body):
        return replace(
            state, trouble=f"waiting for {missing}, which the record of round {round_} names"
        ), effects
    done = _done(state, current, record, void=is_void(state.manifest, chain, round_))
    effects += (Export(export(done)),)
    if done.void:
        effects += (Voided(round_),)
    # The record of the next round says what it started from, where there is one.
    if round_ + 1 not in state.parameters and chain.record_hash(round_ + 1) is None:
        earlier = records_in_force(state, chain, round_)
        effects += (Aggregate(round_, aggregate_request(done.standing, earlier)),)
    shown = dict(state.shown)
    for unit in record.body.units:
        if unit.symbols is not None:
            shown.setdefault(unit.symbols, (round_, unit.number))
    late: list[Signed[Body]] = []
    rest: list[Signed[Body]] = []
    for message in state.inbox.get(round_, ()):
        (late if isinstance(message.body, Commitment | Reveal | Receipt) else rest).append(message)
    effects += tuple(Refused(message, f"late: round {round_} is over") for message in late)
    state = replace(
        state,
        current=None,
        previous=done,
        judging={**state.judging, round_: done},
        shown=shown,
        standings=count_listed(
            state.manifest,
            doubt(state.manifest, state.standings, record.body.judged),
            (unit.number for unit in done.standing.units),
        ),
        inbox={**state.inbox, round_: tuple(rest)},
        trouble="",
    )
    return preferring.forget(state), effects


def _done(state: State, current: CurrentRound, record: Signed[RoundRecord], *, void: bool) -> AnchoredRound:
    named = {message.id: message for message in current.receipts.values()}
    counted, ignored = split_told(current, record.body)
    return AnchoredRound(
        round=current.round,
        listed=state.lists[current.round],
        commitments=counted,
        reveals={number: message for number, message in current.reveals.items() if number in counted},
        record=record,
        ignored=ignored,
        receipts=tuple(named[one] for one in record.body.receipts if one in named),
        void=void,
    )


def _current(state: State) -> CurrentRound:
    assert state.current is not None
    return state.current


def _split(state: State, round_: int, kind: type[B]) -> tuple[list[Signed[B]], tuple[Signed[Body], ...]]:
    """Take the messages of one kind out of what waits for a round."""
    waiting = state.inbox.get(round_, ())
    mine = [cast("Signed[B]", message) for message in waiting if isinstance(message.body, kind)]
    return mine, tuple(message for message in waiting if not isinstance(message.body, kind))
