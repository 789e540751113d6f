"""The event index says what the chain says, also after the chain has changed its mind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from contracts.anvil import request
from contracts.chain import connect
from contracts.client import Ledger
from contracts.events import CaseOpened, Registered, RunFunded, Slashed, StakeChanged
from contracts.index import EventIndex
from contracts.run import ChainRun
from contracts.types import CaseOutcome
from protocol.errors import LedgerError
from protocol.networks import Network as Profile
from tests.contracts.conftest import FORCE_BLOCKS, JURY, MIN_STAKE, RUN, TOKEN, Network
from tests.contracts.court import judge, seat
from tests.contracts.test_client import settle


def index_of(network: Network) -> EventIndex:
    assert network.ledger.deployed_block is not None
    return EventIndex(network.ledger, network.ledger.deployed_block)


def test_index_starts_empty_and_reads_from_the_ledgers_block(network: Network) -> None:
    index = index_of(network)
    assert index.events == ()
    assert index.height == network.ledger.deployed_block - 1  # type: ignore[operator]
    assert index.block_hash(index.height + 1) is None
    assert index.poll() == []
    assert index.height == network.chain.w3.eth.block_number


def test_every_kind_of_event_is_read_with_its_values(network: Network) -> None:
    ledger, index = network.ledger, index_of(network)
    network.register("alice")
    jurors = seat(network)
    alice = network.person("alice")
    ledger.deposit(alice, 3 * TOKEN)
    ledger.unbond(alice, 2 * TOKEN)
    ledger.cancel_unbond(alice)
    ledger.unbond(alice, TOKEN)
    ledger.rotate_peer(alice, network.peer("alice again"))
    coordinator = network.open_run()
    ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 2)
    ledger.force_commitment(alice, RUN, 0, bytes([7]) * 32)
    network.chain.mine(FORCE_BLOCKS + 1)
    ledger.anchor_record(coordinator, RUN, 0, bytes([2]) * 32)
    run = ChainRun(ledger, RUN)
    accuser = network.person("accuser")
    case = ledger.jury.accuse(accuser, RUN, 0, 1, 2, accuser.address, bytes([8]) * 32).case
    judge(network, run, case, jurors, CaseOutcome.FALSE)
    ledger.jury.withdraw_credit(accuser, accuser.address)
    tree = settle(network, 0, {alice.address: TOKEN})
    ledger.claim(alice, RUN, alice.address, TOKEN, tree.proof(0))
    ledger.finish_run(coordinator, RUN, bytes([3]) * 32)

    found = index.poll()
    assert tuple(found) == index.events
    assert [type(event).__name__ for event in found] == [
        *["Registered", "StakeChanged"],
        *["Registered", "StakeChanged", "SlotsChanged"] * 3,
        "StakeChanged",
        *["StakeChanged", "UnbondingStarted"],
        *["StakeChanged", "UnbondingCancelled"],
        *["StakeChanged", "UnbondingStarted"],
        "PeerRotated",
        *["RunCreated", "RunFunded", "RunOpened", "CommitmentsPosted", "CommitmentForced", "RecordAnchored"],
        *["CaseOpened", "JuryCalled", "StageEntered"],
        *["Seated"] * 3,
        "StageEntered",
        *["VoteSealed"] * 3,
        "StageEntered",
        *["VoteRevealed"] * 3,
        *["Ruled", "StageEntered"],
        *["StageEntered", "StakeChanged", "Slashed"],
        *["Credited"] * 5,  # the finder, three jurors, and the accuser's bond
        "CreditWithdrawn",
        *["RewardsProposed", "RewardsFinalized", "Claimed", "RunFinished"],
    ]
    first = found[0]
    key = network.peer("alice")
    assert isinstance(first, Registered)
    assert (first.number, first.wallet, first.peer, first.role) == (1, alice.address, key.address, 1)
    assert first.pub_x + first.pub_y.to_bytes(32, "big") == key.public
    (funded,) = (event for event in found if isinstance(event, RunFunded))
    assert (funded.run, funded.sender) == (RUN, coordinator.address)
    assert funded.amount == funded.total == 1000 * TOKEN
    (opened,) = (event for event in found if isinstance(event, CaseOpened))
    assert (opened.case, opened.run, opened.round, opened.number, opened.segment) == (case, RUN, 0, 1, 2)
    assert (opened.kind, opened.appellant, opened.bond) == (1, accuser.address, JURY.case_bond)
    assert opened.evidence == bytes([8]) * 32
    (slash,) = (event for event in found if isinstance(event, Slashed))
    assert (slash.number, slash.run, slash.round) == (1, RUN, 0)
    assert (slash.amount, slash.unbonding) == (MIN_STAKE + 3 * TOKEN, 0)


def test_poll_returns_only_what_was_added(network: Network) -> None:
    index = index_of(network)
    network.register("alice")
    assert len(index.poll()) == 2
    before = index.events
    assert index.poll() == []
    assert index.events is before
    network.register("bob")
    assert [type(event) for event in index.poll()] == [Registered, StakeChanged]
    assert len(index.events) == 4


def test_long_ranges_are_read_in_chunks(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.index.CHUNK_BLOCKS", 3)
    network.register("alice")
    network.chain.mine(10)
    network.register("bob")
    index = index_of(network)
    assert len(index.poll()) == 4
    assert index.height == network.chain.w3.eth.block_number


@dataclass
class Requests:
    """Count what is asked of the chain, and refuse logs by block hash, after something has happened, as told."""

    ask: Callable[[str, Any], Any]
    refuse: bool = False
    before_logs: Callable[[], object] | None = None
    asked: list[str] = field(default_factory=list)

    def __call__(self, method: str, params: Any) -> Any:
        self.asked.append(method)
        if method == "eth_getLogs" and "blockHash" in params[0]:
            if self.before_logs is not None:
                happen, self.before_logs = self.before_logs, None
                happen()
            if self.refuse:
                return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "unknown field"}}
        return self.ask(method, params)


@pytest.fixture
def requests(network: Network, monkeypatch: pytest.MonkeyPatch) -> Requests:
    provider = network.chain.w3.provider
    found = Requests(provider.make_request)
    monkeypatch.setattr(provider, "make_request", found)
    monkeypatch.setattr(provider, "_request_func_cache", (None, None))  # holds the one above otherwise
    return found


def test_a_chain_that_stands_still_is_asked_once_and_a_new_block_twice(
    network: Network, requests: Requests
) -> None:
    index = index_of(network)
    index.poll()
    requests.asked.clear()
    assert index.poll() == []
    assert requests.asked == ["eth_getBlockByNumber"]
    network.chain.mine(1)
    requests.asked.clear()
    assert index.poll() == []
    assert requests.asked == ["eth_getBlockByNumber", "eth_getLogs"]
    assert index.height == network.chain.w3.eth.block_number


def test_an_endpoint_without_logs_by_block_hash_is_asked_by_number(
    network: Network, requests: Requests
) -> None:
    index, requests.refuse = index_of(network), True
    index.poll()
    network.register("alice")
    index.poll()
    network.ledger.unbond(network.person("alice"), MIN_STAKE)
    requests.asked.clear()
    assert [type(event).__name__ for event in index.poll()] == ["StakeChanged", "UnbondingStarted"]
    assert requests.asked.count("eth_getLogs") == 2
    assert index.height == network.chain.w3.eth.block_number


def test_a_block_that_is_replaced_while_it_is_read_leaves_nothing_behind(
    network: Network, requests: Requests
) -> None:
    index = index_of(network)
    network.register("alice")
    index.poll()
    kept = index.events
    network.ledger.unbond(network.person("alice"), MIN_STAKE)
    requests.before_logs = lambda: request(network.chain.w3, "anvil_reorg", 1, [])
    index.poll()
    assert requests.before_logs is None, "the block was one of its own"
    assert index.poll() == []
    assert index.events == kept
    assert index.block_hash(index.height) == bytes(network.chain.w3.eth.get_block("latest")["hash"])


def test_events_of_an_abandoned_fork_are_dropped(network: Network) -> None:
    index = index_of(network)
    network.register("alice")
    index.poll()
    network.register("bob")
    network.chain.mine(2)
    assert len(index.poll()) == 2
    lost = index.block_hash(index.height)
    # The last three blocks never happened: two empty ones and the one with bob's registration.
    request(network.chain.w3, "anvil_reorg", 3, [])
    assert network.ledger.operator_count() == 1
    assert index.poll() == []
    assert [e.wallet for e in index.events if isinstance(e, Registered)] == [network.person("alice").address]
    assert index.rollbacks == 1
    assert index.block_hash(index.height) not in (None, lost)
    network.register("carol")
    assert [type(event) for event in index.poll()] == [Registered, StakeChanged]
    assert len(index.events) == 4


def test_block_hashes_are_those_of_the_indexed_chain(network: Network) -> None:
    index, w3 = index_of(network), network.chain.w3
    # Empty blocks alone could come back the same; without this transfer they cannot.
    network.ledger.transfer(network.treasury, network.ledger.address, 1)
    network.chain.mine(3)
    index.poll()
    number = index.height - 2
    known = index.block_hash(number)
    assert known == bytes(w3.eth.get_block(number)["hash"])
    assert index.block_hash(index.height + 1) is None
    assert index.block_hash(0) is None
    request(w3, "anvil_reorg", 4, [])
    # Nothing new is taken from the other fork before a poll has noticed it.
    assert index.block_hash(index.height - 1) is None
    index.poll()
    assert index.block_hash(number) == bytes(w3.eth.get_block(number)["hash"]) != known


def test_lost_chain_is_an_error_not_an_empty_answer(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(network)
    network.register("alice")
    monkeypatch.setattr(network.chain.w3.provider, "endpoint_uri", "http://127.0.0.1:9")
    with pytest.raises(LedgerError, match="is not there"):
        index.poll()
    monkeypatch.undo()
    assert len(index.poll()) == 2


def test_any_depth_is_followed_down_to_what_is_final_and_no_deeper(network: Network) -> None:
    w3 = connect(Profile(rpc=(network.chain.url,), finality=10))
    assert network.ledger.deployed_block is not None
    index = EventIndex(Ledger(w3, network.ledger.address), network.ledger.deployed_block)
    network.register("alice")
    network.chain.mine(10)
    index.poll()
    kept = index.events
    network.register("bob")
    for _ in range(9):
        network.chain.mine(1)
        index.poll()
    assert len(index.events) == len(kept) + 2
    depth = index.height - index.final_height
    request(w3, "anvil_reorg", depth, [])
    index.poll()
    assert (index.rollbacks, index.events) == (1, kept)
    network.register("carol")
    for _ in range(
        10
    ):  # so that the oldest block replaced holds something: empty ones may come out as they were
        network.chain.mine(1)
        index.poll()
    assert index.final_height == index.height - 10
    known, height, final = index.events, index.height, index.final_height
    request(w3, "anvil_reorg", height - final + 1, [])
    for _ in range(2):
        with pytest.raises(LedgerError, match=f"no longer has block {final}, which was final") as refused:
            index.poll()
    assert "finality" in refused.value.hint
    assert (index.events, index.height) == (known, height)


def test_what_is_final_comes_from_the_chains_tag(network: Network) -> None:
    w3 = connect(Profile(rpc=(network.chain.url,), finality="finalized"))
    index = EventIndex(Ledger(w3, network.ledger.address), 1)
    network.chain.mine(80)
    index.poll()
    assert index.final_height == w3.eth.get_block("finalized")["number"] > 0


def test_marks_below_what_is_final_are_forgotten(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.index.MARKS_MAX", 4)
    index = index_of(network)
    network.register("alice")
    for _ in range(24):
        network.chain.mine(1)
        index.poll()
    assert min(index._marks) == index.final_height == index.height - 16
    number = index.final_height - 2
    assert index.block_hash(number) == bytes(network.chain.w3.eth.get_block(number)["hash"])
    network.register("bob")
    assert len(index.poll()) == 2
