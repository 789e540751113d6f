"""Wallet keys on disk: Web3 Secret Storage (version 3) files that only their owner can read."""

import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_utils.address import to_checksum_address

from protocol.errors import ConfigError

SCRYPT_N = 262144  # work factor of the Web3 Secret Storage definition; about a second
MAX_BYTES = 16384
MAX_SCRYPT_N = 2**20  # a file that asks for more would take gigabytes


def create_keystore(path: Path, key: bytes, password: str, *, scrypt_n: int = SCRYPT_N) -> LocalAccount:
    """Encrypt a 32-byte key into a file of mode 0600, which appears whole or not at all.

    Raises:
        ConfigError: the file exists already, or the folder cannot be written.
    """
    account: LocalAccount = Account.from_key(key)
    document = Account.encrypt(key, password, kdf="scrypt", iterations=scrypt_n)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            _publish(partial, path)
        finally:
            partial.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write the keystore {path}: {error.strerror}") from error
    return account


def load_keystore(path: Path, password: str) -> LocalAccount:
    """Decrypt a key.

    Raises:
        ConfigError: the file is missing, can be read by others, is not a keystore, or the password is wrong.
    """
    document = _read(path)
    try:
        key = Account.decrypt(document, password)
    except (KeyError, TypeError, NotImplementedError) as error:
        raise _corrupt(path) from error
    except ValueError as error:
        if "MAC mismatch" not in str(error):
            raise _corrupt(path) from error
        raise ConfigError(
            f"the password does not open {path}", hint="or the file was changed: restore it from a backup"
        ) from error
    account: LocalAccount = Account.from_key(bytes(key))
    return account


def keystore_address(path: Path) -> str:
    """Return the checksummed address of a keystore without its password.

    Raises:
        ConfigError: the file is missing, can be read by others, or is not a keystore.
    """
    document = _read(path)
    try:
        return str(to_checksum_address(document["address"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _corrupt(path) from error


def _publish(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, never replaces a key
    except FileExistsError as error:
        raise ConfigError(
            f"{path} already holds a key", hint="choose another name; keys are never overwritten"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the keystore {path}: {error.strerror}",
            hint="check --dir; `murmur stake deposit` makes a wallet",
        ) from error
    try:
        if len(text) > MAX_BYTES:
            raise ValueError
        document = json.loads(text)
        if document["version"] != 3 or document["crypto"]["kdfparams"].get("n", 0) > MAX_SCRYPT_N:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _corrupt(path) from error
    found: dict[str, Any] = document
    return found


def _corrupt(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not a keystore", hint="restore it from a backup")
