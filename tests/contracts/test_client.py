"""One life of a network on a real local chain: stake, runs and rewards through the typed client."""

import pytest
from eth_account import Account

from contracts.anvil import set_coin
from contracts.client import Ledger, domain_separator, peer_link_digest
from contracts.reverts import LedgerRevert
from contracts.sender import Sender
from contracts.types import Role, RunStatus
from protocol.errors import LedgerError
from protocol.keys import PeerKey
from protocol.merkle import StandardMerkleTree, reward_leaf
from protocol.messages import CommitmentEntry, CommitmentList, signing_digest
from tests.contracts.conftest import (
    DISPUTE_BLOCKS,
    FORCE_BLOCKS,
    JURY,
    LADDER,
    MIN_STAKE,
    RUN,
    TERMS,
    TOKEN,
    UNBONDING_BLOCKS,
    Network,
)


def test_deployed_ledger_has_its_parameters(network: Network) -> None:
    ledger = Ledger(network.chain.w3, network.ledger.address.lower())
    ledger.verify()
    assert ledger.address == network.ledger.address
    assert ledger.min_stake == MIN_STAKE
    assert ledger.unbonding_blocks == UNBONDING_BLOCKS
    assert ledger.dispute_blocks == DISPUTE_BLOCKS
    assert ledger.force_blocks == FORCE_BLOCKS
    assert (ledger.run_bond, ledger.proposal_bond) == (TERMS.run_bond, TERMS.proposal_bond)
    assert ledger.jury.terms == JURY
    assert ledger.jury.ledger == ledger.address
    assert ledger.total_supply() == 10**9 * TOKEN
    assert ledger.domain_separator() == domain_separator(31337, ledger.address)


def test_another_contract_is_not_taken_for_a_ledger(network: Network) -> None:
    token = Ledger(network.chain.w3, str(network.ledger.token.address))
    with pytest.raises(LedgerError, match="no ledger"):
        token.verify()
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger(network.chain.w3, "0x" + "12" * 20).verify()


def test_nobody_is_registered_at_first(network: Network) -> None:
    assert network.ledger.operator(1) is None
    assert network.ledger.operator_count() == 0
    assert network.ledger.number_of(network.treasury.address) is None
    assert network.ledger.number_of_peer(network.treasury.address) is None


def test_registration_numbers_are_given_in_order_and_kept(network: Network) -> None:
    assert network.register("alice") == 1
    assert network.register("vera", Role.VERIFIER, 2 * MIN_STAKE) == 2
    operator = network.ledger.operator(2)
    assert operator is not None
    assert operator.wallet == network.person("vera").address
    assert operator.peer == network.peer("vera").address
    assert operator.role is Role.VERIFIER
    assert operator.stake_wei == 2 * MIN_STAKE
    assert network.ledger.number_of(operator.wallet) == 2
    assert network.ledger.number_of_peer(operator.peer) == 2
    assert network.ledger.operator_count() == 2


def test_peer_link_digest_is_the_contracts(network: Network) -> None:
    key, wallet = network.peer("alice"), network.treasury.address
    x, y = key.public[:32], int.from_bytes(key.public[32:], "big")
    on_chain = network.ledger.contract.functions.peerLinkDigest(wallet, x, y).call()
    assert peer_link_digest(31337, network.ledger.address, wallet, key.public) == on_chain


class _Impostor(PeerKey):
    """A peer key that claims the public key of another."""

    @property
    def public(self) -> bytes:
        return PeerKey(bytes([9]) * 32).public


def test_registration_needs_the_peer_keys_signature(network: Network) -> None:
    with pytest.raises(LedgerRevert) as refused:
        network.ledger.register(
            network.person("alice"), Role.CONTRIBUTOR, _Impostor(bytes([8]) * 32), MIN_STAKE
        )
    assert refused.value.name == "BadPeerLink"


def test_too_small_a_stake_is_refused_by_name_and_amounts(network: Network) -> None:
    with pytest.raises(LedgerRevert, match="StakeTooLow") as refused:
        network.register("alice", amount=MIN_STAKE - 1)
    assert refused.value.arguments == {"stake": MIN_STAKE - 1, "minStake": MIN_STAKE}


def test_a_wallet_without_tokens_is_told_so(network: Network) -> None:
    account = Account.from_key(bytes([7]) * 32)
    set_coin(network.chain.w3, account.address, TOKEN)
    poor = Sender(network.chain.w3, account)
    with pytest.raises(LedgerRevert) as refused:
        network.ledger.register(poor, Role.CONTRIBUTOR, network.peer("poor"), MIN_STAKE)
    assert refused.value.name == "ERC20InsufficientBalance"
    assert refused.value.hint


def test_stake_is_deposited_unbonded_rebonded_and_withdrawn(network: Network) -> None:
    ledger, alice = network.ledger, network.person("alice")
    number = network.register("alice")
    ledger.deposit(alice, 5 * TOKEN)
    receipt = ledger.unbond(alice, 3 * TOKEN)
    operator = ledger.operator(number)
    assert operator is not None
    assert (operator.stake_wei, operator.unbonding_wei) == (MIN_STAKE + 2 * TOKEN, 3 * TOKEN)
    assert operator.unbonding_at == receipt.block + UNBONDING_BLOCKS

    ledger.cancel_unbond(alice)
    ledger.unbond(alice, 4 * TOKEN)
    with pytest.raises(LedgerRevert, match="StillUnbonding"):
        ledger.withdraw(alice)
    network.chain.mine(UNBONDING_BLOCKS)
    before = ledger.balance_of(alice.address)
    ledger.withdraw(alice)
    assert ledger.balance_of(alice.address) - before == 4 * TOKEN
    with pytest.raises(LedgerRevert, match="NothingUnbonding"):
        ledger.withdraw(alice)


def test_run_lives_from_creation_to_its_end(network: Network) -> None:
    ledger = network.ledger
    assert ledger.run_info(RUN) is None
    coordinator = network.open_run(funding=7 * TOKEN)
    ledger.fund(network.person("patron"), RUN, 3 * TOKEN)
    network.play_round(0)
    ledger.post_commitments(coordinator, RUN, 1, bytes(32), 0)
    info = ledger.run_info(RUN)
    assert info is not None
    assert info.coordinator == coordinator.address
    assert info.coordinator_key == network.peer("coordinator").address
    assert (info.ladder, info.bond_wei) == (LADDER, TERMS.run_bond)
    assert info.status is RunStatus.OPEN
    assert (info.committed_rounds, info.anchored_rounds) == (2, 1)
    assert info.funded_wei == 10 * TOKEN
    with pytest.raises(LedgerRevert, match="WindowOpen"):
        ledger.anchor_record(coordinator, RUN, 1, bytes([2]) * 32)
    network.chain.mine(FORCE_BLOCKS + 1)
    ledger.anchor_record(coordinator, RUN, 1, bytes([2]) * 32)
    ledger.finish_run(coordinator, RUN, bytes([3]) * 32)
    finished = ledger.run_info(RUN)
    assert finished is not None
    assert finished.status is RunStatus.FINISHED
    with pytest.raises(LedgerRevert, match="WrongRunStatus"):
        network.play_round(2)


def test_only_the_coordinator_posts_for_its_run(network: Network) -> None:
    network.open_run()
    with pytest.raises(LedgerRevert, match="NotCoordinator"):
        network.ledger.post_commitments(network.person("mallory"), RUN, 0, bytes([1]) * 32, 1)
    with pytest.raises(LedgerRevert, match="RunExists"):
        network.ledger.create_run(network.person("mallory"), RUN, network.peer("mallory").address, LADDER)


def test_a_round_has_one_commitment_root(network: Network) -> None:
    coordinator = network.open_run()
    network.ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 1)
    with pytest.raises(LedgerRevert) as refused:
        network.ledger.post_commitments(coordinator, RUN, 0, bytes([9]) * 32, 1)
    assert refused.value.name == "WrongRound"
    assert refused.value.arguments == {"expected": 1, "given": 0}


def test_malformed_run_id_never_reaches_the_chain(network: Network) -> None:
    with pytest.raises(LedgerError, match="not a run id"):
        network.ledger.run_info("ab")


def reward_tree(amounts: dict[str, int]) -> StandardMerkleTree:
    return StandardMerkleTree([reward_leaf(account, amount) for account, amount in amounts.items()])


def settle(network: Network, epoch: int, amounts: dict[str, int]) -> StandardMerkleTree:
    tree, info = reward_tree(amounts), network.ledger.run_info(RUN)
    assert info is not None
    coordinator, total = network.person("coordinator"), sum(amounts.values())
    network.ledger.propose_rewards(coordinator, RUN, epoch, info.final_root, tree.root, total)
    network.chain.mine(DISPUTE_BLOCKS)
    network.ledger.finalize_rewards(network.person("anyone"), RUN)
    return tree


def test_claims_pay_cumulative_amounts_proven_by_the_protocols_tree(network: Network) -> None:
    ledger = network.ledger
    network.open_run()
    accounts = [network.person(f"peer {i}").address for i in range(5)]
    amounts = {account: (i + 1) * TOKEN for i, account in enumerate(accounts)}
    tree = settle(network, 0, amounts)
    before = [ledger.balance_of(account) for account in accounts]
    for i, (account, amount) in enumerate(amounts.items()):
        ledger.claim(network.person("anyone"), RUN, account, amount, tree.proof(i))
    assert [ledger.balance_of(a) - b for a, b in zip(accounts, before, strict=True)] == [*amounts.values()]

    amounts[accounts[2]] += 10 * TOKEN
    tree = settle(network, 1, amounts)
    ledger.claim(network.person("anyone"), RUN, accounts[2], amounts[accounts[2]], tree.proof(2))
    assert ledger.claimed(RUN, accounts[2]) == 13 * TOKEN
    with pytest.raises(LedgerRevert, match="NothingToClaim"):
        ledger.claim(network.person("anyone"), RUN, accounts[0], amounts[accounts[0]], tree.proof(0))
    with pytest.raises(LedgerRevert, match="BadProof"):
        ledger.claim(network.person("anyone"), RUN, accounts[0], 99 * TOKEN, tree.proof(0))
    info = ledger.run_info(RUN)
    assert info is not None
    assert info.claimed_wei == info.final_total_wei == 25 * TOKEN


def test_a_root_builds_on_the_last_final_one_and_its_bond_comes_back(network: Network) -> None:
    ledger, coordinator = network.ledger, network.open_run()
    before = ledger.balance_of(coordinator.address)
    ledger.propose_rewards(coordinator, RUN, 0, bytes(32), bytes([5]) * 32, TOKEN)
    assert ledger.balance_of(coordinator.address) == before - TERMS.proposal_bond
    pending = ledger.pending_rewards(RUN)
    assert pending is not None
    assert (pending.epoch, pending.root, pending.total_wei) == (0, bytes([5]) * 32, TOKEN)
    assert (pending.proposer, pending.open) == (coordinator.address, 0)
    with pytest.raises(LedgerRevert, match="WindowOpen"):
        ledger.finalize_rewards(coordinator, RUN)
    network.chain.mine(DISPUTE_BLOCKS)
    ledger.finalize_rewards(coordinator, RUN)
    assert ledger.balance_of(coordinator.address) == before
    assert ledger.pending_rewards(RUN) is None
    with pytest.raises(LedgerRevert, match="WrongPreviousRoot"):
        ledger.propose_rewards(coordinator, RUN, 1, bytes(32), bytes([6]) * 32, TOKEN)


def test_a_left_out_peer_forces_its_commitment_in_before_the_record(network: Network) -> None:
    ledger, number = network.ledger, network.register("alice")
    alice, commitment = network.person("alice"), bytes([7]) * 32
    coordinator = network.open_run()
    ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 1)
    assert ledger.forced(RUN, 0, number) is None
    ledger.force_commitment(alice, RUN, 0, commitment)
    assert ledger.forced(RUN, 0, number) == commitment
    with pytest.raises(LedgerRevert, match="AlreadyForced"):
        ledger.force_commitment(alice, RUN, 0, commitment)
    network.register("bob")
    network.chain.mine(FORCE_BLOCKS)
    with pytest.raises(LedgerRevert, match="WindowClosed"):
        ledger.force_commitment(network.person("bob"), RUN, 0, commitment)


def test_an_operator_changes_its_peer_key_and_answers_for_the_old_one(network: Network) -> None:
    ledger, number = network.ledger, network.register("alice")
    old, fresh = network.peer("alice"), network.peer("alice again")
    ledger.rotate_peer(network.person("alice"), fresh)
    operator = ledger.operator(number)
    assert operator is not None
    assert operator.peer == fresh.address
    assert ledger.answers_for(old.address) == ledger.answers_for(fresh.address) == number
    network.chain.mine(UNBONDING_BLOCKS)
    assert ledger.answers_for(old.address) is None
    assert ledger.number_of_peer(old.address) == number
    with pytest.raises(LedgerRevert, match="PeerTaken"):
        ledger.rotate_peer(network.person("alice"), old)


def test_a_coordinators_bond_comes_back_after_its_run(network: Network) -> None:
    ledger, coordinator = network.ledger, network.open_run()
    with pytest.raises(LedgerRevert, match="WrongRunStatus"):
        ledger.release_run_bond(coordinator, RUN)
    ledger.finish_run(coordinator, RUN, bytes([3]) * 32)
    with pytest.raises(LedgerRevert, match="StillUnbonding"):
        ledger.release_run_bond(coordinator, RUN)
    network.chain.mine(UNBONDING_BLOCKS)
    before = ledger.balance_of(coordinator.address)
    ledger.release_run_bond(coordinator, RUN)
    assert ledger.balance_of(coordinator.address) - before == TERMS.run_bond


def test_the_ledgers_digest_of_a_message_is_the_protocols(network: Network) -> None:
    body = CommitmentList(entries=(CommitmentEntry(number=1, commitment="ab" * 32),))
    ours = signing_digest(31337, network.ledger.address, RUN, 3, "coordinator", body)
    said = (bytes.fromhex(RUN), 3, "coordinator", body.kind, body.digest())
    assert bytes(network.ledger.contract.functions.messageDigest(*said).call()) == ours
