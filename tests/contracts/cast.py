"""Who plays on the ledger that is compared with its model, under which terms, and what they have done before."""

from collections.abc import Callable
from typing import Any, TypeVar

from eth_utils.crypto import keccak
from hypothesis import strategies as st

from contracts.types import CaseStage, JuryTerms, Ladder, LedgerTerms
from protocol.keys import PeerKey
from tests.contracts.model import CONTRIBUTOR, VERIFIER
from tests.contracts.model_court import Model
from tests.contracts.twin import Twin, account_of

TOKEN = 10**18
TERMS = LedgerTerms(
    min_stake=100 * TOKEN,
    run_bond=50 * TOKEN,
    proposal_bond=5 * TOKEN + 1,
    unbonding_blocks=150,
    dispute_blocks=6,
    force_blocks=2,
    timeout_blocks=8,
)
JURY = JuryTerms(
    slot_stake=20 * TOKEN,
    silent_penalty=9 * TOKEN,
    fee=TOKEN // 10 + 1,
    case_bond=10 * TOKEN,
    seats=3,
    draw_blocks=6,
    vote_blocks=12,
    reveal_blocks=12,
    appeal_blocks=5,
    unbonding_blocks=10,
)
LADDER = Ladder(fault_bps=6667, equivocation_bps=1000, window_blocks=30)
LADDERS = (
    LADDER,
    Ladder(10_000, 10_000, 43),  # the longest window that the ledger allows
    Ladder(10_000, 1000, 44),
    Ladder(4999, 1000, 20),
    Ladder(10_000, 10_001, 20),
    Ladder(10_000, 1000, 0),
)
RUNS = tuple(keccak(text=f"run {index}") for index in range(3))
CONTRIBUTORS = tuple(account_of(name) for name in ("alice", "bob", "cleo"))
VERIFIERS = tuple(account_of(name) for name in ("vera", "vito", "vic", "val"))
COORDINATOR, CAROL, NEWCOMER, PAUPER = (account_of(name) for name in ("coordinator", "carol", "new", "poor"))
PEOPLE = (*CONTRIBUTORS, *VERIFIERS, COORDINATOR, CAROL, NEWCOMER, PAUPER)
COORDINATOR_KEY = PeerKey(keccak(text="the coordinator's key"))
RESULTS = (bytes([9]) * 32, bytes([8]) * 32)
SALT = bytes(31) + b"\x07"
SEATS = 3 * JURY.seats


def peer_of(account: str, version: int = 0) -> PeerKey:
    return PeerKey(keccak(text=f"peer {version} of {account}"))


def prepare(twin: Twin, treasury: str) -> None:
    for account in PEOPLE:
        twin.equip(account)
        twin.approve(account)
        assert twin.do("move", treasury, account, 111 * TOKEN if account == PAUPER else 10_000 * TOKEN)
    for wallet in CONTRIBUTORS:
        assert twin.register(wallet, CONTRIBUTOR, peer_of(wallet), TERMS.min_stake + 7)
    for wallet in VERIFIERS:
        assert twin.register(wallet, VERIFIER, peer_of(wallet), TERMS.min_stake)
        assert twin.do("join", wallet, 1)
    assert twin.do("join", VERIFIERS[0], 1)
    twin.create_run(COORDINATOR, RUNS[0], COORDINATOR_KEY.address.lower(), LADDER, 1000 * TOKEN)
    twin.do("open_run", COORDINATOR, RUNS[0])
    twin.compare()
    twin.save()


Act = TypeVar("Act", bound=Callable[..., None])
ACTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {}
NAMES: list[str] = []


def action(times: int = 1, /, **strategies: st.SearchStrategy[Any]) -> Callable[[Act], Act]:
    """Let a method be called at random, so many times as often as others.

    Rules of hypothesis would be left out at random, too many of them for the few examples that a chain has time for.
    """

    def keep(method: Act) -> Act:
        ACTIONS[method.__name__] = strategies
        NAMES.extend([method.__name__] * times)
        return method

    return keep


def deadlines_of(m: Model) -> set[int]:
    """Return the blocks at which something becomes possible, or no longer is."""
    jury = JURY
    found = {op.unbonding_at for op in m.operators.values()} | {one.leaving_at for one in m.jurors.values()}
    found |= {pending.final_at for pending in m.pending.values()}
    found |= {at + TERMS.unbonding_blocks for at in m.retired_at.values()}
    for one in m.runs.values():
        found |= {one.active_at + TERMS.timeout_blocks, one.active_at + TERMS.unbonding_blocks}
    for (run, _), times in m.rounds.items():
        found |= {times.posted_at + TERMS.force_blocks}
        found |= {times.anchored_at + m.runs[run].ladder.window_blocks}
    for case in m.cases.values():
        waits = {1: jury.draw_blocks, 2: jury.vote_blocks, 3: jury.reveal_blocks, 4: jury.appeal_blocks}
        if case.stage in waits:
            found.add(case.stage_at + waits[case.stage])
        if case.stage == CaseStage.CALLED:
            found |= {case.seed_round, case.seed_round + 256}
        if case.stage == CaseStage.VOTING:
            found.add(case.stage_at + jury.vote_blocks + jury.reveal_blocks)
    return found
