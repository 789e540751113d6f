"""Rollouts in one process, to try dishonest ones on: the run's own code makes them, the network's own checks judge.

A small policy is tuned to sort, and improved for one round, so that an older version is at hand. Every unit passes
what it meets in a network: its file, `verification.rollouts` as whoever merges, `verification.sampled` as whoever
judges a drawn segment. Where only the choice of tokens is dishonest, everything else is made right: a cheat that
does not bother is caught by more than one check.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from protocol.canonical import ZERO_DIGEST, digest, tagged_digest
from protocol.errors import Malformed
from protocol.manifest import (
    CPU_FP32,
    LOCAL_CHAIN_ID,
    DatasetConfig,
    NumericProfile,
    RunManifest,
    VerificationConfig,
)
from protocol.rollouts import (
    PROJECTIONS,
    Group,
    Sample,
    Shape,
    decode,
    encode,
    encode_group,
    quantise,
    rollouts_of,
)
from protocol.tensors import Floats, parameter_layout
from training.assignment import task_seeds
from training.environments.pinned import open_environment_of
from training.generate import Task, generate
from training.inner import InnerState, prepare_process
from training.model import Transformer
from training.policy import PolicyBatch, PolicyTrainer
from training.prefill import PlainScorer, judge
from training.preset import Preset, preset
from training.program import program_digest
from training.rollout import ByteTokenizer, Rollout
from training.sampling import noise_key
from training.tuning import TuningConfig, corpus_of, tune
from verification.rollout_cheats import RolloutCheat
from verification.rollouts import check_rollouts
from verification.sampled import GroupsReport, Sampling, judge_groups

ROUND, NUMBER, OTHER = 3, 1, 2
TUNING = TuningConfig(demonstrations=2048, steps=150, observation_weight=0.0)
CANDIDATES = 4  # of best-of-n
_ADDRESS = "0x" + "00" * 20

Groups = tuple[Group, ...]


@dataclass
class RolloutTrial:
    """Hold what the checks found of one unit's rollouts."""

    refused: str = ""  # why nobody merges it
    drawn: dict[int, GroupsReport] = field(default_factory=dict)  # by the segment that a draw asks for


@dataclass(frozen=True)
class RolloutLaboratory:
    """Try units' rollouts on the network's checks; `open` makes one."""

    preset: Preset
    manifest: RunManifest
    profile: NumericProfile
    before: Floats  # [P], the parameters of the round before
    parameters: Floats  # [P], the round's
    untuned: Floats  # [P], of another model

    @classmethod
    def open(
        cls,
        profile: NumericProfile = CPU_FP32,
        tuning: TuningConfig = TUNING,
        chosen: Preset | None = None,
    ) -> "RolloutLaboratory":
        """Tune a policy and let it learn for a round.

        Args:
            chosen: whose policy and sampling are taken, of environment `sort`; None: its own preset.

        Raises:
            ConfigError: the environment is not installed.
        """
        prepare_process(1)
        chosen = chosen or preset("sort")
        manifest = _manifest(chosen, profile)
        corpus = corpus_of(chosen.open(), chosen.sampling, ByteTokenizer(chosen.model.vocab), tuning)
        before = tune(chosen.model, corpus, tuning)
        untuned = tune(
            chosen.model, corpus, tuning.model_copy(update={"steps": tuning.steps // 2, "seed": 1})
        )
        laboratory = cls(chosen, manifest, profile, before, before, untuned)
        return replace(laboratory, parameters=laboratory._improved())

    def under(self, profile: NumericProfile) -> "RolloutLaboratory":
        """Return the laboratory with a run of another profile."""
        return replace(self, manifest=_manifest(self.preset, profile), profile=profile)

    @property
    def beacon(self) -> str:
        """Return what stands for the block hash that fixes the round's draws."""
        return tagged_digest("murmur/laboratory", self.manifest.run_id, ROUND)

    @property
    def weights(self) -> str:
        """Return what stands for the content address of the round's parameters."""
        return digest(self.parameters.astype("<f4").tobytes())

    def seeds(self, number: int = NUMBER) -> tuple[int, ...]:
        """Return a peer's tasks."""
        return task_seeds(self.manifest, self.beacon, ROUND, number)

    def file(self, groups: Groups) -> bytes:
        """Return the bytes that travel."""
        shape = Shape.of(self.manifest)
        return encode([encode_group(group, shape) for group in groups], shape)

    def honest(self, number: int = NUMBER) -> Groups:
        """Sample a unit as the profile says."""
        return self.drawn(number=number)

    def drawn(
        self,
        parameters: Floats | None = None,
        weights: str = "",
        temperature: float = 1.0,
        number: int = NUMBER,
        arithmetic: str = "",
    ) -> Groups:
        """Sample a unit with other parameters, noise of other weights, at a share of the temperature, or rounded."""
        rollouts = rollouts_of(self.manifest)
        wanted = rollouts.sampling.temperature * temperature
        sampling = rollouts.sampling.model_copy(update={"temperature": wanted})
        make = open_environment_of(rollouts).another
        tasks = [
            Task(make(), seed, noise_key(self.manifest.run_id, weights or self.weights, seed, index))
            for seed in self.seeds(number)
            for index in range(sampling.group_size)
        ]
        drawn = generate(
            _policy(self.manifest, self.parameters if parameters is None else parameters),
            self.manifest.model,
            tasks,
            sampling,
            ByteTokenizer(self.manifest.model.vocab),
            autocast=(arithmetic or self.profile.arithmetic) == "bf16",
        )
        return self._grouped([one.sample() for one in drawn])

    def try_unit(self, file: bytes) -> RolloutTrial:
        """Let the network check a unit's file of rollouts."""
        trial = RolloutTrial()
        try:
            raw = decode(file, Shape.of(self.manifest))
            groups = check_rollouts(self.manifest, self.beacon, ROUND, NUMBER, raw)
        except Malformed as error:
            trial.refused = error.message
            return trial
        for segment in range(self.manifest.segments):
            own = [
                (index, group)
                for index, group in enumerate(groups)
                if index % self.manifest.segments == segment
            ]
            sampling = Sampling("rollouts", self.manifest, self.parameters, self.weights, own, self.seeds())
            trial.drawn[segment] = judge_groups(sampling, self.profile, self.profile)
        return trial

    def try_cheat(self, cheat: RolloutCheat) -> RolloutTrial:
        """Let somebody cheat."""
        return self.try_unit(_MAKERS[cheat](self))

    def made_right(self, groups: Groups) -> Groups:
        """Return groups whose every claim but the choice of tokens is what an honest peer would say of them."""
        sampling = rollouts_of(self.manifest).sampling
        keys = [
            noise_key(self.manifest.run_id, self.weights, seed, index)
            for seed in self.seeds()
            for index in range(sampling.group_size)
        ]
        autocast = self.profile.arithmetic == "bf16"
        scorer = PlainScorer(self.manifest.model, _policy(self.manifest, self.parameters), autocast=autocast)
        samples = [sample for group in groups for sample in group]
        judged = judge(scorer, samples, keys, sampling.temperature)
        return self._grouped(
            [
                replace(sample, codes=quantise(one.log_probabilities), fingerprint=one.fingerprint)
                for sample, one in zip(samples, judged, strict=True)
            ]
        )

    def said(self, seed: int, text: bytes, reward: float | None = None) -> Sample:
        """Return the sample in which the policy says a text, as far as the rule lets it; log-probabilities invented."""
        config = rollouts_of(self.manifest)
        environment = open_environment_of(config).another()
        rollout = Rollout(environment, seed, config.sampling, ByteTokenizer(self.manifest.model.vocab))
        for token in text:
            rollout.observe(rollout.forced)
            if rollout.over:
                break
            rollout.take(token)
        spoken = sum(end - start for start, end in rollout.turns)
        rewards = rollout.rewards()
        return Sample(
            np.array(rollout.tokens, np.uint16),
            np.array(rollout.turns, np.uint16),
            np.array(rollout.players, np.uint8),
            np.zeros(spoken, np.uint8),
            rewards if reward is None else np.full_like(rewards, reward),
            np.zeros(PROJECTIONS, np.float32),
        )

    def _grouped(self, samples: Sequence[Sample]) -> Groups:
        size = rollouts_of(self.manifest).sampling.group_size
        return tuple(tuple(samples[first : first + size]) for first in range(0, len(samples), size))

    def _improved(self) -> Floats:
        """Return the parameters after a round's inner steps that reward letters in their right place."""
        rollouts = rollouts_of(self.manifest)
        groups = self.honest()
        batch = PolicyBatch.of(
            groups, [np.array([[_letters_right(one)] for one in group]) for group in groups]
        )
        trainer = PolicyTrainer(self.manifest, rollouts.policy, rollouts.sampling.temperature)
        trainer.load(InnerState.fresh(self.parameters))
        trainer.run([batch] * self.manifest.inner.steps, 0)
        return trainer.state().parameters


def _manifest(chosen: Preset, profile: NumericProfile) -> RunManifest:
    fields = chosen.fields()
    verification = VerificationConfig(segment_steps=chosen.segment_steps, profiles=(profile,))
    return RunManifest(
        name="laboratory",
        chain_id=LOCAL_CHAIN_ID,
        ledger=_ADDRESS,
        coordinator=_ADDRESS,
        dataset=DatasetConfig(name="laboratory", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=program_digest(),
        **(fields | {"verification": verification}),
    )


def _policy(manifest: RunManifest, parameters: Floats) -> Transformer:
    model = Transformer(manifest.model, torch.device("cpu"))
    with torch.no_grad():
        model.parameters.copy_(torch.from_numpy(np.array(parameters)))
    return model


def _rounded(laboratory: RolloutLaboratory, bits: int) -> Floats:
    """Return the parameters with every matrix's rows rounded to so many bits, symmetric about zero."""
    layout, found = parameter_layout(laboratory.manifest.model), laboratory.parameters.copy()
    for name, shape in layout.tensors:
        if len(shape) == 2:
            rows = found[layout.slices[name]].reshape(shape)
            unit = np.abs(rows).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1) + 1e-30
            found[layout.slices[name]] = (np.rint(rows / unit) * unit).flatten()
    return found


def _shortened(laboratory: RolloutLaboratory) -> Floats:
    """Return the parameters with a last layer that adds nothing."""
    layout, found = parameter_layout(laboratory.manifest.model), laboratory.parameters.copy()
    last = f"blocks.{laboratory.manifest.model.layers - 1}."
    for name in ("attention_out", "down"):
        found[layout.slices[last + name]] = 0.0
    return found


def _best_of_n(laboratory: RolloutLaboratory) -> Groups:
    tries = [laboratory.drawn(weights=digest(bytes([one]))) for one in range(CANDIDATES)]
    return tuple(
        tuple(max(samples, key=lambda one: float(one.rewards.sum())) for samples in zip(*groups, strict=True))
        for groups in zip(*tries, strict=True)
    )


def _first_changed(groups: Groups, change: Callable[[int, Sample], Sample]) -> Groups:
    """Return groups whose first sample is changed, given the group's index."""
    return tuple((change(index, group[0]), *group[1:]) for index, group in enumerate(groups))


def _edited(laboratory: RolloutLaboratory) -> Groups:
    """Change the first letter of one answer."""
    groups = laboratory.honest()
    spoken = bytes(groups[0][0].tokens[groups[0][0].spoken].tolist())
    other = b"b" if spoken[:1] != b"b" else b"c"
    edited = laboratory.said(laboratory.seeds()[0], other + spoken[1:])
    return ((edited, *groups[0][1:]), *groups[1:])


def _answer(sample: Sample) -> bytes:
    """Return the right answer: the letters of the question in order."""
    prompt = bytes(sample.tokens[: sample.turns[0, 0]].tolist())
    return bytes(sorted(prompt.removeprefix(b"sort ").removesuffix(b"=")))


def _letters_right(sample: Sample) -> float:
    said = bytes(sample.tokens[sample.spoken].tolist())
    return float(sum(one == other for one, other in zip(said, _answer(sample), strict=False)))


def _answered(laboratory: RolloutLaboratory) -> Groups:
    seeds = laboratory.seeds()
    return _first_changed(
        laboratory.honest(), lambda index, one: laboratory.said(seeds[index], _answer(one) + b"\n")
    )


def _over_long(laboratory: RolloutLaboratory) -> Groups:
    seeds = laboratory.seeds()
    return _first_changed(
        laboratory.honest(), lambda index, one: laboratory.said(seeds[index], _answer(one) + b"j", reward=1.0)
    )


def _cut_short(index: int, sample: Sample) -> Sample:
    turns = sample.turns.copy()
    turns[-1, 1] -= 1
    return replace(sample, tokens=sample.tokens[:-1], turns=turns, codes=sample.codes[:-1])


def _easier(index: int, sample: Sample) -> Sample:
    """Return the sample with the question's letters in order already."""
    tokens = sample.tokens.copy()
    start = int(sample.turns[0, 0]) - 1 - len(_answer(sample))
    tokens[start : start + len(_answer(sample))] = list(_answer(sample))
    return replace(sample, tokens=tokens)


def _each(groups: Groups, change: Callable[[Sample], Sample]) -> Groups:
    return tuple(tuple(change(sample) for sample in group) for group in groups)


def _without_worst(laboratory: RolloutLaboratory) -> bytes:
    """Return a file of smaller groups."""
    sampling = rollouts_of(laboratory.manifest).sampling
    smaller = sampling.model_copy(update={"group_size": sampling.group_size - 1})
    shape = replace(Shape.of(laboratory.manifest), sampling=smaller)
    groups = [sorted(group, key=lambda one: -float(one.rewards.sum()))[:-1] for group in laboratory.honest()]
    return encode([encode_group(tuple(group), shape) for group in groups], shape)


def _halved(sample: Sample) -> Sample:
    return replace(sample, codes=quantise(sample.log_probabilities - np.log(2.0)))


def _silent(sample: Sample) -> Sample:
    return replace(sample, fingerprint=np.zeros_like(sample.fingerprint))


def _claimed(reward: Callable[[Sample], np.ndarray]) -> Callable[[Sample], Sample]:
    return lambda sample: replace(sample, rewards=reward(sample))


def _file(make: Callable[[RolloutLaboratory], Groups]) -> Callable[[RolloutLaboratory], bytes]:
    return lambda laboratory: laboratory.file(make(laboratory))


def _right(make: Callable[[RolloutLaboratory], Groups]) -> Callable[[RolloutLaboratory], bytes]:
    return lambda laboratory: laboratory.file(laboratory.made_right(make(laboratory)))


_MAKERS: dict[RolloutCheat, Callable[[RolloutLaboratory], bytes]] = {
    RolloutCheat.GREEDY: _right(lambda lab: lab.drawn(temperature=0.01)),
    RolloutCheat.COOLER: _right(lambda lab: lab.drawn(temperature=0.7)),
    RolloutCheat.RE_ROLL: _right(lambda lab: lab.drawn(weights=ZERO_DIGEST)),
    RolloutCheat.BEST_OF_N: _right(_best_of_n),
    RolloutCheat.INT8: _file(lambda lab: lab.drawn(_rounded(lab, 8))),
    RolloutCheat.INT4: _file(lambda lab: lab.drawn(_rounded(lab, 4))),
    RolloutCheat.BF16: _file(lambda lab: lab.drawn(arithmetic="bf16")),
    RolloutCheat.STALE: _file(lambda lab: lab.drawn(lab.before)),
    RolloutCheat.OTHER_MODEL: _file(lambda lab: lab.drawn(lab.untuned)),
    RolloutCheat.DROPPED_LAYER: _file(lambda lab: lab.drawn(_shortened(lab))),
    RolloutCheat.EDITED: _right(_edited),
    RolloutCheat.RIGHT_ANSWER: _right(_answered),
    RolloutCheat.LOG_PROBABILITIES: _file(lambda lab: _each(lab.honest(), _halved)),
    RolloutCheat.NO_FINGERPRINT: _file(lambda lab: _each(lab.honest(), _silent)),
    RolloutCheat.INVENTED_REWARD: _file(
        lambda lab: _each(lab.honest(), _claimed(lambda one: np.ones_like(one.rewards)))
    ),
    RolloutCheat.INVERTED_REWARD: _file(
        lambda lab: _each(lab.honest(), _claimed(lambda one: 1.0 - one.rewards))
    ),
    RolloutCheat.OVER_LONG: _right(_over_long),
    RolloutCheat.CUT_SHORT: _file(lambda lab: _first_changed(lab.honest(), _cut_short)),
    RolloutCheat.PROMPT: _file(lambda lab: _first_changed(lab.honest(), _easier)),
    RolloutCheat.MISSING_SAMPLE: _without_worst,
    RolloutCheat.COPIED_GROUP: _file(lambda lab: (lab.honest()[0], *lab.honest()[:-1])),
    RolloutCheat.COPIED_UNIT: _file(lambda lab: lab.honest(OTHER)),
}
