"""Where a keystore's password comes from: a file, the operating system's keyring, or a prompt. Never an argument."""

import stat
import sys
from getpass import getpass
from pathlib import Path

from protocol.errors import ConfigError, UsageError

SERVICE = "murmur"  # under which passwords lie in the keyring, by address of the key


def read_password(
    what: str, file: Path | None, beside: Path, address: str | None, *, confirm: bool = False
) -> str:
    """Return the password of a keystore.

    Args:
        what: names the key in prompts and errors, such as "wallet".
        file: named by the user; only its owner may read it.
        beside: file that is taken if it exists and none was named.
        address: of the key, to look for it in the keyring; None for a key that does not exist yet.
        confirm: ask twice, because nothing will tell a slip of the finger.

    Raises:
        ConfigError: the file cannot be read, or others can read it.
        UsageError: a password is needed and there is no terminal to ask on, or the two differ.
    """
    if file is not None or beside.exists():
        return _from_file(file or beside)
    kept = None if address is None else _from_keyring(address)
    if kept is not None:
        return kept
    if not sys.stdin.isatty():
        raise UsageError(
            f"the {what} needs a password and there is no terminal",
            hint=f"use --{'peer-' if what == 'peer key' else ''}password-file FILE",
        )
    password = getpass(f"{what} password: ", stream=sys.stderr)
    if confirm and getpass("again: ", stream=sys.stderr) != password:
        raise UsageError("the two passwords differ")
    return password


def keep_in_keyring(address: str, password: str) -> None:
    """Store a password in the operating system's keyring.

    Raises:
        ConfigError: there is none, it is locked, or the `keyring` extra is not installed.
    """
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as error:
        raise ConfigError(
            "the keyring library is not installed",
            hint="install the extra: pip install 'murmur-network[keyring]'",
        ) from error
    try:
        keyring.set_password(SERVICE, address, password)
    except KeyringError as error:
        raise ConfigError(
            f"the keyring does not take the password: {error}", hint="use --password-file FILE instead"
        ) from error


def carry_over(old: str, new: str) -> None:
    """Let the password of a key that takes another's place be found where the other's is, if that is the keyring.

    Raises:
        ConfigError: the keyring does not take it.
    """
    kept = _from_keyring(old)
    if kept is not None:
        keep_in_keyring(new, kept)


def _from_keyring(address: str) -> str | None:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        return None
    try:
        return keyring.get_password(SERVICE, address)
    except KeyringError:  # none on this machine, or locked: whoever sits here is asked instead
        return None


def _from_file(path: Path) -> str:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the password file {path}") from error
