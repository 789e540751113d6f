"""A run with a unit to judge and verifiers who hold slots; juries that are drawn, vote, and are dismissed."""

from contracts.cases import CaseState
from contracts.jury import sealed_vote
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import Role
from tests.contracts.conftest import JURY, RUN, Network

SALT = bytes(31) + b"\x07"
ROOT = bytes([9]) * 32
JURORS = ("vera", "vito", "vic")


def seat(network: Network) -> dict[int, Sender]:
    """Register three verifiers with a slot each; returns their wallets by number."""
    jurors = {}
    for name in JURORS:
        number = network.register(name, Role.VERIFIER)
        jurors[number] = network.person(name)
        network.ledger.jury.join(network.person(name), 1)
    return jurors


def court(network: Network) -> tuple[ChainRun, dict[int, Sender]]:
    """Open a run with one anchored round of number 1, and three verifiers with a slot each."""
    network.register("alice")
    jurors = seat(network)
    network.open_run()
    network.play_round(0)
    return ChainRun(network.ledger, RUN), jurors


def look(run: ChainRun, case: int) -> CaseState:
    run.refresh()
    return next(one for one in run.every_case() if one.case == case)


def draw(network: Network, case: int) -> None:
    network.chain.mine(3)
    network.ledger.jury.draw(network.treasury, case)


def ballot(
    network: Network, run: ChainRun, case: int, jurors: dict[int, Sender], outcome: int, *, silent: int = 0
) -> None:
    """Let every seat of a drawn jury but the last `silent` ones say the same, until it can be ruled."""
    jury, state = network.ledger.jury, look(run, case)
    seats = state.seats[: len(state.seats) - silent]
    for one in seats:
        digest = sealed_vote(
            network.ledger.chain_id,
            jury.address,
            case,
            second=state.second,
            seat=one.index,
            juror=one.juror,
            outcome=outcome,
            result=ROOT,
            salt=SALT,
        )
        jury.commit_vote(jurors[one.juror], case, one.index, digest)
    if silent:
        network.chain.mine(JURY.vote_blocks + 1)
    for one in seats:
        jury.reveal_vote(network.treasury, case, one.index, outcome, ROOT, SALT)
    if silent:
        network.chain.mine(JURY.reveal_blocks + 1)


def vote(
    network: Network, run: ChainRun, case: int, jurors: dict[int, Sender], outcome: int, *, silent: int = 0
) -> None:
    """Draw, and let every seat but the last `silent` ones say the same; then rule."""
    draw(network, case)
    ballot(network, run, case, jurors, outcome, silent=silent)
    assert look(run, case).next_step(run.height, JURY, drawable=True) == "rule"
    network.ledger.jury.rule(network.treasury, case)


def close(network: Network, run: ChainRun, case: int) -> CaseState:
    network.chain.mine(JURY.appeal_blocks + 1)
    assert look(run, case).next_step(run.height, JURY, drawable=True) == "close"
    network.ledger.jury.close(network.treasury, case)
    return look(run, case)


def judge(
    network: Network, run: ChainRun, case: int, jurors: dict[int, Sender], outcome: int, *, silent: int = 0
) -> CaseState:
    """Take a case from its call to its end with one jury."""
    vote(network, run, case, jurors, outcome, silent=silent)
    return close(network, run, case)
