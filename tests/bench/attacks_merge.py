"""What dishonest updates do to a run's loss: our merging against the mean, clipping, Krum and others.

`python -m tests.bench attacks-merge [--rounds 40] [--seeds 0] [--attackers 1 2 3] [--keep DIRECTORY]`. Eight peers go
through the product's inner steps, codec, judging and outer step at the default outer rate; of those some show something
else than they learned. `clip` is our outer step without judging; `ours` judges first, in exact arithmetic on windows
drawn anew each round, as every auditor does again. Rules of others are told how many attackers there are, and work on
decoded floats. A row is an attack: the held-out loss in nats a byte under each rule. `backdoor` has a second row, the
share of the payload that the model speaks after the trigger.

With the default, published second moments those who attack say the slices that they learned, but for `rest` and `rush`,
who learn honestly and say that every entry has the largest second moment, or the smallest.

Every finished training is a line of DIRECTORY/attacks-merge.jsonl, so that an interrupted table goes on where it was.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

import numpy as np

from protocol.canonical import ZERO_DIGEST, tagged_digest
from protocol.frozen import Frozen
from protocol.manifest import InnerConfig, MergingConfig
from protocol.tensors import parameter_layout
from protocol.update import SparseSymbols
from tests.bench._attacks import ATTACKS, RULES, Attackers, backdoor_success, matrix, poisoned, said
from tests.bench._keep import Kept
from tests.bench._peers import Peer, bench_manifest
from tests.bench._rows import Rows
from training.codec import compress, decode_dense
from training.evaluate import heldout_loss
from training.gate import exact_loss, gate_seed
from training.inner import prepare_process
from training.merging import judge_updates
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state
from training.recipe import recipe
from training.second_moments import heard

PEERS: Final = 8
OURS: Final = ("ours", "clip")
NOBODY: Final = "nobody"


class Cell(Frozen):
    """Say what is trained: who attacks how, and how updates are merged."""

    attack: str
    attackers: int
    rule: str
    rounds: int
    seed: int
    moments: Literal["carried", "published"] = "published"
    batch: int = 4
    windows: int = 32


def train(cell: Cell, directory: Path) -> dict[str, Any]:
    """Train a run under attack; return its loss, and how many honest and dishonest updates had no weight."""
    chosen = recipe(cell.rounds, kind="sparse", moments=cell.moments)
    manifest, shard = bench_manifest(
        directory,
        cell.seed,
        cell.rounds,
        inner=InnerConfig(batch=cell.batch, **chosen["inner"]),
        codec=chosen["codec"],
        outer=chosen["outer"],
        merging=MergingConfig(gate_windows=cell.windows),
        program=ZERO_DIGEST,  # so that every program trains on the same batches
    )
    size, honest = parameter_layout(manifest.model).size, PEERS - cell.attackers
    text = poisoned(shard) if cell.attack == "backdoor" else shard
    peers = [Peer(manifest, shard if place < honest else text, place + 1) for place in range(PEERS)]
    random = np.random.default_rng(cell.seed)
    bias = np.where(random.random(size) < 0.5, -1, 1).astype(np.float32) / np.float32(np.sqrt(size))
    attackers = Attackers(random, bias)
    state: OuterState = initial_state(manifest, initial_parameters(manifest.model, cell.seed))
    scores: list[int | None] = [None] * PEERS
    doubted = {"honest": 0, "dishonest": 0}
    for round_ in range(cell.rounds):
        updates = [peer.update(cell.seed, round_, state) for peer in peers]
        shown = matrix([decode_dense(update, size) for update in updates])
        for place in range(honest, PEERS):
            own = ATTACKS[cell.attack](attackers, place, shown[place], shown[:honest])
            honestly, (symbols, _) = updates[place], compress(manifest.codec, own)
            assert isinstance(honestly, SparseSymbols)
            assert isinstance(symbols, SparseSymbols)
            updates[place] = replace(symbols, moments=said(cell.attack, honestly.moments))
        if cell.rule == "ours":
            salts = [(n, tagged_digest("murmur/bench", cell.seed, round_, n)) for n in range(1, PEERS + 1)]
            loss = exact_loss(manifest, shard, gate_seed(manifest, round_, salts))
            merits = judge_updates(manifest, state, updates, (1,) * PEERS, scores, loss)
            scores = [merit.score for merit in merits]
            doubted["honest"] += sum(not merit.passed for merit in merits[:honest])
            doubted["dishonest"] += sum(not merit.passed for merit in merits[honest:])
            updates = [update for update, merit in zip(updates, merits, strict=True) if merit.passed]
        if cell.rule in OURS:
            state = aggregate(manifest, state, updates)
        else:
            shown = matrix([decode_dense(update, size) for update in updates])
            merged = np.float32(manifest.outer.lr) * RULES[cell.rule](shown, cell.attackers)
            codes = None if state.moments is None else heard(manifest, state.moments, updates)
            state = OuterState((state.parameters - merged).astype(np.float32), moments=codes)
    found = {"loss": heldout_loss(manifest, state.parameters, shard), **doubted}
    if cell.attack in ("backdoor", NOBODY):
        found["backdoor"] = backdoor_success(manifest, state.parameters, shard)
    return found


def cells(options: argparse.Namespace) -> list[Cell]:
    """Return every cell of the table: ours, and what is most telling, first."""
    attacks = [(NOBODY, 0), *((attack, n) for n in options.attackers for attack in options.attacks)]
    return [
        Cell(attack=attack, attackers=n, rule=rule, rounds=options.rounds, seed=seed, moments=options.moments)
        for rule in options.rules
        for attack, n in attacks
        for seed in options.seeds
    ]


def rows(found: dict[Cell, dict[str, Any]], options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    """Yield a row an attack and number of attackers."""
    kinds = dict.fromkeys((cell.attack, cell.attackers) for cell in found)
    for attack, count in kinds:
        mine = {cell: one for cell, one in found.items() if (cell.attack, cell.attackers) == (attack, count)}

        def mean(rule: str, name: str, mine: dict[Cell, dict[str, Any]] = mine) -> float:
            return round(fmean(one[name] for cell, one in mine.items() if cell.rule == rule), 4)

        row: dict[str, Any] = {"attack": attack, "attackers": f"{count}/{PEERS}"}
        yield row | {rule: mean(rule, "loss") for rule in options.rules} | _doubted(mine, options)
        if all("backdoor" in one for one in mine.values()):
            yield (
                row
                | {"attack": f"{attack}: payload"}
                | {rule: mean(rule, "backdoor") for rule in options.rules}
                | _doubted(mine, options)
            )


def _doubted(mine: dict[Cell, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the shares of honest and of dishonest updates that ours gave no weight."""
    ours = [(cell, one) for cell, one in mine.items() if cell.rule == "ours"]
    counts = {"honest": 0, "dishonest": 0}
    for cell, _ in ours:
        counts["honest"] += (PEERS - cell.attackers) * cell.rounds
        counts["dishonest"] += cell.attackers * cell.rounds
    return {
        f"{who} doubted": round(sum(one[who] for _, one in ours) / counts[who], 4) if counts[who] else None
        for who in counts
    }


def main(arguments: Sequence[str]) -> int:
    """Print the matrix."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench attacks-merge", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--attackers", type=int, nargs="+", default=[1, 2, 3], choices=range(1, PEERS // 2))
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--rules", nargs="+", default=[*OURS, *RULES], choices=[*OURS, *RULES])
    parser.add_argument("--moments", default="published", choices=["carried", "published"])
    parser.add_argument("--keep", type=Path, help="directory of finished cells, to go on from")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    kept, planned = Kept(options.keep, "attacks-merge"), cells(options)
    found: dict[Cell, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for cell in planned:
            found[cell] = kept.figures(cell, partial(train, cell, Path(directory)))
            kept.tell(len(found), len(planned))
    kept.warn(planned)
    output = Rows(options.json)
    for row in rows(found, options):
        output.add(row)
    return 0
