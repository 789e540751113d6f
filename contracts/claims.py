"""From a published reward table to a claim: find the table whose root is final on chain, and prove one line of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from pydantic import Field, ValidationError

from contracts.events import Claimed
from contracts.index import EventIndex
from protocol.canonical import canonical_json, check_depth
from protocol.errors import ConfigError, LedgerError, Malformed, NetworkError
from protocol.frozen import Digest, Frozen
from protocol.merkle import reward_tree
from protocol.messages import RewardTable, Signed, parse_message

if TYPE_CHECKING:
    from contracts.client import Ledger

MAX_SETTLEMENT_BYTES = 256 << 20
READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ProvenReward:
    """An account's cumulative pay and its path to the final root."""

    account: str
    cumulative_wei: int
    proof: tuple[bytes, ...]


@dataclass(frozen=True)
class Claimable:
    """What an account can claim of a run now."""

    reward: ProvenReward | None  # None: it has no line in the final table
    claimed_wei: int

    @property
    def due_wei(self) -> int:
        """Return what a claim would pay."""
        return 0 if self.reward is None else max(0, self.reward.cumulative_wei - self.claimed_wei)


def read_settlement(source: str) -> bytes:
    """Read a settlement from a file, a run's public folder, or a URL of the coordinator's API.

    Raises:
        NetworkError: the URL does not deliver, or more than a settlement can have.
        ConfigError: the file is not there.
    """
    if source.startswith(("http://", "https://")):
        import httpx

        found = bytearray()
        try:
            with httpx.stream("GET", source, timeout=READ_TIMEOUT_S) as answer:
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


def claimable(ledger: "Ledger", run: str, settlement: str, account: str) -> Claimable:
    """Return what an account can claim of a run; what the settlement says counts only if its root is final on chain.

    Args:
        settlement: as `read_settlement` takes it.

    Raises:
        LedgerError: the ledger does not know the run, no root is final, or none of the tables has the final root.
        ConfigError: the settlement is not there.
        NetworkError: its URL does not deliver.
        Malformed: it is none.
    """
    info, claimed = ledger.run_and_claimed(run, account)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --run and --ledger")
    if info.final_root == bytes(32):
        raise LedgerError("no reward root of this run is final yet", hint="try again after the next epoch")
    reward = prove_reward(parse_tables(read_settlement(settlement)), info.final_root, account)
    return Claimable(reward, claimed)


@dataclass(frozen=True)
class RunPay:
    """What a wallet has in one run."""

    run: str
    claimable_wei: int | None  # None: no settlement of the run was named
    claimed_wei: int
    unvested_wei: int | None  # said by the coordinator and not final yet
    claims: tuple[Claimed, ...]

    def to_json(self) -> dict[str, object]:
        """Return the facts as plain JSON data."""
        return {
            "run": self.run,
            "claimable_wei": None if self.claimable_wei is None else str(self.claimable_wei),
            "claimed_wei": str(self.claimed_wei),
            "unvested_wei": None if self.unvested_wei is None else str(self.unvested_wei),
            "claims": [
                {"amount_wei": str(one.amount), "tx": one.tx, "block": one.block} for one in self.claims
            ],
        }


def pay_by_run(ledger: "Ledger", wallet: str, settlements: Sequence[str]) -> list[RunPay]:
    """Return what a wallet has in every run, by run id: those that paid it, and those whose settlement names it.

    Args:
        settlements: each as `read_settlement` takes it.

    Raises:
        LedgerError: the chain does not answer, does not know a run, or none of its tables has its final root.
        ConfigError, NetworkError, Malformed: a settlement is not there, or is none.
    """
    index = EventIndex(ledger, ledger.deployed_block or 1)
    index.poll()
    claims = [one for one in index.events if isinstance(one, Claimed) and one.account == wallet]
    published: dict[str, list[Signed[RewardTable]]] = {}
    computed: dict[str, tuple[RewardTable, ...]] = {}
    for source in settlements:
        data = read_settlement(source)
        if (tables := recomputed(data)) is not None:
            computed[tables.run] = tables.tables
            published.setdefault(tables.run, [])
            continue
        for message in parse_rewards(data):
            published.setdefault(message.run, []).append(message)
    runs = {*published, *(claim.run for claim in claims)}
    rows = [
        _pay_of(
            ledger,
            run,
            wallet,
            published.get(run),
            [one for one in claims if one.run == run],
            computed.get(run, ()),
        )
        for run in sorted(runs)
    ]
    return [one for one in rows if one.claimable_wei or one.claimed_wei or one.unvested_wei]


def _pay_of(
    ledger: "Ledger",
    run: str,
    wallet: str,
    messages: Sequence[Signed[RewardTable]] | None,
    claims: Sequence[Claimed],
    computed: tuple[RewardTable, ...],
) -> RunPay:
    info, claimed = ledger.run_and_claimed(run, wallet)
    if messages is None:
        return RunPay(run, None, claimed, None, tuple(claims))
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check --settlement and --ledger")
    final = 0
    if info.final_root != bytes(32):
        tables = (*computed, *(one.body for one in messages))
        reward = prove_reward(tables, info.final_root, wallet)
        final = 0 if reward is None else reward.cumulative_wei
    # Only the coordinator's own word is shown as coming; what is final is proven by its root alone.
    said = [one.body for one in messages if one.author == info.coordinator_key]
    newest = max(said, key=lambda table: table.epoch, default=None)
    entries = () if newest is None else newest.entries
    coming = next((one.cumulative_wei for one in entries if one.account.lower() == wallet.lower()), 0)
    return RunPay(run, final - claimed, claimed, max(0, coming - final), tuple(claims))


TABLES_FORMAT: Final = "murmur-reward-tables/1"


class RecomputedTables(Frozen):
    """What `murmur rewards tables` writes: tables that somebody recomputed, signed by nobody."""

    format: Literal["murmur-reward-tables/1"] = TABLES_FORMAT
    run: Digest
    tables: Annotated[tuple[RewardTable, ...], Field(max_length=1_000_000)]

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"


def parse_tables(settlement: bytes) -> tuple[RewardTable, ...]:
    """Read the reward tables of a settlement file (`settlement.json` of a run's public folder) from anyone.

    A file of recomputed tables does as well: a table counts by its root, whoever wrote it.

    Raises:
        Malformed: neither of these.
    """
    found = recomputed(settlement)
    return tuple(one.body for one in parse_rewards(settlement)) if found is None else found.tables


def recomputed(data: bytes) -> RecomputedTables | None:
    """Read a file of recomputed tables from anyone; None if it does not say that it is one.

    Raises:
        Malformed: it says so and is not.
    """
    value = _document(data)
    if not isinstance(value, dict) or value.get("format") != TABLES_FORMAT:
        return None
    try:
        return RecomputedTables.model_validate(value)
    except ValidationError as error:
        raise Malformed("not a file of reward tables") from error


def _document(data: bytes) -> Any:
    if len(data) > MAX_SETTLEMENT_BYTES:
        raise Malformed("settlement file too long")
    check_depth(data)
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Malformed("not a settlement file") from error


def parse_rewards(settlement: bytes) -> tuple[Signed[RewardTable], ...]:
    """Read the signed reward tables of a settlement file from anyone; who signed is not checked here.

    Raises:
        Malformed: not such a file.
    """
    value = _document(settlement)
    try:
        messages = [parse_message(canonical_json(message)) for message in value["rewards"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed("not a settlement file") from error
    return tuple(cast("Signed[RewardTable]", one) for one in messages if isinstance(one.body, RewardTable))


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
    raise LedgerError(
        "no published reward table has the final root",
        hint="fetch the settlement again, or recompute the tables: `murmur rewards tables --from DIR --out FILE`",
    )
