"""`murmur keys rotate`: a number gets another key, no step loses one, and what was cut short is finished."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from typer.testing import CliRunner

from contracts.anvil import set_coin
from contracts.chain import connect
from contracts.client import Ledger
from contracts.identity import open_peer_key, save_encrypted_peer_key
from contracts.keystore import create_keystore
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import Role
from contracts.wallet import save_unattended_wallet
from coordinator.store import LOCK_FILE
from murmur import rotation
from murmur.backup import open_journal
from murmur.keys_cli import keys_app
from node.journal import Journal
from protocol.daemon import check_key, own_number
from protocol.errors import ConfigError, LedgerError
from protocol.keys import PeerKey, load_peer_key, save_peer_key
from tests.contracts.conftest import JURY, RUN, TERMS, TOKEN, UNBONDING_BLOCKS, LocalChain, Network, chain
from tests.contracts.shell import Answer, answer
from tests.node.test_journal import MANIFEST, unit_of
from tests.node.test_journal import RUN as SIGNED_RUN
from verification.journal import VerdictJournal

__all__ = ["chain"]
PASSWORD = "a sentence that is long enough"


@dataclass(frozen=True)
class Owner:
    """The owner of a registered number types `murmur keys rotate`."""

    network: Network
    name: str
    home: Path
    number: int
    wallet: str

    def rotate(self, *more: str) -> Answer:
        flags = ("--dir", str(self.home), "--rpc", self.network.chain.url)
        arguments = ["rotate", *flags, "--ledger", self.network.ledger.address, *more]
        return answer(keys_app, arguments)

    @property
    def key(self) -> PeerKey:
        return load_peer_key(self.home / "peer.key")

    @property
    def linked(self) -> str:
        own = self.network.ledger.operator(self.number)
        assert own is not None
        return own.peer

    def sign(self, *rounds: int) -> None:
        with Journal.open(self.home / "journal.sqlite", self.key.address) as journal:
            for round_ in rounds:
                unit = unit_of(round_)
                journal.sign(self.key, MANIFEST, round_, unit.commitment, unit=unit)

    def view(self) -> ChainRun:
        found = ChainRun(self.network.ledger, RUN)
        found.refresh()
        return found


@pytest.fixture(scope="module")
def network(chain: LocalChain) -> Network:
    deployer = Account.from_key(keccak(text=__name__))
    set_coin(chain.w3, deployer.address, 100 * TOKEN)
    ledger = Ledger.deploy(chain.w3, deployer, supply=10**9 * TOKEN, terms=TERMS, jury=JURY)
    found = Network(chain, ledger, Sender(chain.w3, deployer))
    found.open_run()
    found.play_round(0)
    return found


@pytest.fixture
def hire(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Owner]:
    def cheap(path: Path, key: bytes, password: str, **_: int) -> Any:
        return create_keystore(path, key, password, scrypt_n=2)

    monkeypatch.setattr("contracts.wallet.create_keystore", cheap)
    monkeypatch.setattr("contracts.identity.create_keystore", cheap)

    def make(role: Role = Role.CONTRIBUTOR) -> Owner:
        name = f"owner {len(network.people)}"
        number, home = network.register(name, role), tmp_path / name
        account = network.person(name).account
        save_unattended_wallet(home, bytes(account.key))
        save_peer_key(home / "peer.key", network.peer(name))
        return Owner(network, name, home, number, account.address)

    return make


@pytest.fixture
def owner(hire: Callable[..., Owner]) -> Owner:
    return hire()


def test_a_number_gets_another_key_and_the_journal_goes_on_under_it(owner: Owner) -> None:
    owner.sign(0, 1)
    old = owner.key
    answer = owner.rotate("--run", RUN, "--yes", "--json")
    said, new = answer.document, owner.key
    assert (said["number"], said["replaced"]) == (owner.number, old.address)
    assert (said["peer"], said["peer_id"]) == (new.address, new.peer_id)
    assert owner.linked == new.address != old.address
    assert (said["run"], said["round"]) == (RUN, 2), "round 1 is under way"
    assert said["replaced_answers_until"] == said["block"] + UNBONDING_BLOCKS
    assert "it commits from round 2 on; round 1 is under way" in answer.err
    assert f"replace the peer key {old.address}" in answer.err
    kept = Path(said["replaced_kept"])
    assert load_peer_key(kept) == old
    assert {stat.S_IMODE(one.stat().st_mode) for one in (kept, owner.home / "peer.key")} == {0o600}
    assert not (owner.home / rotation.NEXT_FILE).exists()
    assert old.secret.hex() not in answer.out + answer.err
    assert new.secret.hex() not in answer.out + answer.err
    with Journal.open(owner.home / "journal.sqlite", new.address) as journal:
        first = journal.sign(new, MANIFEST, 0, unit_of(0).commitment)
        assert first.author == old.address, "what was said is said again as it was"
        assert journal.sign(new, MANIFEST, 2, unit_of(2).commitment).author == new.address
        assert not journal.restored
    with pytest.raises(ConfigError, match="another peer key"):
        Journal.open(owner.home / "journal.sqlite", old.address)


def test_a_daemon_with_the_replaced_key_is_told_what_to_do(owner: Owner) -> None:
    old = owner.key
    assert own_number(owner.view(), old, "contributor") == owner.number
    check_key(owner.view(), owner.number, old)
    owner.rotate("--yes")
    view = owner.view()
    for check in (
        lambda: own_number(view, old, "contributor"),
        lambda: check_key(view, owner.number, old),
    ):
        with pytest.raises(ConfigError, match="was given another peer key") as refused:
            check()
        assert "murmur keys rotate --dir" in refused.value.hint
    assert own_number(view, owner.key, "contributor") == owner.number


def test_a_dry_run_makes_the_key_and_a_transaction_for_a_wallet_that_is_elsewhere(
    owner: Owner, network: Network
) -> None:
    wallet = network.person(owner.name)
    (owner.home / "wallet.json").unlink()
    flags = ("--owner", owner.wallet, "--dry-run", "--json")
    first, second = owner.rotate(*flags).document, owner.rotate(*flags).document
    unsigned = first["transactions"]
    assert [one["data"] for one in unsigned] == [one["data"] for one in second["transactions"]]
    assert owner.linked == owner.key.address == network.peer(owner.name).address, "nothing has happened"
    assert "which waits in" in first["plan"][0]
    fields = {name: value for name, value in unsigned[0].items() if name != "what"}
    raw = Account.from_key(wallet.account.key).sign_transaction(fields).raw_transaction
    w3 = network.chain.w3
    assert w3.eth.wait_for_transaction_receipt(w3.eth.send_raw_transaction(raw))["status"] == 1
    assert owner.linked == rotation.waiting_key(owner.home)
    listed = CliRunner().invoke(keys_app, ["list", "--dir", str(owner.home)]).stdout
    assert f"{owner.linked} waits to be the peer key" in listed
    with pytest.raises(ConfigError, match="was given another"):
        own_number(owner.view(), owner.key, "contributor")
    planned = owner.rotate("--dry-run", "--json").document
    assert planned["plan"] == [f"the ledger has {owner.linked} already: its files are put in place"]
    done = owner.rotate("--json").document
    assert owner.key.address == owner.linked == done["peer"]
    assert done["tx"] is not None


class Killed(BaseException):
    """Ends a command where a test wants it to."""


STEPS = (
    "contracts.client.Ledger.rotate_peer",
    "murmur.rotate_cli._finish",
    "os.link",
    "pathlib.Path.replace",
)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_what_is_killed_at_any_step_is_finished_by_typing_it_again(
    owner: Owner, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.sign(0)
    old, module = owner.key, __import__("importlib").import_module
    where, _, name = step.rpartition(".")
    target: Any = module("contracts.client").Ledger if where.endswith("Ledger") else None
    target = target or (Path if where.endswith("Path") else module(where))
    real = getattr(target, name)

    def kill(*arguments: Any, **named: Any) -> Any:
        ours = name not in ("link", "replace") or "peer.key" in str(arguments[0])
        if ours and name == "link":  # how any key is written; here it is the old one that is put aside
            ours = Path(arguments[0]).name == "peer.key"
        if not ours:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(target, name, kill)
        with pytest.raises(Killed):
            owner.rotate("--yes")
    keys = {load_peer_key(one).address for one in owner.home.glob("peer.key*")}
    assert old.address in keys, "the old key is never lost"
    assert owner.linked in keys, "nor is the one that the chain has"
    if (owner.home / rotation.NEXT_FILE).exists():
        assert owner.rotate("--yes").code == 0
    assert owner.key.address == owner.linked != old.address
    assert load_peer_key(rotation.kept_path(owner.home, old.address)) == old
    assert not (owner.home / rotation.NEXT_FILE).exists()
    with open_journal(owner.home / "journal.sqlite", owner.linked) as journal:
        assert len(journal.statements()) == 1
        assert not journal.restored


def test_nothing_is_replaced_under_a_running_daemon(owner: Owner) -> None:
    owner.sign(0)
    with Journal.open(owner.home / "journal.sqlite", owner.key.address):
        refused = owner.rotate("--yes")
        assert refused.error is not None
        assert "stop the node" in refused.error.hint
    assert owner.linked == owner.key.address
    assert not (owner.home / rotation.NEXT_FILE).exists()


def test_without_the_old_key_the_new_one_holds_back_for_two_rounds(hire: Callable[..., Owner]) -> None:
    for role, kind in ((Role.CONTRIBUTOR, Journal), (Role.VERIFIER, VerdictJournal)):
        owner = hire(role)
        (owner.home / "peer.key").unlink()
        answer = owner.rotate("--yes", "--json")
        assert "holds back for two rounds" in answer.err
        assert answer.document["replaced_kept"] is None
        with kind.open(owner.home / "journal.sqlite", owner.key.address) as journal:
            assert journal.settle(SIGNED_RUN, 4, 10) == 6


def test_a_key_that_was_replaced_elsewhere_before_makes_its_journal_hold_back(
    owner: Owner, network: Network
) -> None:
    owner.sign(0)
    network.ledger.rotate_peer(network.person(owner.name), network.peer(f"{owner.name} again"))
    assert owner.rotate("--yes").code == 0
    with open_journal(owner.home / "journal.sqlite", owner.key.address) as journal:
        assert journal.restored
        assert len(journal.statements()) == 1


def test_an_encrypted_key_is_replaced_by_one_under_the_same_password(owner: Owner, tmp_path: Path) -> None:
    old, secret = owner.key, tmp_path / "password"
    (owner.home / "peer.key").unlink()
    save_encrypted_peer_key(owner.home / "peer.key", old, PASSWORD)
    secret.write_text("another one")
    secret.chmod(0o600)
    wrong = owner.rotate("--yes", "--peer-password-file", str(secret))
    assert wrong.error is not None
    assert "does not open" in wrong.error.message
    assert owner.linked == old.address
    secret.write_text(PASSWORD)
    assert owner.rotate("--yes", "--peer-password-file", str(secret)).code == 0
    assert open_peer_key(owner.home, secret).address == owner.linked != old.address
    assert json.loads((owner.home / "peer.key").read_text())["version"] == 3


def test_what_cannot_be_replaced_is_refused_and_nothing_is_left_behind(
    owner: Owner, network: Network, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    save_unattended_wallet(stranger, bytes([7]) * 32)
    other = Owner(network, "", stranger, owner.number, owner.wallet).rotate("--yes")
    assert isinstance(other.error, LedgerError)
    assert "not registered" in other.error.message
    (owner.home / "peer.key").unlink()
    save_peer_key(owner.home / "peer.key", network.peer("somebody"))
    never = owner.rotate("--yes")
    assert never.error is not None
    assert "never was that of number" in never.error.message
    (owner.home / LOCK_FILE).touch()
    coordinator = owner.rotate("--yes")
    assert coordinator.error is not None
    assert "coordinator" in coordinator.error.message
    assert not list(tmp_path.glob("*/peer.key.next"))


def test_a_waiting_key_that_was_linked_and_replaced_since_is_not_put_in_place(
    owner: Owner, network: Network
) -> None:
    owner.rotate("--dry-run")
    waiting = load_peer_key(owner.home / rotation.NEXT_FILE)
    ledger = Ledger(connect(network.chain.url), network.ledger.address)
    for key in (waiting, network.peer(f"{owner.name} again")):
        ledger.rotate_peer(network.person(owner.name), key)
    refused = owner.rotate("--yes")
    assert refused.error is not None
    assert "replaced since" in refused.error.message


def test_a_juror_hears_that_its_new_key_needs_coin(hire: Callable[..., Owner], network: Network) -> None:
    vera = hire(Role.VERIFIER)
    network.ledger.jury.join(network.person(vera.name), 1)
    answer = vera.rotate("--yes")
    assert f"send coin to {vera.key.address}" in answer.err
