"""The reference run: a few peers train the default model through a whole run, and its segments are what is measured.

Everything goes through the product's own assignment, inner steps, codec and outer step, without network and chain.
Each chunk holds the segments of one peer's unit, which carry moments, and as many first segments of newcomers, which
start from zero moments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from murmur.machines import Replay
from node.unit import Files
from protocol.blobs import BlobStore
from protocol.canonical import ZERO_DIGEST, digest, tagged_digest
from protocol.lessons import NOTHING, Lesson, Lessons
from protocol.manifest import CPU_FP32, NumericProfile, RunManifest, VerificationConfig
from protocol.published import Published, write_published
from protocol.rollouts import Shape, encode_group
from protocol.tensors import Floats, pack, parameter_layout
from protocol.update import Symbols
from training.assignment import assignment, task_seeds
from training.codec import compress
from training.corpus import DEFAULT_NAME, Shard, dataset_config, prepare_corpus
from training.experience import Experience
from training.inner import InnerState, primed
from training.model import initial_parameters
from training.outer import OuterState, aggregate, initial_state, parameters_file
from training.program import program_digest
from training.recipe import with_recipe
from training.sampler import Sampler
from training.second_moments import with_slice
from training.trainer import Material, Trainer, trainer_for

NEWCOMERS = 1_000_000  # registration numbers of newcomers start here
NOWHERE = "0x" + "00" * 20


def reference_manifest(
    directory: Path,
    profiles: Sequence[NumericProfile],
    *,
    seed: int = 0,
    rounds: int = 40,
    start: Floats | None = None,
    segment_steps: int = VerificationConfig().segment_steps,
    **fields: Any,
) -> tuple[RunManifest, Shard]:
    """Return a run over the packaged corpus that `run create` would make of the named fields, and its shard.

    Args:
        directory: takes the shard.
        profiles: that segments can be replayed under.
        start: float32[P], the first parameters; None draws them by the seed.
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
    manifest = RunManifest.model_validate(with_recipe(values))
    vector = initial_parameters(manifest.model, seed) if start is None else start
    file = parameters_file(manifest, initial_state(manifest, vector))
    return manifest.model_copy(update={"initial_parameters": digest(file)}), Shard.open(
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
    lessons: Lessons = NOTHING  # what a policy learns from

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
            lessons=self.lessons,
        )


class Reference:
    """Live a run of float32 peers and put the starts of its segments into a blob store.

    Args:
        store: whose blobs the caller may delete between two chunks.
        seed: of the initial parameters and the beacons.
        start: float32[P], the first parameters; None draws them by the seed.
    """

    def __init__(
        self,
        manifest: RunManifest,
        shard: Shard,
        store: BlobStore,
        *,
        seed: int = 0,
        start: Floats | None = None,
    ) -> None:
        self.manifest, self._shard, self._store, self._seed = manifest, shard, store, seed
        self._start = initial_parameters(manifest.model, seed) if start is None else start
        self._trainer: Trainer = trainer_for(manifest, self._material([]), CPU_FP32)
        self._learned: list[bytes] = []  # what units published that the round under way learns from

    def chunks(self, segments: int) -> Iterator[tuple[Case, ...]]:
        """Yield the cases of one peer's round after the other, spread over the run, until there are `segments` of
        carried moments and as many of zero moments.
        """
        manifest = self.manifest
        # A policy takes no step before there is anything to learn from.
        first = 0 if manifest.rollouts is None else manifest.rollouts.lag
        wanted = -(-segments // manifest.segments)
        peers = -(-wanted // (manifest.rounds - first))
        units = (manifest.rounds - first) * peers
        chosen = {first * peers + i * units // wanted for i in range(wanted)}
        state = initial_state(manifest, self._start)
        shown: list[list[bytes]] = []  # what units published, by round
        carried: dict[int, InnerState] = {}
        residuals: dict[int, Floats] = {}
        newcomer = NEWCOMERS
        for round_ in range(manifest.rounds):
            updates: list[Symbols] = []
            self._learned = shown[round_ - first] if first and round_ >= first else []
            if manifest.rollouts is not None:
                self._trainer = trainer_for(manifest, self._material(self._learned), CPU_FP32)
            shown.append([])
            for number in range(1, peers + 1):
                states = self._unit(round_, number, state, carried.get(number))
                if round_ * peers + number - 1 in chosen:
                    # What starts from zero moments is for the strangers to show.
                    carries = manifest.carries_moments and round_ > 0
                    own = [self._case(round_, number, j, states[j]) for j in range(manifest.segments)]
                    fresh = primed(InnerState.fresh(state.parameters), state.moments)
                    others = range(newcomer, newcomer + len(own))
                    newcomer += len(own)
                    strangers = [self._case(round_, other, 0, fresh) for other in others]
                    yield tuple([one for one in own if one.segment or carries] + strangers)
                carried[number] = states[-1]
                change = state.parameters - states[-1].parameters
                symbols, residuals[number] = compress(manifest.codec, change, residuals.get(number))
                unit = self.beacon(round_), round_, number
                updates.append(with_slice(manifest, symbols, states[-1].exp_avg_sq, *unit))
                if manifest.rollouts is not None:
                    groups = self._rollouts(round_, number, state.parameters)
                    shown[-1].append(write_published(manifest, Published(symbols, groups)))
            state = aggregate(manifest, state, updates)

    def _material(self, blobs: Sequence[bytes]) -> Material:
        if self.manifest.rollouts is None:
            return self._shard
        return Experience.read(
            self.manifest, _lessons(blobs), {digest(blob): blob for blob in blobs}.__getitem__
        )

    def _rollouts(self, round_: int, number: int, parameters: Floats) -> tuple[bytes, ...]:
        """Return the canonical bytes of a unit's groups."""
        manifest, shape = self.manifest, Shape.of(self.manifest)
        address = digest(pack(parameter_layout(manifest.model), parameters))
        sampler = Sampler(manifest, parameters, address, CPU_FP32)
        seeds = task_seeds(manifest, self.beacon(round_), round_, number)
        return tuple(encode_group(group, shape) for group in sampler.groups(seeds))

    def beacon(self, round_: int) -> str:
        """Stand for the block hash that fixes a round's draws."""
        return tagged_digest("murmur/reference", self._seed, round_)

    def _unit(
        self, round_: int, number: int, public: OuterState, before: InnerState | None
    ) -> list[InnerState]:
        """Return the states after 0, 1, .. n segments."""
        manifest, k = self.manifest, self.manifest.verification.segment_steps
        start = primed(InnerState.fresh(public.parameters), public.moments)
        if before is not None and manifest.carries_moments:
            start = replace(before, parameters=public.parameters)
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
        for blob in self._learned:
            self._store.put(blob)
        return Case(files, self.beacon(round_), round_, number, segment, _lessons(self._learned))


def _lessons(blobs: Sequence[bytes]) -> Lessons:
    return Lessons(
        learned=tuple(Lesson(number=number, blob=digest(blob)) for number, blob in enumerate(blobs, 1))
    )
