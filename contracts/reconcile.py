"""Whether what a run's pot paid is what its published reward tables owe: a pure function of tables and events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from contracts.events import Claimed, RewardsFinalized
from contracts.types import RunInfo
from protocol.merkle import reward_tree
from protocol.messages import RewardTable


@dataclass(frozen=True)
class Account:
    """What an account earned and was paid."""

    account: str
    earned_wei: int  # cumulative, in the final table
    claimed_wei: int  # by the events
    ahead_wei: int  # cumulative in the newest published table, beyond the final one


@dataclass(frozen=True)
class Reconciliation:
    """Say what every account has coming, and name every difference between tables and chain."""

    accounts: tuple[Account, ...]  # by address
    differences: tuple[str, ...]


def reconcile(
    info: RunInfo,
    tables: Sequence[RewardTable],
    finalized: Mapping[int, RewardsFinalized],
    claims: Sequence[Claimed],
    claimed: Mapping[str, int],
) -> Reconciliation:
    """Compare the claims on a run's pot with the cumulative amounts of its published tables.

    Args:
        info: the run as the ledger stores it.
        tables: published ones, by epoch; nobody vouches for those whose root is not final.
        finalized: the final roots, by the ledger's epoch.
        claims: all of the run, in chain order.
        claimed: what the ledger says each claiming account was paid.
    """
    found: list[str] = []
    final = _final_tables(tables, finalized, found)
    amounts = [(block, {one.account: one.cumulative_wei for one in table.entries}) for block, table in final]
    for (_, earlier), (_, later) in pairwise(amounts):
        found += (
            f"{account}: its cumulative pay fell from {was} to {later.get(account, 0)} wei"
            for account, was in sorted(earlier.items())
            if later.get(account, 0) < was
        )
    paid: dict[str, int] = {}
    for claim in claims:
        known = [one for block, one in amounts if block <= claim.block]
        owed = known[-1].get(claim.account, 0) if known else 0
        if claim.cumulative != owed:
            found.append(
                f"{claim.account}: {claim.tx} paid up to {claim.cumulative} wei, the table of the time says {owed}"
            )
        before = paid.get(claim.account, 0)
        if claim.cumulative - before != claim.amount:
            found.append(
                f"{claim.account}: {claim.tx} paid {claim.amount} wei, not {claim.cumulative - before}"
            )
        paid[claim.account] = before + claim.amount
    newest = amounts[-1][1] if amounts else {}
    found += (
        f"{account}: its claims sum to {paid.get(account, 0)} wei, the ledger says {claimed.get(account, 0)}"
        for account in sorted({*paid, *claimed})
        if paid.get(account, 0) != claimed.get(account, 0)
    )
    _check_totals(info, newest, paid, bool(finalized), found)
    published = {one.account: one.cumulative_wei for one in tables[-1].entries} if tables else {}
    accounts = tuple(
        Account(
            one,
            newest.get(one, 0),
            paid.get(one, 0),
            max(0, published.get(one, 0) - newest.get(one, 0)),
        )
        for one in sorted({*newest, *paid, *published}, key=str.lower)
    )
    return Reconciliation(accounts, tuple(found))


def _final_tables(
    tables: Sequence[RewardTable], finalized: Mapping[int, RewardsFinalized], found: list[str]
) -> list[tuple[int, RewardTable]]:
    """Return the published table of every final root with the block that made it final."""
    roots = {reward_tree(table.entries).root: table for table in tables if table.entries}
    final: list[tuple[int, RewardTable]] = []
    for epoch, event in sorted(finalized.items()):
        table = roots.get(event.root)
        if table is None:
            found.append(f"reward root {epoch} ({event.root.hex()}): no published table has it")
            continue
        total = sum(entry.cumulative_wei for entry in table.entries)
        if total != event.total:
            found.append(
                f"reward root {epoch}: its table sums to {total} wei, the ledger was told {event.total}"
            )
        final.append((event.block, table))
    return final


def _check_totals(
    info: RunInfo, newest: Mapping[str, int], paid: Mapping[str, int], any_final: bool, found: list[str]
) -> None:
    total, claimed = sum(newest.values()), sum(paid.values())
    if any_final and total != info.final_total_wei:
        found.append(f"the final table sums to {total} wei, the ledger says {info.final_total_wei}")
    if claimed != info.claimed_wei:
        found.append(f"the claims sum to {claimed} wei, the ledger says {info.claimed_wei}")
    if claimed > info.final_total_wei:
        found.append(f"{claimed} wei were claimed of {info.final_total_wei} that are final")
    if info.final_total_wei > info.funded_wei:
        found.append(f"{info.final_total_wei} wei are final and the pot was given {info.funded_wei}")
