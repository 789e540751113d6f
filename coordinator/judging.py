"""Draws, verdicts, cases and outcomes of anchored rounds, beside the rounds that follow."""

from dataclasses import replace
from typing import cast

from coordinator import succeeding
from coordinator.state import (
    Accuse,
    AnchoredRound,
    Decision,
    Drawn,
    Effect,
    Export,
    Refused,
    Ruled,
    State,
)
from protocol.chain import ChainView
from protocol.messages import Body, Judgement, Opening, Seal, Signed, Verdict
from verification.archive import RoundDossier
from verification.cases import blocks_since, combined, counted_cases, may_still_open
from verification.judge import contradiction, forged_residual, refused
from verification.ruling import fault, in_turn, may_judge, may_seal, rule, silent
from verification.sample import Draw, draws
from verification.seal import needs_seal
from verification.settle import JudgedCase, settled_round

WAITS = "waits"

Step = tuple[State, tuple[Effect, ...]]


def judge(state: State, chain: ChainView) -> Step:
    """Draw the units of rounds whose beacon is there, take in verdicts and rulings, and decide what can be decided."""
    effects: list[Effect] = []
    for round_ in sorted(state.judging):
        state, more = _judge_round(state, state.judging[round_], chain)
        effects += more
    state, accused = succeeding.accuse(state, chain)
    return state, (*effects, *accused)


def _judge_round(state: State, anchored: AnchoredRound, chain: ChainView) -> Step:
    effects: list[Effect] = []
    if anchored.draws is None:
        beacon = chain.sampling_beacon(anchored.round)
        if beacon is None:
            return state, ()
        judges = (verifier.number for verifier in chain.verifiers(anchored.round))
        units = anchored.standing.units
        found = draws(state.manifest, state.run, beacon, anchored.round, units, judges)
        anchored = replace(anchored, draws=found)
        effects.append(Drawn(anchored.round, found))
    before = state.judging[anchored.round]
    anchored, refused, waiting = _take(state, anchored, chain)
    anchored, decided = _decide(state, anchored, chain, effects)
    # After what was drawn: a contest counts once its unit was found void.
    anchored, ruled = _take_rulings(state, anchored, chain, effects)
    decided += ruled
    effects += refused
    state = replace(state, inbox={**state.inbox, anchored.round: waiting})
    drawn = anchored.draws or ()
    state = _note_accusations(state, anchored, decided, chain)
    open_ = may_still_open(state.manifest, chain, anchored.round, anchored.cases, drawn, anchored.outcome)
    over = anchored.decided and not (anchored.standing.units and open_)
    if anchored is before:
        return (_close(state, anchored) if over else state), tuple(effects)
    if (anchored.openings, anchored.seals, anchored.verdicts, anchored.decisions) != (
        before.openings,
        before.seals,
        before.verdicts,
        before.decisions,
    ):
        effects.append(Export(export(anchored)))
    judgements = tuple(
        _judgement(anchored, one) for one in decided if (one.round, *one.label) not in state.declared
    )
    state = replace(
        state,
        judging={**state.judging, anchored.round: anchored},
        undeclared=(*state.undeclared, *judgements),
    )
    return (_close(state, anchored) if over else state), tuple(effects)


def _take_rulings(
    state: State, anchored: AnchoredRound, chain: ChainView, effects: list[Effect]
) -> tuple[AnchoredRound, list[Decision]]:
    """Take up the cases that count, and decide those that the jury has closed."""
    if not chain.cases(anchored.round):
        return anchored, []
    units, drawn = anchored.standing.units, anchored.draws or ()
    cases = counted_cases(state.manifest, chain, anchored.round, units, drawn, anchored.outcome)
    found: list[Decision] = []
    for case in cases:
        if case.outcome is None or case.label in anchored.decisions:
            continue
        stored = state.stored.get((anchored.round, *case.label))
        decision = Decision(anchored.round, case.number, case.case, case.segment, case.outcome)
        if stored is None:
            effects.append(decision)
        found.append(decision)
    if cases != anchored.cases:
        anchored = replace(anchored, cases=cases)
    return _decided(anchored, found, effects), found


def _decided(anchored: AnchoredRound, found: list[Decision], effects: list[Effect]) -> AnchoredRound:
    """Note decisions, and what they make of their units."""
    if not found:
        return anchored
    decisions = {**anchored.decisions, **{decision.label: decision for decision in found}}
    anchored = replace(anchored, decisions=decisions)
    for number in sorted({decision.number for decision in found}):
        about = [_judgement(anchored, one) for one in decisions.values() if one.number == number]
        effects.append(Ruled(anchored.round, number, combined(about)))
    return anchored


def _take(
    state: State, anchored: AnchoredRound, chain: ChainView
) -> tuple[AnchoredRound, list[Effect], tuple[Signed[Body], ...]]:
    """Sort the openings, seals and verdicts that have come in; others are refused with the reason.

    Returns:
        The round, the refusals, and what waits: verdicts for their seal, seals for their verifier's turn.
    """
    refused: list[Effect] = []
    left, before = state.inbox.get(anchored.round, ()), -1
    while len(left) != before:  # gossip keeps no order, so that a verdict may come before its own seal
        before = len(left)
        waiting: list[Signed[Body]] = []
        for message in left:
            anchored, place = _place(state, anchored, message, chain)
            if place == WAITS:
                waiting.append(message)
            elif place:
                refused.append(Refused(message, place))
        left = tuple(waiting)
    return anchored, refused, left


def _place(
    state: State, anchored: AnchoredRound, message: Signed[Body], chain: ChainView
) -> tuple[AnchoredRound, str]:
    """Take in one message; return the round with it and an empty string, or why it does not count, or `WAITS`."""
    assert anchored.draws is not None
    body = message.body
    if not isinstance(body, Opening | Seal | Verdict):
        return anchored, f"late: round {anchored.round} is over"
    if isinstance(body, Opening) and body.case:
        case = next(
            (one for one in chain.cases(anchored.round) if one.label == (body.number, body.case)), None
        )
        if case is None:
            return anchored, WAITS
        return _place_opening(anchored, cast("Signed[Opening]", message), case.segment)
    draw = next((one for one in anchored.draws if one.number == body.number), None)
    if draw is None:
        return anchored, f"number {body.number} was not drawn in round {anchored.round}"
    if isinstance(body, Opening):
        return _place_opening(anchored, cast("Signed[Opening]", message), draw.segment)
    if reason := _fault(anchored, draw, body):
        return anchored, reason
    seals = anchored.seals.get(draw.number, {})
    verdicts = anchored.verdicts.get(draw.number, {})
    if isinstance(body, Seal):
        if reason := _seal_fault(state, anchored, draw, body, chain):
            return anchored, reason
        seals = {**seals, body.verifier: cast("Signed[Seal]", message)}
        return replace(anchored, seals={**anchored.seals, draw.number: seals}), ""
    sealed = seals.get(body.verifier)
    commitment = anchored.commitments[body.number].body
    if needs_seal(body) and sealed is None:
        return anchored, contradiction(state.manifest, commitment, body) or WAITS
    seal = None if sealed is None else sealed.body
    if reason := fault(state.manifest, state.run, anchored.round, commitment, body, seal):
        return anchored, reason
    verdicts = {**verdicts, body.verifier: cast("Signed[Verdict]", message)}
    return replace(anchored, verdicts={**anchored.verdicts, draw.number: verdicts}), ""


def _place_opening(
    anchored: AnchoredRound, message: Signed[Opening], segment: int
) -> tuple[AnchoredRound, str]:
    body = message.body
    commitment = anchored.commitments.get(body.number)
    if commitment is None or body.commitment != commitment.id:
        return anchored, "about another commitment than the one that counts"
    if body.segment != segment:
        return anchored, f"about segment {body.segment} instead of {segment}"
    openings = {**anchored.openings, (body.number, body.case): message}
    return replace(anchored, openings=openings), ""


def _fault(anchored: AnchoredRound, draw: Draw, body: Seal | Verdict) -> str:
    """Return why a seal or verdict is not about what was drawn, or an empty string."""
    if body.commitment != anchored.commitments[body.number].id:
        return "about another commitment than the one that counts"
    if body.segment != draw.segment:
        return f"about segment {body.segment} instead of {draw.segment}"
    if body.verifier not in draw.verifiers:
        return f"verifier {body.verifier} is not on the roster of round {anchored.round}"
    return "late: the unit is decided" if (draw.number, 0) in anchored.decisions else ""


def _seal_fault(state: State, anchored: AnchoredRound, draw: Draw, body: Seal, chain: ChainView) -> str:
    """Return why a seal never counts, `WAITS` before its verifier's turn, or an empty string."""
    manifest, commitment = state.manifest, anchored.commitments[draw.number].body
    verdicts = {judge: one.body for judge, one in anchored.verdicts.get(draw.number, {}).items()}
    if not may_judge(
        manifest, commitment, draw, body.verifier, verdicts, blocks_since(chain, anchored.round)
    ):
        return WAITS
    if not may_seal(manifest, draw, body.verifier, anchored.seals.get(draw.number, {}), verdicts):
        return "late: fingerprints of this unit were shown before it"
    return ""


def _decide(
    state: State, anchored: AnchoredRound, chain: ChainView, effects: list[Effect]
) -> tuple[AnchoredRound, list[Decision]]:
    """Decide the drawn units that can be decided; return those decisions, read back or made now."""
    found: list[Decision] = []
    behind = succeeding.is_behind(state, chain)
    for draw in anchored.draws or ():
        key = (anchored.round, draw.number, 0)
        before = anchored.decisions.get((draw.number, 0))
        taken = state.taken.get(key)
        if before is not None and (taken is None or succeeding.agrees(before, taken)):
            continue
        decision = state.stored.get(key)
        if taken is not None and (decision is None or not succeeding.agrees(decision, taken)):
            decision = succeeding.taken_decision(state, anchored, draw)
            if decision is None:
                continue
            effects.append(decision)
        elif decision is None:
            decision = None if behind else _decision(state, anchored, draw, chain)
            if decision is None:
                continue
            effects.append(decision)
        found.append(decision)
    return _decided(anchored, found, effects), found


def _note_accusations(
    state: State, anchored: AnchoredRound, decided: list[Decision], chain: ChainView
) -> State:
    """Note what has to come before the jury: what was proven false, and a refusal, which only a coordinator brings."""
    noted: list[Accuse] = []
    for decision in decided:
        verdicts = anchored.verdicts.get(decision.number, {})
        right = [verdicts[judge] for judge in decision.judges if judge in verdicts]
        finder = chain.operator(right[0].body.verifier) if right else None
        refusal = decision.outcome == "void" and not state.stand_in and _refused(state, anchored, decision)
        if decision.case or finder is None or not (decision.outcome == "false" or refusal):
            continue
        about = (decision.round, decision.number, decision.segment)
        noted.append(Accuse(*about, finder.wallet, right[0].id, refusal))
    return replace(state, accusing=(*state.accusing, *noted))


def _judgement(anchored: AnchoredRound, decision: Decision) -> Judgement:
    return Judgement(
        round=decision.round,
        number=decision.number,
        case=decision.case,
        segment=decision.segment,
        outcome=decision.outcome,
        forged_residual=_forged(anchored, decision),
        heard=decision.heard,
        wrong=decision.wrong,
    )


def _decision(state: State, anchored: AnchoredRound, draw: Draw, chain: ChainView) -> Decision | None:
    manifest, commitment = state.manifest, anchored.commitments[draw.number].body
    blocks = blocks_since(chain, anchored.round)
    messages = anchored.verdicts.get(draw.number, {})
    said = {judge: message.body for judge, message in messages.items()}
    due = in_turn(manifest, commitment, draw, said, blocks)
    grace = state.resumed_at + manifest.deadlines.reveal if state.resumed_at else 0
    closed = blocks > draw.closes_after(manifest) and chain.height >= grace
    ruling = rule(manifest, commitment, draw, due, closed=closed)
    if ruling is None:
        return None
    return Decision(
        anchored.round,
        draw.number,
        0,
        draw.segment,
        ruling.outcome,
        ruling.right,
        tuple(messages[judge].id for judge in sorted(due)),
        ruling.wrong,
        silent(manifest, draw, ruling, due),
        tuple(sorted(due)),
    )


def _forged(anchored: AnchoredRound, decision: Decision) -> bool:
    if decision.case:
        return any(case.label == decision.label and case.forged_residual for case in anchored.cases)
    found = anchored.verdicts.get(decision.number, {})
    return forged_residual(
        decision.outcome, (found[judge].body for judge in decision.judges if judge in found)
    )


def _close(state: State, anchored: AnchoredRound) -> State:
    """Hand a decided round over to settlement."""
    cases = (
        JudgedCase(_judgement(anchored, one), one.judges, _refused(state, anchored, one))
        for one in anchored.decisions.values()
    )
    settled = settled_round(anchored.round, anchored.standing, cases)
    return replace(
        state,
        judging={round_: one for round_, one in state.judging.items() if round_ != anchored.round},
        inbox={round_: one for round_, one in state.inbox.items() if round_ != anchored.round},
        settling=replace(state.settling, settled={**state.settling.settled, anchored.round: settled}),
    )


def _refused(state: State, anchored: AnchoredRound, decision: Decision) -> bool:
    heard = {} if decision.case else anchored.verdicts.get(decision.number, {})
    return refused(state.manifest, (heard[judge].body for judge in decision.judges if judge in heard))


def export(anchored: AnchoredRound) -> RoundDossier:
    """Return a round's public file: of a decided unit's verdicts, those on which it was decided."""
    verdicts = [
        message
        for number in sorted(anchored.verdicts)
        for _, message in sorted(anchored.verdicts[number].items())
        if (number, 0) not in anchored.decisions or message.id in anchored.decisions[number, 0].verdicts
    ]
    listed = [entry.number for entry in anchored.listed.body.entries]
    forced = sorted(anchored.commitments.keys() - set(listed))
    return RoundDossier(
        round=anchored.round,
        listed=anchored.listed,
        commitments=(*(anchored.commitments[number] for number in (*listed, *forced)), *anchored.ignored),
        reveals=tuple(message for _, message in sorted(anchored.reveals.items())),
        receipts=anchored.receipts,
        record=anchored.record,
        openings=tuple(message for _, message in sorted(anchored.openings.items())),
        verdicts=tuple(verdicts),
        seals=tuple(
            message
            for number in sorted(anchored.seals)
            for _, message in sorted(anchored.seals[number].items())
        ),
    )
