"""The ledger's events, one frozen type each; the state at any block is a function of them alone.

Roots and hashes are 32 bytes, run ids 64 hex digits, amounts wei. See contracts/src/libraries/EventsLib.sol.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi.abi import decode
from eth_utils.abi import event_signature_to_log_topic
from eth_utils.address import to_checksum_address
from web3.types import LogReceipt

from contracts.artifacts import artifact
from protocol.errors import LedgerError


@dataclass(frozen=True)
class Event:
    """Where an event stands on the chain."""

    block: int
    log_index: int
    tx: str  # 0x and 64 hex digits


@dataclass(frozen=True)
class Registered(Event):
    """An operator registered."""

    number: int
    wallet: str
    peer: str
    role: int
    pub_x: bytes
    pub_y: int


@dataclass(frozen=True)
class StakeChanged(Event):
    """The bonded stake of an operator is now this; follows every change of it."""

    number: int
    stake: int


@dataclass(frozen=True)
class UnbondingStarted(Event):
    """An amount began to unbond; `unbonding` in all can be withdrawn from block `ready_at`."""

    number: int
    amount: int
    unbonding: int
    ready_at: int


@dataclass(frozen=True)
class UnbondingCancelled(Event):
    """The unbonding amount was bonded again."""

    number: int
    amount: int


@dataclass(frozen=True)
class Withdrawn(Event):
    """An amount was paid back to the wallet."""

    number: int
    amount: int


@dataclass(frozen=True)
class RunCreated(Event):
    """A run was created."""

    run: str
    coordinator: str
    coordinator_key: str


@dataclass(frozen=True)
class RunFunded(Event):
    """An amount was added to the pot, which has received `total` so far."""

    run: str
    sender: str
    amount: int
    total: int


@dataclass(frozen=True)
class RunOpened(Event):
    """The run opened; its schedule starts from this block."""

    run: str


@dataclass(frozen=True)
class RunFinished(Event):
    """The run ended with these global parameters."""

    run: str
    parameters: bytes


@dataclass(frozen=True)
class CommitmentsPosted(Event):
    """The root of a round's commitments, and their number."""

    run: str
    round: int
    root: bytes
    count: int


@dataclass(frozen=True)
class RecordAnchored(Event):
    """The hash of a round's record."""

    run: str
    round: int
    record: bytes


@dataclass(frozen=True)
class RewardsProposed(Event):
    """A cumulative reward root was proposed; it can be disputed before block `final_at`."""

    run: str
    epoch: int
    root: bytes
    total: int
    final_at: int


@dataclass(frozen=True)
class RewardsDisputed(Event):
    """Operator number `by` disputed the pending root, which is thereby cancelled."""

    run: str
    epoch: int
    by: int
    reason: bytes


@dataclass(frozen=True)
class RewardsFinalized(Event):
    """The pending root became final."""

    run: str
    epoch: int
    root: bytes
    total: int


@dataclass(frozen=True)
class Claimed(Event):
    """An amount was paid to an account, `cumulative` in all."""

    run: str
    account: str
    amount: int
    cumulative: int


@dataclass(frozen=True)
class Slashed(Event):
    """Stake and unbonding funds of an operator were burned."""

    number: int
    run: str
    round: int
    amount: int
    evidence_a: bytes
    evidence_b: bytes


@dataclass(frozen=True)
class Appealed(Event):
    """Operator `appellant` put up a bond that a segment of a unit be judged."""

    case: int
    run: str
    round: int
    number: int
    segment: int
    appellant: int
    bond: int


@dataclass(frozen=True)
class AppealSettled(Event):
    """Two verdicts ended an appeal."""

    case: int
    outcome: int
    upheld: bool
    evidence_a: bytes
    evidence_b: bytes


@dataclass(frozen=True)
class AppealReleased(Event):
    """Nobody settled an appeal in time, and its bond went back."""

    case: int


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in (
        Registered,
        StakeChanged,
        UnbondingStarted,
        UnbondingCancelled,
        Withdrawn,
        RunCreated,
        RunFunded,
        RunOpened,
        RunFinished,
        CommitmentsPosted,
        RecordAnchored,
        RewardsProposed,
        RewardsDisputed,
        RewardsFinalized,
        Claimed,
        Slashed,
        Appealed,
        AppealSettled,
        AppealReleased,
    )
}


@cache
def _by_topic() -> dict[bytes, Mapping[str, Any]]:
    found: dict[bytes, Mapping[str, Any]] = {}
    for entry in artifact("Ledger").abi:
        if entry["type"] == "event" and entry["name"] in EVENTS:
            signature = f"{entry['name']}({','.join(item['type'] for item in entry['inputs'])})"
            found[bytes(event_signature_to_log_topic(signature))] = entry
    return found


def parse_log(log: LogReceipt) -> Event | None:
    """Return the typed event of a log of the ledger; None for `EIP712DomainChanged`, which says nothing here.

    Raises:
        LedgerError: the log does not have the event's shape, so the node or the address is wrong.
    """
    topics = [bytes(topic) for topic in log["topics"]]
    entry = _by_topic().get(topics[0]) if topics else None
    if entry is None:
        return None
    indexed = [item for item in entry["inputs"] if item["indexed"]]
    rest = [item for item in entry["inputs"] if not item["indexed"]]
    try:
        values = [decode([item["type"]], topic)[0] for item, topic in zip(indexed, topics[1:], strict=True)]
        values += decode([item["type"] for item in rest], bytes(log["data"]))
    except ValueError as error:  # eth-abi's decoding errors are ValueErrors, and so is zip's
        raise LedgerError(f"a log of {entry['name']} does not decode: {error}") from error
    fields = {
        _field_name(item["name"]): _field_value(item, value)
        for item, value in zip(indexed + rest, values, strict=True)
    }
    return EVENTS[entry["name"]](
        block=int(log["blockNumber"]),
        log_index=int(log["logIndex"]),
        tx="0x" + bytes(log["transactionHash"]).hex(),
        **fields,
    )


def _field_name(name: str) -> str:
    if name == "from":
        return "sender"
    bare = name.rstrip("_")  # `case` is a keyword of Solidity
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: "_" + match[1].lower(), bare)


def _field_value(item: Mapping[str, Any], value: Any) -> Any:
    if item["type"] == "address":
        return str(to_checksum_address(value))
    if item["name"] == "run":
        return value.hex()
    return value
