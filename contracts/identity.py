"""The hot peer key of a daemon's directory, in the clear or, if its owner wants so, as a keystore."""

from pathlib import Path

from eth_account import Account

from contracts.keystore import SCRYPT_N, create_keystore, keystore_address, load_keystore
from contracts.passwords import read_password
from protocol.daemon import PEER_KEY_FILE
from protocol.errors import ConfigError
from protocol.keys import PeerKey, load_peer_key

PEER_PASSWORD_FILE = "peer.password"  # noqa: S105 - the name of a file


def is_encrypted(path: Path) -> bool:
    """Tell whether a peer key's file is a keystore.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise ConfigError(
            f"cannot read the peer key {path}: {error.strerror}", hint="`murmur keys new` makes one"
        ) from error


def open_peer_key(
    directory: Path,
    password_file: Path | None = None,
    *,
    name: str = PEER_KEY_FILE,
    given: str | None = None,
) -> PeerKey:
    """Read the peer key of a directory, with its password if it is encrypted.

    Args:
        name: of another file of the directory with a key.
        given: a password that is known, of which nobody is asked then.

    Raises:
        ConfigError: there is none, others can read it, it is damaged, or the password is wrong.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    path = directory / name
    if not is_encrypted(path):
        return load_peer_key(path)
    password = given or read_password(
        "peer key", password_file, directory / PEER_PASSWORD_FILE, keystore_address(path)
    )
    return PeerKey(bytes(load_keystore(path, password).key))


def peer_address(directory: Path, name: str = PEER_KEY_FILE) -> str:
    """Return the address of a directory's peer key, or of one in another file, which needs no password.

    Raises:
        ConfigError: there is none, others can read it, or it is damaged.
    """
    path = directory / name
    return keystore_address(path) if is_encrypted(path) else load_peer_key(path).address


def save_encrypted_peer_key(path: Path, key: PeerKey, password: str, *, scrypt_n: int = SCRYPT_N) -> None:
    """Write a peer key as a keystore of mode 0600; refuses to overwrite.

    Raises:
        ConfigError: the file exists already, or the folder cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_keystore(path, key.secret, password, scrypt_n=scrypt_n)


def encrypt(secret: bytes, password: str, *, scrypt_n: int = SCRYPT_N) -> dict[str, object]:
    """Return a key as a Web3 Secret Storage document (version 3, scrypt)."""
    document: dict[str, object] = Account.encrypt(secret, password, kdf="scrypt", iterations=scrypt_n)
    return document
