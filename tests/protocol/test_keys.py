"""Keys stay private, and their three names agree."""

import os
from pathlib import Path

import pytest
from eth_account import Account
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID

from protocol.errors import ConfigError, Malformed
from protocol.keys import PeerKey, load_peer_key, recover_address, save_peer_key
from tests.protocol.makers import key


def test_peer_id_and_address_are_those_of_libp2p_and_ethereum() -> None:
    one = key("peer")
    assert one.peer_id == str(ID.from_pubkey(create_new_key_pair(one.secret).public_key))
    assert one.address == Account.from_key(one.secret).address


def test_a_signature_recovers_to_its_signer_only() -> None:
    one, digest = key("peer"), b"\x07" * 32
    assert recover_address(digest, one.sign(digest)) == one.address
    assert recover_address(b"\x08" * 32, one.sign(digest)) != one.address


@pytest.mark.parametrize("bad", [b"", b"\0" * 65, b"\xff" * 64 + b"\x1b", b"\1" * 66])
def test_what_is_no_signature_is_malformed(bad: bytes) -> None:
    with pytest.raises(Malformed):
        recover_address(b"\x07" * 32, bad)


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "home" / "peer.key"
    save_peer_key(path, key("peer"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_peer_key(path) == key("peer")
    with pytest.raises(ConfigError, match="already holds"):
        save_peer_key(path, key("other"))


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peer.key"
    save_peer_key(path, key("peer"))
    os.chmod(path, 0o644)
    with pytest.raises(ConfigError, match="read by others"):
        load_peer_key(path)


@pytest.mark.parametrize("text", ["", "zz", "00" * 32, "ff" * 32, "11" * 31])
def test_a_key_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "peer.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        load_peer_key(path)


def test_a_key_never_shows_its_secret() -> None:
    secret = PeerKey(bytes(range(1, 33)))
    assert secret.secret.hex() not in repr(secret)
    assert secret.secret.hex() not in f"{secret}"
