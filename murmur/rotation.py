"""The files of a directory whose number gets another peer key. No step loses a key, and each can be taken again.

`peer.key.next` holds the key to come, from before anybody signs until the chain has it. Then the journal becomes its
own, the key that it replaces is put aside under its address, and `peer.key.next` becomes `peer.key`. Whatever was
killed in between goes on from what the chain and these files say.

The journal goes on because it is the peer's memory: what it has committed to and still has to open, and what it must
not say a second time. The replaced key signs nothing any more; it is kept because coin may lie at its address.
"""

import os
from pathlib import Path

from contracts.identity import (
    PEER_PASSWORD_FILE,
    is_encrypted,
    open_peer_key,
    peer_address,
    save_encrypted_peer_key,
)
from contracts.passwords import carry_over, read_password
from murmur.backup import is_coordinator, open_journal
from node.journal import Journal
from protocol.daemon import JOURNAL_FILE, PEER_KEY_FILE, PeerRole
from protocol.errors import ConfigError
from protocol.journal import SigningJournal
from protocol.keys import PeerKey, save_peer_key, sync_directory
from verification.journal import VerdictJournal

NEXT_FILE = f"{PEER_KEY_FILE}.next"
JOURNALS: dict[PeerRole, type[SigningJournal]] = {"contributor": Journal, "verifier": VerdictJournal}


def present_key(directory: Path) -> str | None:
    """Return the address of a directory's peer key, or None if it has none.

    Raises:
        ConfigError: others can read it, or it is damaged.
    """
    return peer_address(directory) if (directory / PEER_KEY_FILE).exists() else None


def waiting_key(directory: Path) -> str | None:
    """Return the address of the key that waits to take the place of a directory's, or None.

    Raises:
        ConfigError: others can read it, or it is damaged.
    """
    return peer_address(directory, NEXT_FILE) if (directory / NEXT_FILE).exists() else None


def kept_path(directory: Path, peer: str) -> Path:
    """Return where a replaced key is kept."""
    return directory / f"{PEER_KEY_FILE}.{peer}"


def save_next(directory: Path, key: PeerKey, password_file: Path | None) -> None:
    """Put a key on disk that is to take the place of a directory's, encrypted under its password if that one is.

    Raises:
        ConfigError: one waits already, the password does not open the present key, or nothing can be written.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    path, present = directory / PEER_KEY_FILE, present_key(directory)
    if present is None or not is_encrypted(path):
        save_peer_key(directory / NEXT_FILE, key)
        return
    password = read_password("peer key", password_file, directory / PEER_PASSWORD_FILE, present)
    open_peer_key(directory, given=password)  # a slip of the finger must not lock the new key away
    save_encrypted_peer_key(directory / NEXT_FILE, key, password)
    sync_directory(directory)
    carry_over(present, key.address)


def open_next(directory: Path, password_file: Path | None) -> PeerKey:
    """Read the key that waits; raises what `open_peer_key` raises."""
    return open_peer_key(directory, password_file, name=NEXT_FILE)


def take_place(directory: Path, role: PeerRole, *, complete: bool) -> Path | None:
    """Let the key that waits, and that the chain has, become the directory's; return where the old one is kept.

    Args:
        complete: the directory's journal holds all that the number has signed. If it may not, nothing new is signed
            for two rounds.

    Raises:
        ConfigError: a daemon runs in the directory, or its journal is damaged or another key's.
    """
    new, old = peer_address(directory, NEXT_FILE), present_key(directory)
    journal = directory / JOURNAL_FILE
    if journal.exists():
        with open_journal(journal, new, heir_of=old) as opened:
            if not complete:
                opened.mark_restored()
    elif not complete:
        with JOURNALS[role].open(journal, new) as opened:
            opened.mark_restored()
    kept = None
    if old is not None:
        kept = kept_path(directory, old)
        if not kept.exists():
            os.link(directory / PEER_KEY_FILE, kept)
            sync_directory(directory)
    (directory / NEXT_FILE).replace(directory / PEER_KEY_FILE)
    sync_directory(directory)
    return kept


def check_place(directory: Path) -> None:
    """Refuse a directory whose key cannot be replaced.

    Raises:
        ConfigError: a coordinator has run there.
    """
    if is_coordinator(directory):
        raise ConfigError(
            f"{directory} is a coordinator's, and the key that signs for a run is fixed with it",
            hint="another run has another key; stop the coordinator if this one is stolen",
        )
