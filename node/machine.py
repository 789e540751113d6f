"""The life of a contributor's units as a pure function: `step(state, event) -> (state, effects)`, no I/O.

A round: wait for roster and beacon, train, commit, wait for the list whose root is on chain, reveal, wait for
the record whose hash is on chain, aggregate it, go on. Beside it every unit is opened if it is drawn (the end of the
drawn segment only once verifiers have sealed), and its states are kept until the draw is settled. Whoever is not on
the roster, or came too late, aggregates all the same and so stays in step.

Nothing is remembered of phases: what to do follows from the units that the journal holds and from the public
facts. A restart is therefore the same as any other step.
"""

from dataclasses import replace

from node.catching_up import is_far_behind
from node.events import (
    Aggregate,
    Aggregated,
    Cancel,
    Carry,
    CarryLost,
    Effect,
    Event,
    Fetch,
    Fetched,
    Progress,
    Publish,
    Received,
    Recheck,
    Refuted,
    Release,
    Restore,
    Restored,
    Stop,
    Train,
    Trained,
    Upheld,
    WentAhead,
)
from node.facts import Facts, RoundFacts
from node.forcing import FORCED, forcing_due
from node.jobs import choose_job, may_commit
from node.keeping import Served, drop
from node.merging import retracted_by
from node.objecting import MISTRUST, objection
from node.state import KEEP_ROUNDS, State
from node.tiers import next_tier
from node.unit import Unit, commit, message_id, opening, reveal
from node.witnessing import Watch, end, take, witness
from protocol.errors import Malformed
from protocol.messages import (
    Commitment,
    Opening,
    Reveal,
    RoundRecord,
)
from verification.commit import Carried, carried
from verification.sample import Draw
from verification.seal import ends_are_due


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Take in one event and say what follows from it. A stopped machine says nothing more."""
    if state.stopped:
        return state, ()
    effects: list[Effect] = []
    state = _take_in(state, event, effects)
    if not state.stopped:
        state = _settle(state, effects)
        state = _catch_up(state, effects)
        state = _speak(state, effects)
        state = _witness(state, effects)
        state = _forget(state)
        gone = drop(state.interest, state.dropped, state.opened, state.room)
        state = replace(state, dropped=gone)
    if not state.stopped:
        state = choose_job(state, effects)
        state = _end(state, effects)
    return state, tuple(effects)


def _take_in(state: State, event: Event, effects: list[Effect]) -> State:
    match event:
        case Facts():
            return replace(state, facts=event)
        case Fetched():
            done = isinstance(state.job, Fetch) and state.job.parameters == event.parameters
            return replace(state, held=True, job=None, kept=None) if done else state
        case CarryLost():
            return replace(state, carry="lost", job=None, kept=None) if event.round == state.round else state
        case Restored():
            return _restored(state, event)
        case WentAhead():
            return replace(state, ahead=event, job=None, kept=None) if state.job == event.job else state
        case Trained():
            return _commit(state, event, effects)
        case Aggregated():
            return _next_round(state, event, effects)
        case Refuted():
            return _refuted(state, event, effects)
        case Upheld():
            return _upheld(state, event)
        case Received():
            return state if state.watch is None else replace(state, watch=take(state.watch, event))


def _restored(state: State, event: Restored) -> State:
    if not isinstance(state.job, Restore) or state.job.round != event.round:
        return state
    state = replace(state, job=None, kept=None)
    if event.same:
        return replace(state, dropped=state.dropped - {event.round})
    return replace(state, lost=state.lost | {event.round})


def _commit(state: State, event: Trained, effects: list[Effect]) -> State:
    job = state.job
    if not isinstance(job, Train) or job.round != event.round:
        return state
    if not job.keep:
        state = replace(state, dropped=state.dropped | {event.round})
    state = replace(state, job=None, ahead=None, kept=None)
    if not may_commit(state):
        return state
    work = event.work
    body = commit(
        state.run,
        state.round,
        state.number,
        profile=state.profile,
        parameters=state.parameters,
        expected=state.expected,
        salt=event.salt,
        work=work,
        carries_moments=state.manifest.carries_moments,
        tier=job.tier,
        next_tier=next_tier(state.manifest, state.round, state.expected, event.wish),
    )
    unit = Unit(
        round=state.round,
        commitment=body,
        commitment_id=message_id(state.manifest, state.round, body),
        salt=event.salt,
        moments_before=job.moments,
        residual_before=job.residual,
        state_before=job.before,
        lessons=job.lessons,
        returned=job.returned,
        work=work,
    )
    effects.append(Publish(state.round, body, unit))
    said = state.said | {(Commitment.kind, state.round, 0)}
    return replace(state, units={**state.units, state.round: unit}, said=said)


def _next_round(state: State, event: Aggregated, effects: list[Effect]) -> State:
    if not isinstance(state.job, Aggregate) or state.job.round != event.round:
        return state
    record = state.facts.of(state.round).confirmed
    assert record is not None, "a record that was confirmed stays so"
    effects.append(progress := Progress(state.round + 1, event.parameters, _carry(state, record)))
    return replace(
        state,
        round=progress.round,
        parameters=progress.parameters,
        carry=progress.carry,
        held=True,
        previous=state.parameters,
        served={**state.served, state.round: _served(state, state.job.blobs)},
        job=None,
        kept=None,
    )


def _refuted(state: State, event: Refuted, effects: list[Effect]) -> State:
    if not isinstance(state.job, Aggregate | Recheck) or state.job.round != event.round:
        return state
    effects += objection(state, event.round)
    error = f"the record of round {event.round} cannot be followed: {event.fault}"
    return _stop(replace(state, job=None), effects, error, MISTRUST)


def _upheld(state: State, event: Upheld) -> State:
    if not isinstance(state.job, Recheck) or state.job.round != event.round:
        return state
    return replace(state, groundless=state.groundless | state.job.objecting, job=None, kept=None)


def _served(state: State, updates: frozenset[str]) -> Served:
    """Keep a round's updates until every draw of it is decided and a round has passed since."""
    facts, deadlines = state.facts.of(state.round), state.manifest.deadlines
    assert facts.anchored is not None, "a record that was confirmed is anchored"
    decided = facts.anchored + 1 + Draw(state.number, 0, facts.verifiers).closes_after(state.manifest)
    return Served(updates, decided + deadlines.commit + deadlines.reveal)


def _carry(state: State, record: RoundRecord) -> Carry:
    """Decide what is carried out of the current round, given its anchored record."""
    listed = next((unit.commitment for unit in record.units if unit.number == state.number), None)
    unit = state.units.get(state.round)
    ours = unit is not None and unit.commitment_id == listed
    if listed is not None and not ours:
        return "lost"  # a statement of ours that the journal does not hold: its files are gone too
    expected = carried(state.number, unit.commitment if ours and unit is not None else None, record)
    return "nothing" if expected == Carried() else "unit"


def _settle(state: State, effects: list[Effect]) -> State:
    """Open what draws and cases ask for, and release units of which nothing can be asked any more."""
    judged = state.facts.judged(state.number)
    for round_ in sorted(state.interest):
        facts = state.facts.of(round_)
        if facts.confirmed is not None and facts.sampling_beacon is not None and facts.anchored is not None:
            state = _open(state, round_, facts, facts.confirmed, effects, judged)
    return state


def _open(
    state: State,
    round_: int,
    facts: RoundFacts,
    record: RoundRecord,
    effects: list[Effect],
    judged: frozenset[tuple[int, int]],
) -> State:
    assert facts.anchored is not None
    unit = state.units[round_]
    committed = {one.number: one.commitment for one in record.units}
    if committed.get(state.number) != unit.commitment_id:
        return _release(state, round_, effects)
    files, rollouts = None, state.manifest.rollouts is not None
    asked: list[tuple[int, int, bool]] = []  # (segment, case, whether the end is due)
    since = state.facts.height - (facts.anchored + 1)
    draw = facts.draw
    if draw is not None and (round_, 0) not in judged and since <= draw.closes_after(state.manifest):
        asked.append((draw.segment, 0, ends_are_due(state.manifest, draw, since, facts.sealed)))
    # A case announces on chain that its segment has to be open.
    shown = [case for case in facts.cases if case.segment + 1 < len(unit.work.segments)]
    asked += ((case.segment, case.case, True) for case in shown)  # a jury seals no fingerprints
    for segment, case, ends in asked:
        files = (files or frozenset()) | unit.opened_files(segment, ends=ends)
        said = (Opening.kind, round_, case)
        if (case or since <= state.manifest.deadlines.verify) and said not in state.said:
            effects.append(Publish(round_, opening(unit, segment, case, rollouts=rollouts)))
            state = replace(state, said=state.said | {said})
    if files is not None:
        return replace(state, opened={**state.opened, round_: files})
    if not facts.disputable:
        return _release(state, round_, effects)
    return replace(state, opened={one: kept for one, kept in state.opened.items() if one != round_})


def _release(state: State, round_: int, effects: list[Effect]) -> State:
    effects.append(Release(round_))
    return replace(state, released=state.released | {round_})


def _catch_up(state: State, effects: list[Effect]) -> State:
    """Check our parameters against the round's record; far behind, take those of the newest record."""
    newest = state.facts.newest
    if newest is not None and is_far_behind(state):
        record = state.facts.of(newest).confirmed
        if record is None:
            return state
        effects.append(progress := Progress(newest, record.parameters, "nothing"))
        return replace(
            state, round=newest, parameters=record.parameters, held=False, carry=progress.carry, previous=None
        )
    record = state.facts.of(state.round).confirmed
    if record is not None and record.parameters != state.parameters:
        return _stop(
            state,
            effects,
            f"the record of round {state.round} starts from parameters {record.parameters}, "
            f"but aggregating round {state.round - 1} gave {state.parameters}",
            "stop trusting this coordinator, or check this machine: `murmur audit run` decides who is right",
        )
    return state if record is None else _check_retracted(state, record, effects)


def _check_retracted(state: State, record: RoundRecord, effects: list[Effect]) -> State:
    """Stop at a record that takes back what was never merged: nobody can aggregate it."""
    try:
        retracted_by(record, state.round, state.facts)
    except Malformed as error:
        return _stop(
            state,
            effects,
            f"the record of round {state.round} cannot be followed: {error.message}",
            MISTRUST,
        )
    return state


def _speak(state: State, effects: list[Effect]) -> State:
    """Say again what the journal holds of this round, and reveal once list or chain include us."""
    unit, facts = state.units.get(state.round), state.facts.of(state.round)
    if state.stopped or unit is None or facts.confirmed is not None:
        return state
    if facts.posted is None or facts.is_left_out(state.number):
        state = _once(state, effects, Commitment.kind, Publish(state.round, unit.commitment))
    if forcing := forcing_due(facts, state.facts.height, state.round, state.number, unit.commitment_id):
        state = _once(state, effects, FORCED, forcing)
    if facts.units is not None and facts.units.get(state.number) == unit.commitment_id:
        return _once(state, effects, Reveal.kind, Publish(state.round, reveal(unit)))
    return state


def _once(state: State, effects: list[Effect], kind: str, effect: Effect) -> State:
    """Ask for something of its kind once in the round."""
    said = (kind, state.round, 0)
    if said not in state.said:
        effects.append(effect)
    return replace(state, said=state.said | {said})


def _witness(state: State, effects: list[Effect]) -> State:
    """Watch the updates of the round come in, if we are drawn for it."""
    watch = state.watch
    if watch is not None and (state.stopped or watch.round != state.round):
        _, ending = end(watch)
        effects += ending
        watch = None
    known = state.receipts.get(state.round)
    if state.stopped or (known is None and state.round < state.signs_from):
        return replace(state, watch=watch)
    watch, more = witness(
        watch or Watch(state.round),
        state.facts.of(state.round),
        state.facts.height,
        state.number,
        known,
        state.lessons,
    )
    effects += more
    return replace(state, watch=watch)


def _forget(state: State) -> State:
    """Drop what no rule needs any more."""
    oldest = state.round - KEEP_ROUNDS
    units = {r: unit for r, unit in state.units.items() if r > oldest or r not in state.released}
    height = state.facts.height
    served = {r: one for r, one in state.served.items() if r > oldest or height <= one.until}
    said = frozenset(one for one in state.said if one[1] in units)
    opened = {r: files for r, files in state.opened.items() if r in units}
    return replace(state, units=units, served=served, said=said, opened=opened)


def _end(state: State, effects: list[Effect]) -> State:
    final = state.facts.final
    if not state.finished or final is None or isinstance(state.job, Recheck):
        return state
    if final != state.parameters:
        return _stop(
            state,
            effects,
            f"the chain names {final} as the run's result, but aggregating gave {state.parameters}",
            "`murmur audit run` decides who is right",
        )
    return state if state.interest else _stop(state, effects, None)


def _stop(state: State, effects: list[Effect], error: str | None, hint: str = "") -> State:
    if state.job is not None:
        effects.append(Cancel())
    effects.append(Stop(error, hint))
    return replace(state, job=None, stopped=True)
