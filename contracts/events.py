"""The events of ledger and jury, one frozen type each.

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
class PeerRotated(Event):
    """An operator has another peer key from the next roster on."""

    number: int
    peer: str
    pub_x: bytes
    pub_y: int


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
    fault_bps: int
    equivocation_bps: int
    window_blocks: int
    bond: int


@dataclass(frozen=True)
class RunBondReleased(Event):
    """The coordinator has its bond back."""

    run: str
    bond: int


@dataclass(frozen=True)
class RunBondSeized(Event):
    """The coordinator lost its bond."""

    run: str
    bond: int


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
class StoodIn(Event):
    """From now on this number acts for the run's coordinator; 0: the coordinator acts again."""

    run: str
    number: int


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
class CommitmentForced(Event):
    """A contributor forced the message id of its commitment into a round."""

    run: str
    round: int
    number: int
    commitment: bytes


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
    proposer: str


@dataclass(frozen=True)
class RewardsCancelled(Event):
    """The pending root was ruled wrong and is gone."""

    run: str
    epoch: int
    root: bytes


@dataclass(frozen=True)
class RewardsReopened(Event):
    """No jury decided a dispute of the pending root, which can be disputed anew before block `final_at`."""

    run: str
    epoch: int
    ground: int
    final_at: int


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
    """An amount of an operator's stake and unbonding funds, of which `unbonding` is left, went to the jury."""

    number: int
    run: str
    round: int
    amount: int
    unbonding: int


@dataclass(frozen=True)
class SlotsChanged(Event):
    """A juror holds so many slots with `bonded` in them."""

    number: int
    slots: int
    bonded: int


@dataclass(frozen=True)
class SlotsLeaving(Event):
    """A juror gave slots up, whose amount it can withdraw from block `ready_at`."""

    number: int
    amount: int
    ready_at: int


@dataclass(frozen=True)
class SlotsWithdrawn(Event):
    """A juror was paid back."""

    number: int
    amount: int


@dataclass(frozen=True)
class CaseOpened(Event):
    """A case was opened with a bond."""

    case: int
    run: str
    round: int
    number: int
    segment: int
    kind: int
    appellant: str
    evidence: bytes
    bond: int


@dataclass(frozen=True)
class JuryCalled(Event):
    """A jury was called, whom the beacon's round draws."""

    case: int
    second: bool
    seed_round: int


@dataclass(frozen=True)
class Seated(Event):
    """A juror got a seat."""

    case: int
    juror: int
    second: bool
    seat: int


@dataclass(frozen=True)
class StageEntered(Event):
    """A case is at another stage, see `contracts.types.CaseStage`."""

    case: int
    stage: int


@dataclass(frozen=True)
class VoteSealed(Event):
    """A juror sealed its vote."""

    case: int
    juror: int
    second: bool
    seat: int


@dataclass(frozen=True)
class VoteRevealed(Event):
    """A juror's vote was revealed."""

    case: int
    juror: int
    second: bool
    seat: int
    outcome: int
    result: bytes


@dataclass(frozen=True)
class Ruled(Event):
    """A jury ruled; outcome 0: it was hung. `vote` is the digest of outcome and result."""

    case: int
    second: bool
    outcome: int
    vote: bytes


@dataclass(frozen=True)
class AppealCalled(Event):
    """Somebody called a second jury."""

    case: int
    caller: str


@dataclass(frozen=True)
class Equivocated(Event):
    """One key signed two statements for one round; `number` is 0 for a coordinator's."""

    run: str
    round: int
    signer: str
    number: int
    record: bool
    body_a: bytes
    body_b: bytes


@dataclass(frozen=True)
class BondForfeited(Event):
    """A lost bond went to the run's pot."""

    run: str
    amount: int


@dataclass(frozen=True)
class Credited(Event):
    """An amount was credited to an account."""

    account: str
    amount: int


@dataclass(frozen=True)
class CreditWithdrawn(Event):
    """An account withdrew what it was credited with."""

    account: str
    amount: int


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in (
        Registered,
        PeerRotated,
        StakeChanged,
        UnbondingStarted,
        UnbondingCancelled,
        Withdrawn,
        RunCreated,
        RunBondReleased,
        RunBondSeized,
        RunFunded,
        RunOpened,
        StoodIn,
        RunFinished,
        CommitmentsPosted,
        CommitmentForced,
        RecordAnchored,
        RewardsProposed,
        RewardsCancelled,
        RewardsReopened,
        RewardsFinalized,
        Claimed,
        Slashed,
        SlotsChanged,
        SlotsLeaving,
        SlotsWithdrawn,
        CaseOpened,
        JuryCalled,
        Seated,
        StageEntered,
        VoteSealed,
        VoteRevealed,
        Ruled,
        AppealCalled,
        Equivocated,
        BondForfeited,
        Credited,
        CreditWithdrawn,
    )
}


@cache
def _by_topic() -> dict[bytes, Mapping[str, Any]]:
    found: dict[bytes, Mapping[str, Any]] = {}
    for entry in (*artifact("Ledger").abi, *artifact("Jury").abi):
        if entry["type"] == "event" and entry["name"] in EVENTS:
            signature = f"{entry['name']}({','.join(item['type'] for item in entry['inputs'])})"
            found[bytes(event_signature_to_log_topic(signature))] = entry
    return found


def parse_log(log: LogReceipt) -> Event | None:
    """Return the typed event of a log of ledger or jury; None for `EIP712DomainChanged`, which says nothing here.

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
