"""`murmur rewards`: what validated work earned, from the ledger to the wallet."""

from pathlib import Path
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
    show,
)
from protocol.errors import ConfigError, LedgerError, NetworkError

rewards_app = typer.Typer(no_args_is_help=True, help="Claim what validated work earned.")

CLAIM_TIMEOUT_S = 30.0


def read_settlement(source: str) -> bytes:
    """Read a settlement from a file, a run's public folder, or a URL of the coordinator's API.

    Raises:
        NetworkError: the URL does not deliver, or more than a settlement can have.
        ConfigError: the file is not there.
    """
    from contracts.claims import MAX_SETTLEMENT_BYTES

    if source.startswith(("http://", "https://")):
        import httpx

        found = bytearray()
        try:
            with httpx.stream("GET", source, timeout=CLAIM_TIMEOUT_S) as answer:
                for piece in answer.raise_for_status().iter_bytes():
                    found += piece
                    if len(found) > MAX_SETTLEMENT_BYTES:
                        raise NetworkError(f"{source}: longer than any settlement")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NetworkError(f"{source}: {error}", hint="check the coordinator's API address") from error
        return bytes(found)
    path = Path(source)
    try:
        with (path / "settlement.json" if path.is_dir() else path).open("rb") as file:
            return file.read(MAX_SETTLEMENT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the settlement {path}", hint="name settlement.json or its folder"
        ) from error


@rewards_app.command()
def claim(
    directory: Directory,
    rpc: Rpc,
    ledger: LedgerAddress,
    run: Annotated[str, typer.Option("--run", help="Run id.")],
    settlement: Annotated[
        str, typer.Option(help="settlement.json of the run: a file, its folder, or the API's URL of it.")
    ],
    password_file: PasswordFile = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Claim the wallet's pay that is final. What the settlement says counts only if its root is final on chain."""
    from contracts.claims import parse_tables, prove_reward

    found, sender = open_ledger(directory, rpc, ledger, password_file)
    info = found.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    if info.final_root == bytes(32):
        raise LedgerError("no reward root of this run is final yet", hint="try again after the next epoch")
    reward = prove_reward(parse_tables(read_settlement(settlement)), info.final_root, sender.address)
    claimed = found.claimed(run, sender.address)
    due = (reward.cumulative_wei if reward else 0) - claimed
    if reward is None or due <= 0:
        show({"account": sender.address, "claimed_wei": str(claimed), "paid_wei": "0", "tx": None}, as_json)
        return
    confirm(
        [f"claim {format_amount(due)} tokens for {sender.address}"], yes=yes, dry_run=dry_run, as_json=as_json
    )
    receipt = found.claim(sender, run, reward.account, reward.cumulative_wei, reward.proof)
    facts = {"account": reward.account, "claimed_wei": str(reward.cumulative_wei), "paid_wei": str(due)}
    show(mined(receipt, **facts), as_json)
