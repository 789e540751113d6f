"""A case before the jury on a real chain: drawn, sealed, revealed, ruled, closed; and what each side gets."""

import pytest

from contracts.jury import vote_digest
from contracts.reverts import LedgerRevert
from contracts.types import CaseKind, CaseOutcome, CaseStage
from tests.contracts.conftest import JURY, MIN_STAKE, RUN, TOKEN, Network
from tests.contracts.court import ROOT, close, court, look, vote


def test_a_proven_fault_takes_the_stake_and_pays_finder_and_jurors(network: Network) -> None:
    run, jurors = court(network)
    jury, accuser = network.ledger.jury, network.person("accuser")
    finder = network.person("finder").address
    case = jury.accuse(accuser, RUN, 0, 1, 2, finder).case
    assert look(run, case).stage is CaseStage.CALLED
    vote(network, run, case, jurors, CaseOutcome.FALSE)
    ended = close(network, run, case)

    assert (ended.closed, ended.outcome, ended.vote) == (
        True,
        CaseOutcome.FALSE,
        vote_digest(CaseOutcome.FALSE, ROOT),
    )
    assert [(one.outcome, one.contests) for one in run.cases(0)] == [("false", False)]
    operator = network.ledger.operator(1)
    assert operator is not None
    assert (operator.stake_wei, operator.cases) == (0, 0)
    assert run.slashed() == {1: MIN_STAKE}
    assert jury.credit(finder) == MIN_STAKE * 3 // 10
    assert jury.credit(accuser.address) == JURY.case_bond
    paid = sum(jury.credit(one.address) for one in jurors.values())
    assert paid == MIN_STAKE * 2 // 10 // 3 * 3
    before = network.ledger.balance_of(finder)
    jury.withdraw_credit(network.treasury, finder)
    assert network.ledger.balance_of(finder) - before == MIN_STAKE * 3 // 10


def test_a_wrong_accuser_pays_the_accused_and_the_jury(network: Network) -> None:
    run, jurors = court(network)
    jury, accuser = network.ledger.jury, network.person("accuser")
    case = jury.accuse(accuser, RUN, 0, 1, 2, accuser.address).case
    vote(network, run, case, jurors, CaseOutcome.RIGHT)
    close(network, run, case)
    assert [one.outcome for one in run.cases(0)] == ["passed"]
    assert jury.credit(accuser.address) == 0
    assert jury.credit(network.person("alice").address) == JURY.case_bond - 3 * JURY.fee
    assert sum(jury.credit(one.address) for one in jurors.values()) == 3 * JURY.fee


def test_a_silent_juror_pays_and_is_not_drawn_again(network: Network) -> None:
    run, jurors = court(network)
    jury = network.ledger.jury
    case = jury.accuse(network.person("accuser"), RUN, 0, 1, 2, network.person("finder").address).case
    vote(network, run, case, jurors, CaseOutcome.FALSE, silent=1)
    silent = look(run, case).seats[-1].juror
    close(network, run, case)
    owing = jury.juror(silent)
    assert owing.bonded_wei == JURY.slot_stake - JURY.silent_penalty
    jury.join(jurors[silent], 0)
    assert jury.juror(silent).bonded_wei == JURY.slot_stake


def test_a_second_jury_of_nine_overturns_the_first(network: Network) -> None:
    run, jurors = court(network)
    jury, alice = network.ledger.jury, network.person("alice")
    case = jury.accuse(network.person("accuser"), RUN, 0, 1, 2, network.person("finder").address).case
    vote(network, run, case, jurors, CaseOutcome.FALSE)
    jury.appeal(alice, case)
    vote(network, run, case, jurors, CaseOutcome.RIGHT)
    assert len(look(run, case).seats) == 3 * JURY.seats
    jury.close(network.treasury, case)
    assert look(run, case).outcome == CaseOutcome.RIGHT
    assert run.slashed() == {}
    # Her bond comes back, and the accuser's pays the nine and then her.
    assert jury.credit(alice.address) == 4 * JURY.case_bond - 9 * JURY.fee
    assert 9 * JURY.fee < TOKEN


def test_who_opens_to_the_jury_alone_owes_nothing_and_is_owed_nothing(network: Network) -> None:
    run, jurors = court(network)
    jury, coordinator = network.ledger.jury, network.person("coordinator")
    alice = network.person("alice").address
    case = jury.accuse(coordinator, RUN, 0, 1, 2, alice, refusal=True).case
    assert look(run, case).kind is CaseKind.REFUSAL
    vote(network, run, case, jurors, CaseOutcome.RIGHT)
    close(network, run, case)
    assert [one.outcome for one in run.cases(0)] == ["passed"]
    assert jury.credit(coordinator.address) == JURY.case_bond - 3 * JURY.fee
    assert jury.credit(alice) == 0


def test_who_opens_to_nobody_loses_its_stake(network: Network) -> None:
    run, jurors = court(network)
    jury, coordinator = network.ledger.jury, network.person("coordinator")
    finder = network.person("finder").address
    case = jury.accuse(coordinator, RUN, 0, 1, 2, finder, refusal=True).case
    vote(network, run, case, jurors, CaseOutcome.UNAVAILABLE)
    close(network, run, case)
    (ended,) = run.cases(0)
    assert (ended.outcome, ended.refused) == ("false", True)
    assert run.slashed() == {1: MIN_STAKE}
    assert jury.credit(finder) == MIN_STAKE * 3 // 10
    assert jury.credit(coordinator.address) == JURY.case_bond


def test_only_the_coordinator_accuses_of_refusal(network: Network) -> None:
    court(network)
    accuser = network.person("accuser")
    with pytest.raises(LedgerRevert, match="NotCoordinator"):
        network.ledger.jury.accuse(accuser, RUN, 0, 1, 2, accuser.address, refusal=True)
