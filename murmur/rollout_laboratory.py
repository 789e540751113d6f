"""Rollouts in one process, to try dishonest ones on: the run's own code makes them, the network's own checks judge.

A small policy is tuned to sort, and improved for one round, so that an older version is at hand. Every unit passes
what it meets in a network: its file, `verification.rollouts` as whoever merges, `verification.sampled` as whoever
judges a drawn segment. Where only the choice of tokens is dishonest, everything else is made right: a cheat that
does not bother is caught by more than one check.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from murmur.sampled_unit import Groups, RolloutTrial, SampledUnit
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
from protocol.rollouts import Sample, Shape, decode, encode, encode_group, quantise, rollouts_of
from protocol.tensors import Floats, parameter_layout
from training.assignment import task_seeds
from training.environments.pinned import open_environment_of
from training.inner import InnerState, prepare_process
from training.policy import PolicyBatch, PolicyTrainer
from training.preset import Preset, preset
from training.rollout import ByteTokenizer
from training.tuning import TuningConfig, corpus_of, tune
from verification.rollout_cheats import RolloutCheat
from verification.rollouts import check_rollouts

ROUND, NUMBER, OTHER = 3, 1, 2
TUNING = TuningConfig(demonstrations=2048, steps=150, observation_weight=0.0)
CANDIDATES = 4  # of best-of-n
_ADDRESS = "0x" + "00" * 20


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

    def of(self, number: int = NUMBER, parameters: Floats | None = None, weights: str = "") -> SampledUnit:
        """Return a peer's unit, sampled from the round's policy or another, with its noise or that of other weights."""
        make = open_environment_of(rollouts_of(self.manifest)).another
        return SampledUnit(
            "rollouts",
            self.manifest,
            self.parameters if parameters is None else parameters,
            weights or self.weights,
            self.seeds(number),
            lambda *_: make(),
            self.profile,
        )

    def honest(self, number: int = NUMBER) -> Groups:
        """Sample a unit as the profile says."""
        return self.of(number).drawn()

    def try_honest(self) -> RolloutTrial:
        """Let the network check an honest unit."""
        return self.try_unit(self.file(self.honest()))

    def try_cheat(self, cheat: RolloutCheat) -> RolloutTrial:
        """Let somebody cheat."""
        return self.try_unit(_MAKERS[cheat](self))

    def try_unit(self, file: bytes) -> RolloutTrial:
        """Let the network check a unit's file of rollouts."""
        try:
            raw = decode(file, Shape.of(self.manifest))
            groups = check_rollouts(self.manifest, self.beacon, ROUND, NUMBER, raw)
        except Malformed as error:
            return RolloutTrial(refused=error.message)
        return RolloutTrial(drawn=self.of().judged(groups))

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
        name="rollouts",
        chain_id=LOCAL_CHAIN_ID,
        ledger=_ADDRESS,
        coordinator=_ADDRESS,
        dataset=DatasetConfig(name="laboratory", root=ZERO_DIGEST, tokens=4000),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,  # draws follow from the manifest: an edit elsewhere is not to change them
        **(fields | {"verification": verification}),
    )


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
    tries = [laboratory.of(weights=digest(bytes([one]))).drawn() for one in range(CANDIDATES)]
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
    edited = laboratory.of().said(0, other + spoken[1:])
    return ((edited, *groups[0][1:]), *groups[1:])


def _answer(sample: Sample) -> bytes:
    """Return the right answer: the letters of the question in order."""
    prompt = bytes(sample.tokens[: sample.turns[0, 0]].tolist())
    return bytes(sorted(prompt.removeprefix(b"sort ").removesuffix(b"=")))


def _letters_right(sample: Sample) -> float:
    said = bytes(sample.tokens[sample.spoken].tolist())
    return float(sum(one == other for one, other in zip(said, _answer(sample), strict=False)))


def _answered(laboratory: RolloutLaboratory) -> Groups:
    unit = laboratory.of()
    return _first_changed(unit.drawn(), lambda index, one: unit.said(index, _answer(one) + b"\n"))


def _over_long(laboratory: RolloutLaboratory) -> Groups:
    unit = laboratory.of()
    return _first_changed(unit.drawn(), lambda index, one: unit.said(index, _answer(one) + b"j", reward=1.0))


def _cut_short(index: int, sample: Sample) -> Sample:
    """Return the sample without its last token, unless that is all it said."""
    turns = sample.turns.copy()
    if turns[-1, 1] - turns[-1, 0] == 1:
        return sample
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
    return lambda laboratory: laboratory.file(laboratory.of().made_right(make(laboratory)))


_MAKERS: dict[RolloutCheat, Callable[[RolloutLaboratory], bytes]] = {
    RolloutCheat.GREEDY: _right(lambda lab: lab.of().drawn(temperature=0.01)),
    RolloutCheat.COOLER: _right(lambda lab: lab.of().drawn(temperature=0.7)),
    RolloutCheat.RE_ROLL: _right(lambda lab: lab.of(weights=ZERO_DIGEST).drawn()),
    RolloutCheat.BEST_OF_N: _right(_best_of_n),
    RolloutCheat.INT8: _file(lambda lab: lab.of(parameters=_rounded(lab, 8)).drawn()),
    RolloutCheat.INT4: _file(lambda lab: lab.of(parameters=_rounded(lab, 4)).drawn()),
    RolloutCheat.BF16: _file(lambda lab: lab.of().drawn(arithmetic="bf16")),
    RolloutCheat.STALE: _file(lambda lab: lab.of(parameters=lab.before).drawn()),
    RolloutCheat.OTHER_MODEL: _file(lambda lab: lab.of(parameters=lab.untuned).drawn()),
    RolloutCheat.DROPPED_LAYER: _file(lambda lab: lab.of(parameters=_shortened(lab)).drawn()),
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
