"""Draws, verdicts, accusations and settlement as scenarios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordinator.state import Accuse, Export, Finalize, Pending, Propose, Proposed, Rewards
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED, Verdict

MakeWorld = Callable[..., Any]


def _to_verdicts(world: Any) -> None:
    world.open()
    world.commit(0)
    world.reveal(0)
    world.mine()


def _outcomes(world: Any) -> dict[int, str]:
    return {one.number: one.outcome for one in world.decisions if one.round == 0}


def _cases(world: Any) -> list[tuple[int, int]]:
    return [(one.round, one.number) for one in world.chain.opened.values()]


def test_two_proven_faults_bring_the_unit_before_the_jury_once(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    world.condemn(0, draw)
    world.mine(3)
    first = draw.verifiers[0]
    (said,) = (one for one in world.heard if isinstance(one.body, Verdict) and one.body.verifier == first)
    wallet = world.chain.members[first].wallet
    assert world.wanted(Accuse) == [Accuse(0, draw.number, draw.segment, wallet, said.id)]
    assert not world.chain.lost, "verdicts move no stake"
    world.restart()
    world.mine(2)
    assert len(world.wanted(Accuse)) == 2, "asked for again, and refused by the ledger"
    assert _cases(world) == [(0, draw.number)]


def test_the_first_right_verifier_is_the_finder(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    blind, second, third = draw.verifiers
    world.verdict(0, draw, blind, PASSED)
    world.verdict(0, draw, third, PROVEN_FALSE)
    world.verdict(0, draw, second, PROVEN_FALSE)
    (accusation,) = world.wanted(Accuse)
    assert accusation.finder == world.chain.members[second].wallet


def test_a_second_fault_after_a_new_deposit_is_a_case_of_its_own(world: Any) -> None:
    _to_verdicts(world)
    for round_ in range(2):
        for draw in world.draws(round_):
            outcome = PROVEN_FALSE if draw.number == 1 else PASSED
            for verifier in draw.verifiers[:2]:
                world.verdict(round_, draw, verifier, outcome)
        world.rule(round_ + 1, "false")
        assert world.chain.members[1].stake_wei == 0
        if round_ == 0:
            world.join(1, "contributor")
            world.commit(1)
            world.reveal(1)
            world.mine()
    assert _cases(world) == [(0, 1), (1, 1)]


def test_an_accusation_that_was_not_mined_is_asked_for_again_after_a_restart(world: Any) -> None:
    world.hold = {Accuse}
    _to_verdicts(world)
    draw = world.draws(0)[0]
    world.condemn(0, draw)
    assert not world.chain.opened
    world.hold = set()
    world.restart()
    assert _cases(world) == [(0, draw.number)]


def test_a_third_verifier_settles_a_disagreement_and_who_was_wrong_is_not_paid(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    first, accuser, third = draw.verifiers
    world.verdict(0, draw, first, PASSED)
    world.verdict(0, draw, accuser, PROVEN_FALSE)
    assert draw.number not in _outcomes(world), "one says otherwise"
    world.verdict(0, draw, third, PASSED)
    decision = next(one for one in world.decisions if one.number == draw.number)
    assert (decision.outcome, decision.judges, decision.wrong) == ("passed", (first, third), (accuser,))
    assert not world.wanted(Accuse)
    world.commit(1)
    world.reveal(1)
    judged = next(one for one in world.record(1).judged if one.number == draw.number)
    assert (judged.outcome, judged.wrong) == ("passed", (accuser,))


def test_a_fingerprint_that_no_other_replay_gives_is_wrong_although_the_outcome_is_right(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    lazy, second, third = draw.verifiers
    world.verdict(0, draw, lazy, PASSED, (0.5, -1.2))
    world.verdict(0, draw, second, PASSED)
    assert draw.number not in _outcomes(world)
    world.verdict(0, draw, third, PASSED)
    decision = next(one for one in world.decisions if one.number == draw.number)
    assert (decision.outcome, decision.judges, decision.wrong) == ("passed", (second, third), (lazy,))


def test_a_verdict_waits_for_its_seal_and_counts_only_with_the_fingerprint_in_it(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    first, second, _ = draw.verifiers
    world.verdict(0, draw, first, PASSED, sealed=False)
    world.verdict(0, draw, second, PASSED)
    assert draw.number not in _outcomes(world), "the first verdict has no seal yet"
    world.seal(0, draw, first)
    assert _outcomes(world)[draw.number] == "passed"
    other = world.draws(0)[1]
    world.seal(0, other, other.verifiers[0], (9.0, 9.0))
    world.verdict(0, other, other.verifiers[0], PASSED, sealed=False)
    assert world.refusals() == ["its fingerprint is not the sealed one"]


def test_who_waits_for_the_others_fingerprints_seals_too_late(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    first, copier, third = draw.verifiers
    world.seal(0, draw, first)
    world.mine(world.manifest.deadlines.verify)
    world.seal(0, draw, third)
    world.verdict(0, draw, first, PASSED, sealed=False)
    world.verdict(0, draw, copier, PASSED)
    assert world.refusals() == ["late: fingerprints of this unit were shown before it"]
    world.verdict(0, draw, third, PASSED, sealed=False)
    decision = next(one for one in world.decisions if one.number == draw.number)
    assert (decision.judges, decision.silent) == ((first, third), (copier,))
    seals = world.wanted(Export)[-1].dossier.seals
    assert {one.body.verifier for one in seals if one.body.number == draw.number} == {first, third}


def test_three_who_all_say_otherwise_void_the_unit_and_nobody_is_right(make_world: MakeWorld) -> None:
    world = make_world(verifiers=3)
    _to_verdicts(world)
    draw = world.draws(0)[0]
    for verifier, shown in zip(draw.verifiers, ((1.0, 1.0), (2.0, 2.0), (3.0, 3.0)), strict=True):
        world.verdict(0, draw, verifier, PASSED, shown)
    decision = next(one for one in world.decisions if one.number == draw.number)
    assert (decision.outcome, decision.judges, decision.wrong) == ("void", (), ())


def test_a_silent_verifier_is_replaced_by_the_next_rank(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    world.verdict(0, draw, draw.verifiers[0])
    world.verdict(0, draw, draw.verifiers[2])
    assert draw.number not in _outcomes(world), "the third rank is not due yet"
    world.mine(world.manifest.deadlines.verify)
    assert _outcomes(world)[draw.number] == "passed"
    decision = next(one for one in world.decisions if one.number == draw.number)
    assert decision.judges == (draw.verifiers[0], draw.verifiers[2])
    assert decision.silent == (draw.verifiers[1],)


def test_no_verdict_in_time_leaves_the_unit_unjudged_and_every_verifier_silent(world: Any) -> None:
    _to_verdicts(world)
    world.mine(world.manifest.deadlines.verify * 3 + 2)
    assert set(_outcomes(world).values()) == {"unjudged"}
    draw = world.draws(0)[0] if 0 in world.state.judging else None
    assert all(len(one.silent) == 3 and not one.judges for one in world.decisions), draw


def test_one_lone_rejection_voids(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    world.verdict(0, draw, draw.verifiers[1], REJECTED)
    world.mine(world.manifest.deadlines.verify * 3 + 2)
    assert _outcomes(world)[draw.number] == "void"


def test_a_verdict_after_the_decision_is_late(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    for verifier in draw.verifiers[:2]:
        world.verdict(0, draw, verifier)
    world.verdict(0, draw, draw.verifiers[2], PROVEN_FALSE)
    assert world.refusals() == ["late: the unit is decided"]
    assert _outcomes(world)[draw.number] == "passed"


def test_a_verdict_on_another_segment_is_refused(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    world.verdict(0, replace(draw, segment=draw.segment + 7), draw.verifiers[0], sealed=False)
    assert world.refusals() == [f"about segment {draw.segment + 7} instead of {draw.segment}"]


def test_a_verdict_that_contradicts_itself_does_not_count(world: Any) -> None:
    _to_verdicts(world)
    draw = world.draws(0)[0]
    body = Verdict(
        number=draw.number,
        verifier=draw.verifiers[0],
        outcome=PASSED,
        commitment=world.state.judging[0].commitments[draw.number].id,
        opening="ab" * 32,
        profile="cpu-fp32",
        segment=draw.segment,
        reason="",
        distance=0.5,
        tensor="",
        replay_cpu_s=0.1,
    )
    world.hear(draw.verifiers[0], 0, body, "verifier")
    assert world.refusals() == ["the distance 0.5 is out of tolerance, and no exact replay is named"]


def test_judgements_go_into_the_next_record_and_cut_the_chain_of_moments(world: Any) -> None:
    _to_verdicts(world)
    world.judge_all(0, but=lambda draw: draw.number == 1)
    draw = next(draw for draw in world.draws(0) if draw.number == 1)
    for verifier in draw.verifiers[:2]:
        world.verdict(0, draw, verifier, REJECTED)
    world.commit(1)
    world.reveal(1)
    judged = {(one.round, one.number): one.outcome for one in world.record(1).judged}
    assert judged == {(0, 1): "void", (0, 2): "passed", (0, 3): "passed"}
    world.mine()
    world.commit(2)
    assert world.refusals() == []
    moments = {n: m.body.moments_before for n, m in world.state.current.commitments.items()}
    assert moments[1] == "00" * 32
    assert moments[2] != "00" * 32


def test_each_judgement_is_declared_once_across_a_restart(world: Any) -> None:
    _to_verdicts(world)
    world.judge_all(0)
    world.commit(1)
    world.reveal(1)
    world.restart()
    world.mine()
    world.judge_all(1)
    world.restart()
    world.play(2)
    world.mine(2)
    finish = world.statements["finish", 2, 0].body
    told = [(one.round, one.number) for r in (1, 2) for one in world.record(r).judged]
    told += [(one.round, one.number) for one in finish.judged]
    assert sorted(told) == [(r, n) for r in range(3) for n in (1, 2, 3)]


def test_a_false_unit_forfeits_the_epoch(world: Any) -> None:
    _to_verdicts(world)
    world.judge_all(0, but=lambda draw: draw.number == 1)
    draw = next(draw for draw in world.draws(0) if draw.number == 1)
    world.condemn(0, draw)
    world.commit(1)
    world.reveal(1)
    world.mine()
    world.judge_all(1)
    world.rule(1, "false")
    world.mine(2)
    paid = world.owed(0)
    assert 1 not in paid
    assert paid[2] == 2 * world.manifest.pay.unit_wei


def test_a_false_unit_forfeits_what_the_epoch_before_earned(make_world: MakeWorld) -> None:
    world = make_world(rounds=2, pay={"epoch_rounds": 1, "vest_epochs": 1})
    _to_verdicts(world)
    world.judge_all(0)
    world.commit(1)
    world.reveal(1)
    world.mine()
    assert ("rewards", 0, 0) not in world.statements, "no table while nothing has vested"
    world.judge_all(1, but=lambda draw: draw.number == 1)
    world.condemn(1, next(draw for draw in world.draws(1) if draw.number == 1))
    world.rule(1, "false")
    world.mine(4)
    paid = world.owed(1)
    assert 1 not in paid
    assert paid[2] == 2 * world.manifest.pay.unit_wei
    assert [one.epoch for one in world.wanted(Propose)] == [0]


def test_a_cancelled_root_is_proposed_again_and_then_final(make_world: MakeWorld) -> None:
    world = make_world(rounds=4)
    world.chain.dispute_blocks = 30
    world.open()
    for round_ in range(3):
        world.play(round_)
    assert len(world.wanted(Propose)) == 1
    assert not world.chain.finalized
    world.chain.pending, world.chain.dispute_blocks = None, 3
    world.mine()
    proposals = world.wanted(Propose)
    assert len(proposals) == 2
    assert proposals[0] == proposals[1]
    assert proposals[0].previous == "00" * 32
    world.mine(5)
    assert len(world.chain.finalized) == 1
    assert len(world.wanted(Finalize)) == 1
    assert len(world.wanted(Propose)) == 2


def test_a_root_is_proposed_once_everybody_can_recompute_it(make_world: MakeWorld) -> None:
    world = make_world(rounds=4)
    world.open()
    for round_ in range(2):
        world.play(round_)
    assert ("rewards", 1, 0) in world.statements, "all of the epoch is decided"
    assert not world.wanted(Propose), "and no anchored record says so"
    world.play(2)
    (proposal,) = world.wanted(Propose)
    assert proposal.epoch == 0


def test_a_root_cancelled_before_it_was_seen_pending_is_noticed(make_world: MakeWorld) -> None:
    world = make_world(rounds=4)
    world.hold = {Propose}
    world.open()
    for round_ in range(3):
        world.play(round_)
    world.feed(Proposed(0, world.chain.height))
    world.hold = set()
    world.mine()
    assert len(world.wanted(Propose)) == 2


def test_nothing_is_finalized_within_the_window(world: Any) -> None:
    world.chain.dispute_blocks = 30
    world.open()
    for round_ in range(3):
        world.play(round_)
    world.mine(20)
    assert world.wanted(Propose)
    assert not world.wanted(Finalize)


def test_an_epoch_in_which_nobody_earned_has_no_table(make_world: MakeWorld) -> None:
    world = make_world(rounds=2, pay={"epoch_rounds": 1, "vest_epochs": 0})
    world.open()
    world.mine(60)
    assert world.chain.final == world.manifest.initial_parameters
    assert not world.wanted(Propose)
    assert ("rewards", 0, 0) not in world.statements


def test_the_first_table_with_pay_is_the_ledgers_first_epoch(make_world: MakeWorld) -> None:
    world = make_world(rounds=2, pay={"epoch_rounds": 1, "vest_epochs": 0})
    world.open()
    world.mine(12)
    world.mine()
    world.play(1)
    world.mine(8)
    assert ("rewards", 1, 1) in world.statements
    assert [one.epoch for one in world.wanted(Propose)] == [0]
    assert world.chain.final is not None


def test_each_root_is_proposed_on_top_of_the_last_final_one(make_world: MakeWorld) -> None:
    world = make_world(rounds=2, pay={"epoch_rounds": 1, "vest_epochs": 0})
    world.open()
    for round_ in range(2):
        world.play(round_)
    world.mine(8)
    first, second = world.wanted(Propose)
    assert (first.epoch, first.previous) == (0, "00" * 32)
    assert (second.epoch, second.previous) == (1, first.root)
    assert world.chain.finalized == [first.root, second.root]


def test_another_pending_root_is_not_finalized(world: Any) -> None:
    world.open()
    for round_ in range(2):
        world.play(round_)
    world.feed(Rewards(world.chain.height, 0, Pending("99" * 32, 0)))
    assert "pending" in world.state.trouble
    assert not world.wanted(Finalize)
