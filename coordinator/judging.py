"""Draws, verdicts and outcomes of anchored rounds, beside the rounds that follow."""

from collections.abc import Mapping
from dataclasses import replace

from coordinator.state import AnchoredRound, Decision, Drawn, Effect, Export, Refused, Slash, State
from protocol.chain import ChainView
from protocol.manifest import RunManifest
from protocol.messages import Judgement, Opening, Seal, Signed, Verdict
from verification.archive import RoundDossier
from verification.judge import contradiction, counted, forged_residual, inconclusive, outcome, refused
from verification.sample import Draw, draws
from verification.settle import SettledRound

Step = tuple[State, tuple[Effect, ...]]


def judge(state: State, chain: ChainView) -> Step:
    """Draw the units of rounds whose beacon is there, take in verdicts, and decide what can be decided."""
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
    anchored, refused = _take(state, anchored)
    anchored, decided = _decide(state, anchored, chain, effects)
    effects += refused
    if anchored is before:
        return state, tuple(effects)
    if (anchored.openings, anchored.verdicts, anchored.decisions) != (
        before.openings,
        before.verdicts,
        before.decisions,
    ):
        effects.append(Export(export(anchored)))
    judgements = tuple(
        Judgement(
            round=one.round,
            number=one.number,
            outcome=one.outcome,
            forged_residual=_forged(anchored, one),
        )
        for one in decided
        if (one.round, one.number) not in state.declared
    )
    state = replace(
        state,
        judging={**state.judging, anchored.round: anchored},
        inbox={**state.inbox, anchored.round: ()},
        undeclared=(*state.undeclared, *judgements),
    )
    return (_close(state, anchored) if anchored.decided else state), tuple(effects)


def _take(state: State, anchored: AnchoredRound) -> tuple[AnchoredRound, list[Effect]]:
    """Sort the openings and verdicts that have come in; the others are refused with the reason."""
    if not state.inbox.get(anchored.round):
        return anchored, []
    assert anchored.draws is not None
    drawn = {draw.number: draw for draw in anchored.draws}
    openings = dict(anchored.openings)
    verdicts = {number: dict(found) for number, found in anchored.verdicts.items()}
    refused: list[Effect] = []
    for message in state.inbox.get(anchored.round, ()):
        body = message.body
        if isinstance(body, Seal):
            continue
        if not isinstance(body, Opening | Verdict):
            refused.append(Refused(message, f"late: round {anchored.round} is over"))
        elif fault := _fault(state.manifest, anchored, drawn.get(body.number), body):
            refused.append(Refused(message, fault))
        elif isinstance(body, Opening):
            openings[body.number] = message  # type: ignore[assignment]
        else:
            verdicts.setdefault(body.number, {})[body.verifier] = message  # type: ignore[assignment]
    return replace(anchored, openings=openings, verdicts=verdicts), refused


def _fault(manifest: RunManifest, anchored: AnchoredRound, draw: Draw | None, body: Opening | Verdict) -> str:
    """Return why an opening or verdict is not about what was drawn, or an empty string."""
    if draw is None:
        return f"number {body.number} was not drawn in round {anchored.round}"
    if body.commitment != anchored.commitments[body.number].id:
        return "about another commitment than the listed one"
    if body.segment != draw.segment:
        return f"about segment {body.segment} instead of {draw.segment}"
    if isinstance(body, Verdict):
        if body.verifier not in draw.verifiers:
            return f"verifier {body.verifier} is not on the roster of round {anchored.round}"
        decision = anchored.decisions.get(body.number)
        if decision is not None:
            return "late: the unit is decided"
        return contradiction(manifest, anchored.commitments[body.number].body, body)
    return ""


def _decide(
    state: State, anchored: AnchoredRound, chain: ChainView, effects: list[Effect]
) -> tuple[AnchoredRound, list[Decision]]:
    """Decide the drawn units that can be decided; return those decisions, read back or made now."""
    assert anchored.draws is not None
    began = chain.anchor(anchored.round)
    assert began is not None  # the round is anchored
    blocks = chain.height - (began + 1)
    found: list[Decision] = []
    for draw in anchored.draws:
        if draw.number in anchored.decisions:
            continue
        verdicts = anchored.verdicts.get(draw.number, {})
        decision = state.stored.get((anchored.round, draw.number))
        if decision is None:
            decision = _decision(state, anchored.round, draw, verdicts, blocks, chain)
            if decision is None:
                continue
            effects.append(decision)
        found.append(decision)
        accusers = [verdicts[judge] for judge in decision.judges if judge in verdicts]
        if decision.outcome == "false" and len(accusers) >= 2:
            effects.append(Slash(anchored.round, draw.number, (accusers[0], accusers[1])))
    if not found:
        return anchored, []
    decisions = {**anchored.decisions, **{decision.number: decision for decision in found}}
    return replace(anchored, decisions=decisions), found


def _decision(
    state: State,
    round_: int,
    draw: Draw,
    verdicts: Mapping[int, Signed[Verdict]],
    blocks: int,
    chain: ChainView,
) -> Decision | None:
    manifest = state.manifest
    # A later rank that speaks before its turn must not displace an earlier one that is on time.
    silent = inconclusive({judge: message.body for judge, message in verdicts.items()})
    due = {
        judge: message
        for judge, message in verdicts.items()
        if draw.due(manifest, judge, blocks, verdicts=0, inconclusive=silent)
    }
    grace = state.resumed_at + manifest.deadlines.reveal if state.resumed_at else 0
    closed = blocks > draw.closes_after(manifest) and chain.height >= grace
    bodies = {judge: message.body for judge, message in due.items()}
    found = outcome(manifest, draw, bodies, closed=closed)
    if found is None:
        return None
    judges = counted(manifest, draw, bodies)
    return Decision(round_, draw.number, found, judges, tuple(due[judge].id for judge in sorted(due)))


def _forged(anchored: AnchoredRound, decision: Decision) -> bool:
    found = anchored.verdicts.get(decision.number, {})
    return forged_residual(
        decision.outcome, (found[judge].body for judge in decision.judges if judge in found)
    )


def _close(state: State, anchored: AnchoredRound) -> State:
    """Hand a decided round over to settlement."""
    decisions = anchored.decisions
    settled = SettledRound(
        round=anchored.round,
        record=anchored.standing,
        outcomes={number: decision.outcome for number, decision in decisions.items()},
        judges=tuple(judge for number in sorted(decisions) for judge in decisions[number].judges),
        refused=frozenset(number for number, one in decisions.items() if _refused(state, anchored, one)),
        forged=frozenset(number for number, one in decisions.items() if _forged(anchored, one)),
    )
    return replace(
        state,
        judging={round_: one for round_, one in state.judging.items() if round_ != anchored.round},
        inbox={round_: one for round_, one in state.inbox.items() if round_ != anchored.round},
        settling=replace(state.settling, settled={**state.settling.settled, anchored.round: settled}),
    )


def _refused(state: State, anchored: AnchoredRound, decision: Decision) -> bool:
    heard = anchored.verdicts.get(decision.number, {})
    return refused(state.manifest, (heard[judge].body for judge in decision.judges if judge in heard))


def export(anchored: AnchoredRound) -> RoundDossier:
    """Return a round's public file: of a decided unit's verdicts, those on which it was decided."""
    verdicts = [
        message
        for number in sorted(anchored.verdicts)
        for _, message in sorted(anchored.verdicts[number].items())
        if number not in anchored.decisions or message.id in anchored.decisions[number].verdicts
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
    )
