"""`murmur stake` and `murmur rewards` as typed: what they move, what they print, and how they refuse."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contracts.rewards_cli import read_settlement
from contracts.terminal import format_amount, parse_amount
from contracts.wallet import PASSWORD_FILE, WALLET_FILE
from protocol.canonical import canonical_json
from protocol.errors import ConfigError, LedgerError, NetworkError, UsageError
from protocol.keys import load_peer_key
from protocol.merkle import reward_tree
from protocol.messages import RewardEntry, RewardTable, sign
from tests.contracts.conftest import DISPUTE_BLOCKS, MIN_STAKE, RUN, TOKEN, UNBONDING_BLOCKS, Network
from tests.contracts.shell import Answer, Shell
from tests.protocol.makers import key, manifest

ROOT = Path(__file__).parents[2]


def murmur(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run the program as people do."""
    return subprocess.run(
        [sys.executable, "-m", "murmur", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_amounts_are_exact() -> None:
    assert parse_amount("100") == 100 * TOKEN
    assert parse_amount("0.5") == TOKEN // 2
    assert parse_amount("0.000000000000000001") == 1
    assert (
        parse_amount("123456789012345678901234567890.1")
        == 123456789012345678901234567890 * TOKEN + TOKEN // 10
    )
    for wei in (1, TOKEN, 10 * TOKEN, 10**17, 1_234_500_000_000_000_000_000):
        assert parse_amount(format_amount(wei)) == wei
    assert [format_amount(wei) for wei in (0, 10 * TOKEN, 3 * TOKEN // 2)] == ["0", "10", "1.5"]


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.0", "-1", "+1", "1e3", "1,5", ".5", "5.", "1.0000000000000000001", "9" * 31, "nan", " 1"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an amount") as refused:
        parse_amount(text)
    assert refused.value.exit_code == 2


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
    assert shell.type("stake status --json").document == {
        "wallet": shell.wallet,
        "number": 1,
        "role": "contributor",
        "balance_wei": str(900 * TOKEN),
        "stake_wei": str(99 * TOKEN),
        "unbonding_wei": str(TOKEN),
        "unbonding_at": shell.block() + UNBONDING_BLOCKS,
    }
    plain = shell.type("stake status").out
    assert f"wallet         {shell.wallet}" in plain.splitlines()


def test_dry_run_shows_the_plan_and_moves_nothing(shell: Shell) -> None:
    files = sorted(shell.home.iterdir())
    before = shell.block()
    answer = shell.type("stake deposit --amount 100 --dry-run --json")
    assert answer.code == 0
    assert [shell.wallet in line or "100 tokens" in line for line in answer.document["plan"]] == [True, True]
    assert shell.type("stake deposit --amount 100 --dry-run").out == ""
    assert sorted(shell.home.iterdir()) == files
    assert shell.network.ledger.number_of(shell.wallet) is None
    shell.type("stake deposit --amount 100 --yes")
    registered = shell.block()
    assert registered == before + 1
    for command in ("deposit --amount 5", "unbond --amount 5", "withdraw"):
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


@dataclass(frozen=True)
class Pay:
    """A run whose pay is published in a folder."""

    shell: Shell
    public: Path

    def settle(self, epoch: int, **amounts: int) -> None:
        network = self.shell.network
        accounts = {"me": self.shell.wallet, "bob": key("bob").address}
        entries = [RewardEntry(account=accounts[name], cumulative_wei=wei) for name, wei in amounts.items()]
        table = RewardTable(epoch=epoch, entries=tuple(sorted(entries, key=lambda entry: entry.account)))
        self.publish(epoch, table)
        root, total = reward_tree(table.entries).root, sum(amounts.values())
        info = network.ledger.run_info(RUN)
        assert info is not None
        proposal = (RUN, epoch, info.final_root, root, total)
        network.ledger.propose_rewards(network.person("coordinator"), *proposal)
        network.chain.mine(DISPUTE_BLOCKS)
        network.ledger.finalize_rewards(network.person("coordinator"), RUN)

    def publish(self, epoch: int, table: RewardTable) -> None:
        message = sign(key("coordinator"), manifest(), epoch, "coordinator", table)
        path = self.public / "settlement.json"
        known = json.loads(path.read_text())["rewards"] if path.exists() else []
        path.write_bytes(canonical_json({"rewards": [*known, message.to_json()]}))

    def claim(self, *more: str) -> Answer:
        flags = ("--run", RUN, "--settlement", str(self.public), "--json")
        return self.shell.type("rewards claim", *flags, *more)


@pytest.fixture
def pay(shell: Shell) -> Pay:
    shell.network.open_run()
    public = shell.home.parent / "public"
    public.mkdir()
    return Pay(shell, public)


def test_claim_pays_once_and_then_nothing_until_more_is_final(pay: Pay) -> None:
    pay.settle(0, me=3 * TOKEN, bob=5 * TOKEN)
    dry = pay.claim("--dry-run")
    assert dry.code == 0
    assert "claim 3 tokens" in dry.document["plan"][0]
    assert pay.claim().code == 2  # no terminal to ask on
    assert pay.shell.balance() == 1000 * TOKEN
    first = pay.claim("--yes").document
    assert (first["account"], first["paid_wei"]) == (pay.shell.wallet, str(3 * TOKEN))
    assert pay.shell.balance() == 1003 * TOKEN
    again = pay.claim("--yes")
    assert again.code == 0
    assert again.document == {
        "account": pay.shell.wallet,
        "claimed_wei": str(3 * TOKEN),
        "paid_wei": "0",
        "tx": None,
    }
    pay.settle(1, me=10 * TOKEN, bob=5 * TOKEN)
    more = pay.claim("--yes").document
    assert (more["claimed_wei"], more["paid_wei"]) == (str(10 * TOKEN), str(7 * TOKEN))
    assert pay.shell.balance() == 1010 * TOKEN


def test_who_earned_nothing_is_paid_nothing(pay: Pay) -> None:
    pay.settle(0, bob=TOKEN)
    assert pay.claim("--yes").document["paid_wei"] == "0"
    assert pay.shell.balance() == 1000 * TOKEN


def test_a_published_table_that_is_not_final_pays_nothing(pay: Pay) -> None:
    pay.settle(0, me=TOKEN, bob=TOKEN)
    invented = RewardTable(
        epoch=1, entries=(RewardEntry(account=pay.shell.wallet, cumulative_wei=99 * TOKEN),)
    )
    pay.publish(1, invented)
    assert pay.claim("--yes").document["paid_wei"] == str(TOKEN)
    (pay.public / "settlement.json").unlink()
    pay.publish(1, invented)
    refused = pay.claim("--yes")
    assert refused.code == 5
    assert refused.error is not None
    assert "final root" in refused.error.message


def test_claims_without_a_final_root_run_or_settlement_are_refused(pay: Pay) -> None:
    early = pay.claim("--yes")
    assert early.code == 5
    assert early.error is not None
    assert "no reward root" in early.error.message
    for run in ("cd" * 32, "ab", "zz" * 32, RUN.upper()):
        assert pay.claim("--yes", "--run", run).code == 5, run
    pay.settle(0, me=TOKEN)
    assert pay.claim("--yes", "--settlement", str(pay.public / "nothing.json")).code == 3
    hostile = pay.public / "hostile.json"
    hostile.write_bytes(b'{"rewards": ' + b"[" * 200_000)
    assert pay.claim("--yes", "--settlement", str(hostile)).code == 1


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Serve a folder over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_settlement_is_read_from_a_folder_file_or_url(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settlement.json").write_bytes(b"text")
    for source in (str(tmp_path), str(tmp_path / "settlement.json"), f"{site}/settlement.json"):
        assert read_settlement(source) == b"text"
    for source in (f"{site}/nothing", "http://127.0.0.1:9/x", "http://", "http://[", "http://a:b:c/"):
        with pytest.raises(NetworkError):
            read_settlement(source)
    monkeypatch.setattr("contracts.claims.MAX_SETTLEMENT_BYTES", 3)
    with pytest.raises(NetworkError, match="longer than any settlement"):
        read_settlement(f"{site}/settlement.json")


def test_the_program_pays_what_is_claimed(pay: Pay) -> None:
    pay.settle(0, me=TOKEN)
    flags = pay.shell.flags("claim --yes --json")
    paid = murmur(["rewards", *flags, "--run", RUN, "--settlement", str(pay.public)])
    assert paid.returncode == 0, paid.stderr
    assert json.loads(paid.stdout)["paid_wei"] == str(TOKEN)
    assert pay.shell.balance() == 1001 * TOKEN


def test_the_program_says_why_it_refuses_and_what_to_do(shell: Shell) -> None:
    refused = murmur(["stake", *shell.flags("withdraw --yes --json")])
    assert refused.returncode == 5
    assert refused.stdout == ""
    assert "NotRegistered" in refused.stderr
    assert "next:" in refused.stderr
    assert "Traceback" not in refused.stderr
