"""`murmur stake`: put a wallet's tokens at stake, and take them back."""

import secrets
from typing import Annotated

import typer

from contracts.terminal import (
    Directory,
    DryRun,
    Json,
    LedgerAddress,
    PasswordFile,
    Rpc,
    Yes,
    confirm,
    format_amount,
    mined,
    open_ledger,
    parse_amount,
    show,
)
from protocol.errors import LedgerError, UsageError

stake_app = typer.Typer(no_args_is_help=True, help="Stake, leave and withdraw.")

Amount = Annotated[str, typer.Option("--amount", help="Tokens, such as 100 or 0.5.")]


@stake_app.command()
def deposit(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    amount: Amount,
    role: Annotated[
        str, typer.Option(help="For the first deposit: contributor or verifier.")
    ] = "contributor",
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stake tokens. The first deposit registers the wallet and links the directory's peer key, made if need be."""
    from contracts.identity import open_peer_key
    from contracts.types import Role
    from protocol.keys import PeerKey, save_peer_key

    roles = {"contributor": Role.CONTRIBUTOR, "verifier": Role.VERIFIER}
    if role not in roles:
        raise UsageError(f"no role {role!r}", hint="--role contributor or --role verifier")
    wei = parse_amount(amount)
    found, sender = open_ledger(directory, rpc, ledger, password_file, create=not dry_run)
    number = found.number_of(sender.address)
    balance = found.balance_of(sender.address)
    if balance < wei:
        raise LedgerError(
            f"wallet {sender.address} holds {format_amount(balance)} tokens, not {format_amount(wei)}",
            hint="send it tokens first",
        )
    if number is not None:
        confirm(
            [f"deposit {format_amount(wei)} tokens for number {number}, slashable until withdrawn"],
            yes=yes,
            dry_run=dry_run,
            as_json=as_json,
        )
        receipt = found.deposit(sender, wei)
        show(mined(receipt, number=number, staked_wei=str(wei)), as_json)
        return
    key_path = directory / "peer.key"
    known = key_path.exists()
    peer = open_peer_key(directory) if known else PeerKey(secrets.token_bytes(32))
    confirm(
        [
            f"register {sender.address} as {role} with {f'peer {peer.peer_id}' if known else 'a peer key made now'}",
            f"stake {format_amount(wei)} tokens; leaving takes {found.unbonding_blocks} blocks, slashable until then",
        ],
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    if not known:
        save_peer_key(key_path, peer)
    number = found.register(sender, roles[role], peer, wei)
    show(
        {"number": number, "wallet": sender.address, "peer_id": peer.peer_id, "staked_wei": str(wei)}, as_json
    )


@stake_app.command()
def unbond(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    amount: Amount,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Start to take stake back. It stays slashable until it is withdrawn."""
    wei = parse_amount(amount)
    found, sender = open_ledger(directory, rpc, ledger, password_file)
    confirm(
        [f"unbond {format_amount(wei)} tokens; they can be withdrawn after {found.unbonding_blocks} blocks"],
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )
    show(mined(found.unbond(sender, wei), unbonding_wei=str(wei)), as_json)


@stake_app.command()
def withdraw(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take unbonded stake back to the wallet."""
    found, sender = open_ledger(directory, rpc, ledger, password_file)
    confirm([f"withdraw what has unbonded to {sender.address}"], yes=yes, dry_run=dry_run, as_json=as_json)
    show(mined(found.withdraw(sender)), as_json)


@stake_app.command()
def status(directory: Directory, rpc: Rpc, ledger: LedgerAddress, as_json: Json = False) -> None:
    """Show what a wallet has staked, what unbonds, and what it holds; needs no password."""
    from contracts.chain import connect
    from contracts.client import Ledger
    from contracts.keystore import keystore_address
    from contracts.wallet import WALLET_FILE

    found = Ledger(connect(rpc), ledger)
    found.verify()
    wallet = keystore_address(directory / WALLET_FILE)
    number = found.number_of(wallet)
    operator = None if number is None else found.operator(number)
    show(
        {
            "wallet": wallet,
            "number": number,
            "role": None if operator is None else operator.role.name.lower(),
            "balance_wei": str(found.balance_of(wallet)),
            "stake_wei": "0" if operator is None else str(operator.stake_wei),
            "unbonding_wei": "0" if operator is None else str(operator.unbonding_wei),
            "unbonding_at": 0 if operator is None else operator.unbonding_at,
        },
        as_json,
    )
