"""`murmur keys`: keys are made once, never shown, and travel only with what they have signed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError
from typer.testing import CliRunner

from contracts.identity import open_peer_key
from contracts.keystore import create_keystore
from contracts.wallet import open_wallet
from coordinator.store import LOCK_FILE
from murmur.keys_cli import keys_app
from node.journal import Journal
from protocol.errors import ConfigError, Held, MurmurError, UsageError
from protocol.keys import load_peer_key
from tests.contracts.shell import Answer
from tests.node.test_journal import MANIFEST, RUN, unit_of

PASSWORD = "a sentence that is long enough"


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    from contracts import identity

    def create(path: Path, key: bytes, password: str, **_: int) -> Any:
        return create_keystore(path, key, password, scrypt_n=2)

    monkeypatch.setattr("contracts.keystore.create_keystore", create)
    monkeypatch.setattr("contracts.identity.create_keystore", create)
    plain = identity.encrypt
    monkeypatch.setattr(
        "murmur.backup.encrypt", lambda secret, password, **_: plain(secret, password, scrypt_n=2)
    )


@dataclass(frozen=True)
class Owner:
    """Types `murmur keys` with a password file at hand."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def password(self) -> Path:
        path = self.root / "password"
        path.write_text(PASSWORD)
        path.chmod(0o600)
        return path

    def type(self, command: str, *more: str) -> Answer:
        arguments = [*command.split(), *more]
        found = CliRunner().invoke(keys_app, arguments)
        if found.exception is not None and not isinstance(found.exception, MurmurError | SystemExit):
            raise found.exception
        error = found.exception if isinstance(found.exception, MurmurError) else None
        return Answer(
            found.stdout, found.stderr, error, found.exit_code if error is None else error.exit_code
        )

    def new(self, *more: str) -> Answer:
        flags = ("--dir", str(self.home), "--password-file", str(self.password), "--json")
        return self.type("new", *flags, *more)

    def export(self, out: str = "keys.json") -> Answer:
        flags = ("--dir", str(self.home), "--out", str(self.root / out))
        return self.type("export", *flags, "--peer-password-file", str(self.password), "--json")

    def restore(self, *more: str, out: str = "keys.json", to: str = "restored") -> Answer:
        flags = ("--dir", str(self.root / to), "--peer-password-file", str(self.password), "--json")
        return self.type("import", str(self.root / out), *flags, *more)

    def sign(self, *rounds: int, home: str = "home") -> None:
        key = open_peer_key(self.root / home, self.password)
        with Journal.open(self.root / home / "journal.sqlite", key.address) as journal:
            for round_ in rounds:
                unit = unit_of(round_)
                journal.sign(key, MANIFEST, round_, unit.commitment, unit=unit)


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def test_new_makes_a_wallet_and_a_peer_key_apart_that_only_their_owner_can_read(owner: Owner) -> None:
    made = owner.new().document
    wallet, peer = open_wallet(owner.home, owner.password), load_peer_key(owner.home / "peer.key")
    assert (made["wallet"], made["peer"], made["peer_id"]) == (wallet.address, peer.address, peer.peer_id)
    assert wallet.address != peer.address
    assert json.loads((owner.home / "wallet.json").read_text())["crypto"]["kdf"] == "scrypt"
    assert {path.stat().st_mode & 0o777 for path in owner.home.iterdir()} == {0o600}
    before = {path.name: path.read_bytes() for path in owner.home.iterdir()}
    again = owner.new()
    assert isinstance(again.error, ConfigError)
    assert "already holds a key" in again.error.message
    assert {path.name: path.read_bytes() for path in owner.home.iterdir()} == before


def test_the_peer_key_can_be_encrypted_and_the_owner_elsewhere(owner: Owner) -> None:
    made = owner.new("--peer-only", "--encrypt-peer", "--peer-password-file", str(owner.password)).document
    assert made["wallet"] is None
    assert [path.name for path in owner.home.iterdir()] == ["peer.key"]
    assert open_peer_key(owner.home, owner.password).address == made["peer"]
    with pytest.raises(UsageError, match="password"):
        open_peer_key(owner.home)
    wrong = owner.root / "wrong"
    wrong.write_text("guess")
    wrong.chmod(0o600)
    with pytest.raises(ConfigError, match="does not open"):
        open_peer_key(owner.home, wrong)


class Memory(KeyringBackend):
    """A keyring that forgets."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        raise PasswordDeleteError


def test_passwords_can_lie_in_the_keyring(owner: Owner) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(memory := Memory())
    try:
        flags = ("--encrypt-peer", "--peer-password-file", str(owner.password), "--keyring")
        made = owner.new(*flags).document
        assert memory.kept == {("murmur", made["wallet"]): PASSWORD, ("murmur", made["peer"]): PASSWORD}
        assert open_wallet(owner.home).address == made["wallet"]
        assert open_peer_key(owner.home).address == made["peer"]
    finally:
        keyring.set_keyring(before)


def test_no_password_no_keys(owner: Owner) -> None:
    refused = owner.type("new", "--dir", str(owner.home))
    assert isinstance(refused.error, UsageError)
    assert not owner.home.exists()


def test_list_shows_keys_and_what_they_signed_without_a_password(owner: Owner) -> None:
    made = owner.new().document
    assert json.loads(owner.type("list", "--dir", str(owner.root), "--json").out)[0]["journal"] is None
    owner.sign(0, 4)
    (row,) = json.loads(owner.type("list", "--dir", str(owner.root), "--json").out)
    assert (row["wallet"], row["peer"], row["encrypted"]) == (made["wallet"], made["peer"], False)
    assert row["journal"] == {
        "kind": "node",
        "statements": 2,
        "runs": {RUN: 4},
        "holds": {},
        "restored": False,
    }
    plain = owner.type("list", "--dir", str(owner.home)).out
    assert made["wallet"] in plain
    assert "2 statements" in plain
    secret = load_peer_key(owner.home / "peer.key").secret.hex()
    assert secret not in plain


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_was_exported_comes_back_with_its_journal_and_holds_back(owner: Owner, encrypted: bool) -> None:
    flags = ("--encrypt-peer", "--peer-password-file", str(owner.password)) if encrypted else ()
    made = owner.new(*flags).document
    secret = open_peer_key(owner.home, owner.password).secret.hex()
    owner.sign(0, 1, 2)
    assert owner.export().document["statements"] == 3
    written = owner.root / "keys.json"
    assert written.stat().st_mode & 0o777 == 0o600
    assert secret not in written.read_text()
    assert owner.restore().document["statements"] == 3
    restored = owner.root / "restored"
    assert open_wallet(restored, owner.password).address == made["wallet"]
    key = open_peer_key(restored, owner.password)
    assert key.address == made["peer"]
    assert (restored / "peer.key").read_bytes().startswith(b"{") == encrypted
    assert {path.stat().st_mode & 0o777 for path in restored.iterdir()} == {0o600}
    assert "holds back when a daemon starts" in owner.type("list", "--dir", str(restored)).out
    with Journal.open(restored / "journal.sqlite", key.address) as journal:
        assert journal.settle(RUN, 6, 10) == 8
        assert journal.sign(key, MANIFEST, 2, unit_of(2).commitment).round == 2
        with pytest.raises(Held):
            journal.sign(key, MANIFEST, 5, unit_of(5).commitment)
    assert f"in run {RUN[:16]} before round 8" in owner.type("list", "--dir", str(restored)).out


def test_a_file_without_its_journal_is_refused_or_waits_an_epoch(owner: Owner) -> None:
    owner.new()
    assert "--wait-epoch" in owner.export().err
    refused = owner.restore()
    assert isinstance(refused.error, ConfigError)
    assert "no signing journal" in refused.error.message
    assert "--wait-epoch" in refused.error.hint
    assert not (owner.root / "restored" / "peer.key").exists()
    assert owner.restore("--wait-epoch").document["waits"] == "an epoch"
    key = load_peer_key(owner.root / "restored" / "peer.key")
    with Journal.open(owner.root / "restored" / "journal.sqlite", key.address) as journal:
        assert journal.settle(RUN, 6, 10) == 16


def test_a_file_older_than_the_journal_that_is_there_is_refused(owner: Owner) -> None:
    owner.new()
    owner.sign(0)
    owner.export()
    owner.sign(1)
    refused = owner.restore(to="home")
    assert isinstance(refused.error, ConfigError)
    assert "holds 1 statements that the file lacks" in refused.error.message
    kept = owner.restore("--wait-epoch", to="home").document
    assert kept["statements"] == 2, "the newer journal stays"
    key = load_peer_key(owner.home / "peer.key")
    with Journal.open(owner.home / "journal.sqlite", key.address) as journal:
        assert journal.settle(RUN, 1, 10) == 11
    assert not list(owner.home.glob(".import*"))
    owner.export("newer.json")
    assert owner.restore(out="newer.json", to="home").document["statements"] == 2


def test_a_changed_file_another_key_and_a_bare_key_are_refused(owner: Owner) -> None:
    owner.new()
    owner.sign(0, 1)
    owner.export()
    path = owner.root / "keys.json"
    said = json.loads(path.read_text())
    for change in ({"journal": None}, {"exported_at": "later"}, {"wallet": None}, {"mac": "00" * 32}):
        (owner.root / "changed.json").write_text(json.dumps(said | change))
        refused = owner.restore("--wait-epoch", out="changed.json")
        assert isinstance(refused.error, ConfigError)
        assert "was changed" in refused.error.message, change
    bare = owner.type("import", str(owner.home / "wallet.json"), "--dir", str(owner.root / "restored"))
    assert isinstance(bare.error, ConfigError)
    assert "without its signing journal" in bare.error.message
    (owner.root / "garbage").write_bytes(b"{" * 100_000)
    assert owner.restore(out="garbage").code == 3
    other = Owner(owner.root / "other")
    other.root.mkdir()
    other.new()
    clash = owner.restore(to="other/home")
    assert isinstance(clash.error, ConfigError)
    assert "another peer key" in clash.error.message
    assert not (owner.root / "restored" / "peer.key").exists()


def test_nothing_is_exported_beside_a_running_daemon_or_over_a_file(owner: Owner) -> None:
    made = owner.new().document
    owner.sign(0)
    with Journal.open(owner.home / "journal.sqlite", made["peer"]):
        busy = owner.export()
        assert isinstance(busy.error, ConfigError)
        assert "stop the node" in busy.error.hint
        assert not (owner.root / "keys.json").exists()
    owner.export()
    again = owner.export()
    assert isinstance(again.error, ConfigError)
    assert "exists already" in again.error.message


def test_a_coordinators_key_does_not_travel_without_its_database(owner: Owner) -> None:
    owner.new()
    (owner.home / LOCK_FILE).touch()
    refused = owner.export()
    assert isinstance(refused.error, ConfigError)
    assert "in its database" in refused.error.message
    assert not (owner.root / "keys.json").exists()
    assert "in its database" in owner.type("list", "--dir", str(owner.home)).out


def test_a_snapshot_of_a_machine_is_told_by_hand(owner: Owner) -> None:
    made = owner.new().document
    assert owner.type("hold", "--dir", str(owner.home)).code == 3
    owner.sign(0)
    assert owner.type("hold", "--dir", str(owner.home)).code == 0
    with Journal.open(owner.home / "journal.sqlite", made["peer"]) as journal:
        assert journal.settle(RUN, 1, 10) == 3
