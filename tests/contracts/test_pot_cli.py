"""Paying into a run's pot, and taking the coordinator's bond back when its time has come."""

import json

import pytest
from typer.testing import CliRunner

from contracts.client import Ledger
from contracts.sender import Sender
from contracts.wallet import open_wallet
from coordinator.cli import run_app
from protocol.errors import LedgerError, MurmurError
from tests.contracts.conftest import LADDER, RUN, TERMS, TOKEN, Network
from tests.contracts.shell import Shell


def type_(shell: Shell, command: str, *more: str) -> dict[str, object]:
    place = ("--dir", str(shell.home), "--rpc", shell.network.chain.url)
    words = [command, RUN, *place, "--ledger", shell.network.ledger.address, *more, "--yes", "--json"]
    found = CliRunner().invoke(run_app, words)
    if isinstance(found.exception, MurmurError):
        raise found.exception
    assert found.exit_code == 0, found.output
    document: dict[str, object] = json.loads(found.stdout)
    return document


def create(shell: Shell) -> tuple[Ledger, Sender]:
    """Create a run whose coordinator is the shell's wallet."""
    ledger = shell.network.ledger
    sender = Sender(ledger.w3, open_wallet(shell.home))
    key = shell.network.peer("coordinator").address
    ledger.create_run(sender, RUN, key, LADDER, TOKEN)
    return ledger, sender


def test_anybody_pays_into_a_pot(shell: Shell, network: Network) -> None:
    network.open_run(funding=5 * TOKEN)
    assert type_(shell, "fund", "--amount", "2.5")["funded_wei"] == str(15 * TOKEN // 2)
    info = network.ledger.run_info(RUN)
    assert info is not None
    assert info.funded_wei == 15 * TOKEN // 2
    with pytest.raises(LedgerError, match="holds"):
        type_(shell, "fund", "--amount", "1000000")


def test_there_is_no_pot_without_a_run(shell: Shell) -> None:
    with pytest.raises(LedgerError, match="knows no run"):
        type_(shell, "fund", "--amount", "1")


def test_a_bond_comes_back_after_the_run_and_its_waiting_time(shell: Shell, network: Network) -> None:
    ledger, sender = create(shell)
    ledger.open_run(sender, RUN)
    with pytest.raises(LedgerError, match="not finished"):
        type_(shell, "release-bond")
    ledger.finish_run(sender, RUN, bytes([1]) * 32)
    with pytest.raises(LedgerError, match="StillUnbonding"):
        type_(shell, "release-bond")
    network.chain.mine(TERMS.unbonding_blocks)
    before = ledger.balance_of(shell.wallet)
    assert type_(shell, "release-bond")["released_wei"] == str(TERMS.run_bond)
    assert ledger.balance_of(shell.wallet) - before == TERMS.run_bond
    with pytest.raises(LedgerError, match="nothing is left"):
        type_(shell, "release-bond")


def test_the_bond_of_another_is_not_touched(shell: Shell, network: Network) -> None:
    network.open_run()
    with pytest.raises(LedgerError, match="is 0x"):
        type_(shell, "release-bond")
