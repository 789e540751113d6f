"""Judgments in one process, to try dishonest ones on: what `murmur.rollout_laboratory` is for rollouts.

A small judge is tuned on samples of the laboratory's policy and what they earned. Two peers roll out, and each judges
what the other did; one of them lies. Its judgments pass what they meet in a network: their file,
`verification.rollouts` as whoever merges, `verification.sampled` as whoever judges a drawn segment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from murmur.rollout_laboratory import NUMBER, OTHER, ROUND, RolloutLaboratory
from murmur.sampled_unit import Groups, Make, RolloutTrial, SampledUnit
from node.cheats.rollouts import flattered_answers
from protocol.canonical import digest
from protocol.errors import Malformed
from protocol.judging import Judgment, decode, encode, judge_of, judging
from protocol.lessons import Lesson
from protocol.manifest import NumericProfile, RunManifest
from protocol.published import Published, write_published
from protocol.rollout_config import JudgeConfig, RolloutConfig
from protocol.rollouts import Shape, encode_group, rollouts_of
from protocol.tensors import Floats, pack, parameter_layout
from training.assignment import judgment_seeds
from training.codec import compress
from training.judges import ASKED, judge_corpus, tuned_config
from training.judging import Charge, Docket, Judging, judgments_of
from training.preset import Signals
from training.tuning import TuningConfig, tune
from verification.rollout_cheats import JudgeCheat
from verification.rollouts import check_judgments

THIRD = 3  # who judges the same groups, of whom copies are made
TUNING = TuningConfig(demonstrations=1024, steps=100, observation_weight=0.0)


@dataclass(frozen=True)
class JudgingLaboratory:
    """Try units' judgments on the network's checks; `open` makes one."""

    rollouts: RolloutLaboratory  # of a run that has the judge
    judge: Floats  # [P], the pinned one
    other: Floats  # [P], of another judge

    @classmethod
    def open(cls, rollouts: RolloutLaboratory, tuning: TuningConfig = TUNING) -> "JudgingLaboratory":
        """Tune a judge for a laboratory's policy.

        Raises:
            ConfigError: the environment is not installed.
        """
        chosen = rollouts.preset
        config = tuned_config(chosen)
        corpus = judge_corpus(chosen, rollouts.before, tuning)
        judge = tune(config.model, corpus, tuning)
        hasty = tuning.model_copy(update={"steps": tuning.steps // 2, "seed": 1})
        address = digest(pack(parameter_layout(config.model), judge))
        config = config.model_copy(update={"parameters": address})
        return cls(_judged(rollouts, config), judge, tune(config.model, corpus, hasty))

    def under(self, profile: NumericProfile) -> "JudgingLaboratory":
        """Return the laboratory with a run of another profile."""
        return replace(self, rollouts=_judged(self.rollouts.under(profile), judge_of(self.manifest)))

    @property
    def manifest(self) -> RunManifest:
        """Return the run's manifest."""
        return self.rollouts.manifest

    @property
    def profile(self) -> NumericProfile:
        """Return the profile that judgments are made and checked under."""
        return self.rollouts.profile

    @cached_property
    def docket(self) -> Docket:
        """Return what is judged: honest rollouts of two peers, beside an update that changes nothing."""
        manifest, shape = self.manifest, Shape.of(self.manifest)
        nothing = np.zeros(parameter_layout(manifest.model).size, np.float32)
        symbols, _ = compress(manifest.codec, nothing, None)
        blobs = {}
        for number in (NUMBER, OTHER):
            groups = tuple(encode_group(group, shape) for group in self.rollouts.honest(number))
            blobs[number] = write_published(manifest, Published(symbols, groups))
        lessons = tuple(Lesson(number=number, blob=digest(blob)) for number, blob in blobs.items())
        read = {digest(blob): blob for blob in blobs.values()}
        return Docket(manifest, self.rollouts.beacon, ROUND, lessons, read.__getitem__)

    @cached_property
    def charges(self) -> tuple[Charge, ...]:
        """Return what the peer has to judge."""
        return self.docket.charges(NUMBER)

    def of(
        self,
        *,
        parameters: Floats | None = None,
        seeds: Sequence[int] | None = None,
        make: Make | None = None,
    ) -> SampledUnit:
        """Return the peer's answers, of the pinned judge or another, with its noise or another's, asked so or so."""
        config = judging(self.manifest)
        asked = [self.docket.environments(charge) for charge in self.charges]
        return SampledUnit(
            "judgments",
            config,
            self.judge if parameters is None else parameters,
            config.initial_parameters,
            tuple(charge.seed for charge in self.charges) if seeds is None else tuple(seeds),
            make or (lambda place, index: asked[place][index]),
            self.profile,
        )

    def try_honest(self) -> RolloutTrial:
        """Let the network check honest judgments."""
        return self._try(self.named(self.of().drawn()))

    def try_cheat(self, cheat: JudgeCheat) -> RolloutTrial:
        """Let somebody cheat."""
        return self._try(_MAKERS[cheat](self))

    def named(self, groups: Groups) -> tuple[Judgment, ...]:
        """Return answers as judgments of the groups that the peer is to judge."""
        return judgments_of(self.manifest, self.charges, groups)

    def _try(self, judgments: Sequence[Judgment]) -> RolloutTrial:
        try:
            read = decode(self.manifest, encode(self.manifest, judgments))
            groups = check_judgments(self.docket, NUMBER, read)
        except Malformed as error:
            return RolloutTrial(refused=error.message)
        return RolloutTrial(drawn=self.of().judged(groups))


def _judged(rollouts: RolloutLaboratory, judge: JudgeConfig) -> RolloutLaboratory:
    """Return the laboratory of the same run with a judge, given that of one without."""
    manifest = rollouts.manifest
    config = RolloutConfig.model_validate(
        {
            **rollouts_of(manifest).model_dump(),
            "rewards": (*rollouts_of(manifest).rewards, *Signals(judge=judge).rewards()),
            "judge": judge,
        }
    )
    judged = RunManifest.model_validate({**manifest.model_dump(), "rollouts": config})
    return replace(rollouts, manifest=judged)


def _asked_otherwise(laboratory: JudgingLaboratory) -> Groups:
    """Answer another question about each sample."""
    config = judge_of(laboratory.manifest)
    asked = [laboratory.docket.environments(charge) for charge in laboratory.charges]

    def make(place: int, index: int) -> Judging:
        prompt = str(asked[place][index].reset(0)[0])
        return Judging(config, prompt.removesuffix(ASKED) + "?")

    return laboratory.of(make=make).drawn()


def _other_samples(laboratory: JudgingLaboratory) -> Groups:
    """Answer about the group before each."""
    asked = [laboratory.docket.environments(charge) for charge in laboratory.charges]
    return laboratory.of(make=lambda place, index: asked[place - 1][index]).drawn()


def _copied(laboratory: JudgingLaboratory) -> Groups:
    """Say what another judge of the same groups would."""
    beacon, count = laboratory.rollouts.beacon, len(laboratory.charges)
    return laboratory.of(seeds=judgment_seeds(laboratory.manifest, beacon, ROUND, THIRD, count)).drawn()


def _praised(laboratory: JudgingLaboratory) -> Groups:
    """Claim the highest score for every answer."""
    high = judge_of(laboratory.manifest).high
    return tuple(
        tuple(replace(sample, rewards=np.full_like(sample.rewards, high)) for sample in group)
        for group in laboratory.of().drawn()
    )


Maker = Callable[[JudgingLaboratory], tuple[Judgment, ...]]


def _plain(make: Callable[[JudgingLaboratory], Groups]) -> Maker:
    return lambda laboratory: laboratory.named(make(laboratory))


def _right(make: Callable[[JudgingLaboratory], Groups]) -> Maker:
    return lambda laboratory: laboratory.named(laboratory.of().made_right(make(laboratory)))


_MAKERS: dict[JudgeCheat, Maker] = {
    JudgeCheat.FLATTERED: _right(lambda lab: tuple(map(flattered_answers, lab.of().drawn()))),
    JudgeCheat.GREEDY: _right(lambda lab: lab.of().drawn(temperature=0.01)),
    JudgeCheat.COPIED: _right(_copied),
    JudgeCheat.OTHER_JUDGE: _right(lambda lab: lab.of(parameters=lab.other).drawn()),
    JudgeCheat.INVENTED_SCORE: _plain(_praised),
    JudgeCheat.OTHER_PROMPT: _plain(_asked_otherwise),
    JudgeCheat.OTHER_SAMPLE: _plain(_other_samples),
    JudgeCheat.MISSING: lambda lab: lab.named(lab.of().drawn())[:-1],
}
