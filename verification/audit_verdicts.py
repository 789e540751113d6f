"""The audit of verification: draws, verdicts and outcomes."""

from protocol.errors import ProofInconclusive, ProofRejected
from protocol.messages import Judgement
from protocol.pool import slot_of
from verification.audit_rounds import Found
from verification.duty import UnitKey
from verification.judge import forged_residual
from verification.public import CaseKey, PublicRun
from verification.ruling import fault, in_turn, rule


def check_draws(run: PublicRun) -> Found:
    """Only what a draw or a case asked for was opened, at its segment."""
    count = 0
    asked = {(*key, 0): draw.segment for key, draw in run.draws.items()}
    asked |= {(one.round, one.number, one.case): one.segment for r in run.scope for one in run.chain.cases(r)}
    for dossier in run.audited:
        for message in dossier.openings:
            body = message.body
            segment = asked.get((dossier.round, body.number, body.case))
            if segment is None:
                raise ProofRejected(f"number {body.number} was opened in round {dossier.round} undrawn")
            if body.segment != segment:
                raise ProofRejected(
                    f"number {body.number} opened segment {body.segment} in round {dossier.round}, "
                    f"asked for was {segment}"
                )
            count += 1
    drawn = sum(key[0] in run.scope for key in run.draws)
    return drawn, f"units drawn, {len(run.cases)} cases that change pay, {count} opened"


def check_verdicts(run: PublicRun) -> Found:
    """Every verdict is by a drawn verifier, about what was drawn and opened, sealed, and agrees with itself."""
    count, elsewhere = 0, ""
    for key, found in run.verdicts.items():
        round_, number = key
        if round_ not in run.scope:
            continue
        draw, commitment = run.draws.get(key), run.commitment(round_, number)
        opened = next(
            (one.id for one in run.dossiers[round_].openings if slot_of(one)[2] == (number, 0)), None
        )
        for judge, message in found.items():
            body = message.body
            where = f"verdict of {judge} on {_named(key)}"
            if draw is None or commitment is None:
                raise ProofRejected(f"{where}: the unit was not drawn")
            if judge not in draw.verifiers:
                raise ProofRejected(f"{where}: not a verifier of the round")
            if (body.commitment, body.segment) != (commitment.id, draw.segment):
                raise ProofRejected(f"{where}: about another commitment or segment")
            if body.opening is not None and opened not in (None, body.opening):
                elsewhere = elsewhere or where
            seal = run.seals(key).get(judge)
            if reason := fault(run.manifest, run.run, round_, commitment.body, body, seal):
                raise ProofRejected(f"{where}: {reason}")
            count += 1
    if elsewhere:
        # The accused may have signed two, and shown each to whom it liked.
        raise ProofInconclusive(f"{elsewhere}: about another opening than the published one")
    return count, "verdicts by drawn verifiers"


def check_outcomes(run: PublicRun) -> Found:
    """Every declared outcome follows from the verdicts, or is the jury's; at the end of the run each has one."""
    declared: set[CaseKey] = set()
    for judgement, declared_in in run.judgements:
        key = (judgement.round, judgement.number, judgement.case)
        if judgement.round not in run.scope and judgement.round in run.rounds:
            continue
        if key in declared:
            raise ProofRejected(f"{_named(key[:2], key[2])} has an outcome twice")
        declared.add(key)
        if judgement.case:
            _check_ruled(run, key, judgement)
        else:
            _check_judged(run, key[:2], judgement, declared_in)
    asked = {*((*key, 0) for key in run.draws), *run.cases}
    open_ = {key for key in asked if key[0] in run.scope} - declared
    if run.chain.finished() is not None and open_:
        round_, number, case = min(open_)
        raise ProofRejected(f"{_named((round_, number), case)} has no outcome")
    return len(declared), f"outcomes, {len(open_)} still open"


def _check_ruled(run: PublicRun, key: CaseKey, judgement: Judgement) -> None:
    """Hold a declared outcome against the jury's ruling."""
    where, case = _named(key[:2], key[2]), run.cases.get(key)
    if case is None:
        raise ProofRejected(f"{where} has an outcome, but no such case counts")
    if case.outcome is None:
        raise ProofRejected(f"{where} is declared {judgement.outcome} before the jury closed it")
    if (judgement.segment, judgement.outcome) != (case.segment, case.outcome):
        raise ProofRejected(f"{where} is declared {judgement.outcome}, the jury ruled {case.outcome}")
    if judgement.forged_residual != case.forged_residual or judgement.heard or judgement.wrong:
        raise ProofRejected(f"{where}: the jury ruled otherwise of its residual, or verifiers are named")


def _check_judged(run: PublicRun, key: UnitKey, judgement: Judgement, declared_in: int | None) -> None:
    """Hold a declared outcome against the verdicts on a drawn unit."""
    where, draw = _named(key), run.draws.get(key)
    if draw is None:
        raise ProofRejected(f"{where} has an outcome but was not drawn")
    if judgement.segment != draw.segment:
        raise ProofRejected(f"{where} is declared of segment {judgement.segment}, not {draw.segment}")
    absent = [judge for judge in judgement.heard if judge not in run.verdicts.get(key, {})]
    if absent:
        raise ProofInconclusive(f"the verdict of {absent[0]} on {where} is missing")
    found, commitment = run.ruling(key), run.commitment(*key)
    assert commitment is not None, "there is a ruling"
    if found.outcome != judgement.outcome:
        raise ProofRejected(f"{where} is declared {judgement.outcome}, the verdicts say {found.outcome}")
    if found.wrong != judgement.wrong:
        raise ProofRejected(
            f"{where}: the verdicts prove {_listed(found.wrong)} wrong, not {_listed(judgement.wrong)}"
        )
    verdicts = run.verdict_bodies(key)
    forged = forged_residual(judgement.outcome, [verdicts[judge] for judge in found.right])
    if judgement.forged_residual != forged:
        raise ProofRejected(f"{where}: the verdicts say otherwise of its residual")
    blocks = run.declared_after(key[0], declared_in)
    ended = rule(run.manifest, commitment.body, draw, verdicts, closed=False) is not None
    if not ended and blocks <= draw.closes_after(run.manifest):
        raise ProofRejected(f"{where} was decided before its verifiers' time was over")
    on_time = in_turn(run.manifest, commitment.body, draw, verdicts, blocks)
    early = [judge for judge in (*found.right, *found.wrong, *found.moot) if judge not in on_time]
    if early:
        raise ProofRejected(f"{where} was decided on a verdict of {early[0]}, whose turn had not come")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "nobody"


def _named(key: UnitKey, case: int = 0) -> str:
    round_, number = key
    return f"number {number} in round {round_}" + (f", case {case}," if case else "")
