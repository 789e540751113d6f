"""A wallet is its owner's alone, opens with its password alone, and is never replaced."""

import os
import stat
from pathlib import Path

import pytest

from contracts.wallet import (
    PASSWORD_FILE,
    WALLET_FILE,
    create_wallet,
    open_wallet,
    save_unattended_wallet,
)
from protocol.errors import ConfigError, UsageError

KEY = bytes([3]) * 32


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Terminal:
    """Stand for the keyboard: answers prompts in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.prompts: list[str] = []
        self._answers = list(answers)
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("contracts.passwords.getpass", self._answer)

    def _answer(self, prompt: str, stream: object) -> str:
        self.prompts.append(prompt)
        return self._answers.pop(0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "deep" / "home"
    save_unattended_wallet(directory, KEY, scrypt_n=2)
    return directory


def test_unattended_wallet_opens_by_itself_and_for_its_owner_only(home: Path) -> None:
    assert bytes(open_wallet(home).key) == KEY
    assert mode(home) == 0o700
    assert mode(home / WALLET_FILE) == mode(home / PASSWORD_FILE) == 0o600


def test_passwords_of_unattended_wallets_differ(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_unattended_wallet(tmp_path / name, KEY, scrypt_n=2)
    assert (tmp_path / "a" / PASSWORD_FILE).read_text() != (tmp_path / "b" / PASSWORD_FILE).read_text()


@pytest.mark.usefixtures("cheap_wallets")
def test_a_wallet_is_never_replaced_and_keeps_its_password(home: Path) -> None:
    password = (home / PASSWORD_FILE).read_text()
    with pytest.raises(ConfigError, match="already holds a key"):
        save_unattended_wallet(home, bytes([4]) * 32, scrypt_n=2)
    with pytest.raises(ConfigError, match="already holds a key"):
        create_wallet(home)
    assert (home / PASSWORD_FILE).read_text() == password
    assert bytes(open_wallet(home).key) == KEY


def test_no_password_is_laid_beside_a_wallet_that_it_does_not_open(home: Path) -> None:
    (home / PASSWORD_FILE).unlink()
    with pytest.raises(ConfigError, match="already holds a key"):
        save_unattended_wallet(home, KEY, scrypt_n=2)
    assert not (home / PASSWORD_FILE).exists()


def test_a_password_without_its_wallet_is_not_overwritten(home: Path) -> None:
    (home / WALLET_FILE).unlink()
    with pytest.raises(ConfigError, match="already holds a password"):
        save_unattended_wallet(home, KEY, scrypt_n=2)


def test_a_wrong_password_opens_nothing(home: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("something else\n")
    wrong.chmod(0o600)
    with pytest.raises(ConfigError, match="the password does not open"):
        open_wallet(home, wrong)


@pytest.mark.parametrize("name", [WALLET_FILE, PASSWORD_FILE])
@pytest.mark.parametrize("others", [0o640, 0o604, 0o660])
def test_files_that_others_can_read_are_refused(home: Path, name: str, others: int) -> None:
    (home / name).chmod(others)
    with pytest.raises(ConfigError, match="can be read by others") as refused:
        open_wallet(home)
    assert refused.value.hint == f"chmod 600 {home / name}"


def test_missing_and_unreadable_files_are_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password file .*nowhere"):
        open_wallet(home, tmp_path / "nowhere")
    (home / PASSWORD_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="password file"):
        open_wallet(home)
    (home / WALLET_FILE).unlink()
    (home / PASSWORD_FILE).write_text("text")
    with pytest.raises(ConfigError, match="cannot read the keystore") as missing:
        open_wallet(home)
    assert "--dir" in missing.value.hint


def test_without_terminal_or_password_file_nobody_is_asked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / PASSWORD_FILE).unlink()
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(UsageError, match="no terminal"):
            open_wallet(home)
        with pytest.raises(UsageError, match="no terminal"):
            create_wallet(tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


@pytest.mark.usefixtures("cheap_wallets")
def test_at_a_terminal_a_wallet_is_made_with_the_password_typed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    terminal = Terminal(monkeypatch, "secret", "secret", "secret", "guess")
    made = create_wallet(home)
    assert mode(home) == 0o700
    assert mode(home / WALLET_FILE) == 0o600
    assert open_wallet(home).address == made.address
    assert terminal.prompts == ["wallet password: ", "again: ", "wallet password: "]
    with pytest.raises(ConfigError, match="the password does not open"):
        open_wallet(home)


@pytest.mark.usefixtures("cheap_wallets")
def test_two_different_passwords_make_no_wallet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal(monkeypatch, "secret", "sceret")
    with pytest.raises(UsageError, match="differ"):
        create_wallet(tmp_path)
    assert not (tmp_path / WALLET_FILE).exists()


@pytest.mark.usefixtures("cheap_wallets")
def test_made_wallets_have_keys_of_their_own(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)
    made = {create_wallet(tmp_path / name, password).address for name in ("a", "b")}
    assert len(made) == 2
    assert {open_wallet(tmp_path / name, password).address for name in ("a", "b")} == made
