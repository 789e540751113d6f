"""From a published reward table to a claim: find the table whose root is final on chain, and prove one line of it."""

import json
from dataclasses import dataclass
from typing import Any

from protocol.canonical import canonical_json, check_depth
from protocol.errors import LedgerError, Malformed
from protocol.merkle import reward_tree
from protocol.messages import RewardTable, parse_message

MAX_SETTLEMENT_BYTES = 256 << 20


@dataclass(frozen=True)
class ProvenReward:
    """An account's cumulative pay and its path to the final root."""

    account: str
    cumulative_wei: int
    proof: tuple[bytes, ...]


def parse_tables(settlement: bytes) -> tuple[RewardTable, ...]:
    """Read the reward tables of a settlement file (`settlement.json` of a run's public folder) from anyone.

    Raises:
        Malformed: not such a file.
    """
    if len(settlement) > MAX_SETTLEMENT_BYTES:
        raise Malformed("settlement file too long")
    check_depth(settlement)
    try:
        value: Any = json.loads(settlement.decode())
        messages = [parse_message(canonical_json(message)) for message in value["rewards"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("not a settlement file") from error
    return tuple(message.body for message in messages if isinstance(message.body, RewardTable))


def prove_reward(tables: tuple[RewardTable, ...], final_root: bytes, account: str) -> ProvenReward | None:
    """Return an account's line of the table with the given root, proven; None if it earned nothing.

    Whoever served the tables is not trusted: only the one whose root is final on chain counts.

    Raises:
        LedgerError: none of the tables has that root.
    """
    for table in reversed(tables):
        if not table.entries:
            continue
        tree = reward_tree(table.entries)
        if tree.root != final_root:
            continue
        for index, entry in enumerate(table.entries):
            if entry.account.lower() == account.lower():
                return ProvenReward(entry.account, entry.cumulative_wei, tuple(tree.proof(index)))
        return None
    raise LedgerError("no published reward table has the final root", hint="fetch the settlement again")
