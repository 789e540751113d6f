"""`murmur keys rotate`: give a registration number another peer key, from its wallet, and swap the files."""

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts.purse import Purse, with_purse
from contracts.terminal import (
    confirm,
    format_amount,
)
from protocol import options
from protocol.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    from contracts.client import Ledger
    from contracts.run import ChainRun
    from contracts.types import Operator
    from protocol.daemon import PeerRole


@dataclass(frozen=True)
class _Place:
    """A directory before its key is replaced, as the ledger sees it."""

    directory: Path
    ledger: "Ledger"
    own: "Operator"
    here: str | None  # address of the directory's peer key
    run: "ChainRun | None"
    rounds: int | None  # of that run, if its manifest is here

    @property
    def role(self) -> "PeerRole":
        """Return what the number does."""
        from contracts.types import Role

        return "verifier" if self.own.role is Role.VERIFIER else "contributor"


@with_purse
def rotate(
    purse: Purse,
    run: Annotated[
        str | None,
        typer.Option("--run", envvar="MURMUR_RUN", help="Run id; default: the directory's newest."),
    ] = None,
    peer_password_file: options.PeerPasswordFile = None,
) -> None:
    """Give your number a new peer key, such as when the old one was stolen. Stop the daemon first, start it after.

    Number, stake, pay and journal stay. The new key is made in peer.key.next, also in a dry run, whose transaction is
    for that key. If this was cut short, or the wallet's owner has sent that transaction, type it again: it finishes.
    """
    from murmur.rotation import check_place, present_key, waiting_key

    directory = purse.directory
    check_place(directory)
    found = purse.ledger
    here, waiting = present_key(directory), waiting_key(directory)
    number = None if waiting is None else found.number_of_peer(waiting)
    if number is None:
        own = _operator(found, purse.wallet, here)
        place = _Place(directory, found, own, here, *_run(found, directory, run))
        _replace(place, purse, peer_password_file)
        return
    linked = found.operator(number)
    if linked is None or linked.peer != waiting:
        raise ConfigError(
            f"the key in {directory} that waits, {waiting}, was linked to number {number} and replaced since",
            hint=f"move {directory / 'peer.key.next'} away, then type this again",
        )
    place = _Place(directory, found, linked, here, *_run(found, directory, run))
    if purse.dry_run:
        told = [f"the ledger has {waiting} already: its files are put in place"]
        confirm(told, yes=purse.yes, dry_run=True, as_json=purse.as_json)
    _finish(place, purse)


def _replace(place: _Place, purse: Purse, peer_password_file: Path | None) -> None:
    """Show the plan, link a new key and put its files in place."""
    from contracts.plan import rotate_steps
    from murmur.backup import open_journal
    from murmur.rotation import open_next, save_next, waiting_key
    from protocol.daemon import JOURNAL_FILE
    from protocol.keys import PeerKey

    directory, found = place.directory, place.ledger
    made = waiting_key(directory) is None
    with ExitStack() as stack:
        if place.here is not None and not purse.dry_run and (directory / JOURNAL_FILE).exists():
            # No daemon runs meanwhile.
            stack.enter_context(open_journal(directory / JOURNAL_FILE, place.here))
        new = PeerKey(secrets.token_bytes(32)) if made else open_next(directory, peer_password_file)
        steps = rotate_steps(found, purse.wallet, new)
        if purse.dry_run and made:
            purse.quote(steps)  # what the ledger would refuse makes no key
            save_next(directory, new, peer_password_file)
        sender = purse.confirm(_plan(place, new, made=made and not purse.dry_run), steps)
        if made:
            save_next(directory, new, peer_password_file)
        found.rotate_peer(sender, new)
    _finish(place, purse)


def _finish(place: _Place, purse: Purse) -> None:
    """Put the files of a linked key in place, and say what it is."""
    from murmur.rotation import take_place, waiting_key

    found, number = place.ledger, place.own.number
    new, links = waiting_key(place.directory), _links(found, number)
    if new is None or not links or links[-1].peer != new:
        raise LedgerError(f"the chain lost the new key of number {number} again", hint="type this again")
    before = links[-2].peer if len(links) > 1 else None
    link = links[-1]
    kept = take_place(place.directory, place.role, complete=place.here in (before, new))
    until = link.block + found.unbonding_blocks
    facts: dict[str, Any] = {
        "number": number,
        "peer": new,
        "peer_id": _peer_id(link),
        "replaced": before,
        "replaced_answers_until": until,
        "replaced_kept": None if kept is None else str(kept),
        "run": None,
        "round": None,
        "tx": link.tx,
        "block": link.block,
    }
    if place.run is not None:
        place.run.refresh()
        facts |= {"run": place.run.run, "round": _first_round(place.run, number, new, place.role)}
    purse.show(facts)
    used = before is not None and _wealth(found, before)[0] > 0
    if not _wealth(found, new)[0] and (used or found.jury.juror(number).slots):
        typer.echo(f"send coin to {new}: a peer key pays for votes and for what it forces in", err=True)
    command = "verifier" if place.role == "verifier" else "node"
    typer.echo(
        f"next: `murmur {command} start` as before, which listens under another peer id; `murmur keys export` again, "
        "because older backups hold the replaced key",
        err=True,
    )


def _plan(place: _Place, new: Any, *, made: bool) -> list[str]:
    from contracts.chain import block_number
    from contracts.plan import time_of_block
    from murmur.rotation import NEXT_FILE, kept_path

    found, own, here = place.ledger, place.own, place.here
    blocks = found.unbonding_blocks
    until = block_number(found.w3) + 1 + blocks
    time = time_of_block(found.w3, until)
    about = "" if time is None else f" ({time:%Y-%m-%d %H:%M} UTC)"
    which = "made now" if made else f"which waits in {place.directory / NEXT_FILE}"
    lines = [
        f"number {own.number}: replace the peer key {own.peer} by {new.address}, {which}; its peer id is {new.peer_id}",
        *_rounds(place),
        f"{own.peer} says nothing that counts about rounds that begin later, but your stake answers for what it signs "
        f"until about block {until}{about}",
    ]
    if here == own.peer:
        lines.append(
            f"the journal goes on under the new key; {here} is kept in {kept_path(place.directory, here)}"
        )
    else:
        lines.append(
            f"{own.peer} is not in {place.directory}, so that nobody knows here what it signed: the daemon holds back "
            "for two rounds"
        )
    coin, tokens = _wealth(found, own.peer)
    if coin or tokens:
        lines.append(
            f"{own.peer} holds {format_amount(coin)} of the chain's coin and {format_amount(tokens)} tokens, which "
            "stay there; send the new key what it needs for votes, disputes and forced commitments"
        )
    return lines


def _wealth(found: "Ledger", peer: str) -> tuple[int, int]:
    """Return what lies at a peer key's address: coin and tokens, with the credit that the jury owes it, in wei."""
    from contracts.chain import ledger_errors

    with ledger_errors():
        coin = int(found.w3.eth.get_balance(found.w3.to_checksum_address(peer)))
    return coin, found.balance_of(peer) + found.jury.credit(peer)


def _rounds(place: _Place) -> list[str]:
    """Say from which round on the new key counts, if it is linked now."""
    if place.run is None:
        return ["it counts from the next round of each run on; what was signed before stands"]
    begun = 0
    while place.run.anchor(begun - 1) is not None:
        begun += 1  # rounds whose roster is fixed
    short = f"run {place.run.run[:16]}"
    if place.run.finished() is not None or (place.rounds is not None and begun > place.rounds):
        return [
            f"{short} has no more rounds; what is still asked of you about earlier ones, the new key answers"
        ]
    if not begun:
        return [f"{short} has not opened: the new key counts from its first round on"]
    if place.role == "verifier":
        return [f"in {short} it judges from round {begun - 1} on, and what is due of earlier rounds"]
    ends = " (the run ends before)" if begun == place.rounds else ""
    return [
        f"in {short} it commits from round {begun} on{ends}; round {begun - 1} is under way: what was committed to it "
        "stands, and is revealed and opened with the new key; what was not is not earned"
    ]


def _operator(found: "Ledger", wallet: str, here: str | None) -> "Operator":
    """Return the operator that a wallet is.

    Raises:
        LedgerError: it is none.
        ConfigError: the peer key that is here never was its own.
    """
    number = found.number_of(wallet)
    own = None if number is None else found.operator(number)
    if own is None:
        raise LedgerError(f"wallet {wallet} is not registered", hint="`murmur stake deposit` registers it")
    if here is not None and found.number_of_peer(here) != own.number:
        raise ConfigError(
            f"the peer key here, {here}, never was that of number {own.number}, whose wallet this is",
            hint="use the directory of its daemon, or one with the wallet alone; a new key is made for you",
        )
    return own


def _run(found: "Ledger", directory: Path, run: str | None) -> "tuple[ChainRun | None, int | None]":
    """Follow a run, or that of the manifest in a directory, if it is on this ledger; with its rounds, if known here.

    Raises:
        LedgerError: the ledger does not know the run that was named.
    """
    from contracts.hearing import follow
    from protocol.daemon import MANIFEST_FILE
    from protocol.errors import Malformed
    from protocol.manifest import RunManifest

    try:
        stored: RunManifest | None = RunManifest.read(directory / MANIFEST_FILE)
    except (FileNotFoundError, Malformed):
        stored = None
    if stored is not None and run in (None, stored.run_id) and found.run_info(stored.run_id) is not None:
        return follow(found, stored.run_id), stored.rounds
    return None if run is None else follow(found, run), None


def _links(found: "Ledger", number: int) -> list[Any]:
    """Return the events that linked a number's keys, oldest first."""
    from contracts.events import PeerRotated, Registered
    from contracts.index import EventIndex

    index = EventIndex(found, found.deployed_block or 1)
    index.poll()
    return [one for one in index.events if isinstance(one, Registered | PeerRotated) and one.number == number]


def _peer_id(link: Any) -> str:
    from protocol.keys import peer_id_of

    return peer_id_of(link.pub_x + link.pub_y.to_bytes(32, "big"))


def _first_round(chain: "ChainRun", number: int, peer: str, role: str) -> int:
    from protocol.speakers import first_round

    found = first_round(chain, number, peer)
    return max(0, found - 1) if role == "verifier" else found
