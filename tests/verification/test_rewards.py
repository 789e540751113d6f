"""Which reward root is due, by anybody's messages, and what jurors find of proposed ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.types import CaseOutcome
from protocol.errors import MurmurError, ProofInconclusive, ProofRejected
from protocol.messages import Body, Commitment, Judgement, RoundRecord, Seal, Verdict, sign
from tests.verification.anybody import NOBODY, Anybody, Duty, said
from tests.verification.simchain import key, wallet
from verification.audit_money import check_claims, check_reward_roots
from verification.audit_roots import check_pending_root, check_reward_rulings
from verification.bench import NotServed
from verification.public import PublicRun
from verification.rewards import NO_ROOT, first_gap, judge_root
from verification.unit import Finding

FIRST, SECOND = 0, 1  # epochs as the ledger counts


def test_from_messages_alone_the_root_of_every_epoch_is_recomputed(anybody: Anybody) -> None:
    for epoch in (FIRST, SECOND):
        root, total = said(anybody, epoch)
        due = anybody.due(epoch)
        assert due is not None
        assert (due.root, due.total_wei, due.table_epoch) == (root, total, epoch)
        assert anybody.find(epoch, root, total) == Finding(CaseOutcome.RIGHT, root)
    assert anybody.due(2) is None


def test_another_root_or_total_is_wrong_and_the_finding_names_the_right_one(anybody: Anybody) -> None:
    root, total = said(anybody, FIRST)
    for other in ((bytes([7]) * 32, total), (root, total + 1)):
        found = anybody.find(FIRST, *other)
        assert (found.outcome, found.result) == (CaseOutcome.VOID, root)
    found = anybody.find(2, root, total)
    assert (found.outcome, found.result) == (CaseOutcome.VOID, NO_ROOT)


def test_a_root_is_not_due_before_all_is_declared_and_no_case_can_come(anybody: Anybody) -> None:
    anchors, appeal = anybody.chain.anchors, anybody.bed.manifest.deadlines.appeal
    until = max(anchors[1] + 1 + appeal, anchors[2] - 1)
    assert anybody.due(FIRST, until) is None
    assert anybody.due(FIRST, max(until + 1, anchors[2])) is not None
    assert anybody.due(SECOND, anybody.chain.final_at - 1) is None, "the closing word declares the last round"
    assert anybody.due(SECOND, anybody.chain.final_at) is not None


def test_before_the_run_is_closed_only_the_proposers_own_closing_word_counts(anybody: Anybody) -> None:
    before = anybody.chain.final_at - 1
    for proposer in (NOBODY, wallet(1), wallet(4)):
        assert anybody.due(SECOND, before, proposer) is None
    due = anybody.due(SECOND, before, wallet(0))
    assert due is not None
    assert (due.root, due.total_wei) == said(anybody, SECOND)
    anybody.messages = [one for one in anybody.messages if one.body.kind != "finish"]
    assert anybody.due(SECOND, before, wallet(0)) is None


def test_what_happens_later_changes_no_jurors_finding(anybody: Anybody) -> None:
    root, total = said(anybody, FIRST)
    proposed = anybody.chain.propose(FIRST, root, total)
    first = judge_root(anybody.known(proposed.block - 1), proposed)
    anybody.chain.height += 50
    for contests in (False, True):
        late = anybody.chain.open_case(0, 1, 0, contests=contests)
        anybody.chain.close_case(late, 3)
    anybody.chain.left = {1, 2, 3}
    assert judge_root(anybody.known(proposed.block - 1), proposed) == first


@pytest.mark.parametrize(
    ("kind", "round_", "named"),
    [
        (RoundRecord, 1, "the record of round 1"),
        (Commitment, 0, "the commitment of number"),
        (Verdict, 0, "the verdict of"),
        (Seal, 0, "the verdict of"),
    ],
)
def test_a_root_that_rests_on_what_nobody_delivers_is_not_recomputed(
    anybody: Anybody, kind: type[Body], round_: int, named: str
) -> None:
    whole = anybody.pool
    lost = anybody.lose(kind, round_)
    with pytest.raises(ProofInconclusive, match=named):
        anybody.due(FIRST)
    assert first_gap(anybody.bed.manifest, anybody.chain, anybody.pool) == lost.round
    assert first_gap(anybody.bed.manifest, anybody.chain, whole) is None


def test_a_closing_word_that_nobody_delivers_holds_back_only_what_it_declares(anybody: Anybody) -> None:
    anybody.messages = [one for one in anybody.messages if one.body.kind != "finish"]
    assert anybody.due(FIRST) is not None
    with pytest.raises(ProofInconclusive, match="the closing word"):
        anybody.due(SECOND)
    assert first_gap(anybody.bed.manifest, anybody.chain, anybody.pool) == 2


def declare(anybody: Anybody, round_: int, change: Any) -> None:
    """Let the coordinator have anchored other declarations in a record."""
    old = anybody.lose(RoundRecord, round_).body
    assert isinstance(old, RoundRecord)
    body = old.model_copy(update={"judged": tuple(change(one) for one in old.judged)})
    anybody.messages.append(sign(key(0), anybody.bed.manifest, round_, "coordinator", body))
    anybody.chain.records[round_] = body.digest().hex()


def test_a_declared_outcome_that_the_verdicts_do_not_give_changes_no_root(anybody: Anybody) -> None:
    right = said(anybody, FIRST)

    def acquit(one: Judgement) -> Judgement:
        return one.model_copy(update={"outcome": "passed", "forged_residual": False, "wrong": ()})

    declare(anybody, 1, acquit)
    due = anybody.due(FIRST)
    assert due is not None
    assert (due.root, due.total_wei) == right


def test_a_unit_declared_before_its_verifiers_time_is_not_decided(anybody: Anybody) -> None:
    declare(anybody, 2, lambda one: one if one.case else one.model_copy(update={"heard": one.heard[:1]}))
    anchors, closes = anybody.chain.anchors, anybody.bed.manifest.deadlines.verify
    assert anchors[2] - anchors[1] - 1 <= 3 * closes, "no time for a third verifier"
    assert anybody.due(FIRST) is None


def test_of_two_declarations_the_first_counts(anybody: Anybody) -> None:
    right = said(anybody, FIRST)
    lost = anybody.lose(RoundRecord, 2).body
    assert isinstance(lost, RoundRecord)
    again = [one.model_copy(update={"heard": ()}) for one in anybody.bed.records[1].body.judged]
    body = lost.model_copy(update={"judged": (*lost.judged, *again)})
    anybody.messages.append(sign(key(0), anybody.bed.manifest, 2, "coordinator", body))
    anybody.chain.records[2] = body.digest().hex()
    due = anybody.due(FIRST)
    assert due is not None
    assert (due.root, due.total_wei) == right


def test_once_anybody_may_act_what_is_left_open_is_judged_by_nobody(anybody: Anybody) -> None:
    anybody.abandon()
    assert anybody.due(SECOND) is None
    moved = max(anybody.chain.anchors.values())
    assert anybody.due(SECOND, moved + anybody.chain.timeout_blocks - 1) is None
    anybody.chain.height = moved + anybody.chain.timeout_blocks
    due, whole = anybody.due(SECOND), dict(_paid(anybody, SECOND))
    assert due is not None
    found = {entry.account: entry.cumulative_wei for entry in due.entries}
    before = dict(_paid(anybody, FIRST))
    assert due.root != said(anybody, SECOND)[0]
    assert found == {account: before[account] for account in found}, "everybody was drawn in the last round"
    assert whole[wallet(1)] > found[wallet(1)]
    proposed = anybody.chain.propose(SECOND, due.root, due.total_wei)
    assert judge_root(anybody.known(proposed.block - 1), proposed).outcome == CaseOutcome.RIGHT


def test_what_a_missing_record_may_declare_is_not_taken_for_open(anybody: Anybody) -> None:
    anybody.abandon()
    anybody.chain.height += anybody.chain.timeout_blocks
    anybody.lose(RoundRecord, 2)
    with pytest.raises(ProofInconclusive, match="the record of round 2"):
        anybody.due(FIRST)


def _paid(anybody: Anybody, epoch: int) -> list[tuple[str, int]]:
    entries = anybody.bed.settlement.rewards[epoch].body.entries
    return [(one.account, one.cumulative_wei) for one in entries]


def test_the_audit_knows_a_final_root_that_others_proposed_before_a_late_declaration(
    anybody: Anybody,
) -> None:
    closed = anybody.chain.final
    anybody.abandon()
    for epoch in (FIRST, SECOND):
        anybody.chain.height += anybody.chain.timeout_blocks
        due = anybody.due(epoch)
        assert due is not None
        anybody.chain.propose(epoch, due.root, due.total_wei, NOBODY)
    rewards = {
        one.epoch: replace(
            anybody.bed.chain.rewards[one.epoch], root=one.root, total=one.total, block=one.block
        )
        for one in anybody.chain.proposed
    }
    anybody.chain.rewards = rewards
    anybody.chain.height += 10
    anybody.chain.final, anybody.chain.final_at = closed, anybody.chain.height
    run = anybody.known().run
    assert check_reward_roots(run)[0] == 2
    check_claims(run)
    anybody.chain.rewards = {**rewards, SECOND: replace(rewards[SECOND], root=bytes([5]) * 32)}
    with pytest.raises(ProofRejected, match="reward root 1"):
        check_reward_roots(anybody.known().run)


# What jurors do


async def test_a_juror_votes_on_a_disputed_root_whatever_the_ground(anybody: Anybody, tmp_path: Path) -> None:
    root, total = said(anybody, FIRST)
    duty = Duty(anybody, tmp_path)
    for proposed, outcome in ((root, CaseOutcome.RIGHT), (bytes([7]) * 32, CaseOutcome.VOID)):
        anybody.chain.propose(FIRST, proposed, total)
        for ground in (1, 2):
            case = anybody.chain.dispute(ground)
            found = await duty.find(case, ())
            assert (found.outcome, found.result) == (outcome, root)
            assert duty.files(case) == frozenset()


async def test_what_a_root_rests_on_is_asked_for_and_then_counts_as_not_served(
    anybody: Anybody, tmp_path: Path
) -> None:
    anybody.chain.propose(FIRST, *said(anybody, FIRST))
    case, lost = anybody.chain.dispute(), anybody.lose(Verdict, 0)
    duty = Duty(anybody, tmp_path)
    duty.peer.pool.round = 40
    with pytest.raises(NotServed, match="the verdict of"):
        await duty.find(case, ())
    await duty.ask_back([case])
    assert duty.peer.ask_since == 0
    duty.peer.pool.add(lost)
    await duty.ask_back([case])
    assert duty.peer.ask_since is None
    assert (await duty.find(case, ())).outcome == CaseOutcome.RIGHT


async def test_a_disputed_root_that_is_not_on_chain_is_nobodys_fault(
    anybody: Anybody, tmp_path: Path
) -> None:
    anybody.chain.propose(FIRST, *said(anybody, FIRST))
    case = anybody.chain.dispute()
    anybody.chain.proposed.clear()
    with pytest.raises(MurmurError, match="not on chain") as caught:
        await Duty(anybody, tmp_path).find(case, ())
    assert not isinstance(caught.value, NotServed)


@pytest.mark.parametrize("outcome", [CaseOutcome.RIGHT, CaseOutcome.VOID, CaseOutcome.UNAVAILABLE])
def test_a_ruling_on_a_root_is_judged_again_by_every_auditor(anybody: Anybody, outcome: CaseOutcome) -> None:
    root, total = said(anybody, FIRST)
    proposed = bytes([7]) * 32 if outcome == CaseOutcome.VOID else root
    anybody.chain.propose(FIRST, proposed, total)
    case = anybody.chain.dispute().case
    anybody.chain.height += 20
    anybody.chain.close_case(case, outcome, bytes(32) if outcome == CaseOutcome.UNAVAILABLE else root)
    run: PublicRun = anybody.known().run
    assert check_reward_rulings(run)[0] == (outcome != CaseOutcome.UNAVAILABLE)
    if outcome != CaseOutcome.UNAVAILABLE:
        anybody.chain.close_case(case, 3 - outcome, root)  # the other of right and wrong
        with pytest.raises(ProofRejected, match=f"case {case}"):
            check_reward_rulings(anybody.known().run)


def test_an_audit_names_a_wrong_root_while_it_is_pending(anybody: Anybody) -> None:
    root, total = said(anybody, FIRST)
    anybody.chain.rewards = {}
    assert check_pending_root(anybody.known().run)[0] == 0
    anybody.chain.propose(FIRST, root, total)
    assert check_pending_root(anybody.known().run)[0] == 1
    anybody.chain.propose(FIRST, bytes([7]) * 32, total)
    with pytest.raises(ProofRejected, match="root of epoch 0 that is pending"):
        check_pending_root(anybody.known().run)
