"""The wallet of a daemon's directory: the key that owns stake and pay."""

import os
import secrets
from pathlib import Path

from eth_account.signers.local import LocalAccount

from contracts.keystore import SCRYPT_N, create_keystore, keystore_address, load_keystore
from contracts.passwords import read_password
from protocol.errors import ConfigError

WALLET_FILE = "wallet.json"
PASSWORD_FILE = "wallet.password"  # noqa: S105 - the name of a file


def open_wallet(directory: Path, password_file: Path | None = None) -> LocalAccount:
    """Decrypt the wallet of a directory with the password from a file, the directory's own, the keyring, or a prompt.

    Raises:
        ConfigError: no wallet, a wrong password, or a file that others can read.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    address = keystore_address(directory / WALLET_FILE)  # before anybody is asked for a password
    password = read_password("wallet", password_file, directory / PASSWORD_FILE, address)
    return load_keystore(directory / WALLET_FILE, password)


def create_wallet(directory: Path, password_file: Path | None = None) -> LocalAccount:
    """Make a wallet with a random key, encrypted with the password from the same sources.

    Raises:
        ConfigError: there is a wallet already.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    password = read_password("wallet", password_file, directory / PASSWORD_FILE, None, confirm=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return create_keystore(directory / WALLET_FILE, secrets.token_bytes(32), password)


def save_unattended_wallet(directory: Path, key: bytes, *, scrypt_n: int = SCRYPT_N) -> LocalAccount:
    """Store a given key with a random password beside it, for wallets that hold nothing but a demonstration's tokens.

    Raises:
        ConfigError: there is a wallet or a password already.
    """
    password = secrets.token_hex(16)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Else this password would lie beside a wallet that it does not open.
    if (directory / WALLET_FILE).exists():
        raise ConfigError(f"{directory / WALLET_FILE} already holds a key")
    try:
        handle = os.open(directory / PASSWORD_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{directory / PASSWORD_FILE} already holds a password") from error
    with os.fdopen(handle, "w") as file:
        file.write(password + "\n")
    return create_keystore(directory / WALLET_FILE, key, password, scrypt_n=scrypt_n)
