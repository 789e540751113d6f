"""Honest contributors without network and chain: the product's assignment, inner steps, codec and outer step."""

from pathlib import Path
from typing import Any

import numpy as np

from protocol.canonical import ZERO_DIGEST, digest, tagged_digest
from protocol.manifest import RunManifest
from protocol.tensors import Codes, Floats, pack, parameter_layout
from protocol.update import SparseSymbols, Symbols
from training.assignment import assignment
from training.codec import compress
from training.corpus import DEFAULT_NAME, Shard, dataset_config, prepare_corpus
from training.delay import caught_up
from training.inner import InnerState, InnerTrainer, primed
from training.joint import give_back, left_out
from training.model import initial_parameters
from training.outer import OuterState
from training.program import program_digest
from training.second_moments import with_slice


def bench_manifest(
    directory: Path, seed: int, rounds: int = 40, **parts: object
) -> tuple[RunManifest, Shard]:
    """Return a run over the packaged corpus, default but for the named parts, and its shard."""
    path = prepare_corpus(None, directory)
    fields = {
        "name": f"gap-{seed}",
        "chain_id": 31337,
        "ledger": "0x" + "00" * 20,
        "coordinator": "0x" + "00" * 20,
        "rounds": rounds,
        "dataset": dataset_config(DEFAULT_NAME, path),
        "initial_parameters": ZERO_DIGEST,
        "program": program_digest(),
        **parts,
    }
    manifest = RunManifest.model_validate(fields)
    start = pack(parameter_layout(manifest.model), initial_parameters(manifest.model, seed))
    manifest = manifest.model_copy(update={"initial_parameters": digest(start)})
    return manifest, Shard.open(manifest.dataset, directory)


def alone(manifest: RunManifest) -> RunManifest:
    """Return the run of who trains alone: without rounds, moments are carried whatever the run's are."""
    inner = manifest.inner.model_copy(update={"moments": "carried"})
    return manifest.model_copy(update={"inner": inner})


def beacon(seed: int, round_: int) -> str:
    """Stand for the block hash that fixes a round's draws."""
    return tagged_digest("murmur/bench", seed, round_)


class Peer:
    """Train as a contributor does, with the residual, and where the run says so the moments, of the round before."""

    def __init__(
        self,
        manifest: RunManifest,
        shard: Shard,
        number: int,
        lazy_steps: int = 1,
        *,
        drawn: Any = None,
        trainer: InnerTrainer | None = None,
    ) -> None:
        """Take every `lazy_steps`-th step only; 1 is honest.

        Args:
            drawn: stands for the run whose batches are taken, so that runs that differ elsewhere see the same.
            trainer: takes the steps, and nobody else's meanwhile; None: one of its own.
        """
        self._manifest, self._number, self._lazy = manifest, number, lazy_steps
        self._drawn = drawn or manifest
        self._trainer = trainer or InnerTrainer(manifest, shard)
        self._state: InnerState | None = None
        self._steps_ahead = manifest.outer.delay * manifest.verification.segment_steps
        self._residual: Floats | None = None
        self._shown: Symbols | None = None

    def start(self, parameters: Floats) -> InnerState:
        """Return what the next unit starts from: `parameters`, or its own state, with the moments carried so far."""
        carried = self._state
        if carried is None:
            return InnerState.fresh(parameters)
        begun = carried.parameters if self._steps_ahead else parameters
        if not self._manifest.carries_moments:
            return InnerState.fresh(begun)
        return InnerState(begun, carried.exp_avg, carried.exp_avg_sq, carried.steps)

    def forget(self, *, moments: bool = True, residual: bool = True) -> None:
        """Lose what is carried, as a peer does that missed a commitment (`verification.commit.carried`)."""
        self._state = None if moments else self._state
        self._residual = None if residual else self._residual

    def unit(
        self, seed: int, round_: int, parameters: Floats, moments: Codes | None = None
    ) -> tuple[Floats, float]:
        """Take a round's inner steps from `parameters` and published moments; return the end and the mean loss."""
        start = primed(self.start(parameters), moments)
        self._trainer.load(start)
        offsets = assignment(self._drawn, beacon(seed, round_), round_, self._number)
        first = round_ * self._manifest.inner.steps
        losses = []
        for step in range(0, len(offsets), self._lazy):
            if self._steps_ahead and step == self._steps_ahead:
                self._trainer.load(caught_up(self._trainer.state(), start.parameters, parameters))
            losses += self._trainer.run(offsets[step : step + 1], first + step)
        self._state = self._trainer.state()
        return self._state.parameters, float(np.mean(losses))

    def update(self, seed: int, round_: int, public: OuterState) -> Symbols:
        """Return the symbols of a round's update."""
        end, _ = self.unit(seed, round_, public.parameters, public.moments)
        symbols, self._residual = compress(self._manifest.codec, public.parameters - end, self._residual)
        if self._state is not None:
            second, drawn = self._state.exp_avg_sq, beacon(seed, round_)
            symbols = with_slice(self._manifest, symbols, second, drawn, round_, self._number)
        self._shown = symbols
        return symbols

    def give_back(self, joint: SparseSymbols) -> None:
        """Take back what a round's joint update leaves out of this peer's own."""
        if self._shown is not None:
            self._residual = give_back(self._residual, left_out(self._shown, joint))
