"""Draws, verdicts and outcomes of anchored rounds, beside the rounds that follow."""

from dataclasses import replace
from typing import cast

from coordinator.state import (
    AnchoredRound,
    Decision,
    Drawn,
    Effect,
    Export,
    Refused,
    Ruled,
    SettleAppeal,
    Slash,
    State,
)
from protocol.chain import ChainView
from protocol.messages import Body, Judgement, Opening, Seal, Signed, Verdict
from verification.appeal import appealed, blocks_since, combined, may_still_appeal
from verification.archive import RoundDossier
from verification.judge import contradiction, forged_residual, refused
from verification.ruling import fault, in_turn, may_judge, may_seal, rule, silent
from verification.sample import Draw, draws
from verification.seal import needs_seal
from verification.settle import JudgedCase, settled_round

WAITS = "waits"

Step = tuple[State, tuple[Effect, ...]]


def judge(state: State, chain: ChainView) -> Step:
    """Draw the units of rounds whose beacon is there, take in appeals and verdicts, and decide what can be decided."""
    effects: list[Effect] = []
    for round_ in sorted(state.judging):
        state, more = _judge_round(state, state.judging[round_], chain)
        effects += more
    return state, tuple(effects)


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
    anchored = _admit_appeals(state, anchored, chain)
    anchored, refused, waiting = _take(state, anchored, chain)
    anchored, decided = _decide(state, anchored, chain, effects)
    anchored = _admit_appeals(state, anchored, chain)  # a contest counts once its unit was found void
    effects += refused
    state = replace(state, inbox={**state.inbox, anchored.round: waiting})
    open_ = may_still_appeal(state.manifest, chain, anchored.round, anchored.cases, anchored.outcome)
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


def _admit_appeals(state: State, anchored: AnchoredRound, chain: ChainView) -> AnchoredRound:
    """Take up the appeals that count; one that was taken up stays."""
    if not chain.appeals(anchored.round):
        return anchored
    units, drawn = anchored.standing.units, anchored.draws or ()
    found = appealed(state.manifest, state.run, chain, anchored.round, units, drawn, anchored.outcome)
    return anchored if found == anchored.appeals else replace(anchored, appeals=found)


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
    label = (body.number, body.case)
    draw = next((one for one in anchored.cases if one.label == label), None)
    if draw is None:
        if body.case:
            return anchored, WAITS
        return anchored, f"number {body.number} was not drawn in round {anchored.round}"
    if reason := _fault(anchored, draw, body):
        return anchored, reason
    if isinstance(body, Opening):
        opening = cast("Signed[Opening]", message)
        return replace(anchored, openings={**anchored.openings, label: opening}), ""
    seals = anchored.seals.get(label, {})
    verdicts = anchored.verdicts.get(label, {})
    if isinstance(body, Seal):
        if reason := _seal_fault(state, anchored, draw, body, chain):
            return anchored, reason
        seals = {**seals, body.verifier: cast("Signed[Seal]", message)}
        return replace(anchored, seals={**anchored.seals, label: seals}), ""
    sealed = seals.get(body.verifier)
    commitment = anchored.commitments[body.number].body
    if needs_seal(body) and sealed is None:
        return anchored, contradiction(state.manifest, commitment, body) or WAITS
    seal = None if sealed is None else sealed.body
    if reason := fault(state.manifest, state.run, anchored.round, commitment, body, seal):
        return anchored, reason
    verdicts = {**verdicts, body.verifier: cast("Signed[Verdict]", message)}
    return replace(anchored, verdicts={**anchored.verdicts, label: verdicts}), ""


def _fault(anchored: AnchoredRound, draw: Draw, body: Opening | Seal | Verdict) -> str:
    """Return why a message is not about what was drawn, or an empty string."""
    if body.commitment != anchored.commitments[body.number].id:
        return "about another commitment than the listed one"
    if body.segment != draw.segment:
        return f"about segment {body.segment} instead of {draw.segment}"
    if isinstance(body, Opening):
        return ""
    if body.verifier not in draw.verifiers:
        return f"verifier {body.verifier} is not on the roster of round {anchored.round}"
    return "late: the unit is decided" if draw.label in anchored.decisions else ""


def _seal_fault(state: State, anchored: AnchoredRound, draw: Draw, body: Seal, chain: ChainView) -> str:
    """Return why a seal never counts, `WAITS` before its verifier's turn, or an empty string."""
    manifest, commitment = state.manifest, anchored.commitments[draw.number].body
    verdicts = {judge: one.body for judge, one in anchored.verdicts.get(draw.label, {}).items()}
    if not may_judge(
        manifest, commitment, draw, body.verifier, verdicts, blocks_since(chain, anchored.round, draw)
    ):
        return WAITS
    if not may_seal(manifest, draw, body.verifier, anchored.seals.get(draw.label, {}), verdicts):
        return "late: fingerprints of this unit were shown before it"
    return ""


def _decide(
    state: State, anchored: AnchoredRound, chain: ChainView, effects: list[Effect]
) -> tuple[AnchoredRound, list[Decision]]:
    """Decide the drawn units that can be decided; return those decisions, read back or made now."""
    found: list[Decision] = []
    for draw in anchored.cases:
        if draw.label in anchored.decisions:
            continue
        verdicts = anchored.verdicts.get(draw.label, {})
        decision = state.stored.get((anchored.round, *draw.label))
        if decision is None:
            decision = _decision(state, anchored, draw, chain)
            if decision is None:
                continue
            effects.append(decision)
        found.append(decision)
        right = [verdicts[judge] for judge in decision.judges if judge in verdicts]
        if len(right) >= 2:
            pair = (right[0], right[1])
            if decision.outcome == "false":
                effects.append(Slash(anchored.round, draw.number, pair))
            if draw.case:
                effects.append(SettleAppeal(draw.case, pair[0].body.outcome, pair))
    if not found:
        return anchored, []
    decisions = {**anchored.decisions, **{decision.label: decision for decision in found}}
    anchored = replace(anchored, decisions=decisions)
    for number in sorted({decision.number for decision in found}):
        about = [_judgement(anchored, one) for one in decisions.values() if one.number == number]
        effects.append(Ruled(anchored.round, number, combined(about)))
    return anchored, found


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
    blocks = blocks_since(chain, anchored.round, draw)
    messages = anchored.verdicts.get(draw.label, {})
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
        draw.case,
        draw.segment,
        ruling.outcome,
        ruling.right,
        tuple(messages[judge].id for judge in sorted(due)),
        ruling.wrong,
        silent(manifest, draw, ruling, due),
        tuple(sorted(due)),
    )


def _forged(anchored: AnchoredRound, decision: Decision) -> bool:
    found = anchored.verdicts.get(decision.label, {})
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
    heard = anchored.verdicts.get(decision.label, {})
    return refused(state.manifest, (heard[judge].body for judge in decision.judges if judge in heard))


def export(anchored: AnchoredRound) -> RoundDossier:
    """Return a round's public file: of a decided unit's verdicts, those on which it was decided."""
    verdicts = [
        message
        for label in sorted(anchored.verdicts)
        for _, message in sorted(anchored.verdicts[label].items())
        if label not in anchored.decisions or message.id in anchored.decisions[label].verdicts
    ]
    return RoundDossier(
        round=anchored.round,
        listed=anchored.listed,
        commitments=tuple(anchored.commitments[entry.number] for entry in anchored.listed.body.entries),
        reveals=tuple(message for _, message in sorted(anchored.reveals.items())),
        receipts=anchored.receipts,
        record=anchored.record,
        openings=tuple(message for _, message in sorted(anchored.openings.items())),
        verdicts=tuple(verdicts),
        seals=tuple(
            message
            for label in sorted(anchored.seals)
            for _, message in sorted(anchored.seals[label].items())
        ),
    )
