"""One file that carries a directory's keys and all that its peer key has signed.

A key without its signing journal is a danger to its owner: whoever starts it signs again what it signed before, and
that costs the stake. So both travel together, bound by a MAC under the peer key, and a journal that comes from such a
file holds back until nothing in the open can be contradicted any more (`protocol.restored`).
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.identity import PEER_PASSWORD_FILE, encrypt, is_encrypted, open_peer_key, peer_address
from contracts.keystore import SCRYPT_N, keystore_address, load_keystore
from contracts.passwords import read_password
from contracts.wallet import WALLET_FILE
from coordinator.config import STAND_IN_DIRECTORY
from coordinator.store import LOCK_FILE
from node.journal import Journal
from protocol.canonical import canonical_json, check_depth
from protocol.daemon import JOURNAL_FILE, PEER_KEY_FILE
from protocol.errors import ConfigError, Malformed
from protocol.journal import SigningJournal, journal_kind
from protocol.keys import PeerKey, save_peer_key
from protocol.restored import ask_to_wait
from verification.journal import VerdictJournal

MAX_BACKUP_BYTES = 256 << 20
VERSION = 1
JOURNALS: tuple[type[SigningJournal], ...] = (Journal, VerdictJournal)
_FIELDS = {"murmur_keys", "exported_at", "peer", "at_rest", "peer_key", "wallet", "journal", "mac"}


@dataclass(frozen=True)
class Backup:
    """What an exported file says, its MAC not yet checked."""

    exported_at: str  # ISO 8601
    peer: str  # address of the peer key
    at_rest: str  # how the directory kept the peer key: plain or encrypted
    peer_key: dict[str, Any]  # keystore
    wallet: dict[str, Any] | None  # keystore
    journal: bytes | None  # a SQLite file; None if the key had signed nothing
    mac: str

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return json.dumps({**self._said(), "mac": self.mac}).encode()

    def compute_mac(self, key: PeerKey) -> str:
        """Return HMAC-SHA256 (RFC 2104) of everything else under the peer key."""
        return hmac.new(
            key.secret, b"murmur/keys\0" + canonical_json(self._said()), hashlib.sha256
        ).hexdigest()

    def _said(self) -> dict[str, Any]:
        journal = None if self.journal is None else base64.b64encode(self.journal).decode()
        return {
            "murmur_keys": VERSION,
            "exported_at": self.exported_at,
            "peer": self.peer,
            "at_rest": self.at_rest,
            "peer_key": self.peer_key,
            "wallet": self.wallet,
            "journal": journal,
        }

    @classmethod
    def read(cls, path: Path) -> "Backup":
        """Read an exported file.

        Raises:
            ConfigError: it is not there, too long, or no such file; a bare key without its journal is named as one.
        """
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BACKUP_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        try:
            if len(data) > MAX_BACKUP_BYTES:
                raise ValueError
            check_depth(data)
            value = json.loads(data)
            if isinstance(value, dict) and "crypto" in value:
                raise ConfigError(
                    f"{path} is a key without its signing journal",
                    hint="a wallet signs nothing for rounds: copy it to wallet.json of a directory; "
                    "a peer key comes with `murmur keys export`",
                )
            if set(value) != _FIELDS or value["murmur_keys"] != VERSION:
                raise ValueError
            journal = None if value["journal"] is None else base64.b64decode(value["journal"], validate=True)
            texts = (value["exported_at"], value["peer"], value["at_rest"], value["mac"])
            wallet, peer_key = value["wallet"], value["peer_key"]
            if not all(isinstance(one, str) for one in texts) or value["at_rest"] not in (
                "plain",
                "encrypted",
            ):
                raise ValueError
            if not isinstance(peer_key, dict) or not isinstance(wallet, dict | None):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError, Malformed, binascii.Error) as error:
            raise ConfigError(f"{path} is no file of `murmur keys export`") from error
        return cls(texts[0], texts[1], texts[2], peer_key, wallet, journal, texts[3])


@dataclass(frozen=True)
class JournalSummary:
    """What a journal holds."""

    kind: str  # node or verifier
    statements: int
    runs: dict[str, int]  # newest round signed for, by run
    holds: dict[str, int]  # first round that is signed for again, by run
    restored: bool


def open_journal(path: Path, peer: str, *, heir_of: str | None = None) -> SigningJournal:
    """Open a journal of either daemon.

    Args:
        heir_of: an earlier key of the same number, whose journal becomes this key's.

    Raises:
        ConfigError: a daemon has it open, it is damaged, no journal, or another key's.
    """
    application = journal_kind(path)
    for kind in JOURNALS:
        if kind.kind.application_id == application:
            return kind.open(path, peer, heir_of=heir_of)
    raise ConfigError(f"{path} is no signing journal", hint="choose another directory with --dir")


def is_coordinator(directory: Path) -> bool:
    """Tell whether a coordinator has run in a directory: what it signed is in its database, not in a journal."""
    return (directory / LOCK_FILE).exists()


def summarize(journal: SigningJournal) -> JournalSummary:
    """Return what a journal holds."""
    runs: dict[str, int] = {}
    places = journal.statements()
    for run, _, round_, _ in places:
        runs[run] = max(round_, runs.get(run, 0))
    holds = {hold.run: hold.before for hold in journal.holds}
    return JournalSummary(journal.kind.daemon, len(places), runs, holds, journal.restored)


def export_keys(
    directory: Path, out: Path, exported_at: str, password_file: Path | None, *, scrypt_n: int = SCRYPT_N
) -> tuple[Backup, JournalSummary | None]:
    """Write a directory's keystores and journal to one new file of mode 0600.

    Args:
        exported_at: ISO 8601.
        password_file: password of the peer key in the exported file, which is its own where it is encrypted.

    Raises:
        ConfigError: there is no peer key, a daemon runs there, the file exists, or a password does not fit.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already", hint="name a new file; backups are never overwritten")
    if is_coordinator(directory):
        raise ConfigError(
            f"a coordinator has run in {directory}, and what it signed is in its database",
            hint="stop it and back up the whole directory, with the database if that is elsewhere",
        )
    if is_coordinator(directory / STAND_IN_DIRECTORY):
        raise ConfigError(
            f"{directory} has stood in for a coordinator, and what it signed so is in a database",
            hint=f"stop it and back up the whole directory, or move {STAND_IN_DIRECTORY} away once its run is over",
        )
    path = directory / PEER_KEY_FILE
    encrypted = is_encrypted(path)
    key = open_peer_key(directory, password_file)
    if encrypted:
        keystore = json.loads(path.read_text(encoding="utf-8"))
    else:
        password = read_password(
            "peer key", password_file, directory / PEER_PASSWORD_FILE, key.address, confirm=True
        )
        keystore = encrypt(key.secret, password, scrypt_n=scrypt_n)
    wallet = None
    if (directory / WALLET_FILE).exists():
        keystore_address(directory / WALLET_FILE)
        wallet = json.loads((directory / WALLET_FILE).read_text(encoding="utf-8"))
    journal, summary = None, None
    if (directory / JOURNAL_FILE).exists():
        with open_journal(directory / JOURNAL_FILE, key.address) as opened:
            journal, summary = opened.serialize(), summarize(opened)
    at_rest = "encrypted" if encrypted else "plain"
    bare = Backup(exported_at, key.address, at_rest, keystore, wallet, journal, "")
    backup = Backup(exported_at, key.address, at_rest, keystore, wallet, journal, bare.compute_mac(key))
    if len(data := backup.to_bytes()) > MAX_BACKUP_BYTES:
        raise ConfigError(f"the journal in {directory} is too large for one file", hint="copy the directory")
    _write_private(out, data)
    return backup, summary


def open_backup(backup: Backup, directory: Path, password_file: Path | None) -> PeerKey:
    """Decrypt the peer key of a backup and check everything else against it.

    Raises:
        ConfigError: the password is wrong, or the file was changed after it was exported.
        UsageError: a password is needed and there is no terminal to ask on.
    """
    scratch = directory / f".import.{secrets.token_hex(4)}"
    password = read_password("peer key", password_file, directory / PEER_PASSWORD_FILE, backup.peer)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write_private(scratch, json.dumps(backup.peer_key).encode())
    try:
        key = PeerKey(bytes(load_keystore(scratch, password).key))
    finally:
        scratch.unlink()
    if key.address != backup.peer or not hmac.compare_digest(backup.compute_mac(key), backup.mac):
        raise ConfigError("the file was changed after it was exported", hint="take another copy of it")
    return key


def import_keys(backup: Backup, key: PeerKey, directory: Path, *, wait_epoch: bool) -> JournalSummary | None:
    """Put keys and journal of a backup into a directory; the journal holds back until it is safe to sign.

    Keys that are there already must be the same. A journal that is there must hold nothing that the backup lacks.

    Args:
        wait_epoch: sign nothing new for an epoch. Then the backup may be without a journal, or with an older one: a
            newer one that is there stays.

    Raises:
        ConfigError: it has no journal or an older one and no epoch is waited for, or other keys are there.
    """
    if backup.journal is None and not wait_epoch:
        raise ConfigError(
            "this file has no signing journal: nobody knows what the key has signed",
            hint="with --wait-epoch it is imported all the same, and signs nothing for an epoch",
        )
    _check_keys(backup, directory)
    path = directory / JOURNAL_FILE
    _place_journal(backup, key, path, wait_epoch=wait_epoch)
    if not (directory / PEER_KEY_FILE).exists():
        if backup.at_rest == "plain":
            save_peer_key(directory / PEER_KEY_FILE, key)
        else:
            _write_private(directory / PEER_KEY_FILE, json.dumps(backup.peer_key).encode())
    if backup.wallet is not None and not (directory / WALLET_FILE).exists():
        _write_private(directory / WALLET_FILE, json.dumps(backup.wallet).encode())
    if not path.exists():
        return None
    with open_journal(path, key.address) as journal:
        return summarize(journal)


def _check_keys(backup: Backup, directory: Path) -> None:
    """Refuse to mix two people's keys; nothing has been written yet."""
    if (directory / PEER_KEY_FILE).exists() and peer_address(directory) != backup.peer:
        raise ConfigError(f"{directory} holds another peer key", hint="choose another directory with --dir")
    wallet = directory / WALLET_FILE
    if backup.wallet is not None and wallet.exists():
        named = str(backup.wallet.get("address", "")).lower().removeprefix("0x")
        if keystore_address(wallet).lower().removeprefix("0x") != named:
            raise ConfigError(f"{directory} holds another wallet", hint="choose another directory with --dir")


def _place_journal(backup: Backup, key: PeerKey, path: Path, *, wait_epoch: bool) -> None:
    """Put the backup's journal in its place, or keep a newer one that is there."""
    scratch = path.with_name(f".import.{secrets.token_hex(4)}.sqlite")
    try:
        said = None
        if backup.journal is not None:
            _write_private(scratch, backup.journal)
            with open_journal(scratch, key.address) as arriving:
                arriving.check_schema()
                arriving.mark_restored(epoch=wait_epoch)
                said = arriving.statements()
        if path.exists():
            with open_journal(path, key.address) as present:
                lacking = present.statements().items() - (said or {}).items()
                if lacking and not wait_epoch:
                    raise ConfigError(
                        f"the journal in {path.parent} holds {len(lacking)} statements that the file lacks: "
                        "the file is older",
                        hint="start the daemon with the directory as it is",
                    )
                if lacking:
                    present.mark_restored(epoch=True)
                    return
        if backup.journal is None:
            ask_to_wait(path)
            return
        for name in (path.name + "-wal", path.name + "-shm"):
            path.with_name(name).unlink(missing_ok=True)
        scratch.replace(path)
    finally:
        for leftover in path.parent.glob(f"{scratch.name}*"):
            leftover.unlink()


def _write_private(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
