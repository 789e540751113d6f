"""The local chain starts, says why when it does not, and keeps its history over a restart."""

import signal
import socket
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.crypto import keccak

from contracts.anvil import ENVIRONMENT, find_anvil, request, set_coin, start_anvil, wait_ready
from contracts.client import Ledger
from contracts.index import EventIndex
from contracts.sender import Sender
from contracts.types import Role
from murmur.ports import free_port
from protocol.errors import ConfigError, LedgerError
from protocol.keys import PeerKey
from tests.contracts.conftest import JURY, MIN_STAKE, TERMS, TOKEN, LocalChain


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_blocks_logs_and_receipts_survive_a_restart(tmp_path: Path, ending: signal.Signals) -> None:
    port, state, log = free_port(), tmp_path / "chain" / "state.json", tmp_path / "anvil.log"
    account = Account.from_key(keccak(text="restart"))
    process = start_anvil(port, None, state, log_path=log)
    try:
        w3 = wait_ready(process, port, log_path=log)
        set_coin(w3, account.address, 10 * TOKEN)
        ledger = Ledger.deploy(
            w3,
            account,
            supply=10**6 * TOKEN,
            terms=TERMS,
            jury=JURY,
        )
        ledger.register(Sender(w3, account), Role.CONTRIBUTOR, PeerKey(bytes([1]) * 32), MIN_STAKE)
        receipt = ledger.deposit(Sender(w3, account), TOKEN)
        request(w3, "anvil_mine", "0x40")
        index = EventIndex(ledger, 1)
        index.poll()
        hashes = [index.block_hash(number) for number in range(1, index.height + 1)]
    finally:
        process.send_signal(ending)
        assert process.wait() == 0

    saved = state.read_bytes()
    process = start_anvil(port, None, state, log_path=log)
    try:
        w3 = wait_ready(process, port, log_path=log)
        assert state.with_name("state.json.previous").read_bytes() == saved
        again = Ledger(w3, ledger.address)
        again.verify()
        resumed = EventIndex(again, 1)
        resumed.poll()
        assert resumed.events == index.events
        assert resumed.height == index.height
        assert [resumed.block_hash(number) for number in range(1, index.height + 1)] == hashes
        assert bytes(w3.eth.get_transaction_receipt(receipt.tx)["blockHash"]) == receipt.block_hash  # type: ignore[arg-type]
        again.deposit(Sender(w3, account), TOKEN)
        resumed.poll()
        assert len(resumed.events) == len(index.events) + 1
        assert resumed.rollbacks == 0
    finally:
        process.terminate()
        process.wait()


def test_blocks_come_by_themselves_when_asked_for(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "anvil.log"
    words = "legal winner thank year wave sausage worth useful legal winner thank yellow"
    process = start_anvil(port, 0.05, None, log_path=log, mnemonic=words, accounts=1)
    try:
        w3 = wait_ready(process, port, log_path=log)
        assert [w3.eth.get_balance(account) for account in w3.eth.accounts] == [10_000 * TOKEN]
        while w3.eth.block_number < 3:
            pass
    finally:
        process.terminate()
        process.wait()


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*in use"):
            start_anvil(port, None, None, log_path=tmp_path / "anvil.log")


def test_state_file_that_is_none_is_said_to_be_the_reason(tmp_path: Path) -> None:
    state, log, port = tmp_path / "state.json", tmp_path / "anvil.log", free_port()
    state.write_text('{"blocks": 5}')
    process = start_anvil(port, None, state, log_path=log)
    with pytest.raises(LedgerError, match="ended with code") as refused:
        wait_ready(process, port, log_path=log)
    assert str(log) in refused.value.hint


@pytest.mark.parametrize("left", ["", '{"block": {"number": "0x1'])
def test_state_file_that_a_kill_cut_short_is_not_started_from(tmp_path: Path, left: str) -> None:
    state, previous = tmp_path / "state.json", tmp_path / "state.json.previous"
    previous.write_text("{}")
    state.write_text(left)
    with pytest.raises(ConfigError, match="cut short") as refused:
        start_anvil(free_port(), None, state, log_path=tmp_path / "anvil.log")
    assert str(previous) in refused.value.hint
    assert previous.read_text() == "{}"


def test_program_named_by_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "my-anvil"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.setenv(ENVIRONMENT, str(program))
    assert find_anvil() == program
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="names no program"):
        find_anvil()


def test_missing_program_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("contracts.anvil._npm_binary", lambda: tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="not installed") as refused:
        find_anvil()
    assert "npm ci" in refused.value.hint


def test_program_on_the_path_is_the_last_resort(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "anvil"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setattr("contracts.anvil._npm_binary", lambda: tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_anvil() == program


def test_unknown_method_of_the_local_chain_is_refused(chain: LocalChain) -> None:
    with pytest.raises(LedgerError):
        request(chain.w3, "anvil_noSuchThing")
