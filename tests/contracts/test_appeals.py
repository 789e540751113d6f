"""Appeals on a real local chain: their bonds through the typed client, and the cases as a run's view shows them."""

from typing import Literal

import pytest

from contracts.anvil import request
from contracts.events import Appealed, AppealReleased, AppealSettled
from contracts.reverts import LedgerRevert
from contracts.sender import Sender
from contracts.types import AppealInfo, AppealStatus, Role
from protocol.chain import Appeal
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from tests.contracts.conftest import APPEAL_BLOCKS, APPEAL_BOND, MIN_STAKE, RUN, TOKEN, Network
from tests.contracts.test_client import signed_verdict
from tests.contracts.test_index import index_of
from tests.contracts.test_run import OTHER, hash_of, refreshed, view_of

SEGMENT = 3
ALICE, BOB = 1, 2  # registration numbers


@pytest.fixture
def court(network: Network) -> Network:
    """A run with one anchored round; alice and bob contribute, vera and vito verify."""
    for name in ("alice", "bob"):
        network.register(name)
    for name in ("vera", "vito"):
        network.register(name, Role.VERIFIER)
    network.open_run()
    network.play_round(0)
    return network


def accuse(network: Network, segment: int = SEGMENT) -> int:
    return network.ledger.appeal(network.person("bob"), RUN, 0, ALICE, segment)


def contest(network: Network, segment: int = SEGMENT) -> int:
    return network.ledger.appeal(network.person("alice"), RUN, 0, ALICE, segment)


def settle_case(network: Network, case: int, outcome: Literal[1, 2, 3]) -> None:
    a, b = (signed_verdict(network, name, ALICE, case=case, outcome=outcome) for name in ("vera", "vito"))
    network.ledger.settle_appeal(network.person("anyone"), case, outcome, a, b)


def wealth(network: Network, name: str) -> int:
    return network.ledger.balance_of(network.person(name).address)


def test_an_appeal_puts_up_the_bond_and_is_known_by_its_case(court: Network) -> None:
    ledger = court.ledger
    before = wealth(court, "bob")
    assert ledger.appeal_count() == 0
    case = accuse(court)
    assert case == ledger.appeal_count() == 1
    assert wealth(court, "bob") == before - APPEAL_BOND
    assert ledger.appeal_info(case) == AppealInfo(
        case=1,
        run=RUN,
        round=0,
        number=ALICE,
        segment=SEGMENT,
        appellant=BOB,
        block=court.chain.w3.eth.block_number,
        status=AppealStatus.OPEN,
        outcome=0,
    )
    assert contest(court) == 2
    assert ledger.case_of(RUN, 0, ALICE, SEGMENT, contest=False) == 1
    assert ledger.case_of(RUN, 0, ALICE, SEGMENT, contest=True) == 2
    assert ledger.case_of(RUN, 0, BOB, SEGMENT, contest=True) is None
    assert ledger.appeal_info(3) is None


def test_appeals_that_the_ledger_refuses(court: Network) -> None:
    ledger, bob = court.ledger, court.person("bob")
    with pytest.raises(LedgerRevert, match="NotRegistered"):
        ledger.appeal(court.person("stranger"), RUN, 0, ALICE, SEGMENT)
    with pytest.raises(LedgerRevert, match="RoundNotAnchored"):
        ledger.appeal(bob, RUN, 1, ALICE, SEGMENT)
    with pytest.raises(LedgerRevert, match="UnknownRun"):
        ledger.appeal(bob, OTHER, 0, ALICE, SEGMENT)
    with pytest.raises(LedgerRevert, match="NotAContributor"):
        ledger.appeal(bob, RUN, 0, 3, SEGMENT)
    accuse(court)
    with pytest.raises(LedgerRevert, match="AlreadyAppealed") as refused:
        ledger.appeal(court.person("vera"), RUN, 0, ALICE, SEGMENT)
    assert refused.value.arguments == {"case_": 1}
    assert "murmur appeal list" in refused.value.hint
    ledger.transfer(court.person("vera"), bob.address, wealth(court, "vera") - APPEAL_BOND + 1)
    with pytest.raises(LedgerRevert, match="ERC20InsufficientBalance"):
        ledger.appeal(court.person("vera"), RUN, 0, ALICE, SEGMENT + 1)
    ledger.unbond(bob, 1)
    with pytest.raises(LedgerRevert, match="StakeTooLow") as refused:
        ledger.appeal(bob, RUN, 0, ALICE, SEGMENT + 1)
    assert refused.value.arguments == {"stake": MIN_STAKE - 1, "minStake": MIN_STAKE}
    assert ledger.appeal_count() == 1


@pytest.mark.parametrize(
    ("by", "outcome", "upheld"),
    [
        ("bob", PASSED, False),
        ("bob", REJECTED, True),
        ("bob", PROVEN_FALSE, True),
        ("alice", PASSED, True),
        ("alice", REJECTED, False),
        ("alice", PROVEN_FALSE, False),
    ],
)
def test_wire_verdicts_of_the_case_move_its_bond(
    court: Network, by: str, outcome: Literal[1, 2, 3], upheld: bool
) -> None:
    before = {name: wealth(court, name) for name in ("alice", "bob")}
    case = accuse(court) if by == "bob" else contest(court)
    settle_case(court, case, outcome)
    info, run = court.ledger.appeal_info(case), court.ledger.run_info(RUN)
    assert info is not None
    assert run is not None
    assert info.status is (AppealStatus.UPHELD if upheld else AppealStatus.REFUSED)
    assert info.outcome == outcome
    gains = {name: wealth(court, name) - before[name] for name in before}
    half = APPEAL_BOND // 2
    if upheld:
        assert gains == {"alice": 0, "bob": 0}
    else:
        assert gains == ({"alice": half, "bob": -2 * half} if by == "bob" else {"alice": -2 * half, "bob": 0})
    assert run.funded_wei == 1000 * TOKEN - sum(gains.values())


def test_proof_of_a_case_burns_the_stake_and_the_draws_verdicts_do_not_settle_it(court: Network) -> None:
    ledger, anyone = court.ledger, court.person("anyone")
    case = accuse(court)
    drawn = [signed_verdict(court, name, ALICE) for name in ("vera", "vito")]
    with pytest.raises(LedgerRevert, match="BadVerdict"):
        ledger.settle_appeal(anyone, case, PROVEN_FALSE, *drawn)
    a, b = (signed_verdict(court, name, ALICE, case=case) for name in ("vera", "vito"))
    with pytest.raises(LedgerRevert, match="BadVerdict"):
        ledger.slash(anyone, RUN, 0, ALICE, 0, a, b)
    with pytest.raises(LedgerRevert, match="SameVerifier"):
        ledger.settle_appeal(anyone, case, PROVEN_FALSE, a, a)
    with pytest.raises(LedgerRevert, match="UnknownOutcome"):
        ledger.settle_appeal(anyone, case, 4, a, b)
    ledger.settle_appeal(anyone, case, PROVEN_FALSE, a, b)
    ledger.slash(anyone, RUN, 0, ALICE, case, a, b)
    assert ledger.slashed(RUN, 0, ALICE)
    with pytest.raises(LedgerRevert, match="AppealOver"):
        ledger.settle_appeal(anyone, case, PROVEN_FALSE, a, b)
    with pytest.raises(LedgerRevert, match="UnknownAppeal"):
        ledger.settle_appeal(anyone, case + 1, PROVEN_FALSE, a, b)


def test_an_appeal_that_nobody_settles_is_released_in_its_time(court: Network) -> None:
    ledger, anyone = court.ledger, court.person("anyone")
    before = wealth(court, "bob")
    case = accuse(court)
    info = ledger.appeal_info(case)
    assert info is not None
    with pytest.raises(LedgerRevert, match="AppealOpen") as refused:
        ledger.release_appeal(anyone, case)
    assert refused.value.arguments == {"releasableAt": info.block + APPEAL_BLOCKS}
    court.chain.mine(APPEAL_BLOCKS)
    ledger.release_appeal(anyone, case)
    assert wealth(court, "bob") == before
    with pytest.raises(LedgerRevert, match="AppealOver"):
        settle_case(court, case, REJECTED)
    info = ledger.appeal_info(case)
    assert info is not None
    assert info.status is AppealStatus.RELEASED


def test_events_of_appeals_are_read_with_their_values(court: Network) -> None:
    index = index_of(court)
    first, second = accuse(court), contest(court)
    block = court.chain.w3.eth.block_number
    settle_case(court, first, PASSED)
    court.chain.mine(APPEAL_BLOCKS)
    court.ledger.release_appeal(court.person("anyone"), second)
    found = [event for event in index.poll() if isinstance(event, Appealed | AppealSettled | AppealReleased)]
    assert [type(event).__name__ for event in found] == [
        "Appealed",
        "Appealed",
        "AppealSettled",
        "AppealReleased",
    ]
    a, b = (signed_verdict(court, name, ALICE, case=first, outcome=PASSED) for name in ("vera", "vito"))
    _, appealed, settled, released = found
    assert appealed == Appealed(
        block=block,
        log_index=0,
        tx=appealed.tx,
        case=second,
        run=RUN,
        round=0,
        number=ALICE,
        segment=SEGMENT,
        appellant=ALICE,
        bond=APPEAL_BOND,
    )
    assert settled == AppealSettled(
        block=settled.block,
        log_index=0,
        tx=settled.tx,
        case=first,
        outcome=PASSED,
        upheld=False,
        evidence_a=a.evidence,
        evidence_b=b.evidence,
    )
    assert released.case == second


def test_the_block_of_an_appeal_fixes_its_beacon(court: Network) -> None:
    case = accuse(court)
    block = court.chain.w3.eth.block_number
    view = view_of(court)
    view.refresh()
    assert view.appeals(0) == (
        Appeal(
            case=case,
            round=0,
            number=ALICE,
            segment=SEGMENT,
            appellant=BOB,
            bond_wei=APPEAL_BOND,
            block=block,
        ),
    )
    assert view.appeal_beacon(case) is None  # its block is not there yet
    court.chain.mine(1)
    view.refresh()
    assert view.appeal_beacon(case) == hash_of(court, block + 1) != view.sampling_beacon(0)
    assert view.appeal_beacon(case + 1) is None
    assert view.appeals(1) == ()


def test_a_reorganisation_takes_an_appeal_and_its_beacon_back(court: Network) -> None:
    view = view_of(court)
    case = accuse(court)
    block = court.chain.w3.eth.block_number
    court.ledger.transfer(court.treasury, court.ledger.address, 1)
    court.chain.mine(1)
    view.refresh()
    before = view.appeal_beacon(case)
    assert before == hash_of(court, block + 1)
    request(court.chain.w3, "anvil_reorg", view.height - block, [])
    view.refresh()
    assert view.appeal_beacon(case) == hash_of(court, block + 1) != before
    request(court.chain.w3, "anvil_reorg", view.height - block + 1, [])
    view.refresh()
    assert view.appeals(0) == ()
    assert view.appeal_beacon(case) is None
    bob = Sender(court.chain.w3, court.person("bob").account)  # has heard nothing of the lost transaction
    assert court.ledger.appeal(bob, RUN, 0, ALICE, SEGMENT) == case


def test_a_run_shows_its_cases_and_how_they_ended_and_no_other_runs(court: Network) -> None:
    coordinator = court.person("coordinator")
    court.ledger.create_run(coordinator, OTHER, court.peer("coordinator").address, 0)
    court.ledger.open_run(coordinator, OTHER)
    court.ledger.post_commitments(coordinator, OTHER, 0, bytes([1]) * 32, 2)
    court.ledger.anchor_record(coordinator, OTHER, 0, bytes([2]) * 32)
    court.play_round(1)
    foreign = court.ledger.appeal(court.person("bob"), OTHER, 0, ALICE, SEGMENT)
    later = court.ledger.appeal(court.person("bob"), RUN, 1, ALICE, SEGMENT)
    first, second, third = accuse(court), contest(court), accuse(court, SEGMENT + 1)
    settle_case(court, first, PASSED)
    settle_case(court, second, PASSED)
    court.chain.mine(APPEAL_BLOCKS)
    for case in (foreign, third):
        court.ledger.release_appeal(court.person("anyone"), case)

    view = refreshed(court)
    assert [one.case for one in view.appeals(0)] == [first, second, third]
    assert [one.case for one in view.appeals(1)] == [later]
    assert [one.case for one in view.every_appeal()] == [later, first, second, third]
    assert [one.contests for one in view.appeals(0)] == [False, True, False]
    assert view.settled_appeals() == {first: (PASSED, False), second: (PASSED, True)}
    assert [one.case for one in view.settlements()] == [first, second]
    assert view.released_appeals() == {third}
    assert view.funded_wei == 1000 * TOKEN + APPEAL_BOND // 2
    assert view.appeal_beacon(foreign) is None

    other = view_of(court, OTHER)
    other.refresh()
    assert [one.case for one in other.every_appeal()] == [foreign]
    assert other.settled_appeals() == {}
    assert other.released_appeals() == {foreign}
