"""One training of one variant on one seed: the cell that tables of losses are made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from murmur.churn import plan_drops
from protocol.canonical import ZERO_DIGEST
from protocol.errors import OwnFault
from protocol.frozen import Frozen
from protocol.manifest import (
    CodecConfig,
    DatasetConfig,
    InnerConfig,
    MergingConfig,
    MuonConfig,
    OuterConfig,
    RunManifest,
)
from protocol.model_config import ModelConfig
from protocol.tensors import Floats, parameter_layout
from protocol.update import Symbols, encode
from tests.bench._keep import key_of
from tests.bench._peers import Peer, alone, beacon, bench_manifest
from tests.bench._trials import Trial, TrialTrainer
from training.assignment import Offsets, assignment
from training.codec import compress, decode_dense
from training.corpus import Shard
from training.evaluate import heldout_windows, mean_loss
from training.inner import InnerState, InnerTrainer, learning_rate
from training.joint import merge
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state

SIZES: Final = {
    "0.17M": ModelConfig(),
    "1.2M": ModelConfig(width=128, layers=6, heads=4, feed_forward=384),
}
WINDOWS: Final = 2048  # held-out, which do not overlap: even ones choose settings, odd ones are reported
LOCAL_PEERS: Final = 2

Advance = Callable[[int], None]
"""Told of inner steps taken."""


class Cell(Frozen):
    """Say what is trained. Every field is part of the cell's key, but for trials that were not asked for."""

    scheme: Literal["ours", "diloco", "muloco", "ddp", "local"] = "ours"
    size: str = "0.17M"
    peers: int = 8
    rounds: int = 100
    seed: int = 0
    steps: int = 15
    batch: int = 4
    lr: float = 4e-3
    warmup: int = 40
    outer_lr: float = 2.0
    momentum: float = 0.0
    kind: Literal["sparse", "dense"] = "sparse"
    k: int = 256
    bits: int = 4
    decay: float = 0.95
    moments: Literal["fresh", "published"] | None = None  # None: carried
    slices: int | None = None  # of the moments that are published; None: the default
    eps: float | None = None  # of AdamW; None: the default
    muon: float | None = None  # Muon's rate in units of `lr`; None: matrices of blocks take AdamW's steps
    merge: Literal["mean", "touched"] | None = None  # touched: over the senders that touched a coordinate
    joint: int | None = None  # entries of a chunk that a round's joint update keeps; None: there is none
    left_out: Literal["lost"] | None = (
        None  # of an update, by the joint one; None: it comes back, as in the protocol
    )
    outer_end: float | None = None  # share of the outer rate that a run ends with, in a straight line
    drop: float | None = None  # each peer's chance to miss a round
    late: int | None = None  # first round of the last peer
    newcomer: Literal["ignored"] | None = None  # the late peer's first update; None: it counts
    away: Literal["keeps", "moments", "residual"] | None = (
        None  # what who misses a round keeps: both, or one; None: nothing, as in the protocol
    )
    delay: int | None = None  # segments before the outer step of the round before; None: that comes first
    trial: Trial | None = None

    @property
    def key(self) -> str:
        """Return what the cell is kept under."""
        return key_of(self)

    @property
    def work(self) -> int:
        """Return the inner steps of all peers together."""
        peers = LOCAL_PEERS if self.scheme == "local" else self.peers
        return peers * self.rounds * self.steps

    def manifest(self, directory: Path) -> tuple[RunManifest, Shard]:
        """Return the run of the cell, and its shard."""
        return bench_manifest(
            directory,
            self.seed,
            self.rounds,
            model=SIZES[self.size],
            inner=InnerConfig(
                steps=self.steps,
                batch=self.batch,
                lr=self.lr,
                warmup_steps=self.warmup,
                moments=self.moments or "carried",
                muon=None if self.muon is None else MuonConfig(lr=self.muon * self.lr),
                **{name: value for name in ("slices", "eps") if (value := getattr(self, name)) is not None},
            ),
            outer=OuterConfig(lr=self.outer_lr, momentum=self.momentum, delay=self.delay or 0),
            codec=CodecConfig(kind=self.kind, k=self.k, bits=self.bits, decay=self.decay),
            merging=MergingConfig(joint_k=self.joint or 0),
        )


@dataclass(frozen=True)
class Draws:
    """Stand for a run where batches are drawn: a seed's beacons draw the same for every variant."""

    model: ModelConfig
    inner: InnerConfig
    dataset: DatasetConfig
    run_id: str = ZERO_DIGEST
    rollouts: None = None


@dataclass(frozen=True)
class Figures:
    """What a cell came to: losses in nats a byte on the two halves of the held-out windows, None if it diverged."""

    choose: float | None
    report: float | None
    bytes: float  # that one peer sends in the whole run


def train(cell: Cell, directory: Path, advance: Advance) -> Figures:
    """Train a cell's model and measure it."""
    training = Training(cell, directory, advance)
    try:
        found = getattr(training, cell.scheme)()
    except OwnFault:
        return Figures(None, None, 0.0)
    windows = heldout_windows(training.manifest, WINDOWS)
    losses = [training.loss(found, windows[half::2]) for half in (0, 1)]
    return Figures(losses[0], losses[1], training.sent)


class Training:
    """Train one cell. Each scheme's method returns the parameter vectors that its loss is the mean of."""

    def __init__(self, cell: Cell, directory: Path, advance: Advance) -> None:
        self._cell, self._advance = cell, advance
        self.manifest, self._shard = cell.manifest(directory)
        self._drawn = Draws(self.manifest.model, self.manifest.inner, self.manifest.dataset)
        self._start = initial_parameters(self.manifest.model, cell.seed)
        self.sent = 0.0

    def loss(self, found: list[Floats], windows: Offsets) -> float | None:
        """Return the mean loss of parameter vectors over windows; None where it is not finite."""
        loss = np.mean([mean_loss(self.manifest, one, self._shard, windows) for one in found])
        return float(loss) if np.isfinite(loss) else None

    def local(self) -> list[Floats]:
        """Train two peers alone."""
        found = []
        for number in range(1, LOCAL_PEERS + 1):
            peer, parameters = self._peer(number), self._start
            for round_ in range(self._cell.rounds):
                parameters, _ = peer.unit(self._cell.seed, round_, parameters)
                self._advance(self._cell.steps)
            found.append(parameters)
        return found

    def ddp(self) -> list[Floats]:
        """Average the gradients of all peers before every step, and send each in fp32."""
        cell, trainer = self._cell, InnerTrainer(alone(self.manifest), self._shard)
        trainer.load(InnerState.fresh(self._start))
        for round_ in range(cell.rounds):
            drawn = np.stack(
                [
                    assignment(self._drawn, beacon(cell.seed, round_), round_, number)
                    for number in range(1, cell.peers + 1)
                ]
            )
            for step in range(cell.steps):
                total = torch.zeros_like(trainer.gradient)
                for offsets in drawn[:, step]:
                    trainer.backward(offsets)
                    total += trainer.gradient
                trainer.gradient.copy_(total / cell.peers)
                trainer.descend(round_ * cell.steps + step)
                self._advance(cell.peers)
        self.sent = 4.0 * self._start.size * cell.rounds * cell.steps
        return [trainer.state().parameters]

    def diloco(self) -> list[Floats]:
        """Average dense fp32 pseudo-gradients each round under Nesterov momentum (arXiv 2311.08105)."""
        cell, parameters = self._cell, self._start
        peers = [self._peer(number) for number in range(1, cell.peers + 1)]
        momentum = np.zeros_like(parameters)
        for round_ in range(cell.rounds):
            mean = np.zeros_like(parameters)
            for peer in peers:
                end, _ = peer.unit(cell.seed, round_, parameters)
                mean += (parameters - end) / np.float32(cell.peers)
                self._advance(cell.steps)
            momentum = np.float32(cell.momentum) * momentum + mean
            step = mean + np.float32(cell.momentum) * momentum
            parameters = parameters - np.float32(cell.outer_lr) * step
        self.sent = 4.0 * self._start.size * cell.rounds
        return [parameters]

    muloco = diloco
    """Average pseudo-gradients of Muon's steps likewise (Therien et al., arXiv 2505.23725)."""

    def ours(self) -> list[Floats]:
        """Go through the product's codec and outer step, or a trial's."""
        cell = self._cell
        state = initial_state(self.manifest, self._start)
        if cell.trial is not None:
            return self._tried(state, cell.trial)
        peers = {str(number): self._peer(number) for number in range(1, cell.peers + 1)}
        drops = plan_drops(cell.seed, [[*peers]] * cell.rounds, cell.drop or 0.0)
        for round_ in range(cell.rounds):
            updates, merged = [], []
            for name, peer in peers.items():
                if name in drops[round_] or (name == str(cell.peers) and round_ < (cell.late or 0)):
                    peer.forget(
                        moments=cell.away in (None, "residual"), residual=cell.away in (None, "moments")
                    )
                    continue
                update = peer.update(cell.seed, round_, state)
                self._advance(cell.steps)
                if cell.newcomer is None or name != str(cell.peers) or round_ != cell.late:
                    updates.append(update)
                    merged.append(peer)
            state = self._outer(state, updates, round_)
            if cell.joint is not None and cell.left_out is None:
                joint = merge(self.manifest, updates, (1,) * len(updates))
                for peer in merged:
                    peer.give_back(joint)
        return [state.parameters]

    def _rate(self, step: int) -> float:
        return learning_rate(self.manifest.inner, step, self.manifest.total_steps)

    def _peer(self, number: int) -> Peer:
        run = self.manifest if self._cell.scheme == "ours" else alone(self.manifest)
        return Peer(run, self._shard, number, drawn=self._drawn)

    def _outer(self, state: OuterState, updates: list[Symbols], round_: int) -> OuterState:
        cell = self._cell
        self.sent += float(np.mean([len(encode(update)) for update in updates]))
        manifest = self.manifest
        if cell.outer_end is not None:
            share = 1 + (cell.outer_end - 1) * round_ / max(1, cell.rounds - 1)
            manifest = manifest.model_copy(
                update={"outer": OuterConfig(lr=cell.outer_lr * share, momentum=cell.momentum)}
            )
        if cell.joint is not None:
            return aggregate(manifest, state, [merge(manifest, updates, (1,) * len(updates))])
        if cell.merge != "touched":
            return aggregate(manifest, state, updates)
        total, touched = np.zeros((2, state.parameters.size), np.float32)
        for update in updates:
            total += decode_dense(update, total.size)
            touched[update.positions] += 1
        step = np.float32(manifest.outer.lr) * total / np.maximum(touched, 1)
        return OuterState(state.parameters - step, state.momentum)

    def _tried(self, state: OuterState, trial: Trial) -> list[Floats]:
        cell, parameters = self._cell, state.parameters
        trainer = TrialTrainer(self.manifest, self._shard, trial)
        residuals: list[Floats | None] = [None] * cell.peers
        carried: list[InnerState | None] = [None] * cell.peers
        merged, squares = np.zeros_like(parameters), np.zeros_like(parameters)
        for round_ in range(cell.rounds):
            updates = []
            for place in range(cell.peers):
                offsets = assignment(self._drawn, beacon(cell.seed, round_), round_, place + 1)
                before = carried[place]
                start = InnerState.fresh(parameters)
                if before is not None and trial.moments != "fresh":
                    start = InnerState(parameters, before.exp_avg, before.exp_avg_sq, before.steps)
                trainer.begin(start, offsets, merged, squares)
                trainer.run(offsets, round_ * cell.steps)
                trainer.finish((round_ + 1) * cell.steps - 1)
                end = carried[place] = trainer.state()
                change = parameters - end.parameters
                symbols, residuals[place] = compress(self.manifest.codec, change, residuals[place])
                updates.append(symbols)
                self._advance(cell.steps)
            if trial.moments == "averaged":
                carried = [_mean_moments(carried)] * cell.peers
            if trial.second == "published" and round_ % trial.period == 0:
                trainer.publish([one.exp_avg_sq for one in carried if one is not None], cell.steps)
            state = self._outer(state, updates, round_)
            rates = (self._rate(round_ * cell.steps + step) for step in range(cell.steps))
            moved = (parameters - state.parameters) / np.float32(sum(rates))
            merged = np.float32(trial.memory) * merged + np.float32(1 - trial.memory) * moved
            squares = np.float32(0.9) * squares + moved * moved
            parameters = state.parameters
        return [parameters]


def _mean_moments(states: list[InnerState | None]) -> InnerState:
    known = [state for state in states if state is not None]
    first = np.mean([state.exp_avg for state in known], axis=0, dtype=np.float32)
    second = np.mean([state.exp_avg_sq for state in known], axis=0, dtype=np.float32)
    return InnerState(known[0].parameters, first, second, known[0].steps)


def parameters_of(size: str) -> int:
    """Return the parameters of a size by its name."""
    return parameter_layout(SIZES[size]).size
