"""The public folder of a run: what anyone needs to recompute it, as the signed messages themselves.

    manifest.json         canonical manifest; its BLAKE3 hash is the run id
    rounds/000007.json    one round: list, commitments, reveals, receipts, record, openings, seals, verdicts
    settlement.json       who was ready, the reward tables, the closing word
    beacons/1234.json     the signature of one drand round, where the manifest demands drand
    blobs/                parameters and updates by content address (`protocol.blobs`)

Files are canonical JSON. A reader gets parsed messages with valid signatures, all of this run and round, each in the
place of its kind; whether their authors were entitled to say them is decided against the chain.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from protocol.beacons import BEACONS_DIRECTORY, SignatureFiles
from protocol.canonical import canonical_json, parse_canonical_json
from protocol.errors import ConfigError, Malformed
from protocol.manifest import MAX_MANIFEST_BYTES, RunManifest
from protocol.messages import (
    MAX_UNITS,
    Body,
    Commitment,
    CommitmentList,
    Finish,
    Opening,
    Ready,
    Receipt,
    Reveal,
    RewardTable,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
    check_tiers,
    parse_message,
)
from protocol.pool import slot_of
from verification.cases import MAX_ACCUSATIONS, MAX_CONTESTS

MAX_DOSSIER_BYTES = 64 << 20
MAX_SETTLEMENT_BYTES = 256 << 20
MAX_VERDICTS = 16 * MAX_UNITS
MAX_OPENINGS = MAX_UNITS + MAX_ACCUSATIONS + MAX_CONTESTS
MAX_READY = 65_536
MAX_RECEIPTS = 16  # the most witnesses that a manifest may ask for
_DOSSIER_NAME = re.compile(r"([0-9]{6,7})\.json")

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class RoundDossier:
    """Hold what was said in one round. It grows until every drawn unit is decided."""

    round: int
    listed: Signed[CommitmentList]
    # exactly those of the list, in its order, and then those forced in that were told
    commitments: tuple[Signed[Commitment], ...]
    reveals: tuple[Signed[Reveal], ...] = ()
    receipts: tuple[Signed[Receipt], ...] = ()  # that the record names, in its order
    record: Signed[RoundRecord] | None = None  # None until the reveal phase is over
    openings: tuple[Signed[Opening], ...] = ()
    verdicts: tuple[Signed[Verdict], ...] = ()  # only those that were heard before their unit was decided
    seals: tuple[
        Signed[Seal], ...
    ] = ()  # only those that were heard before a fingerprint could be copied into them

    def messages(self) -> tuple[Signed[Body], ...]:
        """Return everything that was said."""
        records = () if self.record is None else (self.record,)
        said = (*self.commitments, *self.reveals, *self.receipts)
        return (self.listed, *said, *records, *self.openings, *self.seals, *self.verdicts)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json(
            {
                "round": self.round,
                "listed": self.listed.to_json(),
                "commitments": [message.to_json() for message in self.commitments],
                "reveals": [message.to_json() for message in self.reveals],
                "receipts": [message.to_json() for message in self.receipts],
                "record": None if self.record is None else self.record.to_json(),
                "openings": [message.to_json() for message in self.openings],
                "verdicts": [message.to_json() for message in self.verdicts],
                "seals": [message.to_json() for message in self.seals],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, manifest: RunManifest, round_: int) -> "RoundDossier":
        """Parse a dossier from anyone.

        Raises:
            Malformed: too long, not canonical, a message that does not parse or is of another run, round or kind,
                two messages in one place, or other commitments than the list names for its numbers.
        """
        value = _object(
            data,
            MAX_DOSSIER_BYTES,
            {
                "round",
                "listed",
                "commitments",
                "reveals",
                "receipts",
                "record",
                "openings",
                "seals",
                "verdicts",
            },
        )
        if value["round"] != round_:
            raise Malformed(f"dossier of another round than {round_}")
        reader = _Reader(manifest, round_)
        listed = reader.one(CommitmentList, value["listed"])
        dossier = cls(
            round=round_,
            listed=listed,
            commitments=reader.many(Commitment, value["commitments"], MAX_UNITS),
            reveals=reader.many(Reveal, value["reveals"], MAX_UNITS),
            receipts=reader.many(Receipt, value["receipts"], MAX_RECEIPTS),
            record=None if value["record"] is None else reader.one(RoundRecord, value["record"]),
            openings=reader.many(Opening, value["openings"], MAX_OPENINGS),
            verdicts=reader.many(Verdict, value["verdicts"], MAX_VERDICTS),
            seals=reader.many(Seal, value["seals"], MAX_VERDICTS),
        )
        named = [(entry.number, entry.commitment) for entry in listed.body.entries]
        held = [(message.body.number, message.id) for message in dossier.commitments]
        if named != held[: len(named)]:
            raise Malformed("dossier holds other commitments than its list names")
        if len({number for number, _ in named}) != len(named):
            raise Malformed("commitment list names a number twice")
        numbers = {number for number, _ in held}
        if len(numbers) != len(held):
            raise Malformed("dossier holds two commitments of one number")
        _unique("receipt", [message.body.number for message in dossier.receipts])
        about: tuple[Signed[Reveal | Opening | Seal | Verdict], ...] = (
            *dossier.reveals,
            *dossier.openings,
            *dossier.seals,
            *dossier.verdicts,
        )
        for kind in (Reveal, Opening, Seal, Verdict):
            _unique(kind.kind, [slot_of(one) for one in about if isinstance(one.body, kind)])
        for message in about:
            if message.body.number not in numbers:
                raise Malformed(f"{message.body.kind} about a number without a commitment")
        return dossier


@dataclass(frozen=True)
class Settlement:
    """Hold what was said about the run as a whole."""

    ready: tuple[Signed[Ready], ...] = ()
    rewards: tuple[Signed[RewardTable], ...] = ()  # by epoch
    finish: Signed[Finish] | None = None

    def messages(self) -> tuple[Signed[Body], ...]:
        """Return everything that was said."""
        return (*self.ready, *self.rewards, *(() if self.finish is None else (self.finish,)))

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json(
            {
                "ready": [message.to_json() for message in self.ready],
                "rewards": [message.to_json() for message in self.rewards],
                "finish": None if self.finish is None else self.finish.to_json(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, manifest: RunManifest) -> "Settlement":
        """Parse a settlement from anyone.

        Raises:
            Malformed: too long, not canonical, a message that does not parse or is of another run or kind, or two
                messages in one place.
        """
        value = _object(data, MAX_SETTLEMENT_BYTES, {"ready", "rewards", "finish"})
        reader = _Reader(manifest, None)
        settlement = cls(
            ready=reader.many(Ready, value["ready"], MAX_READY),
            rewards=reader.many(RewardTable, value["rewards"], manifest.epochs),
            finish=None if value["finish"] is None else reader.one(Finish, value["finish"]),
        )
        _unique("ready", [message.body.number for message in settlement.ready])
        epochs = [message.body.epoch for message in settlement.rewards]
        _unique("rewards", epochs)
        if epochs != sorted(epochs):
            raise Malformed("reward tables out of order")
        return settlement


class Archive:
    """Read and write one public folder. Files are replaced atomically, so that a reader never sees half of one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def blobs(self) -> Path:
        """Return the root of the folder's blob store."""
        return self.root / "blobs"

    @property
    def beacons(self) -> SignatureFiles:
        """Return the drand signatures of the folder."""
        return SignatureFiles(self.root / BEACONS_DIRECTORY)

    def write_manifest(self, manifest: RunManifest) -> None:
        """Write `manifest.json`."""
        _replace(self.root / "manifest.json", manifest.to_bytes())

    def write_round(self, dossier: RoundDossier) -> None:
        """Write or rewrite the file of a round."""
        _replace(self._round_path(dossier.round), dossier.to_bytes())

    def write_settlement(self, settlement: Settlement) -> None:
        """Write or rewrite `settlement.json`."""
        _replace(self.root / "settlement.json", settlement.to_bytes())

    def manifest(self) -> RunManifest:
        """Read the manifest.

        Raises:
            ConfigError: there is none.
            Malformed: it is not one.
        """
        data = _read(self.root / "manifest.json", MAX_MANIFEST_BYTES)
        if data is None:
            raise ConfigError(f"no manifest.json in {self.root}", hint="name a run's public folder")
        return RunManifest.from_bytes(data)

    def rounds(self) -> tuple[int, ...]:
        """Return the rounds that have a file, in order."""
        found = (_DOSSIER_NAME.fullmatch(path.name) for path in (self.root / "rounds").glob("*.json"))
        return tuple(sorted(int(match[1]) for match in found if match))

    def round(self, manifest: RunManifest, round_: int) -> RoundDossier | None:
        """Read the file of a round; None if there is none.

        Raises:
            Malformed: see `RoundDossier.from_bytes`.
        """
        data = _read(self._round_path(round_), MAX_DOSSIER_BYTES)
        return None if data is None else RoundDossier.from_bytes(data, manifest, round_)

    def settlement(self, manifest: RunManifest) -> Settlement:
        """Read the settlement so far; an empty one if there is no file yet.

        Raises:
            Malformed: see `Settlement.from_bytes`.
        """
        data = _read(self.root / "settlement.json", MAX_SETTLEMENT_BYTES)
        return Settlement() if data is None else Settlement.from_bytes(data, manifest)

    def _round_path(self, round_: int) -> Path:
        return self.root / "rounds" / f"{round_:06d}.json"


class _Reader:
    """Parse the messages of one file."""

    def __init__(self, manifest: RunManifest, round_: int | None) -> None:
        self._manifest = manifest
        self._run = manifest.run_id
        self._round = round_

    def one(self, kind: type[B], value: Any) -> Signed[B]:
        if not isinstance(value, dict):
            raise Malformed(f"{kind.kind} is not an object")
        message = parse_message(canonical_json(value))
        manifest = self._manifest
        if not isinstance(message.body, kind):
            raise Malformed(f"{message.body.kind} in the place of a {kind.kind}")
        if message.run != self._run or message.chain_id != manifest.chain_id:
            raise Malformed(f"{kind.kind} of another run")
        if message.ledger.lower() != manifest.ledger.lower():
            raise Malformed(f"{kind.kind} for another ledger")
        if self._round is not None and message.round != self._round:
            raise Malformed(f"{kind.kind} of another round")
        check_tiers(manifest, message.body)
        return cast("Signed[B]", message)

    def many(self, kind: type[B], values: Any, limit: int) -> tuple[Signed[B], ...]:
        if not isinstance(values, list):
            raise Malformed(f"not a list of {kind.kind} messages")
        if len(values) > limit:
            raise Malformed(f"{len(values)} {kind.kind} messages, at most {limit} are possible")
        return tuple(self.one(kind, value) for value in values)


def _object(data: bytes, max_bytes: int, keys: set[str]) -> dict[str, Any]:
    value = parse_canonical_json(data, max_bytes=max_bytes)
    if set(value) != keys:
        raise Malformed("file with other fields than expected")
    return value


def _unique(kind: str, labels: Iterable[object]) -> None:
    seen = list(labels)
    if len(set(seen)) != len(seen):
        raise Malformed(f"two {kind} messages in one place")


def _read(path: Path, max_bytes: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    if len(data) > max_bytes:
        raise Malformed(f"{path.name} exceeds {max_bytes} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
