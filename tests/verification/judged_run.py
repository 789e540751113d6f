"""A round of rollouts and the round that judges it, for tests of judges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from protocol.canonical import digest
from protocol.judging import Judgment, judging
from protocol.lessons import Lesson
from protocol.manifest import CPU_FP32, RunManifest
from protocol.published import Published, write_published
from protocol.rollout_config import JudgeConfig, RewardWeight, SamplingConfig
from protocol.rollouts import Group, Shape, encode_group
from protocol.tensors import Floats, parameter_layout
from tests.verification.rollout_run import MODEL, parameters, rollout_config, rollout_manifest, weights_of
from training.assignment import task_seeds
from training.codec import compress
from training.judging import Docket, judgments_of
from training.sampler import Sampler
from verification.sampled import IndexedGroup, Sampling

NUMBERS = (2, 5, 9, 11)
JUDGED, JUDGING = 4, 5  # rounds
BEACONS = {JUDGED: "ad" * 32, JUDGING: "ae" * 32}


@cache
def judge_parameters() -> Floats:
    """Return a judge's parameters; it says digits now and then."""
    found = parameters(8).copy()
    embedding = found[: MODEL.vocab * MODEL.width].reshape(MODEL.vocab, MODEL.width)
    embedding[[ord("0"), ord("1"), SamplingConfig().end_token]] *= 2.0
    return found


@cache
def judged_manifest(judges: int = 2, **changes: Any) -> RunManifest:
    judge = JudgeConfig(
        model=MODEL,
        parameters=weights_of(judge_parameters()),
        prompt="{sample}?",
        judges=judges,
        answer_tokens=6,
        tokens=24,
        **changes,
    )
    rewards = (*rollout_config().rewards, RewardWeight(component="judged", weight=0.5, source="ai_judge"))
    return rollout_manifest(judge=judge, rewards=rewards)


@dataclass(frozen=True)
class Round:
    """Hold a round of honest units: what each published, by number."""

    manifest: RunManifest
    blobs: dict[int, bytes]

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        return tuple(Lesson(number=number, blob=digest(blob)) for number, blob in self.blobs.items())

    def read(self, address: str) -> bytes:
        return next(blob for blob in self.blobs.values() if digest(blob) == address)

    def docket(self) -> Docket:
        return Docket(self.manifest, BEACONS[JUDGING], JUDGING, self.lessons, self.read)


def nothing_learned(manifest: RunManifest) -> Any:
    """Return the symbols of an update that changes nothing."""
    return compress(manifest.codec, np.zeros(parameter_layout(manifest.model).size, np.float32), None)[0]


@cache
def judged_round(manifest: RunManifest | None = None) -> Round:
    """Return what the units of `JUDGED` published."""
    manifest = manifest or judged_manifest()
    vector, shape = parameters(), Shape.of(manifest)
    sampler = Sampler(manifest, vector, weights_of(vector), CPU_FP32)
    blobs = {}
    for number in NUMBERS:
        seeds = task_seeds(manifest, BEACONS[JUDGED], JUDGED, number)
        groups = tuple(encode_group(group, shape) for group in sampler.groups(seeds))
        blobs[number] = write_published(manifest, Published(nothing_learned(manifest), groups))
    return Round(manifest, blobs)


@dataclass(frozen=True)
class Judged:
    """Hold what one unit judged."""

    round: Round
    number: int
    groups: tuple[Group, ...]

    @property
    def judgments(self) -> tuple[Judgment, ...]:
        return judgments_of(self.round.manifest, self.round.docket().charges(self.number), self.groups)

    def sampling(self, groups: tuple[IndexedGroup, ...] | None = None) -> Sampling:
        config = judging(self.round.manifest)
        seeds = tuple(one.seed for one in self.round.docket().charges(self.number))
        chosen = tuple(enumerate(self.groups)) if groups is None else groups
        return Sampling("judgments", config, judge_parameters(), config.initial_parameters, chosen, seeds)

    def changed(self, place: int, sample: int, **changes: Any) -> Judged:
        groups = list(self.groups)
        samples = list(groups[place])
        samples[sample] = replace(samples[sample], **changes)
        groups[place] = tuple(samples)
        return replace(self, groups=tuple(groups))


@cache
def honest_judge(number: int = NUMBERS[0]) -> Judged:
    """Return what an honest unit of `JUDGING` judges."""
    round_ = judged_round()
    docket, config = round_.docket(), judging(round_.manifest)
    charges = docket.charges(number)
    asked = [docket.environments(charge) for charge in charges]
    judge = Sampler(config, judge_parameters(), config.initial_parameters, CPU_FP32)
    groups = judge.sample([charge.seed for charge in charges], lambda place, index: asked[place][index])
    return Judged(round_, number, groups)
