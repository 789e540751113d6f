"""A swarm in one process: sampler, rollouts' file, checks, GRPO, codec and outer step as in a run, without a network.

Each round every peer samples its own tasks with the round's parameters; whoever merges checks what was published
(`verification.rollouts`), and everybody takes inner steps on what was merged `lag` rounds before. What is left out is
the network, the chain, and draws: how tokens were picked is believed.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import torch

from node.honesty import HonestSteps
from protocol.canonical import ZERO_DIGEST, digest
from protocol.errors import Malformed
from protocol.manifest import CPU_FP32, LOCAL_CHAIN_ID, DatasetConfig, RunManifest
from protocol.rollouts import Group, Shape, decode, decode_group, encode, encode_group, rollouts_of
from protocol.tensors import Floats
from protocol.update import Symbols
from protocol.update import encode as encode_update
from tests.bench._clock import Clock
from tests.bench._rows import Rows
from training.assignment import assignment, task_seeds
from training.base import base_model
from training.codec import compress
from training.evaluate import Heldout, heldout_success
from training.experience import Experience
from training.inner import InnerState, prepare_process
from training.outer import OuterState, aggregate, initial_state, parameters_file
from training.policy import Batch, PolicyBatch, PolicyTrainer
from training.preset import Preset, Signals, preset
from training.rewards import group_rewards
from training.sampler import Sampler
from training.tuning import Progress
from verification.rollouts import check_rollouts

ADDRESS: Final = "0x" + "00" * 20


def manifest_of(chosen: Preset, name: str, signals: Signals | None = None) -> RunManifest:
    """Return a run on a preset that needs neither chain nor data; its name seeds the noise."""
    return RunManifest.model_validate(
        {
            "name": name,
            "chain_id": LOCAL_CHAIN_ID,
            "ledger": ADDRESS,
            "coordinator": ADDRESS,
            "dataset": DatasetConfig(name="none", root=ZERO_DIGEST, tokens=1),
            "initial_parameters": ZERO_DIGEST,
            "program": ZERO_DIGEST,
            **chosen.fields(signals),
        }
    )


class UncorrectedTrainer(PolicyTrainer):
    """Take every sample for one that the present weights drew: its ratio is one, whatever its age."""

    def backward(self, batch: Batch) -> torch.Tensor:
        """Leave the gradient of one batch in `gradient` and return its loss."""
        assert isinstance(batch, PolicyBatch)
        tokens = torch.from_numpy(batch.tokens)
        with torch.no_grad():
            found = (self._model.logits(tokens[:, :-1]) / self._temperature).log_softmax(-1)
            behaviour = found.gather(-1, tokens[:, 1:, None])[..., 0].numpy()
        return super().backward(replace(batch, behaviour=behaviour))


@dataclass(frozen=True, eq=False)
class Round:
    """Hold what a round of a swarm came to. Files and updates are of merged units alone, in bytes as they travel."""

    number: int
    state: OuterState  # that the next round starts from
    merged: tuple[int, ...]  # registration numbers
    groups: tuple[Group, ...]
    files: list[bytes]
    updates: list[bytes]
    reward: float  # mean of what all samples are said to have earned


@dataclass
class Peer:
    """Hold what a contributor carries from round to round."""

    number: int
    steps: HonestSteps
    carried: InnerState
    residual: Floats | None = None


@dataclass(frozen=True)
class Swarm:
    """Say who takes part in which run.

    Args:
        crowd: how each peer samples.
        lag: rounds between sampling and learning. Manifests bound it to 1..4; a simulation need not.
        corrected: whether the ratio of new to old probability corrects for a sample's age.
        verified: whether units whose rollouts fail the checks are left out.
    """

    preset: Preset
    crowd: tuple[HonestSteps, ...] = (HonestSteps(),) * 3
    lag: int = 2
    seed: int = 0
    corrected: bool = True
    verified: bool = True

    @cached_property
    def manifest(self) -> RunManifest:
        """The run's."""
        return manifest_of(self.preset, f"swarm {self.seed}")

    def play(self, parameters: Floats, clock: Clock) -> Iterator[Round]:
        """Yield every round of a run that starts from parameters float32[P]."""
        manifest = self.manifest
        rollouts, shape = rollouts_of(manifest), Shape.of(manifest)
        trainer = (PolicyTrainer if self.corrected else UncorrectedTrainer)(
            manifest, rollouts.policy, rollouts.sampling.temperature
        )
        crowd = [
            Peer(number, steps, InnerState.fresh(parameters)) for number, steps in enumerate(self.crowd, 1)
        ]
        state, merged = initial_state(manifest, parameters), list[tuple[Group, ...]]()
        for round_ in range(manifest.rounds):
            beacon = digest(f"{self.seed} {round_}".encode())
            address = digest(parameters_file(manifest, state))
            sampler = Sampler(manifest, state.parameters, address, CPU_FP32)
            published = {
                peer.number: encode(
                    [
                        encode_group(group, shape)
                        for group in clock("sampling", self._sample, peer, sampler, beacon, round_)
                    ],
                    shape,
                )
                for peer in crowd
            }
            units = {
                number: groups
                for number, file in published.items()
                if (groups := clock("checking", self._merge, beacon, round_, number, file))
            }
            merged.append(tuple(group for groups in units.values() for group in groups))
            experience = Experience(manifest, merged[round_ - self.lag] if round_ >= self.lag else ())
            updates = [
                clock("learning", self._learn, peer, trainer, state.parameters, beacon, round_, experience)
                for peer in crowd
                if peer.number in units
            ]
            state = clock("outer step", aggregate, manifest, state, updates)
            yield Round(
                round_,
                state,
                tuple(units),
                merged[-1],
                [published[number] for number in units],
                [encode_update(update) for update in updates],
                self._reward(merged[-1]),
            )

    def _sample(self, peer: Peer, sampler: Sampler, beacon: str, round_: int) -> Sequence[Group]:
        return peer.steps.groups(sampler, task_seeds(self.manifest, beacon, round_, peer.number))

    def _merge(self, beacon: str, round_: int, number: int, file: bytes) -> tuple[Group, ...]:
        """Return a unit's groups, or none where it is refused."""
        shape = Shape.of(self.manifest)
        raw = decode(file, shape)
        if not self.verified:
            return tuple(decode_group(one, shape) for one in raw)
        try:
            return check_rollouts(self.manifest, beacon, round_, number, raw)
        except Malformed:
            return ()

    def _learn(
        self,
        peer: Peer,
        trainer: PolicyTrainer,
        start: Floats,
        beacon: str,
        round_: int,
        experience: Experience,
    ) -> Symbols:
        """Take the inner steps of a unit and return its update."""
        carried = peer.carried
        trainer.load(InnerState(start, carried.exp_avg, carried.exp_avg_sq, carried.steps))
        drawn = assignment(self.manifest, beacon, round_, peer.number)
        trainer.run([experience.batch(row) for row in drawn], round_ * self.manifest.inner.steps)
        peer.carried = trainer.state()
        change = start - peer.carried.parameters
        update, peer.residual = compress(self.manifest.codec, change, peer.residual)
        return update

    def _reward(self, groups: Sequence[Group]) -> float:
        weights = [one.weight for one in rollouts_of(self.manifest).rewards]
        return float(np.mean([group_rewards(group, weights)[:, 0] for group in groups])) if groups else 0.0


@dataclass
class Course:
    """Hold a swarm's run."""

    parameters: Floats  # [P], that it started from
    heldout: dict[int, Heldout]  # by the rounds done before
    rounds: list[Round]
    clock: Clock = field(default_factory=Clock)

    @property
    def success(self) -> dict[int, float]:
        """Return the share of held-out tasks done, by the rounds done before."""
        return {done: round(one.success, 3) for done, one in self.heldout.items()}


def run(swarm: Swarm, measured: Collection[int], tuning: Progress | None = None) -> Course:
    """Play a swarm's run to its end.

    Args:
        measured: after how many rounds held-out tasks are played.
        tuning: told after every step of the base model's tuning, where there is none yet.
    """
    clock = Clock()
    start = clock("tuning", base_model, swarm.preset, progress=tuning).parameters
    course = Course(start, {}, [], clock)

    def measure(done: int, parameters: Floats) -> None:
        if done in measured:
            found = course.heldout[done] = clock("held out", heldout_success, swarm.manifest, parameters)
            print(f"{swarm.manifest.name}: success {found.success:.3f} after {done} rounds", file=sys.stderr)

    measure(0, start)
    for one in swarm.play(start, clock):
        course.rounds.append(one)
        measure(one.number + 1, one.state.parameters)
    return course


def few_rounds(name: str, description: str | None, arguments: list[str]) -> tuple[Swarm, Rows]:
    """Read the options of a benchmark that looks at a few rounds of an honest swarm, two of which learn at least."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench {name}", description=description)
    parser.add_argument("--env", default="sort")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = preset(options.env)
    if options.rounds < chosen.lag + 2:
        parser.error(f"--rounds {chosen.lag + 2} at least, of which two learn")
    shorter = chosen.model_copy(update={"rounds": options.rounds})
    return Swarm(shorter, (HonestSteps(),) * options.peers), Rows(options.json)
