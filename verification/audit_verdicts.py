"""The audit of verification: draws, verdicts, outcomes, and the stake that was taken."""

from protocol.errors import ProofInconclusive, ProofRejected
from protocol.messages import PROVEN_FALSE
from protocol.pool import slot_of
from verification.audit_rounds import Found
from verification.duty import CaseKey
from verification.judge import forged_residual
from verification.public import PublicRun
from verification.ruling import OUTCOMES, fault, in_turn, rule
from verification.sample import Draw


def check_draws(run: PublicRun) -> Found:
    """Only drawn units were opened, at the drawn segment."""
    count = 0
    for dossier in run.audited:
        for message in dossier.openings:
            draw = run.cases.get((dossier.round, message.body.number, message.body.case))
            if draw is None:
                raise ProofRejected(
                    f"number {message.body.number} was opened in round {dossier.round} undrawn"
                )
            if message.body.segment != draw.segment:
                raise ProofRejected(
                    f"number {draw.number} opened segment {message.body.segment} in round {dossier.round}, "
                    f"drawn was {draw.segment}"
                )
            count += 1
    asked = [key for key in run.cases if key[0] in run.scope]
    appeals = sum(key[2] > 0 for key in asked)
    return len(asked) - appeals, f"units drawn, {appeals} appeals, {count} opened"


def check_verdicts(run: PublicRun) -> Found:
    """Every verdict is by a drawn verifier, about what was drawn and opened, sealed, and agrees with itself."""
    count, elsewhere = 0, ""
    for key, found in run.verdicts.items():
        round_, number, case = key
        if round_ not in run.scope:
            continue
        draw, commitment = run.cases.get(key), run.commitment(round_, number)
        opened = next((one.id for one in run.dossiers[round_].openings if slot_of(one)[2] == key[1:]), None)
        for judge, message in found.items():
            body = message.body
            where = f"verdict of {judge} on {_named(key)}"
            if draw is None or commitment is None:
                raise ProofRejected(
                    f"{where}: {'no such appeal counts' if case else 'the unit was not drawn'}"
                )
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
    """Every declared outcome follows from the verdicts; once the run is finished every draw and appeal has one."""
    declared: set[CaseKey] = set()
    for judgement, declared_in in run.judgements:
        key = (judgement.round, judgement.number, judgement.case)
        if judgement.round not in run.scope and judgement.round in run.rounds:
            continue
        where = _named(key)
        draw = run.cases.get(key)
        if draw is None or key in declared:
            raise ProofRejected(f"{where} has an outcome {'twice' if draw else 'but was not drawn'}")
        declared.add(key)
        if judgement.segment != draw.segment:
            raise ProofRejected(f"{where} is declared of segment {judgement.segment}, not {draw.segment}")
        absent = [judge for judge in judgement.heard if judge not in run.verdicts.get(key, {})]
        if absent:
            raise ProofInconclusive(f"the verdict of {absent[0]} on {where} is missing")
        found, commitment = run.ruling(key), run.commitment(*key[:2])
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
        blocks = _declared_after(run, key[0], draw, declared_in)
        ended = rule(run.manifest, commitment.body, draw, verdicts, closed=False) is not None
        if not ended and blocks <= draw.closes_after(run.manifest):
            raise ProofRejected(f"{where} was decided before its verifiers' time was over")
        on_time = in_turn(run.manifest, commitment.body, draw, verdicts, blocks)
        early = [judge for judge in (*found.right, *found.wrong, *found.moot) if judge not in on_time]
        if early:
            raise ProofRejected(f"{where} was decided on a verdict of {early[0]}, whose turn had not come")
    open_ = {key for key in run.cases if key[0] in run.scope} - declared
    if run.chain.finished() is not None and open_:
        raise ProofRejected(f"{_named(min(open_))} has no outcome")
    return len(declared), f"outcomes, {len(open_)} still open"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "nobody"


def _named(key: CaseKey) -> str:
    round_, number, case = key
    return f"number {number} in round {round_}" + (f", appeal {case}," if case else "")


def _declared_after(run: PublicRun, round_: int, case: Draw, declared_in: int | None) -> int:
    """Return how many blocks after a case's beacon its outcome was declared: no later was it decided."""
    began = run.chain.anchor(round_) if case.filed is None else case.filed
    declared = run.chain.height if declared_in is None else run.chain.anchor(declared_in)
    assert began is not None
    assert declared is not None
    return declared - (began + 1)


def check_slashes(run: PublicRun) -> Found:
    """Stake was taken for units judged false, with the two verdicts that prove it, and for no others."""
    false = {key[:2] for key, one in run.declared.items() if one.outcome == "false"}
    declared = {key[:2] for key in run.declared}
    over = run.chain.finished() is not None
    for event in run.chain.slashes():
        key = (event.round, event.number)
        if event.round in run.rounds and event.round not in run.scope:
            continue
        if key not in false and (
            over or key in declared
        ):  # the record that declares it comes after the slash
            raise ProofRejected(
                f"number {event.number} was slashed for round {event.round} without a false unit"
            )
        proofs = {
            message.body.evidence()
            for about, found in run.verdicts.items()
            if about[:2] == key
            for message in found.values()
            if message.body.outcome == PROVEN_FALSE
        }
        if event.evidence_a == event.evidence_b or not {event.evidence_a, event.evidence_b} <= proofs:
            raise ProofRejected(f"the slash of number {event.number} does not name two published verdicts")
    slashed = run.chain.slashed()
    spared = sorted(number for round_, number in false if round_ in run.scope and number not in slashed)
    if spared and over:
        gone = [number for number in spared if not _stake(run, number)]
        number = next((number for number in spared if number not in gone), spared[0])
        why = f"number {number} has a unit judged false and was not slashed"
        # A stake that was withdrawn before the verdicts came is beyond anybody's reach.
        raise ProofInconclusive(f"{why}; it has no stake") if number in gone else ProofRejected(why)
    return len(run.chain.slashes()), f"slashes, {len(false)} units judged false"


def check_bonds(run: PublicRun) -> Found:
    """The bond of every settled appeal followed its judgement, with two verdicts that say so."""
    keys = {key[2]: key for key in run.cases if key[2]}
    over, count = run.chain.finished() is not None, 0
    for event in run.chain.settlements():
        key = keys.get(event.case)
        if key is None and not over:
            continue  # of a round that is not here yet
        if key is None:
            raise ProofRejected(f"the bond of appeal {event.case} was settled, which does not count")
        if key[0] not in run.scope:
            continue
        judgement = run.declared.get(key)
        if judgement is None and not over:
            continue  # the record that declares it comes after the bond
        said = OUTCOMES[event.outcome]
        if judgement is None or judgement.outcome != said:
            was = "not judged" if judgement is None else f"judged {judgement.outcome}"
            raise ProofRejected(f"the bond of appeal {event.case} was settled as {said}, but it was {was}")
        proofs = {body.evidence() for body in run.verdict_bodies(key).values()}
        if event.evidence_a == event.evidence_b or not {event.evidence_a, event.evidence_b} <= proofs:
            raise ProofRejected(f"the bond of appeal {event.case} was settled without two published verdicts")
        count += 1
    return count, f"bonds settled, of {len(keys)} appeals that count"


def _stake(run: PublicRun, number: int) -> int:
    operator = run.chain.operator(number)
    return 0 if operator is None else operator.stake_wei
