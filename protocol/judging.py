"""What judges say of rollouts: a run of its own, in which the judge is the policy and its tasks are samples to score.

So everything that makes, encodes and checks rollouts makes, encodes and checks judgments: `judging` gives the manifest
of that run, and a judgment is a group of it with the name of the group that it is about. On the wire, little-endian:

    judgments u32 | (number u64 | group u16) a judgment | file of `protocol.rollouts`
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from protocol import rollouts
from protocol.canonical import canonical_json, digest, tagged_digest
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.rollout_config import (
    EnvironmentConfig,
    JudgeConfig,
    RewardWeight,
    RolloutConfig,
    SamplingConfig,
)
from protocol.rollouts import Shape, rollouts_of

SCORE: Final = "score"
ENVIRONMENT: Final = "judge"
VERSION: Final = "1"

_COUNT: Final = struct.Struct("<I")
_NAME: Final = struct.Struct("<QH")


@dataclass(frozen=True)
class Judgment:
    """Hold what one judge says of one group."""

    number: int  # whose unit the group is part of
    group: int  # its index there
    data: bytes  # canonical bytes of a group of the judging run: one sample for each of the group's

    @property
    def digest(self) -> str:
        """Return the judgment's identity: 64 hex digits."""
        return tagged_digest("murmur/judgment", self.number, self.group, digest(self.data))


def judge_of(manifest: RunManifest) -> JudgeConfig:
    """Return a run's judge.

    Raises:
        ValueError: it has none.
    """
    if manifest.judge is None:
        raise ValueError("the run has no judge")
    return manifest.judge


@lru_cache(maxsize=8)
def judging(manifest: RunManifest) -> RunManifest:
    """Return the run in which a run's judge is the policy. Its run id, which keys the noise, follows from the run's.

    Raises:
        ValueError: the run has no judge, or one whose judgments nobody could hold.
    """
    judge, own = judge_of(manifest), rollouts_of(manifest)
    settings = canonical_json({"run": manifest.run_id}).decode()
    config = RolloutConfig(
        environment=EnvironmentConfig(
            name=ENVIRONMENT, version=VERSION, settings=settings, settings_hash=digest(settings.encode())
        ),
        tokenizer=judge.tokenizer,
        sampling=SamplingConfig(
            groups=own.sampling.groups * judge.judges,
            group_size=own.sampling.group_size,
            temperature=judge.temperature,
            end_token=judge.end_token,
            turns=1,
            turn_tokens=judge.answer_tokens,
            tokens=judge.tokens,
        ),
        rewards=(RewardWeight(component=SCORE, weight=1.0),),
        tolerances=own.tolerances,
    )
    values = {
        **manifest.model_dump(),
        "model": judge.model,
        "inner": {**manifest.inner.model_dump(), "last_layers": None},
        "rollouts": config,
        "initial_parameters": judge.parameters,
    }
    return RunManifest.model_validate(values)


def max_judgments_bytes(manifest: RunManifest) -> int:
    """Return the length of the longest file that `decode` reads."""
    shape = Shape.of(judging(manifest))
    return _COUNT.size + shape.sampling.groups * _NAME.size + shape.max_file_bytes


def encode(manifest: RunManifest, judgments: Sequence[Judgment]) -> bytes:
    """Write a unit's judgments.

    Raises:
        ValueError: more than a unit may have.
    """
    names = b"".join(_NAME.pack(one.number, one.group) for one in judgments)
    file = rollouts.encode([one.data for one in judgments], Shape.of(judging(manifest)))
    return _COUNT.pack(len(judgments)) + names + file


def decode(manifest: RunManifest, data: bytes) -> tuple[Judgment, ...]:
    """Read a unit's judgments, of which each still has to pass `protocol.rollouts.decode_group`.

    Raises:
        Malformed: not judgments of this run; every length is bounded before anything is allocated.
    """
    shape = Shape.of(judging(manifest))
    if len(data) < _COUNT.size:
        raise Malformed("judgments are truncated")
    (count,) = _COUNT.unpack_from(data)
    end = _COUNT.size + count * _NAME.size
    if count > shape.sampling.groups or end > len(data):
        raise Malformed("judgments of another number than a unit has")
    names = _NAME.iter_unpack(data[_COUNT.size : end])
    groups = rollouts.decode(data[end:], shape, count)
    return tuple(Judgment(number, group, raw) for (number, group), raw in zip(names, groups, strict=True))
