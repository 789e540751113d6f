"""`murmur rewards` as typed: what it pays, what it prints, and how it refuses."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contracts.claims import read_settlement
from contracts.wallet import open_wallet
from protocol.canonical import canonical_json
from protocol.errors import NetworkError
from protocol.manifest import RunManifest
from protocol.merkle import reward_tree
from protocol.messages import RewardEntry, RewardTable, sign
from tests.contracts.conftest import DISPUTE_BLOCKS, TOKEN
from tests.contracts.shell import Answer, Shell, murmur
from tests.protocol.makers import key, manifest


@dataclass(frozen=True)
class Pay:
    """A run whose pay is published in a folder."""

    shell: Shell
    public: Path

    @property
    def manifest(self) -> RunManifest:
        network = self.shell.network
        return manifest(ledger=network.ledger.address, coordinator=network.peer("coordinator").address)

    @property
    def run(self) -> str:
        return self.manifest.run_id

    def settle(self, epoch: int, **amounts: int) -> None:
        network = self.shell.network
        accounts = {"me": self.shell.wallet, "bob": key("bob").address}
        entries = [RewardEntry(account=accounts[name], cumulative_wei=wei) for name, wei in amounts.items()]
        table = RewardTable(epoch=epoch, entries=tuple(sorted(entries, key=lambda entry: entry.account)))
        self.publish(epoch, table)
        root, total = reward_tree(table.entries).root, sum(amounts.values())
        info = network.ledger.run_info(self.run)
        assert info is not None
        proposal = (self.run, epoch, info.final_root, root, total)
        network.ledger.propose_rewards(network.person("coordinator"), *proposal)
        network.chain.mine(DISPUTE_BLOCKS)
        network.ledger.finalize_rewards(network.person("coordinator"), self.run)

    def publish(self, epoch: int, table: RewardTable, author: str = "coordinator") -> None:
        message = sign(self.shell.network.peer(author), self.manifest, epoch, "coordinator", table)
        path = self.public / "settlement.json"
        known = json.loads(path.read_text())["rewards"] if path.exists() else []
        path.write_bytes(canonical_json({"rewards": [*known, message.to_json()]}))

    def claim(self, *more: str) -> Answer:
        flags = ("--run", self.run, "--settlement", str(self.public), "--json")
        return self.shell.type("rewards claim", *flags, *more)


@pytest.fixture
def pay(shell: Shell) -> Pay:
    public = shell.home.parent / "public"
    public.mkdir()
    found = Pay(shell, public)
    shell.network.open_run(run=found.run)
    return found


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
    for run in ("cd" * 32, "ab", "zz" * 32, pay.run.upper()):
        assert pay.claim("--yes", "--run", run).code == 5, run
    pay.settle(0, me=TOKEN)
    assert pay.claim("--yes", "--settlement", str(pay.public / "nothing.json")).code == 3
    hostile = pay.public / "hostile.json"
    hostile.write_bytes(b'{"rewards": ' + b"[" * 200_000)
    assert pay.claim("--yes", "--settlement", str(hostile)).code == 1


def test_a_cold_wallet_is_told_what_to_sign_for_its_pay(pay: Pay) -> None:
    pay.settle(0, me=TOKEN, bob=TOKEN)
    wallet = open_wallet(pay.shell.home)
    (unsigned,) = pay.claim("--owner", pay.shell.wallet, "--dry-run").document["transactions"]
    del unsigned["what"]
    w3 = pay.shell.network.chain.w3
    sent = w3.eth.send_raw_transaction(wallet.sign_transaction(unsigned).raw_transaction)
    assert w3.eth.wait_for_transaction_receipt(sent)["status"] == 1
    assert pay.shell.balance() == 1001 * TOKEN


def test_list_shows_what_is_claimable_claimed_and_not_final(pay: Pay) -> None:
    assert pay.shell.type("rewards list").out.startswith("no pay")
    pay.settle(0, me=3 * TOKEN, bob=5 * TOKEN)
    mine = RewardEntry(account=pay.shell.wallet, cumulative_wei=10 * TOKEN)
    pay.publish(1, RewardTable(epoch=1, entries=(mine,)))
    source = ("--settlement", str(pay.public))
    (row,) = pay.shell.type("rewards list", *source, "--json").document["runs"]
    assert row == {
        "run": pay.run,
        "claimable_wei": str(3 * TOKEN),
        "claimed_wei": "0",
        "unvested_wei": str(7 * TOKEN),
        "claims": [],
    }
    paid = pay.claim("--yes").document
    (row,) = pay.shell.type("rewards list", *source, "--json").document["runs"]
    assert (row["claimable_wei"], row["claimed_wei"]) == ("0", str(3 * TOKEN))
    assert row["claims"] == [{"amount_wei": str(3 * TOKEN), "tx": paid["tx"], "block": paid["block"]}]
    (unknown,) = pay.shell.type("rewards list", "--json").document["runs"]
    assert (unknown["claimable_wei"], unknown["claimed_wei"]) == (None, str(3 * TOKEN))
    plain = pay.shell.type("rewards list")
    assert "?" in plain.out
    assert "--settlement" in plain.err


def test_what_somebody_else_signed_is_not_shown_as_coming(pay: Pay) -> None:
    pay.settle(0, me=TOKEN)
    entry = RewardEntry(account=pay.shell.wallet, cumulative_wei=99 * TOKEN)
    pay.publish(1, RewardTable(epoch=1, entries=(entry,)), author="mallory")
    (row,) = pay.shell.type("rewards list", "--settlement", str(pay.public), "--json").document["runs"]
    assert (row["claimable_wei"], row["unvested_wei"]) == (str(TOKEN), "0")


def reconciled(pay: Pay) -> Answer:
    arguments = ("--rpc", pay.shell.network.chain.url, "--ledger", pay.shell.network.ledger.address)
    return pay.shell.bare(
        "rewards reconcile", *arguments, "--run", pay.run, "--settlement", str(pay.public), "--json"
    )


def test_claims_and_settlement_agree(pay: Pay) -> None:
    pay.settle(0, me=3 * TOKEN, bob=5 * TOKEN)
    pay.claim("--yes")
    pay.settle(1, me=4 * TOKEN, bob=5 * TOKEN)
    pay.claim("--yes")
    answer = reconciled(pay)
    assert answer.code == 0
    said = answer.document
    assert (said["agrees"], said["differences"]) == (True, [])
    accounts = {
        one["account"]: (one["earned_wei"], one["claimed_wei"], one["open_wei"]) for one in said["accounts"]
    }
    assert accounts == {
        pay.shell.wallet: (str(4 * TOKEN), str(4 * TOKEN), "0"),
        key("bob").address: (str(5 * TOKEN), "0", str(5 * TOKEN)),
    }
    assert said["claimed_wei"] == str(4 * TOKEN)


def test_every_difference_between_chain_and_settlement_is_named(pay: Pay) -> None:
    pay.settle(0, me=3 * TOKEN, bob=5 * TOKEN)
    pay.claim("--yes")
    path = pay.public / "settlement.json"
    path.unlink()
    pay.publish(
        0, RewardTable(epoch=0, entries=(RewardEntry(account=pay.shell.wallet, cumulative_wei=TOKEN),))
    )
    answer = reconciled(pay)
    assert answer.code == 1
    first, second, *_ = answer.document["differences"]
    assert "no published table has it" in first
    assert f"paid up to {3 * TOKEN} wei, the table of the time says 0" in second


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
    paid = murmur(["rewards", *flags, "--run", pay.run, "--settlement", str(pay.public)])
    assert paid.returncode == 0, paid.stderr
    assert json.loads(paid.stdout)["paid_wei"] == str(TOKEN)
    assert pay.shell.balance() == 1001 * TOKEN
