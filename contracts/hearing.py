"""What the commands on disputes share: cases looked up, refusals before anybody signs, and the lines of plans."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from contracts.terminal import check_balance, format_amount, mined, show
from protocol.errors import ConfigError, LedgerError, UsageError

if TYPE_CHECKING:
    from contracts.cases import CaseState
    from contracts.client import Ledger
    from contracts.run import ChainRun
    from contracts.types import CaseInfo, CaseKind, OpenedCase


def tokens(wei: str) -> str:
    """Return a decimal string of wei as an amount with its unit."""
    return f"{format_amount(int(wei))} tokens"


def describe_alert(alert: Mapping[str, Any]) -> str:
    """Return an alert's JSON data (`contracts.alerts`) as one line for a person."""
    what = "accused" if alert["kind"] == "accusation" else "before the jury, as you asked"
    about = f"segment {alert['segment']} of round {alert['round']} is {what}; {tokens(alert['at_stake_wei'])} at stake"
    if alert["open_by"] is not None:
        todo = f"it must be open by block {alert['open_by']}: `murmur dispute respond {alert['case']}`"
    else:
        last = "" if alert["last_block"] is None else f" until block {alert['last_block']}"
        todo = f"{alert['stage']}{last}: `murmur dispute show {alert['case']}`"
    return f"case {alert['case']}: {about}; {todo}"


def follow(ledger: "Ledger", run: str) -> "ChainRun":
    """Return a run as the chain shows it now.

    Raises:
        LedgerError: the ledger does not know it.
    """
    from contracts.run import ChainRun

    if ledger.run_info(run) is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check RUN and --ledger")
    chain = ChainRun(ledger, run)
    chain.refresh()
    return chain


def find_case(ledger: "Ledger", case: int) -> "tuple[ChainRun, CaseState, CaseInfo]":
    """Return a case and its run.

    Raises:
        LedgerError: there is none of this number.
    """
    info = ledger.jury.case(case)
    if info is None:
        raise LedgerError(
            f"the jury knows no case {case}", hint="`murmur dispute list RUN` shows the cases of a run"
        )
    chain = follow(ledger, info.run)
    state = next((one for one in chain.every_case() if one.case == case), None)
    if state is None:
        raise LedgerError(f"case {case} is gone: the chain was reorganised", hint="try again")
    return chain, state, info


def follow_seeds(chain: "ChainRun", directory: Path, drand: list[str] | None) -> None:
    """Let a run find what draws its juries: its own blocks on the local chain, drand elsewhere."""
    from protocol.beacon_config import BlockBeacon, DrandBeacon
    from protocol.beacons import (
        BEACONS_DIRECTORY,
        PUBLIC_ENDPOINTS,
        DrandClient,
        KeptSignatures,
        SignatureFiles,
    )
    from protocol.manifest import LOCAL_CHAIN_ID

    if chain.ledger.chain_id == LOCAL_CHAIN_ID:
        chain.follow_beacon(BlockBeacon(), None)
        return
    files = SignatureFiles(directory / BEACONS_DIRECTORY)
    chain.follow_beacon(DrandBeacon(), KeptSignatures(files, DrandClient(drand or PUBLIC_ENDPOINTS)))


def own_number(ledger: "Ledger", directory: Path) -> int:
    """Return the number that a directory's wallet or peer key has, or had.

    Raises:
        ConfigError: neither key is there, or neither is registered.
    """
    from contracts.identity import peer_address
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE
    from protocol.daemon import PEER_KEY_FILE

    number = None
    if (directory / PEER_KEY_FILE).exists():
        number = ledger.number_of_peer(peer_address(directory))
    if number is None and (directory / WALLET_FILE).exists():
        number = ledger.number_of(keystore_address(directory / WALLET_FILE))
    if number is None:
        raise ConfigError(f"{directory} holds no key that is registered", hint="check --dir and --ledger")
    return number


def account_of(finder: str | None, wallet: str) -> str:
    """Return the account that is paid for finding a fault.

    Raises:
        UsageError: not an address, or nobody's.
    """
    from eth_utils.address import is_address, to_checksum_address

    if finder is None:
        return wallet
    if not is_address(finder) or int(finder, 16) == 0:
        raise UsageError(f"{finder!r} is not the address of an account", hint="check --finder")
    return str(to_checksum_address(finder))


def check_unit(
    ledger: "Ledger", wallet: str, run: str, round_: int, number: int, segment: int, kind: "CaseKind"
) -> "tuple[ChainRun, int]":
    """Refuse what the jury would refuse, before anybody is asked and before it may take the bond.

    Returns:
        the run, and the last block in which units of the round can be accused and contested.

    Raises:
        LedgerError: run, round, number or bond will not do, it is too late, or there is a case already.
    """
    chain = follow(ledger, run)
    anchor, penalties = chain.anchor(round_), chain.penalties()
    if anchor is None or penalties is None:
        info = ledger.run_info(run)
        rounds = 0 if info is None else info.anchored_rounds
        raise LedgerError(
            f"the record of round {round_} is not anchored; {rounds} rounds are", hint="try again once it is"
        )
    owner = ledger.operator(number)
    if owner is None or owner.role.name != "CONTRIBUTOR":
        raise LedgerError(
            f"number {number} is no contributor and has no units",
            hint="check --number, or --dir of a contest",
        )
    last = anchor + penalties.window_blocks
    if chain.height >= last:
        raise LedgerError(
            f"units of round {round_} could be taken before the jury up to block {last}, and the chain is at "
            f"{chain.height}",
            hint=f"the run's window is {penalties.window_blocks} blocks from the anchor of a round",
        )
    case = ledger.jury.case_of(run, round_, number, segment, kind)
    if case is not None:
        verb = "contested" if kind.name == "CONTEST" else "accused"
        raise LedgerError(
            f"segment {segment} of that unit has been {verb} before: case {case}",
            hint=f"`murmur dispute show {case}`",
        )
    slots, seats = ledger.jury.slot_count(), ledger.jury.terms.seats
    if slots < seats:
        raise LedgerError(
            f"a jury has {seats} seats, and verifiers hold {slots} slots",
            hint="verifiers take slots with `murmur jury join`",
        )
    check_balance(ledger, wallet, ledger.jury.terms.case_bond, "the bond is")
    return chain, last


def at_risk(ledger: "Ledger", chain: "ChainRun", round_: int, number: int) -> str:
    """Say what a fault in a round's unit costs its owner."""
    from contracts.docket import BPS

    owner, penalties = ledger.operator(number), chain.penalties()
    if owner is None or penalties is None:
        return "nothing is at stake"
    if ledger.jury.punished(chain.run, round_, number):
        return "it was punished for this round before, and nobody is twice"
    amount = (owner.stake_wei + owner.unbonding_wei) * penalties.fault_bps // BPS
    return f"{format_amount(amount)} tokens of its stake are lost if it is proven false or cannot be fetched"


def jury_blocks(ledger: "Ledger") -> int:
    """Return how many blocks one jury takes at most, from its call to its ruling."""
    terms = ledger.jury.terms
    return terms.draw_blocks + terms.vote_blocks + terms.reveal_blocks


def dates(ledger: "Ledger", last: int) -> list[str]:
    """Say until when something can be done, and how long it takes then."""
    terms = ledger.jury.terms
    return [
        f"possible until block {last}; {terms.seats} jurors rule within {jury_blocks(ledger)} blocks, the ruling can "
        f"be appealed for {terms.appeal_blocks}, and all is over after {ledger.jury.case_blocks} at most"
    ]


def pay_caveat(
    directory: Path, chain: "ChainRun", run: str, round_: int, segment: int, *, contest: bool
) -> list[str]:
    """Say whether a case about a unit still changes its pay, as far as the run's manifest is here to tell.

    Raises:
        UsageError: the unit has no such segment.
    """
    from protocol.daemon import stored_manifest

    manifest = stored_manifest(directory, run)
    if manifest is None:
        return [f"the run's manifest is not in {directory}: whether units have this segment was not checked"]
    if segment >= manifest.segments:
        raise UsageError(f"a unit of this run has {manifest.segments} segments, from 0")
    anchor = chain.anchor(round_)
    until = 0 if anchor is None else anchor + 1 + manifest.deadlines.appeal
    if chain.height < until:
        return [f"the ruling changes the unit's pay too, if the case is opened by block {until}"]
    if contest:
        return [
            f"the ruling changes the unit's pay only within {manifest.deadlines.appeal} blocks of the time for verdicts"
        ]
    return [
        f"the unit's pay follows the ruling only for cases opened by block {until}, unless its verdicts said false: "
        "else the case is about stake alone"
    ]


def show_opened(ledger: "Ledger", opened: "OpenedCase", facts: dict[str, Any], as_json: bool) -> None:
    """Print a case that was opened, and what comes next."""
    terms, block = ledger.jury.terms, opened.receipt.block
    show(
        mined(
            opened.receipt,
            case=opened.case,
            **facts,
            bond_wei=str(terms.case_bond),
            draw_until=block + terms.draw_blocks,
        ),
        as_json,
    )
    typer.echo(
        f"case {opened.case} is open; a beacon draws its jury by block {block + terms.draw_blocks}\n"
        f"  next: `murmur dispute show {opened.case}` tells how it stands; `murmur dispute advance {opened.case}` "
        "moves it on if nobody does; what comes back to you is in `murmur dispute credit`",
        err=True,
    )
