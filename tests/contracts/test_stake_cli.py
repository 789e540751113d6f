"""`murmur stake` as typed: what it moves, what it prints, and how it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from eth_account.signers.local import LocalAccount

from contracts.anvil import request
from contracts.plan import time_of_block
from contracts.run import ChainRun
from contracts.types import CaseOutcome
from contracts.wallet import PASSWORD_FILE, WALLET_FILE, open_wallet
from protocol.errors import ConfigError, LedgerError, UsageError
from protocol.keys import load_peer_key, save_peer_key
from tests.contracts.conftest import MIN_STAKE, RUN, TOKEN, UNBONDING_BLOCKS, Network
from tests.contracts.court import judge, seat
from tests.contracts.shell import Shell, murmur


def test_first_deposit_registers_the_wallet_and_links_the_peer_key(shell: Shell) -> None:
    answer = shell.type("stake deposit --role verifier --amount 150 --yes --json")
    peer = load_peer_key(shell.home / "peer.key")
    assert answer.document == {
        "number": 1,
        "wallet": shell.wallet,
        "peer_id": peer.peer_id,
        "staked_wei": str(150 * TOKEN),
    }
    assert "register" in answer.err
    operator = shell.network.ledger.operator(1)
    assert operator is not None
    assert (operator.wallet, operator.peer) == (shell.wallet, peer.address)
    assert operator.role.name == "VERIFIER"
    assert operator.stake_wei == 150 * TOKEN
    assert shell.balance() == 850 * TOKEN


def test_second_deposit_adds_to_the_first(shell: Shell) -> None:
    shell.type("stake deposit --amount 100 --yes")
    peer = (shell.home / "peer.key").read_bytes()
    answer = shell.type("stake deposit --amount 0.25 --yes --json")
    assert answer.document["number"] == 1
    assert answer.document["block"] == shell.block()
    operator = shell.network.ledger.operator(1)
    assert operator is not None
    assert operator.stake_wei == MIN_STAKE + TOKEN // 4
    assert (shell.home / "peer.key").read_bytes() == peer
    assert shell.network.ledger.operator_count() == 1


def test_stake_comes_back_after_its_blocks_and_not_before(shell: Shell) -> None:
    shell.type("stake deposit --amount 100 --yes")
    unbonded = shell.type("stake unbond --amount 40 --yes --json").document
    assert unbonded["unbonding_wei"] == str(40 * TOKEN)
    early = shell.type("stake withdraw --yes")
    assert early.code == 5
    assert early.out == ""
    assert early.error is not None
    assert "StillUnbonding" in early.error.message
    assert early.error.hint
    assert shell.balance() == 900 * TOKEN
    shell.network.chain.mine(UNBONDING_BLOCKS)
    late = shell.type("stake withdraw --yes --json")
    assert late.code == 0
    assert late.document["tx"].startswith("0x")
    assert shell.balance() == 940 * TOKEN
    assert shell.type("stake withdraw --yes").code == 5


def test_status_needs_no_password(shell: Shell) -> None:
    (shell.home / PASSWORD_FILE).rename(shell.home / "elsewhere")
    nobody = shell.type("stake status --json").document
    assert (nobody["wallet"], nobody["number"], nobody["role"]) == (shell.wallet, None, None)
    assert (nobody["balance_wei"], nobody["stake_wei"]) == (str(1000 * TOKEN), "0")
    password = ("--password-file", str(shell.home / "elsewhere"))
    shell.type("stake deposit --amount 100 --yes", *password)
    shell.type("stake unbond --amount 1 --yes", *password)
    shown = shell.type("stake status --json").document
    peer = load_peer_key(shell.home / "peer.key")
    assert (shown["wallet"], shown["number"], shown["role"]) == (shell.wallet, 1, "contributor")
    assert (shown["peer"], shown["peer_id"]) == (peer.address, peer.peer_id)
    assert (shown["balance_wei"], shown["stake_wei"]) == (str(900 * TOKEN), str(99 * TOKEN))
    assert (shown["unbonding_wei"], shown["unbonding_at"]) == (str(TOKEN), shell.block() + UNBONDING_BLOCKS)
    assert (shown["slashed_wei"], shown["slashes"]) == ("0", [])
    assert 0 < int(shown["coin_wei"]) < TOKEN
    plain = shell.type("stake status").out.splitlines()
    assert f"wallet         {shell.wallet}" in plain
    assert "stake          99 tokens" in plain


def test_dry_run_shows_the_plan_and_moves_nothing(shell: Shell) -> None:
    files = sorted(shell.home.iterdir())
    before = shell.block()
    no_key = shell.type("stake deposit --amount 100 --dry-run --json")
    assert isinstance(no_key.error, UsageError)
    assert "murmur keys new" in no_key.error.hint
    assert sorted(shell.home.iterdir()) == files
    save_peer_key(shell.home / "peer.key", shell.network.peer("me"))
    answer = shell.type("stake deposit --amount 100 --dry-run --json")
    assert answer.code == 0
    assert shell.wallet in answer.document["plan"][0]
    assert "100 tokens" in answer.document["plan"][1]
    assert shell.network.ledger.number_of(shell.wallet) is None
    shell.type("stake deposit --amount 100 --yes")
    registered = shell.block()
    assert registered == before + 1
    for command in ("deposit --amount 5", "unbond --amount 5"):
        assert shell.type(f"stake {command} --dry-run").code == 0
    assert shell.block() == registered
    fresh = Shell(shell.network, shell.home.parent / "fresh", shell.wallet)
    assert fresh.type("stake deposit --amount 100 --dry-run").code == ConfigError.exit_code
    assert not fresh.home.exists()


def test_without_terminal_and_yes_nothing_moves(shell: Shell) -> None:
    before = shell.block()
    answer = shell.type("stake deposit --amount 100")
    assert isinstance(answer.error, UsageError)
    assert answer.code == 2
    assert "--yes" in answer.error.hint
    assert "100 tokens" in answer.err  # the plan was shown
    assert shell.block() == before
    assert not (shell.home / "peer.key").exists()


REFUSED = {
    "deposit --amount nonsense --yes": 2,
    "deposit --amount 0 --yes": 2,
    "deposit --amount 100 --role coordinator --yes": 2,
    "unbond --amount -5 --yes": 2,
    "deposit --yes": 2,
    "deposit --amount 99 --yes": 5,  # below the minimum stake
    "deposit --amount 1001 --yes": 5,  # more than the wallet holds
    "unbond --amount 1 --yes": 5,  # not registered
    "withdraw --yes": 5,
}


def test_what_makes_no_sense_is_refused_with_its_code(shell: Shell) -> None:
    for command, code in REFUSED.items():
        answer = shell.type(f"stake {command}")
        assert answer.code == code, command
        assert answer.out == ""
        assert answer.err or (answer.error and answer.error.message)
    assert shell.balance() == 1000 * TOKEN
    assert shell.network.ledger.operator_count() == 0


@pytest.mark.usefixtures("cheap_wallets")
def test_a_poor_wallet_is_named_so_that_it_can_be_paid(network: Network, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret")
    password.chmod(0o600)
    shell = Shell(network, tmp_path / "home", "")
    answer = shell.type("stake deposit --amount 100 --yes", "--password-file", str(password))
    assert isinstance(answer.error, LedgerError)
    address = shell.type("stake status --json").document["wallet"]
    assert address in answer.error.message
    assert (shell.home / WALLET_FILE).stat().st_mode & 0o777 == 0o600


def test_only_a_deposit_makes_a_wallet(network: Network, tmp_path: Path) -> None:
    shell = Shell(network, tmp_path / "typo", "")
    for command in ("unbond --amount 1", "withdraw"):
        answer = shell.type(f"stake {command} --yes")
        assert isinstance(answer.error, ConfigError)
        assert "--dir" in answer.error.hint
        assert not shell.home.exists()


def test_a_wallet_that_others_can_read_is_refused(shell: Shell) -> None:
    for name in (WALLET_FILE, PASSWORD_FILE):
        (shell.home / name).chmod(0o644)
        answer = shell.type("stake deposit --amount 100 --yes")
        assert answer.code == 3
        assert answer.error is not None
        assert answer.error.hint == f"chmod 600 {shell.home / name}"
        (shell.home / name).chmod(0o600)


def test_absent_chain_and_wrong_ledger_are_ledger_errors(shell: Shell) -> None:
    deposit = "stake deposit --amount 100 --yes"
    for more in (
        ("--rpc", "http://127.0.0.1:9"),
        ("--rpc", "nonsense"),
        ("--ledger", str(shell.network.ledger.token.address)),
        ("--ledger", "0x12"),
        ("--ledger", "nonsense"),
    ):
        answer = shell.type(deposit, *more)
        assert isinstance(answer.error, LedgerError), more
        assert answer.code == 5


def send_elsewhere(shell: Shell, wallet: LocalAccount, transactions: list[dict[str, Any]]) -> None:
    """Do what a wallet does that has never seen the chain: sign what it is given."""
    w3 = shell.network.chain.w3
    for one in transactions:
        signed = wallet.sign_transaction({key: value for key, value in one.items() if key != "what"})
        receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(signed.raw_transaction))
        assert receipt["status"] == 1, one["what"]
        assert receipt["gasUsed"] <= one["gas"], one["what"]


def test_a_cold_wallet_signs_what_a_dry_run_wrote_and_its_password_is_never_asked_for(
    shell: Shell, tmp_path: Path
) -> None:
    cold, password = tmp_path / "cold", shell.home / PASSWORD_FILE
    wallet = open_wallet(shell.home)
    cold.mkdir(mode=0o700)
    (shell.home / WALLET_FILE).rename(cold / WALLET_FILE)
    password.unlink()
    save_peer_key(shell.home / "peer.key", shell.network.peer("me"))
    owner = ("--owner", shell.wallet, "--dry-run", "--json")
    registering = shell.type("stake deposit --amount 150", *owner).document
    assert [one["what"] for one in registering["transactions"]] == [
        "let the ledger take the tokens",
        "register as contributor",
    ]
    assert 0 < int(registering["fee_wei"]) <= int(registering["max_fee_wei"])
    send_elsewhere(shell, wallet, registering["transactions"])
    send_elsewhere(shell, wallet, json.loads(shell.type("stake deposit --amount 25", *owner[:3]).out))
    send_elsewhere(shell, wallet, shell.type("stake unbond --amount 60", *owner).document["transactions"])
    operator = shell.network.ledger.operator(1)
    assert operator is not None
    assert (operator.peer, operator.stake_wei) == (shell.network.peer("me").address, 115 * TOKEN)
    send_elsewhere(shell, wallet, shell.type("stake rebond", *owner).document["transactions"])
    send_elsewhere(shell, wallet, shell.type("stake unbond --amount 60", *owner).document["transactions"])
    shell.network.chain.mine(UNBONDING_BLOCKS)
    send_elsewhere(shell, wallet, shell.type("stake withdraw", *owner).document["transactions"])
    assert shell.balance() == 885 * TOKEN
    assert shell.type("stake status", "--owner", shell.wallet, "--json").document["stake_wei"] == str(
        115 * TOKEN
    )
    refused = shell.type("stake unbond --amount 1 --yes", "--owner", shell.wallet)
    assert isinstance(refused.error, UsageError)
    assert shell.type("stake unbond --amount 1", "--owner", "0x12", "--dry-run").code == 2


def test_rebond_puts_back_all_that_unbonds(shell: Shell) -> None:
    shell.type("stake deposit --amount 150 --yes")
    nothing = shell.type("stake rebond --yes")
    assert isinstance(nothing.error, LedgerError)
    assert "nothing of number 1 unbonds" in nothing.error.message
    shell.type("stake unbond --amount 60 --yes")
    back = shell.type("stake rebond --yes --json").document
    assert (back["rebonded_wei"], back["stake_wei"]) == (str(60 * TOKEN), str(150 * TOKEN))
    operator = shell.network.ledger.operator(1)
    assert operator is not None
    assert (operator.stake_wei, operator.unbonding_wei, operator.unbonding_at) == (150 * TOKEN, 0, 0)


def test_the_plan_says_fee_and_date_before_it_asks(shell: Shell) -> None:
    shell.type("stake deposit --amount 150 --yes")
    request(shell.network.chain.w3, "anvil_mine", hex(10), hex(60))  # a block a minute
    shown = shell.type("stake unbond --amount 60")
    assert shown.code == 2  # no terminal to ask on
    assert "below the least stake" in shown.err
    assert f"from about block {shell.block() + 1 + UNBONDING_BLOCKS} (about 20" in shown.err
    assert "of the chain's coin, for 1 transaction" in shown.err
    more = shell.type("stake unbond --amount 151 --yes")
    assert isinstance(more.error, LedgerError)
    assert "has 150 tokens at stake" in more.error.message


def test_block_times_follow_the_chain(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.plan.BLOCK_TIME_SPAN", 20)
    w3 = network.chain.w3
    request(w3, "anvil_mine", hex(25), hex(12))
    latest = w3.eth.get_block("latest")
    ahead = time_of_block(w3, latest["number"] + 100)
    assert ahead is not None
    assert ahead.timestamp() - latest["timestamp"] == 1200
    past = time_of_block(w3, latest["number"] - 10)
    assert past is not None
    assert latest["timestamp"] - past.timestamp() == 120


def test_status_shows_what_was_slashed(shell: Shell) -> None:
    network = shell.network
    shell.type("stake deposit --amount 150 --yes")
    jurors = seat(network)
    network.open_run()
    network.play_round(0)
    anyone = network.person("anyone")
    case = network.ledger.jury.accuse(anyone, RUN, 0, 1, 0, anyone.address).case
    judge(network, run := ChainRun(network.ledger, RUN), case, jurors, CaseOutcome.FALSE)
    (taken,) = run.slashes()
    shown = shell.type("stake status --json").document
    assert (shown["stake_wei"], shown["slashed_wei"]) == ("0", str(150 * TOKEN))
    (slash,) = shown["slashes"]
    assert (slash["run"], slash["round"], slash["tx"]) == (RUN, 0, taken.tx)
    assert f"round 0      150 tokens, {taken.tx}" in shell.type("stake status").out


def test_the_program_says_why_it_refuses_and_what_to_do(shell: Shell) -> None:
    refused = murmur(["stake", *shell.flags("withdraw --yes --json")])
    assert refused.returncode == 5
    assert refused.stdout == ""
    assert "not registered" in refused.stderr
    assert "next:" in refused.stderr
    assert "Traceback" not in refused.stderr
