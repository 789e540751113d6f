"""A case before the jury on a real chain: drawn, sealed, revealed, ruled, closed; and what each side gets."""

from contracts.cases import FALSE, RIGHT, CaseState
from contracts.jury import sealed_vote, vote_digest
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import CaseStage, Role
from tests.contracts.conftest import JURY, MIN_STAKE, RUN, TOKEN, Network

SALT = bytes(31) + b"\x07"
ROOT = bytes([9]) * 32


def court(network: Network) -> tuple[ChainRun, dict[int, Sender]]:
    """Open a run with one anchored round of number 1, and three verifiers with a slot each."""
    network.register("alice")
    jurors = {}
    for name in ("vera", "vito", "vic"):
        number = network.register(name, Role.VERIFIER)
        jurors[number] = network.person(name)
        network.ledger.jury.join(network.person(name), 1)
    network.open_run()
    network.play_round(0)
    return ChainRun(network.ledger, RUN), jurors


def look(run: ChainRun, case: int) -> CaseState:
    run.refresh()
    return next(one for one in run.every_case() if one.case == case)


def vote(
    network: Network, run: ChainRun, case: int, jurors: dict[int, Sender], outcome: int, *, silent: int = 0
) -> None:
    """Draw, and let every seat but the last `silent` ones say the same."""
    jury = network.ledger.jury
    network.chain.mine(3)
    jury.draw(network.treasury, case)
    state = look(run, case)
    seats = state.seats[: len(state.seats) - silent]
    for seat in seats:
        digest = sealed_vote(
            network.ledger.chain_id,
            jury.address,
            case,
            second=state.second,
            seat=seat.index,
            juror=seat.juror,
            outcome=outcome,
            result=ROOT,
            salt=SALT,
        )
        jury.commit_vote(jurors[seat.juror], case, seat.index, digest)
    if silent:
        network.chain.mine(JURY.vote_blocks + 1)
    for seat in seats:
        jury.reveal_vote(network.treasury, case, seat.index, outcome, ROOT, SALT)
    if silent:
        network.chain.mine(JURY.reveal_blocks + 1)
    assert look(run, case).next_step(run.height, JURY, drawable=True) == "rule"
    jury.rule(network.treasury, case)


def close(network: Network, run: ChainRun, case: int) -> CaseState:
    network.chain.mine(JURY.appeal_blocks + 1)
    assert look(run, case).next_step(run.height, JURY, drawable=True) == "close"
    network.ledger.jury.close(network.treasury, case)
    return look(run, case)


def test_a_proven_fault_takes_the_stake_and_pays_finder_and_jurors(network: Network) -> None:
    run, jurors = court(network)
    jury, accuser = network.ledger.jury, network.person("accuser")
    finder = network.person("finder").address
    case = jury.accuse(accuser, RUN, 0, 1, 2, finder).case
    assert look(run, case).stage is CaseStage.CALLED
    vote(network, run, case, jurors, FALSE)
    ended = close(network, run, case)

    assert (ended.closed, ended.outcome, ended.vote) == (True, FALSE, vote_digest(FALSE, ROOT))
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
    vote(network, run, case, jurors, RIGHT)
    close(network, run, case)
    assert [one.outcome for one in run.cases(0)] == ["passed"]
    assert jury.credit(accuser.address) == 0
    assert jury.credit(network.person("alice").address) == JURY.case_bond - 3 * JURY.fee
    assert sum(jury.credit(one.address) for one in jurors.values()) == 3 * JURY.fee


def test_a_silent_juror_pays_and_is_not_drawn_again(network: Network) -> None:
    run, jurors = court(network)
    jury = network.ledger.jury
    case = jury.accuse(network.person("accuser"), RUN, 0, 1, 2, network.person("finder").address).case
    vote(network, run, case, jurors, FALSE, silent=1)
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
    vote(network, run, case, jurors, FALSE)
    jury.appeal(alice, case)
    vote(network, run, case, jurors, RIGHT)
    assert len(look(run, case).seats) == 3 * JURY.seats
    jury.close(network.treasury, case)
    assert look(run, case).outcome == RIGHT
    assert run.slashed() == {}
    # Her bond comes back, and the accuser's pays the nine and then her.
    assert jury.credit(alice.address) == 4 * JURY.case_bond - 9 * JURY.fee
    assert 9 * JURY.fee < TOKEN
