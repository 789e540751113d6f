"""The reference run: a few peers train the default model through a whole run, and its segments are what is measured.

Everything goes through the product's own assignment, inner steps, codec and outer step, without network and chain.
Each chunk holds the segments of one peer's unit, which carry moments, and as many first segments of newcomers, which
start from zero moments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from murmur.machines import Replay
from node.unit import Files
from protocol.blobs import BlobStore
from protocol.canonical import ZERO_DIGEST, digest, tagged_digest
from protocol.manifest import CPU_FP32, NumericProfile, RunManifest, VerificationConfig
from protocol.tensors import Floats, pack, parameter_layout
from protocol.update import Symbols
from training.assignment import assignment
from training.codec import compress
from training.corpus import DEFAULT_NAME, Shard, dataset_config, prepare_corpus
from training.inner import InnerState
from training.model import initial_parameters
from training.outer import aggregate, initial_state
from training.program import program_digest
from training.trainer import Trainer, trainer_for

NEWCOMERS = 1_000_000  # registration numbers of newcomers start here
NOWHERE = "0x" + "00" * 20


def reference_manifest(
    directory: Path,
    profiles: Sequence[NumericProfile],
    *,
    seed: int = 0,
    rounds: int = 40,
    segment_steps: int = VerificationConfig().segment_steps,
    **fields: Any,
) -> tuple[RunManifest, Shard]:
    """Return a run over the packaged corpus, default but for the named fields, and its shard.

    Args:
        directory: takes the shard.
        profiles: that segments can be replayed under.
    """
    path = prepare_corpus(None, directory)
    values = {
        "name": f"reference-{seed}",
        "chain_id": 31337,
        "ledger": NOWHERE,
        "coordinator": NOWHERE,
        "rounds": rounds,
        "dataset": dataset_config(DEFAULT_NAME, path),
        "verification": {"profiles": list(profiles), "segment_steps": segment_steps},
        "initial_parameters": ZERO_DIGEST,
        "program": program_digest(),
        **fields,
    }
    manifest = RunManifest.model_validate(values)
    start = pack(parameter_layout(manifest.model), initial_parameters(manifest.model, seed))
    return manifest.model_copy(update={"initial_parameters": digest(start)}), Shard.open(
        manifest.dataset, directory
    )


@dataclass(frozen=True)
class Case:
    """Name a segment: its replay under any profile, and whether it starts from zero moments."""

    start: Files
    beacon: str
    round: int
    number: int
    segment: int

    @property
    def fresh(self) -> bool:
        """Tell whether it is a newcomer's."""
        return self.number >= NEWCOMERS

    def under(self, profile: str, cheat: str = "") -> Replay:
        """Return the replay under a profile, honest or with a cheat's steps."""
        return Replay(
            profile=profile,
            cheat=cheat,
            start=self.start,
            beacon=self.beacon,
            round=self.round,
            number=self.number,
            segment=self.segment,
        )


class Reference:
    """Live a run of float32 peers and put the starts of its segments into a blob store.

    Args:
        store: whose blobs the caller may delete between two chunks.
        seed: of the initial parameters and the beacons.
    """

    def __init__(self, manifest: RunManifest, shard: Shard, store: BlobStore, *, seed: int = 0) -> None:
        self.manifest, self._shard, self._store, self._seed = manifest, shard, store, seed
        self._trainer: Trainer = trainer_for(manifest, shard, CPU_FP32)

    def chunks(self, segments: int) -> Iterator[tuple[Case, ...]]:
        """Yield the cases of one peer's round after the other, spread over the run, until there are `segments` of
        carried moments and as many of zero moments.
        """
        manifest = self.manifest
        wanted = -(-segments // manifest.segments)
        peers = -(-wanted // manifest.rounds)
        chosen = {i * manifest.rounds * peers // wanted for i in range(wanted)}
        state = initial_state(manifest, initial_parameters(manifest.model, self._seed))
        carried: dict[int, InnerState] = {}
        residuals: dict[int, Floats] = {}
        newcomer = NEWCOMERS
        for round_ in range(manifest.rounds):
            updates: list[Symbols] = []
            for number in range(1, peers + 1):
                states = self._unit(round_, number, state.parameters, carried.get(number))
                if round_ * peers + number - 1 in chosen:
                    # A peer's very first segment starts from zero moments too.
                    own = [self._case(round_, number, j, states[j]) for j in range(manifest.segments)]
                    fresh = InnerState.fresh(state.parameters)
                    others = range(newcomer, newcomer + len(own))
                    newcomer += len(own)
                    strangers = [self._case(round_, other, 0, fresh) for other in others]
                    yield tuple([one for one in own if round_ or one.segment] + strangers)
                carried[number] = states[-1]
                change = state.parameters - states[-1].parameters
                symbols, residuals[number] = compress(manifest.codec, change, residuals.get(number))
                updates.append(symbols)
            state = aggregate(manifest, state, updates)

    def beacon(self, round_: int) -> str:
        """Stand for the block hash that fixes a round's draws."""
        return tagged_digest("murmur/reference", self._seed, round_)

    def _unit(
        self, round_: int, number: int, parameters: Floats, before: InnerState | None
    ) -> list[InnerState]:
        """Return the states after 0, 1, .. n segments."""
        manifest, k = self.manifest, self.manifest.verification.segment_steps
        start = InnerState.fresh(parameters)
        if before is not None:
            start = InnerState(parameters, before.exp_avg, before.exp_avg_sq, before.steps)
        offsets = assignment(manifest, self.beacon(round_), round_, number)
        self._trainer.load(start)
        states = [start]
        for first in range(0, manifest.inner.steps, k):
            self._trainer.run(offsets[first : first + k], round_ * manifest.inner.steps + first)
            states.append(self._trainer.state())
        return states

    def _case(self, round_: int, number: int, segment: int, start: InnerState) -> Case:
        model = self.manifest.model
        files = Files(
            parameters=self._store.put(start.parameters_file(model)),
            moments=self._store.put(start.moments_file(model)),
        )
        return Case(files, self.beacon(round_), round_, number, segment)
