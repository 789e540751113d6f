"""Wallet keys on disk are readable by their owner, encrypted, and never overwritten."""

import json
import stat
from pathlib import Path

import pytest

from contracts.keystore import create_keystore, keystore_address, load_keystore
from protocol.errors import ConfigError

KEY = bytes(range(1, 33))
QUICK = 2  # scrypt's work factor; a second each otherwise


@pytest.fixture
def keystore(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "wallet.json"
    create_keystore(path, KEY, "correct horse", scrypt_n=QUICK)
    return path


def test_key_comes_back_with_its_password(keystore: Path) -> None:
    account = load_keystore(keystore, "correct horse")
    assert bytes(account.key) == KEY
    assert keystore_address(keystore) == account.address


def test_only_the_owner_can_read_it_and_no_partial_file_stays(keystore: Path) -> None:
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o600
    assert [path.name for path in keystore.parent.iterdir()] == ["wallet.json"]
    assert KEY.hex() not in keystore.read_text()


def test_key_is_never_overwritten(keystore: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a key"):
        create_keystore(keystore, bytes([5]) * 32, "other", scrypt_n=QUICK)
    assert bytes(load_keystore(keystore, "correct horse").key) == KEY
    assert [path.name for path in keystore.parent.iterdir()] == ["wallet.json"]


def test_wrong_password_is_named(keystore: Path) -> None:
    with pytest.raises(ConfigError, match="password"):
        load_keystore(keystore, "wrong")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_file_that_others_can_read_is_refused(keystore: Path, mode: int) -> None:
    keystore.chmod(mode)
    with pytest.raises(ConfigError, match="read by others") as refused:
        load_keystore(keystore, "correct horse")
    assert refused.value.hint == f"chmod 600 {keystore}"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_keystore(tmp_path / "nothing.json", "x")


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        create_keystore(tmp_path / "file" / "wallet.json", KEY, "x", scrypt_n=QUICK)


def _without_mac(document: dict[str, object]) -> object:
    crypto = document["crypto"]
    assert isinstance(crypto, dict)
    del crypto["mac"]
    return document


def _costly(document: dict[str, object]) -> object:
    crypto = document["crypto"]
    assert isinstance(crypto, dict)
    crypto["kdfparams"]["n"] = 2**40
    return document


@pytest.mark.parametrize(
    "spoil",
    [
        _without_mac,
        _costly,
        lambda document: {**document, "version": 2},
        lambda document: {**document, "crypto": "none"},
        lambda document: [],
        lambda document: "x" * 20_000,
    ],
)
def test_spoiled_file_is_refused(keystore: Path, spoil: object) -> None:
    assert callable(spoil)
    keystore.write_text(json.dumps(spoil(json.loads(keystore.read_text()))))
    with pytest.raises(ConfigError, match="is not a keystore"):
        load_keystore(keystore, "correct horse")


def test_bytes_that_are_no_json_are_refused(keystore: Path) -> None:
    keystore.write_bytes(b"\xff\x00{")
    with pytest.raises(ConfigError, match="is not a keystore"):
        keystore_address(keystore)
