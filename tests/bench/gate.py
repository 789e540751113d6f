"""How often the loss gate doubts updates: honest ones, which it should not, and two of eight that do harm.

`python -m tests.bench gate [--rounds 40] [--seeds 0 1 2] [--steps 1 0.5 0.25] [--windows 32]`. Eight honest peers train
with what the product's recipe chooses, and every update moves the parameters. Each round is judged beside it, by the
gate alone, as it is and as if the last two peers had shown something else: their updates flipped, or noise as long. A
row is how far the gate steps, in shares of an update's part in the mean (`training.merging`), and what was shown: the
shares of honest and of dishonest updates that it doubts. Losses are in fp32 here, on windows drawn as the product does.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from protocol.canonical import ZERO_DIGEST, tagged_digest
from protocol.manifest import InnerConfig, MergingConfig, RunManifest
from protocol.tensors import Floats
from protocol.update import Symbols
from tests.bench._peers import Peer, bench_manifest
from tests.bench._rows import Rows
from training.codec import compress, decode_dense
from training.corpus import Shard
from training.evaluate import mean_loss
from training.gate import gate_seed, gate_windows
from training.inner import prepare_process
from training.merging import STEP, Loss, judge_updates
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state
from training.recipe import recipe

PEERS: Final = 8
LIARS: Final = 2

Shown = Callable[[np.random.Generator, Floats], Floats]


def _noise(random: np.random.Generator, own: Floats) -> Floats:
    direction = random.standard_normal(own.size).astype(np.float32)
    return np.asarray(direction / np.linalg.norm(direction) * np.linalg.norm(own), np.float32)


SHOWN: Final[dict[str, Shown | None]] = {"honest": None, "flip": lambda random, own: -own, "noise": _noise}


@dataclass
class Gate:
    """Judge rounds at one step, as one thing that liars show has them.

    Args:
        manifest: whose outer rate is such that the gate steps as far as it should.
    """

    manifest: RunManifest
    shown: Shown | None
    random: np.random.Generator
    scores: list[int | None] = field(default_factory=lambda: [None] * PEERS)
    judged: dict[str, int] = field(default_factory=lambda: {"honest": 0, "dishonest": 0})
    doubted: dict[str, int] = field(default_factory=lambda: {"honest": 0, "dishonest": 0})

    def judge(self, state: OuterState, honest: Sequence[Symbols], loss: Loss) -> None:
        """Judge one round's updates."""
        updates, liars = list(honest), LIARS if self.shown else 0
        for place in range(PEERS - liars, PEERS):
            own = decode_dense(updates[place], state.parameters.size)
            assert self.shown is not None
            updates[place], _ = compress(self.manifest.codec, self.shown(self.random, own))
        merits = judge_updates(self.manifest, state, updates, (1,) * PEERS, self.scores, loss)
        self.scores = [merit.score for merit in merits]
        for place, merit in enumerate(merits):
            who = "honest" if place < PEERS - liars else "dishonest"
            self.judged[who] += 1
            self.doubted[who] += not merit.passed

    def share(self, who: str) -> float | None:
        """Return the share of these peers' updates that was doubted."""
        return round(self.doubted[who] / self.judged[who], 4) if self.judged[who] else None


def loss_of(manifest: RunManifest, shard: Shard, seed: int, round_: int) -> Loss:
    """Return the loss on a round's windows, in units of 2**-32 nats."""
    salts = [(n, tagged_digest("murmur/bench", seed, round_, n)) for n in range(1, PEERS + 1)]
    windows = gate_windows(manifest, gate_seed(manifest, round_, salts))
    return lambda parameters: round(mean_loss(manifest, parameters, shard, windows) * 2**32)


def gates(manifest: RunManifest, steps: Sequence[float], seed: int) -> dict[tuple[float, str], Gate]:
    """Return a gate for every step and everything that is shown."""
    found = {}
    for step in steps:
        outer = manifest.outer.model_copy(update={"lr": manifest.outer.lr * step / STEP})
        merging = MergingConfig(gate_windows=manifest.merging.gate_windows, similarity=0)
        judging = manifest.model_copy(update={"outer": outer, "merging": merging})
        for name, shown in SHOWN.items():
            found[step, name] = Gate(judging, shown, np.random.default_rng(seed))
    return found


def train(options: argparse.Namespace, seed: int, directory: Path) -> dict[tuple[float, str], Gate]:
    """Train a run of honest peers, and return what each gate made of its rounds."""
    chosen = recipe(options.rounds, kind="sparse", moments=options.moments)
    manifest, shard = bench_manifest(
        directory,
        seed,
        options.rounds,
        inner=InnerConfig(batch=4, **chosen["inner"]),
        codec=chosen["codec"],
        outer=chosen["outer"],
        merging=MergingConfig(gate_windows=options.windows, similarity=0),
        program=ZERO_DIGEST,  # so that every program trains on the same batches
    )
    peers = [Peer(manifest, shard, number) for number in range(1, PEERS + 1)]
    state = initial_state(manifest, initial_parameters(manifest.model, seed))
    found = gates(manifest, options.steps, seed)
    for round_ in range(options.rounds):
        updates = [peer.update(seed, round_, state) for peer in peers]
        loss = loss_of(manifest, shard, seed, round_)
        for gate in found.values():
            gate.judge(state, updates, loss)
        state = aggregate(manifest, state, updates)
    return found


def main(arguments: Sequence[str]) -> int:
    """Print a row a seed, step and thing that liars show."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench gate", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--moments", default="published", choices=["carried", "published"])
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    output = Rows(options.json)
    with tempfile.TemporaryDirectory() as directory:
        for seed in options.seeds:
            for (step, shown), gate in train(options, seed, Path(directory)).items():
                output.add(
                    {
                        "shown": shown,
                        "seed": seed,
                        "step": step,
                        "windows": options.windows,
                        "honest doubted": gate.share("honest"),
                        "dishonest doubted": gate.share("dishonest"),
                    }
                )
    return 0
