"""`murmur keys`: the wallet that owns stake and pay, the peer key that signs work, and what it has signed."""

import json
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.terminal import Json, PasswordFile, show
from murmur.rotate_cli import rotate
from protocol import options
from protocol.errors import ConfigError

keys_app = typer.Typer(
    no_args_is_help=True, help="Make, list, replace, back up and restore a directory's keys."
)

Directory = Annotated[
    Path, typer.Option("--dir", envvar="MURMUR_DIR", help="Directory with wallet.json and peer.key.")
]


@keys_app.command()
def new(
    directory: Directory,
    encrypt_peer: Annotated[
        bool,
        typer.Option("--encrypt-peer", help="Encrypt the peer key too; the daemon then needs its password."),
    ] = False,
    peer_only: Annotated[
        bool, typer.Option("--peer-only", help="Make no wallet: the owner's key is elsewhere.")
    ] = False,
    keyring: Annotated[
        bool, typer.Option("--keyring", help="Keep the passwords in the operating system's keyring.")
    ] = False,
    password_file: PasswordFile = None,
    peer_password_file: options.PeerPasswordFile = None,
    as_json: Json = False,
) -> None:
    """Make a wallet (cold, owns stake and pay) and a peer key (hot, signs work). Keys are never overwritten."""
    from contracts.identity import PEER_PASSWORD_FILE, save_encrypted_peer_key
    from contracts.keystore import create_keystore
    from contracts.passwords import keep_in_keyring, read_password
    from contracts.wallet import PASSWORD_FILE, WALLET_FILE
    from protocol.daemon import PEER_KEY_FILE
    from protocol.keys import PeerKey, save_peer_key

    for name in (PEER_KEY_FILE, *(() if peer_only else (WALLET_FILE,))):
        if (directory / name).exists():
            raise ConfigError(
                f"{directory / name} already holds a key",
                hint="`murmur keys list` shows it; choose another --dir",
            )
    peer, wallet = PeerKey(secrets.token_bytes(32)), None
    wallet_password = peer_password = None
    if not peer_only:
        beside = directory / PASSWORD_FILE
        wallet_password = read_password("wallet", password_file, beside, None, confirm=True)
    if encrypt_peer:
        beside = directory / PEER_PASSWORD_FILE
        peer_password = read_password("peer key", peer_password_file, beside, None, confirm=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if wallet_password is not None:
        account = create_keystore(directory / WALLET_FILE, secrets.token_bytes(32), wallet_password)
        wallet = str(account.address)
        if keyring:
            keep_in_keyring(wallet, wallet_password)
    if peer_password is None:
        save_peer_key(directory / PEER_KEY_FILE, peer)
    else:
        save_encrypted_peer_key(directory / PEER_KEY_FILE, peer, peer_password)
        if keyring:
            keep_in_keyring(peer.address, peer_password)
    show(
        {"wallet": wallet, "peer": peer.address, "peer_id": peer.peer_id, "encrypted": encrypt_peer}, as_json
    )
    typer.echo("next: `murmur stake deposit` registers them; `murmur keys export` backs them up", err=True)


keys_app.command()(rotate)


@keys_app.command("list")
def list_(directory: Directory, as_json: Json = False) -> None:
    """List the keys of a directory, or of the directories in it, and what each peer key has signed. No password."""
    found = [
        _row(one) for one in (directory, *sorted(p for p in directory.glob("*") if p.is_dir())) if _has(one)
    ]
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found:
        typer.echo("no keys")
    for row in found:
        typer.echo(row["directory"])
        typer.echo(f"  wallet   {row['wallet'] or 'elsewhere'}")
        if row["waiting"] is not None:
            typer.echo(f"  next     {row['waiting']} waits to be the peer key: `murmur keys rotate` goes on")
        if row["peer"] is None:
            typer.echo("  peer     none")
            continue
        typer.echo(f"  peer     {row['peer']}{' (encrypted)' if row['encrypted'] else ''}")
        typer.echo(f"  journal  {_journal_line(row['journal'])}")


def _has(directory: Path) -> bool:
    from contracts.wallet import WALLET_FILE
    from protocol.daemon import PEER_KEY_FILE

    return (directory / WALLET_FILE).is_file() or (directory / PEER_KEY_FILE).is_file()


def _row(directory: Path) -> dict[str, Any]:
    from contracts.identity import is_encrypted, peer_address
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE
    from murmur.backup import is_coordinator, open_journal, summarize
    from murmur.rotation import waiting_key
    from protocol.daemon import JOURNAL_FILE, PEER_KEY_FILE

    wallet, peer, encrypted = None, None, False
    journal: dict[str, Any] | None = None
    if (directory / WALLET_FILE).is_file():
        wallet = keystore_address(directory / WALLET_FILE)
    if (directory / PEER_KEY_FILE).is_file():
        peer, encrypted = peer_address(directory), is_encrypted(directory / PEER_KEY_FILE)
        path = directory / JOURNAL_FILE
        if is_coordinator(directory):
            journal = {"kind": "coordinator"}
        elif path.exists():
            try:
                with open_journal(path, peer) as opened:
                    journal = asdict(summarize(opened))
            except ConfigError as error:
                journal = {"kind": None, "error": error.message}
    found = {"directory": str(directory), "wallet": wallet, "peer": peer, "encrypted": encrypted}
    return {**found, "waiting": waiting_key(directory), "journal": journal}


def _journal_line(journal: dict[str, Any] | None) -> str:
    if journal is None:
        return "none: it has signed nothing here"
    if journal["kind"] == "coordinator":
        return "a coordinator's: what it signed is in its database"
    if "error" in journal:
        return str(journal["error"])
    runs = ", ".join(f"run {run[:16]} up to round {last}" for run, last in journal["runs"].items())
    held = ", ".join(f"run {run[:16]} before round {before}" for run, before in journal["holds"].items())
    kept = f"of a {journal['kind']}: {journal['statements']} statements{'; ' if runs else ''}{runs}"
    if held:
        return f"{kept}; restored: signs nothing new in {held}"
    return (
        f"{kept}; restored: holds back when a daemon starts in a run under way"
        if journal["restored"]
        else kept
    )


@keys_app.command()
def export(
    directory: Directory,
    out: Annotated[Path, typer.Option("--out", "-o", help="New file to write.")],
    peer_password_file: options.PeerPasswordFile = None,
    as_json: Json = False,
) -> None:
    """Back up the keys with all that the peer key has signed, in one file. Stop the daemon first.

    The wallet stays under its own password. The peer key is encrypted with its own, or else with one that is asked for.
    """
    from murmur.backup import export_keys

    now = datetime.now(UTC).isoformat(timespec="seconds")
    backup, summary = export_keys(directory, out, now, peer_password_file)
    facts = {"out": str(out), "peer": backup.peer, "wallet": None if backup.wallet is None else "included"}
    show({**facts, "statements": None if summary is None else summary.statements}, as_json)
    if summary is None:
        typer.echo(
            "no daemon has run here: the file has no journal, and importing it takes --wait-epoch", err=True
        )


@keys_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `murmur keys export` wrote.")],
    directory: Directory,
    wait_epoch: Annotated[
        bool,
        typer.Option(
            "--wait-epoch",
            help="Sign nothing new for an epoch; then the file needs no journal, or an older one.",
        ),
    ] = False,
    peer_password_file: options.PeerPasswordFile = None,
    as_json: Json = False,
) -> None:
    """Restore keys and journal. The daemon then signs nothing new for rounds that were signed for since, as it may be.

    Stop the daemon that used the keys first, wherever it runs: two at once contradict each other.
    """
    from murmur.backup import Backup, import_keys, open_backup

    backup = Backup.read(file)
    key = open_backup(backup, directory, peer_password_file)
    summary = import_keys(backup, key, directory, wait_epoch=wait_epoch)
    facts = {"directory": str(directory), "peer": backup.peer, "exported_at": backup.exported_at}
    waits = "an epoch" if wait_epoch else "two rounds"
    show({**facts, "statements": 0 if summary is None else summary.statements, "waits": waits}, as_json)


@keys_app.command()
def hold(directory: Directory, as_json: Json = False) -> None:
    """Say that this whole machine was set back to a snapshot: nothing new is signed until that is safe.

    A copied or restored directory is noticed by itself.
    """
    from contracts.identity import peer_address
    from murmur.backup import open_journal
    from protocol.daemon import JOURNAL_FILE

    path, peer = directory / JOURNAL_FILE, peer_address(directory)
    if not path.exists():
        raise ConfigError(f"there is no journal in {directory}", hint="check --dir")
    with open_journal(path, peer) as journal:
        journal.mark_restored()
    show({"directory": str(directory), "peer": peer, "waits": "two rounds"}, as_json)
