"""What happens to a transaction when processes die and chains misbehave: it is done once, or said not to be done."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.crypto import keccak
from web3 import Web3

from contracts.anvil import request, set_coin
from contracts.chain import connect
from contracts.client import Ledger
from contracts.courier import Courier
from contracts.outbox import Outbox, State, outbox_path
from contracts.sender import Sender
from contracts.types import Receipt, Role
from protocol.errors import ConfigError, LedgerError
from protocol.networks import Network as Profile
from tests.contracts.conftest import MIN_STAKE, TOKEN, Network

SINK = "0x" + "5a" * 20


class World:
    """One wallet with tokens, and a directory with its outbox."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.directory = directory
        self.url = network.chain.url
        self.w3: Web3 = network.chain.w3
        self.account: LocalAccount = Account.from_key(keccak(text=f"sender on {network.ledger.address}"))
        set_coin(self.w3, self.account.address, TOKEN)
        network.ledger.transfer(network.treasury, self.account.address, 1000 * TOKEN)

    @contextmanager
    def sender(self, **settings: Any) -> Iterator[Sender]:
        """Open the outbox as a process that starts, and close it as one that ends in order."""
        opened = partial(Outbox.open, self.directory, str(self.account.address), 31337)
        sender = Sender(self.w3, self.account, outbox=opened, **settings)
        try:
            yield sender
        finally:
            sender.close()

    def pay(self, sender: Sender, amount: int = 7) -> Receipt:
        return self.network.ledger.transfer(sender, SINK, amount)

    def paid(self) -> int:
        return self.network.ledger.balance_of(SINK)

    def sent(self) -> int:
        return self.w3.eth.get_transaction_count(self.account.address)

    def waiting(self) -> set[str]:
        block: Any = self.w3.eth.get_block("pending")
        return {self.w3.to_hex(tx) for tx in block["transactions"]}

    def mine(self) -> None:
        request(self.w3, "evm_mine")

    def foreign(self, nonce: int, fee: int = 10**11) -> str:
        """Send something with the same key behind the outbox's back."""
        signed = self.account.sign_transaction(
            {
                "to": Web3.to_checksum_address(SINK),
                "value": 1,
                "gas": 21_000,
                "nonce": nonce,
                "chainId": 31337,
                "maxFeePerGas": fee,
                "maxPriorityFeePerGas": 10**9,
            }
        )
        return self.w3.to_hex(self.w3.eth.send_raw_transaction(signed.raw_transaction))


@pytest.fixture
def world(network: Network, tmp_path: Path) -> Iterator[World]:
    found = World(network, tmp_path)
    paid = found.paid()
    assert paid == 0
    yield found
    request(found.w3, "evm_setAutomine", True)
    request(found.w3, "anvil_mine", "0x2")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what was lost at every chance."""
    monkeypatch.setattr("contracts.courier.REBROADCAST_S", 0.0)
    monkeypatch.setattr("contracts.courier.WATCH_S", 0.0)


def later(act: Callable[[], Receipt]) -> "Future[Receipt]":
    return ThreadPoolExecutor(1).submit(act)


def until(condition: Callable[[], bool], sent: "Future[Receipt]") -> None:
    while not condition():
        if sent.done():
            pytest.fail(f"ended early: {sent.exception() or sent.result()}")


def in_child(act: Callable[[], None]) -> int:
    """Run something in a process of its own; return how it ended, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["written", "sent", "mined"])
def test_a_process_that_is_killed_neither_loses_its_transaction_nor_sends_it_twice(
    world: World, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.sent()

    def child() -> None:
        w3 = connect(world.url)
        ledger = Ledger(w3, world.network.ledger.address)
        say = Courier._say

        def say_and_die(courier: Courier, version: Any) -> None:
            say(courier, version)
            die()

        if moment == "written":
            Courier._say = die  # type: ignore[assignment]
        elif moment == "sent":
            Courier._say = say_and_die  # type: ignore[method-assign]
        sender = Sender.open(w3, world.account, world.directory)
        ledger.transfer(sender, SINK, 7)
        die()  # mined, and before anybody was told

    assert in_child(child) == -signal.SIGKILL
    assert world.sent() - before == (moment != "written")
    with world.sender() as sender:
        receipt = world.pay(sender)
        assert "nothing is sent twice" in caplog.text
    assert world.w3.eth.get_transaction(receipt.tx)["nonce"] == before
    assert (world.paid(), world.sent() - before) == (7, 1)
    # Who was told and asks again wants it again.
    with world.sender() as sender:
        assert world.pay(sender).tx != receipt.tx
    assert (world.paid(), world.sent() - before) == (14, 2)


def test_what_a_killed_process_left_is_finished_and_said_before_anything_else(world: World) -> None:
    def child() -> None:
        w3 = connect(world.url)
        Courier._say = die  # type: ignore[assignment]
        Ledger(w3, world.network.ledger.address).transfer(
            Sender.open(w3, world.account, world.directory), SINK, 7
        )

    assert in_child(child) == -signal.SIGKILL
    with world.sender() as sender:
        with pytest.raises(LedgerError, match="an earlier command ended without knowing") as refused:
            world.pay(sender, 1)
        assert "stake status" in refused.value.hint
        assert world.paid() == 7
        world.pay(sender, 1)
    assert world.paid() == 8


def test_the_same_call_for_another_purpose_is_another_transaction(world: World) -> None:
    """As after a kill between two epochs, whose roots are made final by the same call."""

    def child() -> None:
        w3 = connect(world.url)
        sender = Sender.open(w3, world.account, world.directory)
        with sender.intent("epoch 1"):
            Ledger(w3, world.network.ledger.address).transfer(sender, SINK, 7)
        die()

    assert in_child(child) == -signal.SIGKILL
    with world.sender() as sender:
        with sender.intent("epoch 2"):
            world.pay(sender)
        assert world.paid() == 14
        with sender.intent("epoch 1"):
            world.pay(sender)
        assert world.paid() == 14


def test_a_second_process_with_the_same_key_is_refused_until_the_first_has_died(world: World) -> None:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outbox = Outbox.open(world.directory, str(world.account.address), 31337)
            os.write(told, b"1")
            signal.pause()
            outbox.close()
        finally:
            os._exit(9)
    try:
        assert os.read(ready, 1) == b"1"
        with pytest.raises(ConfigError, match="another process sends transactions of wallet") as refused:
            world.pay(Sender.open(world.w3, world.account, world.directory))
        assert "nonces" in refused.value.hint
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)
    with world.sender() as sender:
        world.pay(sender)
    assert outbox_path(world.directory, world.account.address, 31337).stat().st_mode & 0o777 == 0o600


def test_a_dropped_transaction_is_sent_again(world: World, hasty: None) -> None:
    request(world.w3, "evm_setAutomine", False)
    with world.sender() as sender:
        sent = later(lambda: world.pay(sender))
        until(lambda: len(world.waiting()) == 1, sent)
        (tx,) = world.waiting()
        request(world.w3, "anvil_dropTransaction", tx)
        until(lambda: world.waiting() == {tx}, sent)
        world.mine()
        assert sent.result().tx == tx
    assert world.paid() == 7


def test_a_gas_spike_is_followed_by_a_higher_fee(world: World) -> None:
    request(world.w3, "evm_setAutomine", False)
    with world.sender(stall_s=0.1) as sender:
        sent = later(lambda: world.pay(sender))
        until(lambda: len(world.waiting()) == 1, sent)
        (first,) = world.waiting()
        spike = 20 * 10**9
        request(world.w3, "anvil_setNextBlockBaseFeePerGas", hex(spike))
        world.mine()
        until(lambda: bool(world.waiting() - {first}), sent)
        world.mine()
        receipt = sent.result()
    request(world.w3, "anvil_setNextBlockBaseFeePerGas", hex(10**9))
    assert receipt.tx != first
    assert world.w3.eth.get_transaction(receipt.tx)["maxFeePerGas"] > spike * 7 // 8
    assert world.paid() == 7


def test_a_stuck_nonce_is_freed_by_the_next_process(world: World) -> None:
    """The first transaction pays too little for the blocks that follow; what comes later waits behind it."""
    request(world.w3, "evm_setAutomine", False)
    with world.sender(timeout_s=0.0) as sender, pytest.raises(LedgerError, match="was not mined"):
        world.pay(sender, 1)
    request(world.w3, "anvil_setNextBlockBaseFeePerGas", hex(20 * 10**9))
    world.mine()
    assert world.paid() == 0
    with world.sender(stall_s=0.05) as sender:
        for attempt in range(2):
            sent = later(lambda: world.pay(sender, 6))
            while not sent.done():
                world.mine()
            if attempt == 0:
                assert "ended without knowing" in str(sent.exception())
                assert world.paid() == 1
        sent.result()
    request(world.w3, "anvil_setNextBlockBaseFeePerGas", hex(10**9))
    assert world.paid() == 7


def test_a_gap_that_another_program_left_is_filled(world: World) -> None:
    request(world.w3, "evm_setAutomine", False)
    tx = world.foreign(world.sent())
    with world.sender(stall_s=0.05) as sender:
        sent = later(lambda: world.pay(sender))
        until(lambda: len(world.waiting()) == 2, sent)
        request(world.w3, "anvil_dropTransaction", tx)
        while not sent.done():
            world.mine()
        sent.result()
    assert world.paid() == 7


def test_a_nonce_that_another_program_took_for_good_is_said_and_the_next_attempt_works(
    world: World, hasty: None
) -> None:
    request(world.w3, "evm_setAutomine", False)
    with world.sender() as sender:
        sent = later(lambda: world.pay(sender))
        until(lambda: len(world.waiting()) == 1, sent)
        (tx,) = world.waiting()
        other = world.foreign(world.w3.eth.get_transaction(tx)["nonce"], 2 * 10**11)  # type: ignore[arg-type]
        assert world.waiting() == {other}
        world.mine()
        # Until the other one is final, ours may come back.
        assert not sent.done()
        request(world.w3, "anvil_mine", hex(17))
        with pytest.raises(LedgerError, match="another transaction took nonce"):
            sent.result()
        request(world.w3, "evm_setAutomine", True)
        world.pay(sender)
    assert world.paid() == 7


def test_a_transaction_that_a_reorganisation_took_back_is_sent_again_until_it_is_final(
    world: World, hasty: None
) -> None:
    with world.sender() as sender:
        receipt = world.pay(sender)
        for depth in (1, 3):
            world.network.chain.mine(depth - 1)
            request(world.w3, "anvil_reorg", depth, [])
            assert world.paid() == 0
            while world.paid() == 0:
                sender.tend()
    # The next process goes on watching.
    request(world.w3, "anvil_reorg", 1, [])
    with world.sender() as sender:
        while world.paid() == 0:
            sender.tend()
        while sender.unfinished:
            assert sender.unfinished[0].state in (State.OPEN, State.MINED)
            world.network.chain.mine(8)
            sender.tend()
    assert world.w3.eth.get_transaction_receipt(receipt.tx)["status"] == 1  # type: ignore[arg-type]
    assert (world.paid(), world.sent()) == (7, 1)


def test_finality_comes_from_the_networks_profile(world: World, hasty: None) -> None:
    for finality, blocks in ((2, 2), ("finalized", 70)):
        w3 = connect(Profile(rpc=(world.url,), finality=finality))
        sender = Sender(w3, world.account)
        world.pay(sender)
        sender.tend()
        assert len(sender.unfinished) == 1
        world.network.chain.mine(blocks)
        sender.tend()
        assert sender.unfinished == ()


def test_a_refused_first_attempt_leaves_nothing_behind(network: Network, tmp_path: Path) -> None:
    poor = Account.from_key(keccak(text="poor"))
    with pytest.raises(LedgerError):
        network.ledger.transfer(sender := Sender.open(network.chain.w3, poor, tmp_path), SINK, 0)
    assert sender.unfinished == ()
    sender.close()


def test_a_call_to_an_address_without_a_contract_is_not_sent(world: World) -> None:
    token = world.w3.eth.contract(address=Web3.to_checksum_address(SINK), abi=world.network.ledger.token.abi)
    with world.sender() as sender, pytest.raises(LedgerError, match="no contract"):
        sender.send(token.functions.transfer(world.account.address, 1))


def test_a_damaged_outbox_is_never_replaced(world: World) -> None:
    path = outbox_path(world.directory, world.account.address, 31337)
    path.write_bytes(b"not a database, and long enough to be looked at as one" * 100)
    with pytest.raises(ConfigError, match="damaged"):
        Sender.open(world.w3, world.account, world.directory).watch()
    assert path.read_bytes().startswith(b"not a database")


def test_a_full_disk_sends_nothing(world: World) -> None:
    outbox = Outbox.open(world.directory, str(world.account.address), 31337)
    outbox._database.execute("PRAGMA max_page_count = 1")
    sender = Sender(world.w3, world.account, outbox=lambda: outbox)
    done = []

    def send_until_the_pages_that_are_there_are_full() -> None:
        while len(done) < 50:
            done.append(world.pay(sender))

    before = world.sent()
    with pytest.raises(LedgerError, match="cannot be written") as refused:
        send_until_the_pages_that_are_there_are_full()
    assert "disk" in refused.value.hint
    assert world.sent() - before == len(done)
    outbox._database.execute("PRAGMA max_page_count = 1000000")
    sender.close()


def test_a_retyped_first_deposit_does_not_stake_twice(world: World) -> None:
    """The first one registers; typed again it would add to the stake, which is another call."""
    peer = world.network.peer("alice")

    def child() -> None:
        w3 = connect(world.url)
        sender = Sender.open(w3, world.account, world.directory)
        Ledger(w3, world.network.ledger.address).register(sender, Role.CONTRIBUTOR, peer, MIN_STAKE)
        die()

    assert in_child(child) == -signal.SIGKILL
    ledger = world.network.ledger
    number = ledger.number_of(world.account.address)
    assert number is not None
    with world.sender() as sender, pytest.raises(LedgerError, match="nothing else was sent now"):
        ledger.deposit(sender, MIN_STAKE)
    operator = ledger.operator(number)
    assert operator is not None
    assert operator.stake_wei == MIN_STAKE


def test_what_one_sends_is_told_in_few_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = world.w3.provider.make_request

    def note(method: Any, params: Any) -> Any:
        asked.append(str(method))
        return ask(method, params)

    with world.sender() as sender:
        world.pay(sender)
        monkeypatch.setattr(world.w3.provider, "make_request", note)
        monkeypatch.setattr(world.w3.provider, "_request_func_cache", (None, None))
        world.pay(sender)
    asked = [method for method in asked if method != "eth_chainId"]  # web3's own check of what is called
    before = ["eth_estimateGas", "eth_feeHistory", "eth_getTransactionCount", "eth_sendRawTransaction"]
    assert asked[:4] == before
    assert set(asked[4:]) <= {"eth_getTransactionReceipt", "eth_getTransactionCount"}
