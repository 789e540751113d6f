"""A run as the chain shows it: rosters at anchors, beacons after them, and nothing of any other run."""

from collections.abc import Callable

import pytest

from contracts.anvil import request
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import CaseKind, CaseOutcome, Role
from protocol.beacon_config import BlockBeacon
from protocol.chain import OPENING_ROUND, ChainView, Operator, Penalties
from protocol.errors import LedgerError
from protocol.speakers import Speaker, speaker_of
from tests.contracts.conftest import (
    DISPUTE_BLOCKS,
    FORCE_BLOCKS,
    LADDER,
    MIN_STAKE,
    RUN,
    TERMS,
    TOKEN,
    Network,
)
from tests.contracts.court import judge, seat
from tests.contracts.test_client import settle

OTHER = "cd" * 32


def view_of(network: Network, run: str = RUN) -> ChainRun:
    assert network.ledger.deployed_block is not None
    view = ChainRun(network.ledger, run, start_block=network.ledger.deployed_block)
    view.follow_beacon(BlockBeacon(), None)
    return view


def refreshed(network: Network) -> ChainRun:
    view = view_of(network)
    view.refresh()
    return view


def numbers(operators: tuple[Operator, ...]) -> list[int]:
    return [operator.number for operator in operators]


def hash_of(network: Network, block: int) -> str:
    return bytes(network.chain.w3.eth.get_block(block)["hash"]).hex()


def accuse(network: Network, number: int, jurors: dict[int, Sender]) -> None:
    """Have a number's unit of round 0 found false."""
    finder = network.person("anyone").address
    case = network.ledger.jury.accuse(network.person("anyone"), RUN, 0, number, 0, finder).case
    judge(network, view_of(network), case, jurors, CaseOutcome.FALSE)


def test_a_run_that_does_not_exist_has_no_facts(network: Network) -> None:
    network.register("alice")
    view: ChainView = refreshed(network)
    assert view.height == network.chain.w3.eth.block_number
    assert view.min_stake_wei == MIN_STAKE
    assert view.created() is None
    assert view.finished() is None
    assert view.anchor(OPENING_ROUND) is None
    assert view.anchor(0) is None
    assert view.record_hash(0) is None
    assert view.commitments(0) is None
    assert view.roster(0) == view.verifiers(0) == ()
    assert view.assignment_beacon(0) is None
    assert view.sampling_beacon(0) is None
    assert view.slashed() == {}
    assert numbers(view.operators()) == [1]


def test_rounds_are_anchored_with_the_coordinators_roots(network: Network) -> None:
    coordinator, ledger = network.open_run(funding=7 * TOKEN), network.ledger
    posted = ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 2)
    network.chain.mine(FORCE_BLOCKS + 1)
    anchored = ledger.anchor_record(coordinator, RUN, 0, bytes([2]) * 32)
    empty = ledger.post_commitments(coordinator, RUN, 1, bytes(32), 0)
    view = refreshed(network)
    found = view.commitments(0)
    assert found is not None
    assert (found.root, found.count, found.block) == ("01" * 32, 2, posted.block)
    none = view.commitments(1)
    assert none is not None
    assert (none.root, none.count, none.block) == ("00" * 32, 0, empty.block)
    assert view.record_hash(0) == "02" * 32
    assert view.anchor(0) == anchored.block
    assert view.anchor(1) is None
    assert view.finished() is None
    opened = view.anchor(-1)
    assert view.activity() == (opened, posted.block, anchored.block, empty.block)
    info = ledger.run_info(RUN)
    assert info is not None
    assert view.activity()[-1] == info.active_at
    assert view.timeout_blocks == TERMS.timeout_blocks

    network.chain.mine(FORCE_BLOCKS + 1)
    ledger.anchor_record(coordinator, RUN, 1, bytes([3]) * 32)
    ledger.finish_run(coordinator, RUN, bytes([9]) * 32)
    view.refresh()
    assert view.record_hash(1) == "03" * 32
    assert view.finished() == "09" * 32
    created = view.coordinator()
    assert created is not None
    assert created.coordinator == coordinator.address
    assert created.coordinator_key == network.peer("coordinator").address
    assert view.created() == created.block
    assert view.penalties() == Penalties(LADDER.fault_bps, LADDER.equivocation_bps, LADDER.window_blocks)
    assert view.funded_wei == 7 * TOKEN


def test_beacons_are_the_hashes_of_the_blocks_after_the_anchors(network: Network) -> None:
    coordinator, ledger, view = network.open_run(), network.ledger, view_of(network)
    view.refresh()
    opened = view.anchor(OPENING_ROUND)
    assert opened == view.height
    assert view.assignment_beacon(0) is None  # its block does not exist yet
    network.chain.mine(1)
    view.refresh()
    assert view.assignment_beacon(0) == hash_of(network, opened + 1)

    ledger.post_commitments(coordinator, RUN, 0, bytes(32), 0)
    network.chain.mine(FORCE_BLOCKS + 1)
    anchored = ledger.anchor_record(coordinator, RUN, 0, bytes([2]) * 32)
    network.chain.mine(3)
    view.refresh()
    assert view.sampling_beacon(0) == view.assignment_beacon(1) == hash_of(network, anchored.block + 1)
    assert view.sampling_beacon(1) is None


def test_roster_of_a_round_is_who_was_staked_at_the_anchor_before(network: Network) -> None:
    ledger = network.ledger
    alice = network.register("alice")
    bob = network.register("bob", amount=2 * MIN_STAKE)
    vera = network.register("vera", Role.VERIFIER)
    network.open_run()
    ledger.unbond(network.person("alice"), 1)  # below the minimum from here on
    ledger.unbond(network.person("bob"), MIN_STAKE)  # the minimum is enough
    carol = network.register("carol")
    network.play_round(0)
    vito = network.register("vito", Role.VERIFIER)
    ledger.cancel_unbond(network.person("alice"))
    network.play_round(1)

    view = refreshed(network)
    assert numbers(view.roster(0)) == [alice, bob]
    assert numbers(view.roster(1)) == [bob, carol]
    assert numbers(view.roster(2)) == [alice, bob, carol]
    assert view.roster(3) == ()
    assert numbers(view.verifiers(0)) == [vera]
    assert numbers(view.verifiers(1)) == [vera, vito]
    assert view.verifiers(2) == ()
    assert [entry.stake_wei for entry in view.roster(0)] == [MIN_STAKE, 2 * MIN_STAKE]
    assert [entry.stake_wei for entry in view.roster(1)] == [MIN_STAKE, MIN_STAKE]


def test_operators_are_named_by_wallet_key_and_peer_id(network: Network) -> None:
    number = network.register("vera", Role.VERIFIER)
    network.ledger.deposit(network.person("vera"), TOKEN)
    view, key = refreshed(network), network.peer("vera")
    expected = Operator(
        number, network.person("vera").address, key.address, key.peer_id, "verifier", MIN_STAKE + TOKEN
    )
    assert view.operator(number) == expected
    assert view.operators() == (expected,)
    assert view.operator(number + 1) is None


def test_the_slashed_leave_the_rosters_that_follow(network: Network) -> None:
    accused, honest = network.register("mallory", amount=MIN_STAKE + TOKEN), network.register("alice")
    jurors = seat(network)
    network.open_run()
    network.play_round(0)
    accuse(network, accused, jurors)
    network.play_round(1)
    view = refreshed(network)
    assert numbers(view.roster(1)) == [accused, honest]
    assert numbers(view.roster(2)) == [honest]
    assert view.slashed() == {accused: MIN_STAKE + TOKEN}
    assert [(event.number, event.round) for event in view.slashes()] == [(accused, 0)]
    left = view.operator(accused)
    assert left is not None
    assert left.stake_wei == 0


def test_a_new_peer_key_counts_from_the_block_of_its_rotation(network: Network) -> None:
    number = network.register("alice")
    network.open_run()
    network.ledger.rotate_peer(network.person("alice"), network.peer("alice again"))
    network.play_round(0)
    view = refreshed(network)
    keys = [view.roster(round_)[0].peer for round_ in (0, 1)]
    assert keys == [network.peer("alice").address, network.peer("alice again").address]
    now = view.operator(number)
    assert now is not None
    assert now.peer_id == network.peer("alice again").peer_id
    assert [one.peer for one in view.keys(number)] == keys
    assert [one.peer_id for one in view.keys(number)] == [network.peer("alice").peer_id, now.peer_id]
    assert view.keys(number)[0].block < view.keys(number)[1].block
    assert view.keys(99) == ()
    spoken = [speaker_of(view, number, round_) for round_ in (0, 1, 2, None)]
    assert spoken == [Speaker("contributor", tuple(found)) for found in (keys, keys[1:], [], keys)]


def test_a_forced_commitment_is_a_fact_of_its_round(network: Network) -> None:
    number = network.register("alice")
    coordinator = network.open_run()
    network.ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 1)
    network.ledger.force_commitment(network.person("alice"), RUN, 0, bytes([7]) * 32)
    view = refreshed(network)
    assert view.forced(0) == {number: "07" * 32}
    assert view.forced(1) == {}


def test_reward_roots_are_proposed_disputed_final_and_claimed(network: Network) -> None:
    ledger, view = network.ledger, view_of(network)
    network.register("alice")
    alice = network.person("alice")
    coordinator = network.open_run()
    jurors = seat(network)
    ledger.propose_rewards(coordinator, RUN, 0, bytes(32), bytes([5]) * 32, TOKEN)
    view.refresh()
    assert [(epoch, event.root) for epoch, event in view.proposed().items()] == [(0, bytes([5]) * 32)]
    pending = ledger.pending_rewards(RUN)
    assert pending is not None
    case = ledger.jury.dispute_rewards(alice, RUN, pending.proposed_at, 1).case
    judge(network, view, case, jurors, CaseOutcome.VOID)
    assert view.proposed() == view.finalized() == {}
    assert view.cases(0) == ()
    assert [one.kind for one in view.every_case()] == [CaseKind.REWARDS]

    tree = settle(network, 0, {alice.address: 3 * TOKEN})
    ledger.claim(alice, RUN, alice.address, 3 * TOKEN, tree.proof(0))
    ledger.propose_rewards(coordinator, RUN, 1, tree.root, bytes([7]) * 32, 4 * TOKEN)
    view.refresh()
    assert {epoch: event.root for epoch, event in view.proposed().items()} == {
        0: tree.root,
        1: bytes([7]) * 32,
    }
    assert [(epoch, event.total) for epoch, event in view.finalized().items()] == [(0, 3 * TOKEN)]
    assert view.reward_roots() == {tree.root.hex(), "07" * 32}
    info = ledger.run_info(RUN)
    assert info is not None
    assert view.activity()[-1] == info.active_at, "what becomes final is progress"
    assert [(event.account, event.cumulative) for event in view.claims()] == [(alice.address, 3 * TOKEN)]
    network.chain.mine(DISPUTE_BLOCKS)


def test_another_runs_events_say_nothing(network: Network) -> None:
    ledger = network.ledger
    accused = network.register("mallory")
    jurors = seat(network)
    network.open_run()
    network.play_round(0)
    settle(network, 0, {network.person("mallory").address: TOKEN})
    accuse(network, accused, jurors)
    stranger = network.person("stranger")
    ledger.create_run(stranger, OTHER, network.peer("stranger").address, LADDER, 2 * TOKEN)

    view = view_of(network, OTHER)
    view.refresh()
    created = view.coordinator()
    assert created is not None
    assert created.coordinator == stranger.address
    assert view.funded_wei == 2 * TOKEN
    assert view.anchor(OPENING_ROUND) is None
    assert view.anchor(0) is None
    assert view.commitments(0) is None
    assert view.proposed() == view.finalized() == view.slashed() == {}
    assert view.slashes() == view.claims() == view.every_case() == ()
    # Stake is the ledger's, not a run's: who was slashed there is on no roster here either.
    ledger.open_run(stranger, OTHER)
    view.refresh()
    assert view.roster(0) == ()
    network.ledger.finish_run(network.person("coordinator"), RUN, bytes([3]) * 32)
    view.refresh()
    assert view.finished() is None


def test_a_reorganisation_takes_beacons_and_facts_back(network: Network) -> None:
    view = view_of(network)
    network.register("alice")
    coordinator = network.open_run()
    network.play_round(0)
    network.ledger.transfer(network.treasury, network.ledger.address, 1)
    network.chain.mine(2)
    view.refresh()
    anchored, before = view.anchor(0), view.sampling_beacon(0)
    assert anchored is not None
    assert before == hash_of(network, anchored + 1)
    # The blocks after the anchor never happened: the record stands, its beacon is another.
    request(network.chain.w3, "anvil_reorg", view.height - anchored, [])
    view.refresh()
    assert view.anchor(0) == anchored
    assert view.sampling_beacon(0) == hash_of(network, anchored + 1) != before
    # Neither did the record.
    request(network.chain.w3, "anvil_reorg", view.height - anchored + 1, [])
    view.refresh()
    assert view.anchor(0) is None
    assert view.record_hash(0) is None
    assert view.sampling_beacon(0) is None
    assert view.commitments(0) is not None
    assert numbers(view.roster(0)) == [1]
    # A sender that has heard nothing of the fork would number its transaction after the lost one.
    network.ledger.anchor_record(Sender(network.chain.w3, coordinator.account), RUN, 0, bytes([4]) * 32)
    network.chain.mine(1)
    view.refresh()
    again = view.anchor(0)
    assert again is not None
    assert view.record_hash(0) == "04" * 32
    assert view.sampling_beacon(0) == hash_of(network, again + 1)


def test_a_lost_chain_keeps_what_was_read(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    network.register("alice")
    network.open_run()
    network.chain.mine(1)
    view = refreshed(network)
    facts: list[Callable[[], object]] = [
        lambda: view.height,
        lambda: view.min_stake_wei,
        lambda: view.roster(0),
        lambda: view.assignment_beacon(0),
        lambda: view.operators(),
    ]
    before = [fact() for fact in facts]
    monkeypatch.setattr(network.chain.w3.provider, "endpoint_uri", "http://127.0.0.1:9")
    with pytest.raises(LedgerError, match="is not there"):
        view.refresh()
    assert [fact() for fact in facts] == before
    monkeypatch.undo()
    network.chain.mine(1)
    view.refresh()
    assert view.height == network.chain.w3.eth.block_number


def test_connecting_checks_chain_and_ledger(network: Network) -> None:
    url, ledger = network.chain.url, network.ledger
    network.open_run()
    view = ChainRun.connect(url, ledger.address, RUN, chain_id=31337)
    view.refresh()
    assert view.created() is not None
    for chain_id, address in ((1, ledger.address), (31337, str(ledger.token.address)), (31337, "0x12")):
        with pytest.raises(LedgerError):
            ChainRun.connect(url, address, RUN, chain_id=chain_id)
    with pytest.raises(LedgerError, match="is not there"):
        ChainRun.connect("http://127.0.0.1:9", ledger.address, RUN)
