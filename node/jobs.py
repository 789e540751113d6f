"""What a contributor computes next: one job at a time, chosen anew with every step of `node.machine`.

In a run that delays outer steps, the unit of the next round begins while the current round is being decided: its first
segments go on from our own final state. Whatever the record then says, nothing but time was spent on them.
"""

from dataclasses import replace

from node.catching_up import is_far_behind
from node.events import (
    Aggregate,
    Cancel,
    Effect,
    Fetch,
    Job,
    Prefetch,
    Start,
    Sweep,
    Train,
    TrainAhead,
)
from node.keeping import restore
from node.merging import aggregation, retracted_by
from node.objecting import recheck
from node.state import State
from node.unit import Unit
from protocol.messages import RoundRecord

PREFETCHED = "prefetched"


def choose_job(state: State, effects: list[Effect]) -> State:
    """Start the job that is to be done, and end one that is not any more."""
    wanted = _wanted(state)
    if wanted != state.job and state.job is not None:
        effects.append(Cancel())
        state = replace(state, job=None, kept=None)
    busy = state.watch is not None and state.watch.busy
    if state.job is None and not busy and state.kept != state.owned:
        # Only between jobs: a running one may just have written a file that an older unit is letting go.
        effects.append(Sweep(state.owned))
        state = replace(state, kept=state.owned)
    if wanted is not None and state.job is None:
        effects.append(Start(wanted))
    if isinstance(wanted, TrainAhead):
        state = _prefetch(state, effects)
    return replace(state, job=wanted)


def _prefetch(state: State, effects: list[Effect]) -> State:
    """Fetch what the round's aggregation will read, once its record is out."""
    record, said = state.facts.of(state.round).confirmed, (PREFETCHED, state.round, 0)
    if record is None or said in state.said:
        return state
    if (job := _aggregate(state, record)) is not None:
        effects.append(Prefetch(job))
    return replace(state, said=state.said | {said})


def _wanted(state: State) -> Job | None:
    """Return the job to do: what a draw waits for comes before anything that is not under way."""
    next_ = _next_job(state)
    if next_ is not None and next_ == state.job:
        return state.job
    drawn = (state.dropped - state.lost - state.released) & state.opened.keys()
    return restore(state.units, drawn, {one: state.facts.of(one).beacon for one in drawn}) or next_


def _next_job(state: State) -> Job | None:
    if is_far_behind(state):
        return None  # waiting for the newest record
    if state.finished:
        return recheck(state)
    if not state.held:
        return Fetch(state.round, state.parameters)
    facts = state.facts.of(state.round)
    record = facts.confirmed
    if record is not None:
        # Its few steps end first, while the updates come.
        return state.job if isinstance(state.job, TrainAhead) else recheck(state) or _aggregate(state, record)
    lessons = state.lessons
    if not may_commit(state) or facts.beacon is None or facts.commit_closes is None:
        return _ahead(state)
    if lessons is None or not state.knows_returned:
        return None
    unit = state.units[state.round - 1] if state.carry == "unit" else None
    previous = None if unit is None else unit.work
    begun = None if unit is None else train_ahead(state, unit)
    job = Train(
        state.round,
        facts.beacon,
        state.parameters,
        None if previous is None or not state.manifest.carries_moments else previous.moments,
        None if previous is None else previous.residual,
        lessons,
        state.expected.tier_of(state.manifest),
        state.expected.returned,
        before=None if begun is None else begun.before,
        ahead=state.ahead.ahead if state.ahead is not None and state.ahead.job == begun else None,
        keep=len(state.interest - state.dropped) < state.room,
    )
    on_time = state.facts.height < facts.commit_closes
    return job if on_time or job == state.job else None


def _aggregate(state: State, record: RoundRecord) -> Aggregate | None:
    """Return how the round is aggregated; None while a record that it takes something back of was not heard."""
    old = retracted_by(record, state.round, state.facts)
    is_witness = state.number in state.facts.of(state.round).witnesses
    return None if old is None else aggregation(state.round, record, old, is_witness)


def _ahead(state: State) -> TrainAhead | None:
    """Return how to go on while the round is being decided."""
    unit = state.units.get(state.round)
    if unit is None or state.round + 1 >= state.manifest.rounds:
        return None
    if state.round + 1 < max(state.signs_from, state.commits_from):
        return None
    job = train_ahead(state, unit)
    return None if state.ahead is not None and state.ahead.job == job else job


def train_ahead(state: State, unit: Unit) -> TrainAhead | None:
    """Return how the unit after one of ours begins; None where it needs the round's parameters or a beacon."""
    manifest, beacon = state.manifest, state.facts.of(unit.round + 1).beacon
    if not manifest.outer.delay or unit.state is None or beacon is None:
        return None
    moments = unit.work.moments if manifest.carries_moments else None
    return TrainAhead(unit.round + 1, beacon, unit.state, moments, unit.carried.tier_of(manifest))


def may_commit(state: State) -> bool:
    """Tell whether a commitment of ours could still count: on the roster, none made, no root posted yet."""
    facts = state.facts.of(state.round)
    return (
        state.number in facts.roster
        and state.round >= max(state.signs_from, state.commits_from)
        and state.round not in state.units
        and facts.own is None
        and facts.posted is None
        and facts.record_hash is None
        and state.carry != "lost"
    )
