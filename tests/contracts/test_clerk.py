"""What anybody may do for a case, on a real chain: each step when it is due, and no step before."""

from contracts.cases import CaseState
from contracts.clerk import due_step, take_step
from contracts.run import ChainRun
from contracts.types import CaseOutcome, CaseStage
from protocol.beacon_config import BlockBeacon
from tests.contracts.conftest import JURY, MIN_STAKE, RUN, Network
from tests.contracts.court import ballot, court, look


def accuse(network: Network, run: ChainRun) -> int:
    run.follow_beacon(BlockBeacon(), None)
    accuser, finder = network.person("accuser"), network.person("finder").address
    return network.ledger.jury.accuse(accuser, RUN, 0, 1, 2, finder).case


def take(network: Network, run: ChainRun, case: int) -> CaseState:
    """Take the step that is due, as a stranger."""
    state = look(run, case)
    step = due_step(run, state)
    assert step is not None
    assert take_step(run, network.person("stranger"), state, step).block > 0
    return look(run, case)


def test_a_case_is_drawn_ruled_and_closed_in_turn(network: Network) -> None:
    run, jurors = court(network)
    case = accuse(network, run)
    assert due_step(run, look(run, case)) is None, "the beacon that draws the jury is still to come"
    network.chain.mine(3)
    assert take(network, run, case).stage is CaseStage.VOTING
    assert due_step(run, look(run, case)) is None, "the votes are awaited"
    ballot(network, run, case, jurors, CaseOutcome.FALSE)
    assert take(network, run, case).stage is CaseStage.RULED
    assert due_step(run, look(run, case)) is None, "a second jury may be called"
    network.chain.mine(JURY.appeal_blocks + 1)
    ended = take(network, run, case)
    assert (ended.closed, ended.outcome) == (True, CaseOutcome.FALSE)
    assert due_step(run, ended) is None
    assert run.slashed() == {1: MIN_STAKE}


def test_a_jury_that_is_silent_is_ruled_and_closed_when_its_time_is_over(network: Network) -> None:
    run, _ = court(network)
    case = accuse(network, run)
    network.chain.mine(3)
    take(network, run, case)
    network.chain.mine(JURY.vote_blocks + 1)
    assert due_step(run, look(run, case)) == "rule", "nobody has sealed a vote that could be revealed"
    take(network, run, case)
    network.chain.mine(JURY.appeal_blocks + 1)
    ended = take(network, run, case)
    assert (ended.closed, ended.outcome) == (True, 0)
    assert [one.outcome for one in run.cases(0)] == ["unjudged"]
    assert run.slashed() == {}


def test_a_case_whose_jury_nobody_drew_is_closed(network: Network) -> None:
    run, _ = court(network)
    case = accuse(network, run)
    network.chain.mine(JURY.draw_blocks + 1)
    ended = take(network, run, case)
    assert (ended.closed, ended.outcome, ended.seats) == (True, 0, ())
