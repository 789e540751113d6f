"""What a judge is asked about a sample, and what its answer means: an environment of one turn for each sample.

The beacon has each group judged by `judges` other peers of its round (`training.assignment.judged_groups`). A judge
reads all tokens of a sample as text, inside of the run's prompt, and answers from the pinned parameters as a policy
would: with noise that nobody chooses, so that there is one right answer.

What a policy writes can try to talk its judge into a better score, as with every judge that is a model.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from protocol.errors import ConfigError
from protocol.judging import ENVIRONMENT, SCORE, VERSION, Judgment, judge_of, judging
from protocol.lessons import Lesson
from protocol.manifest import RunManifest
from protocol.published import read_rollouts
from protocol.rollout_config import SAMPLE, JudgeConfig
from protocol.rollouts import Group, Shape, decode_group, encode_group
from training.assignment import judged_groups, judgment_seeds
from training.environments.protocol import Component, ComponentSpec, EnvSpec, Info, Observation, Step
from training.rollout import Tokenizer
from training.tokenizer import tokenizer_of

_NUMBER: Final = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


class Judging:
    """Ask for a score of one sample (`training.environments.protocol.Environment`)."""

    def __init__(self, judge: JudgeConfig, prompt: str) -> None:
        self._judge = judge
        self._prompt = prompt
        self._score = judge.low
        self.player = 0
        self.spec = EnvSpec(
            ENVIRONMENT,
            VERSION,
            max_turns=1,
            max_tokens=judge.answer_tokens,
            components=(ComponentSpec(SCORE, low=judge.low, high=judge.high),),
            max_action_bytes=64 * (judge.answer_tokens + 1),
        )

    def reset(self, seed: int) -> tuple[Observation, Info]:
        """Show the prompt; the seed only keys the noise."""
        self._score = self._judge.low
        return self._prompt, {}

    def step(self, action: str) -> Step:
        """Take the answer."""
        self._score = score_of(self._judge, action)
        return "", self._score, True, False, {}

    def components(self, player: int = 0) -> tuple[Component, ...]:
        """Return the score."""
        return (Component(SCORE, self._score),)


def score_of(judge: JudgeConfig, answer: str) -> float:
    """Return the first decimal number of an answer, cut to the judge's range; `low` where there is none."""
    found = _NUMBER.search(answer)
    return judge.low if found is None else min(max(float(found[0]), judge.low), judge.high)


def prompt_of(judge: JudgeConfig, tokenizer: Tokenizer, text: str) -> str:
    """Return what a judge is shown of a sample's text, cut at its end to what fits.

    Letters outside of the judge's vocabulary become question marks.

    Raises:
        ConfigError: the prompt alone does not fit.
    """
    room = judge.tokens - judge.answer_tokens
    try:
        tokenizer.encode(judge.prompt.replace(SAMPLE, text))
    except ValueError:
        text = text.encode("ascii", "replace").decode()
    while True:
        prompt = judge.prompt.replace(SAMPLE, text)
        try:
            excess = len(tokenizer.encode(prompt)) - room
        except ValueError as error:
            raise ConfigError(f"the judge's vocabulary: {error}") from error
        if excess <= 0:
            return prompt
        if not text:
            raise ConfigError(
                f"the judge's prompt has {excess} tokens more than fit beside its answer",
                hint="shorten judge.prompt or raise judge.tokens in the manifest",
            )
        text = text[: max(0, len(text) - max(excess // 4, 1))]


@dataclass(frozen=True)
class Charge:
    """Name a group that a unit has to judge."""

    number: int  # whose unit it is part of
    group: int  # its index there
    seed: int  # of the judgment


class Docket:
    """Hold what the units of one round judge: the rollouts that the round before merged.

    Args:
        beacon: of the round's assignment, 64 hex digits.
        judged: the units of the record before, in its order (`protocol.lessons.Lessons.judged`).
        read: gives the blob of an address; asked once each, when it is needed.
    """

    def __init__(
        self,
        manifest: RunManifest,
        beacon: str,
        round_: int,
        judged: Sequence[Lesson],
        read: Callable[[str], bytes],
    ) -> None:
        self.manifest = manifest
        self._place = (beacon, round_)
        self._blobs = {one.number: one.blob for one in judged}
        self._read = read
        self._groups: dict[int, tuple[bytes, ...]] = {}

    def charges(self, number: int) -> tuple[Charge, ...]:
        """Return what one number judges, in order; nothing where the round before did not merge a unit of it."""
        named = judged_groups(self.manifest, *self._place, tuple(self._blobs), number)
        seeds = judgment_seeds(self.manifest, *self._place, number, len(named))
        return tuple(Charge(*name, seed) for name, seed in zip(named, seeds, strict=True))

    def environments(self, charge: Charge) -> tuple[Judging, ...]:
        """Return what is asked about each sample of a group.

        Raises:
            Malformed: what was published is no rollouts of the run.
            ConfigError: the judge's prompt does not fit its context.
        """
        judge, group = judge_of(self.manifest), self._group(charge)
        texts = (self._tokenizers[0].decode(sample.tokens.tolist()) for sample in group)
        return tuple(Judging(judge, prompt_of(judge, self._tokenizers[1], text)) for text in texts)

    def _group(self, charge: Charge) -> Group:
        if charge.number not in self._groups:
            data = self._read(self._blobs[charge.number])
            self._groups[charge.number] = read_rollouts(self.manifest, data)
        return decode_group(self._groups[charge.number][charge.group], Shape.of(self.manifest))

    @cached_property
    def _tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """Return the policy's and the judge's."""
        return tokenizer_of(self.manifest), tokenizer_of(judging(self.manifest))


def check_judge(manifest: RunManifest) -> None:
    """Refuse a run whose judge nobody can ask here.

    Raises:
        ConfigError: its tokenizer is not here, or its prompt does not fit.
    """
    if manifest.judge is not None:
        prompt_of(manifest.judge, tokenizer_of(judging(manifest)), "")


def judgments_of(
    manifest: RunManifest, charges: Sequence[Charge], groups: Sequence[Group]
) -> tuple[Judgment, ...]:
    """Return judgments as they are published: one group of answers for each charge."""
    shape = Shape.of(judging(manifest))
    return tuple(
        Judgment(charge.number, charge.group, encode_group(group, shape))
        for charge, group in zip(charges, groups, strict=True)
    )


def scores_of(manifest: RunManifest, judgment: Judgment) -> tuple[float, ...]:
    """Return what a judgment gives each sample of its group.

    Raises:
        Malformed: it is no group of the judging run.
    """
    group = decode_group(judgment.data, Shape.of(judging(manifest)))
    return tuple(float(sample.rewards[0, 0]) for sample in group)
