"""What a contributor downloads a round as contributors become more: everybody's updates, or one joint update.

`python -m tests.bench fanout [--peers 4 8 16 32 64] [--rounds 10] [--joint-k 768] [--loss-peers 8 16] [--keep DIR]`.
Peers train by the product's inner steps, and the product decides what each of them needs: the coordinator's record and
its joint update (`Workbench.weigh`), the drawn witnesses, the job of every contributor's outer step
(`node.merging.aggregation`) and what it holds for others (`node.merging.shelved`). Files count with the bytes that they
have, once for each contributor that lacks them; a witness fetches every update of its round. Both ways of fetching see
the same updates. Every outer step is taken, the witnesses' with the joint update held against all that it was made of.

`messages` are the signed statements of a round that everybody hears, each once: commitments, list, reveals, receipts
and record. They grow with the peers in both ways, and do not with the model; gossip repeats some, and openings,
verdicts and parameters of late joiners are left out.

It fails if the mean download with joint updates, messages aside, grows by more than `BOUND` from the fewest peers to
the most. The second table is what joint updates cost: held-out loss after 40 rounds, and that of training alone.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Final, cast

from node.merging import aggregation, shelved
from node.unit import Files, Work, commit
from protocol.blobs import BlobStore
from protocol.canonical import tagged_digest
from protocol.chain import ChainView
from protocol.joint import max_joint_bytes, read_joint
from protocol.keys import PeerKey
from protocol.manifest import MergingConfig, RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Receipt,
    ReceivedUpdate,
    Reveal,
    RoundRecord,
    Signed,
    UnitRecord,
    sign,
)
from protocol.update import encode, symbols_digest
from tests.bench._cells import Cell
from tests.bench._peers import Peer, beacon, bench_manifest
from tests.bench._rows import Rows
from tests.bench.loss import Keep, by_recipe
from training.corpus import Shard
from training.gate import judge_round
from training.inner import InnerTrainer, prepare_process
from training.model import initial_parameters
from training.outer import initial_state, parameters_file
from training.workbench import AggregateRequest, LoadRequest, Workbench
from verification.commit import Carried
from verification.retract import aggregate_request
from verification.weighing import weigh, weigh_request
from verification.witness import witnesses

PEERS: Final = (4, 8, 16, 32, 64)
LOSS_PEERS: Final = (8, 16)
BOUND: Final = 1.3
"""By how much a contributor's download may grow from the fewest peers to the most."""
JOINT_K: Final = 768
COORDINATOR: Final = PeerKey(b"\x01" * 32)
SALT: Final = "5a" * 32


@dataclass(frozen=True)
class Numbers:
    """Have a registration number, as all that a roster needs."""

    number: int


@dataclass(frozen=True)
class RosterChain:
    """Stand for what `node.merging.shelved` asks a chain: beacons, and who is on the roster."""

    seed: int
    peers: int

    def assignment_beacon(self, round_: int) -> str:
        """Return what stands for the block hash of a round."""
        return beacon(self.seed, round_)

    def roster(self, round_: int) -> tuple[Numbers, ...]:
        """Return everybody."""
        return tuple(Numbers(number) for number in range(1, self.peers + 1))


@dataclass
class Downloads:
    """Hold what every contributor fetched in the rounds so far, in bytes."""

    everybody: list[int] = field(default_factory=list)  # fetching all updates, a round and contributor
    joint: list[int] = field(default_factory=list)  # fetching the joint one
    messages: list[int] = field(default_factory=list)
    update: list[int] = field(default_factory=list)  # size of each
    joint_update: list[int] = field(default_factory=list)

    def row(self, peers: int) -> dict[str, Any]:
        """Return means over rounds and contributors in KiB, and the most that one fetched in a round."""
        return {
            "peers": peers,
            "update KiB": _kib(fmean(self.update)),
            "all KiB": _kib(fmean(self.everybody)),
            "joint KiB": _kib(fmean(self.joint)),
            "least": _kib(min(self.joint)),
            "worst": _kib(max(self.joint)),
            "messages KiB": _kib(fmean(self.messages)),
        }


def _kib(size: float) -> float:
    return round(size / 1024, 1)


class Swarm:
    """Play rounds of so many contributors, and count what each downloads."""

    def __init__(self, manifest: RunManifest, shard: Shard, peers: int, seed: int, directory: Path) -> None:
        self._manifest, self._seed = manifest, seed
        trainer = InnerTrainer(manifest, shard)
        self._peers = [Peer(manifest, shard, number, trainer=trainer) for number in range(1, peers + 1)]
        self._keys = [PeerKey(number.to_bytes(32)) for number in range(1000, 1000 + peers)]
        store = BlobStore(directory / "blobs")
        load = LoadRequest(manifest_path=directory / "manifest.json", store=store.root, data_dir=directory)
        self._bench, self._chain = Workbench(load, manifest, store), RosterChain(seed, peers)
        start = initial_state(manifest, initial_parameters(manifest.model, seed))
        self._parameters = store.put(parameters_file(manifest, start))
        self.downloads = Downloads()

    def play(self, round_: int) -> None:
        """Play one round."""
        manifest, bench = self._manifest, self._bench
        start = bench.parameters(self._parameters)
        sizes: dict[str, int] = {}
        units: list[UnitRecord] = []
        for number, peer in enumerate(self._peers, 1):
            update = peer.update(self._seed, round_, start)
            file = encode(update)
            blob = bench.store.put(file)
            sizes[blob] = len(file)
            units.append(
                UnitRecord(
                    number=number,
                    commitment=tagged_digest("bench/commitment", round_, number),
                    merged=True,
                    symbols=symbols_digest(update),
                    blob=blob,
                )
            )
        self.downloads.update += sizes.values()
        drawn = witnesses(
            manifest, manifest.run_id, beacon(self._seed, round_), round_, range(1, len(units) + 1)
        )
        record = self._record(round_, units)
        assert record.joint is not None, "updates of honest peers move the parameters"
        sizes[record.joint] = bench.store.path(record.joint).stat().st_size
        self.downloads.joint_update.append(sizes[record.joint])
        for number in range(1, len(units) + 1):
            self._count(number, round_, record, number in drawn, sizes)
        heard = sum(len(message.wire) for message in self._messages(round_, record, drawn))
        self.downloads.messages.append(heard)
        file = bench.store.get(record.joint, max_size=max_joint_bytes(manifest))
        for peer in self._peers:
            peer.give_back(read_joint(manifest, file))
        self._parameters = bench.aggregate(aggregate_request(record, {}))

    def _record(self, round_: int, units: Sequence[UnitRecord]) -> RoundRecord:
        """Return what the coordinator says of a round."""
        draft = RoundRecord(parameters=self._parameters, units=tuple(units), judged=())
        request = weigh_request(round_, draft, dict.fromkeys(range(1, len(units) + 1), SALT), {})
        found = self._bench.weigh(
            request, lambda state, updates: judge_round(self._manifest, None, request, state, updates)
        )
        return weigh(draft, found.merits).model_copy(update={"joint": found.joint})

    def _count(
        self, number: int, round_: int, record: RoundRecord, is_witness: bool, sizes: dict[str, int]
    ) -> None:
        """Count what one contributor fetches, and take its outer step."""
        own = record.units[number - 1].blob
        everybody = {unit.blob for unit in record.units if unit.blob is not None}
        plain = aggregation(round_, record.model_copy(update={"joint": None}), (), is_witness)
        assert plain.blobs == everybody
        job = aggregation(round_, record, (), is_witness)
        holds = shelved(self._manifest, cast("ChainView", self._chain), number)
        shelf = {unit.blob for unit in record.units if holds(round_, unit.number) and unit.blob is not None}
        watched = everybody if is_witness else set[str]()
        self.downloads.everybody.append(_sum(sizes, everybody - {own}))
        self.downloads.joint.append(_sum(sizes, {*job.blobs, *shelf, *watched} - {own}))
        moving = job.moving
        request = AggregateRequest(
            parameters=job.parameters, joint=job.joint, updates=moving.updates, weights=moving.weights
        )
        self._bench.aggregate(request)

    def _messages(self, round_: int, record: RoundRecord, drawn: Sequence[int]) -> Iterable[Signed[Body]]:
        """Yield what is said of a round that everybody hears."""
        manifest = self._manifest
        reveals = []
        for unit, key in zip(record.units, self._keys, strict=True):
            assert unit.blob is not None
            assert unit.symbols is not None
            yield sign(key, manifest, round_, "contributor", self._commitment(round_, unit))
            reveals.append(
                Reveal(
                    number=unit.number,
                    commitment=unit.commitment,
                    symbols=unit.symbols,
                    salt=SALT,
                    blob=unit.blob,
                    blob_bytes=10_000,
                    train_cpu_s=0.25,
                )
            )
            yield sign(key, manifest, round_, "contributor", reveals[-1])
        entries = tuple(CommitmentEntry(number=u.number, commitment=u.commitment) for u in record.units)
        yield sign(COORDINATOR, manifest, round_, "coordinator", CommitmentList(entries=entries))
        held = tuple(ReceivedUpdate(number=r.number, symbols=r.symbols, blob=r.blob) for r in reveals)
        for number in drawn:
            receipt = Receipt(number=number, entries=held)
            yield sign(self._keys[number - 1], manifest, round_, "contributor", receipt)
        receipts = tuple(tagged_digest("bench/receipt", number) for number in drawn)
        said = record.model_copy(update={"receipts": receipts})
        yield sign(COORDINATOR, manifest, round_, "coordinator", said)

    def _commitment(self, round_: int, unit: UnitRecord) -> Commitment:
        manifest = self._manifest
        some = tagged_digest("bench/file", round_, unit.number)
        files = (Files(parameters=some, moments=some),) * (manifest.segments + 1)
        work = Work(
            assignment=some,
            segments=files,
            moments=some,
            residual=some,
            symbols=str(unit.symbols),
            blob=str(unit.blob),
            blob_bytes=10_000,
            cpu_s=0.25,
            loss=2.0,
        )
        return commit(
            manifest.run_id,
            round_,
            unit.number,
            profile=manifest.verification.profiles[0].name,
            parameters=self._parameters,
            expected=Carried(some, some, 0),
            salt=SALT,
            work=work,
        )


def _sum(sizes: dict[str, int], blobs: Iterable[str | None]) -> int:
    return sum(sizes[blob] for blob in blobs if blob is not None)


def downloads(counts: Sequence[int], rounds: int, joint_k: int, seed: int) -> list[dict[str, Any]]:
    """Return a row for each number of peers; `growth` is over the first."""
    found: list[dict[str, Any]] = []
    for peers in counts:
        with tempfile.TemporaryDirectory() as directory:
            merging = MergingConfig(gate_windows=0, similarity=0, joint_k=joint_k)
            manifest, shard = bench_manifest(Path(directory), seed, merging=merging)
            swarm = Swarm(manifest, shard, peers, seed, Path(directory))
            for round_ in range(rounds):
                swarm.play(round_)
        row = swarm.downloads.row(peers)
        first = found[0] if found else row
        row["all growth"] = round(row["all KiB"] / first["all KiB"], 2)
        row["joint growth"] = round(row["joint KiB"] / first["joint KiB"], 2)
        found.append(row)
    return found


def variants(peers: Sequence[int], joint_k: int) -> dict[str, Cell]:
    """Return the cells of the table of losses by their names."""
    base = by_recipe(Cell(rounds=40), "carried")
    found = {"alone": base.model_copy(update={"scheme": "local"})}
    for count in peers:
        together = base.model_copy(update={"peers": count})
        found[f"{count} peers, all updates"] = together
        found[f"{count} peers, joint update"] = together.model_copy(update={"joint": joint_k})
    return found


def main(arguments: Sequence[str]) -> int:
    """Print both tables; fail if downloads with joint updates grow beyond the bound."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench fanout", description=__doc__)
    parser.add_argument("--peers", type=int, nargs="+", default=PEERS)
    parser.add_argument("--rounds", type=int, default=10, help="of the first table")
    parser.add_argument("--joint-k", type=int, default=JOINT_K)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss-peers", type=int, nargs="*", default=LOSS_PEERS, help="none: no losses")
    parser.add_argument("--keep", type=Path, help="directory of finished trainings, to go on from")
    parser.add_argument("--json", action="store_true", help="one document")
    options = parser.parse_args(arguments)
    prepare_process(1)
    table = downloads(options.peers, options.rounds, options.joint_k, options.seed)
    growth = table[-1]["joint growth"]
    if not options.json:
        rows = Rows(as_json=False)
        for row in table:
            rows.add(row)
        print(f"joint growth {growth} from {options.peers[0]} to {options.peers[-1]} peers, bound {BOUND}")
    losses = _losses(options.loss_peers, options) if options.loss_peers else []
    if options.json:
        found = {"downloads": table, "losses": losses, "growth": growth, "bound": BOUND}
        print(json.dumps({**found, "reached": growth <= BOUND}))
    return 0 if growth <= BOUND else 1


def _losses(peers: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train what is compared, and print it row by row unless one document is asked for."""
    rows, found = Rows(as_json=False), list[dict[str, Any]]()
    cells = {
        name: cell.model_copy(update={"seed": options.seed})
        for name, cell in variants(peers, options.joint_k).items()
    }
    with tempfile.TemporaryDirectory() as data:
        keep = Keep(options.keep, Path(data))
        keep.planned = list(cells.values())
        losses = dict[str, float | None]()
        for name, cell in cells.items():
            losses[name] = loss = keep.figures(cell).report
            base = losses.get(name.replace("joint update", "all updates"))
            minus = None if loss is None or base is None or "joint" not in name else round(loss - base, 4)
            row = {"variant": name, "loss": None if loss is None else round(loss, 4), "minus all": minus}
            found.append(row)
            if not options.json:
                rows.add(row)
    return found
