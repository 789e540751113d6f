"""Nonces without gaps or reuse, whatever happens around them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from web3.types import RPCEndpoint

from contracts.anvil import request
from contracts.reverts import LedgerRevert
from contracts.sender import Sender
from protocol.errors import LedgerError
from tests.contracts.conftest import LADDER, TERMS, TOKEN, LocalChain, Network


@pytest.fixture
def manual_mining(chain: LocalChain) -> object:
    """Make no block until the test asks for one."""
    request(chain.w3, "evm_setAutomine", False)
    yield None
    request(chain.w3, "evm_setAutomine", True)
    chain.mine(1)


def test_parallel_sends_are_all_mined_in_nonce_order(network: Network) -> None:
    alice, ledger = network.person("alice"), network.ledger
    first = network.chain.w3.eth.get_transaction_count(alice.account.address)
    with ThreadPoolExecutor(8) as threads:
        receipts = list(
            threads.map(lambda i: ledger.transfer(alice, network.treasury.address, i + 1), range(24))
        )
    transactions = [network.chain.w3.eth.get_transaction(receipt.tx) for receipt in receipts]
    assert sorted(t["nonce"] for t in transactions) == list(range(first, first + 24))
    assert ledger.balance_of(alice.address) == 10_000 * TOKEN - sum(range(1, 25))


def test_two_senders_of_one_key_recover_from_each_others_nonces(network: Network) -> None:
    alice, ledger = network.person("alice"), network.ledger
    twin = Sender(network.chain.w3, alice.account)
    for sender in (alice, twin, alice, twin, twin, alice):
        ledger.transfer(sender, network.treasury.address, 1)
    assert ledger.balance_of(alice.address) == 10_000 * TOKEN - 6


def test_refused_call_costs_no_gas_and_no_nonce(network: Network) -> None:
    alice, ledger, w3 = network.person("alice"), network.ledger, network.chain.w3
    before = (
        w3.eth.get_balance(alice.account.address),
        w3.eth.get_transaction_count(alice.account.address),
    )
    with pytest.raises(LedgerRevert, match="NotRegistered"):
        ledger.unbond(alice, 1)
    after = (
        w3.eth.get_balance(alice.account.address),
        w3.eth.get_transaction_count(alice.account.address),
    )
    assert before == after
    ledger.transfer(alice, network.treasury.address, 1)


@pytest.fixture
def rivals(network: Network) -> list[Sender]:
    """Two wallets that may put up a run's bond."""
    found = [network.person(name) for name in ("alice", "bob")]
    for sender in found:
        sender.send(network.ledger.token.functions.approve(network.ledger.address, TERMS.run_bond))
    return found


def test_call_that_loses_a_race_is_refused_by_name(
    network: Network, rivals: list[Sender], manual_mining: object
) -> None:
    """Both pass the estimate; the block takes one of them and reverts the other."""
    ledger, w3 = network.ledger, network.chain.w3
    with ThreadPoolExecutor(2) as threads:
        key = network.peer("coordinator").address
        sent = [threads.submit(ledger.create_run, one, "cd" * 32, key, LADDER) for one in rivals]
        while int(w3.eth.get_block_transaction_count("pending")) < 2:
            pass
        request(w3, "evm_mine")
        errors = [future.exception() for future in sent]
    assert sum(error is None for error in errors) == 1
    (refused,) = [error for error in errors if error is not None]
    assert isinstance(refused, LedgerRevert)
    assert refused.name == "RunExists"


def test_stalled_transaction_is_replaced_with_a_higher_fee(network: Network, manual_mining: object) -> None:
    w3 = network.chain.w3
    impatient = Sender(w3, network.treasury.account, stall_s=0.1)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(network.ledger.transfer, impatient, "0x" + "34" * 20, 1)
        pending: set[str] = set()
        while len(pending) < 2:  # every version that was seen waiting
            found = w3.eth.get_block("pending")["transactions"]
            pending |= {w3.to_hex(tx) for tx in found}  # type: ignore[arg-type]
        request(w3, "evm_mine")
        receipt = sent.result()
    assert receipt.tx in pending
    assert network.ledger.balance_of("0x" + "34" * 20) == 1


def test_a_transaction_that_the_chain_knows_already_counts_as_sent(
    network: Network, manual_mining: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a lost answer: nodes call it already known, and it is mined once."""
    w3, sender = network.chain.w3, network.treasury
    tell = w3.provider.make_request
    refused: list[str] = []

    def twice(method: RPCEndpoint, params: Any) -> Any:
        answer = tell(method, params)
        if method == "eth_sendRawTransaction":
            answer = tell(method, params)
            refused.append(answer["error"]["message"])
        return answer

    monkeypatch.setattr(w3.provider, "make_request", twice)
    monkeypatch.setattr(w3.provider, "_request_func_cache", (None, None))  # holds the one above otherwise
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(network.ledger.transfer, sender, "0x" + "35" * 20, 1)
        while not refused or int(w3.eth.get_block_transaction_count("pending")) < 1:
            assert not sent.done() or sent.result()
        monkeypatch.undo()
        request(w3, "evm_mine")
        sent.result()
    assert "already" in refused[0]
    assert network.ledger.balance_of("0x" + "35" * 20) == 1


def test_fee_cap_is_kept(network: Network) -> None:
    frugal = Sender(network.chain.w3, network.treasury.account, max_fee_wei=1)
    with pytest.raises(LedgerError, match="above the cap"):
        network.ledger.transfer(frugal, "0x" + "34" * 20, 1)


def test_wallet_without_coin_is_told_so(network: Network) -> None:
    broke = Sender(network.chain.w3, Account.from_key(keccak(text="broke")))
    with pytest.raises(LedgerError) as refused:
        network.ledger.transfer(broke, network.treasury.address, 0)
    assert "gas" in f"{refused.value.message} {refused.value.hint}"


def test_gives_up_when_no_block_comes(network: Network, manual_mining: object) -> None:
    sender = Sender(network.chain.w3, network.treasury.account, timeout_s=0.1)
    with pytest.raises(LedgerError, match="was not mined"):
        network.ledger.transfer(sender, "0x" + "34" * 20, 1)


def test_closing_ends_the_wait(network: Network, manual_mining: object) -> None:
    sender = Sender(network.chain.w3, network.treasury.account)
    sender.close()
    with pytest.raises(LedgerError, match="closed"):
        network.ledger.transfer(sender, "0x" + "34" * 20, 1)
