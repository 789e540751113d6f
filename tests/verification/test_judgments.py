"""What a judge says counts only as the beacon, the pinned prompt and the pinned parameters make it say."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.canonical import digest
from protocol.errors import Malformed
from protocol.judging import Judgment
from protocol.lessons import Lesson, Lessons
from protocol.manifest import CPU_EXACT, CPU_FP32
from protocol.messages import PASSED, PROVEN_FALSE
from protocol.published import Published, read_judgments, read_rollouts, write_published
from tests.verification.judged_run import (
    NUMBERS,
    Judged,
    honest_judge,
    judged_manifest,
    judged_round,
    nothing_learned,
)
from training.experience import Experience, judged_scores
from verification.rollouts import check_judgments
from verification.sampled import find_groups, judge_groups


def checked(judge: Judged, judgments: tuple[Judgment, ...] | None = None) -> None:
    found = judge.judgments if judgments is None else judgments
    check_judgments(judge.round.docket(), judge.number, found)


def test_honest_judgments_pass_in_every_arithmetic() -> None:
    judge = honest_judge()
    checked(judge)
    assert len(judge.groups) == 2 * judge.round.manifest.rollouts.sampling.groups  # type: ignore[union-attr]
    assert len({float(sample.rewards[0, 0]) for group in judge.groups for sample in group}) > 1
    for report in (
        judge_groups(judge.sampling(), CPU_FP32, CPU_FP32),
        judge_groups(judge.sampling(), CPU_FP32, CPU_EXACT),
        find_groups(judge.sampling(), CPU_FP32),
    ):
        assert report.outcome == PASSED, report.reason


def test_a_better_score_than_the_answer_means_is_found() -> None:
    judge = honest_judge()
    claimed = judge.changed(0, 1, rewards=1.0 - judge.groups[0][1].rewards)
    with pytest.raises(Malformed, match="claims score"):
        checked(claimed)


def test_an_answer_that_the_judge_does_not_give_is_proven_false() -> None:
    judge = honest_judge()
    sample = judge.groups[2][0]
    tokens = sample.tokens.copy()
    at = int(sample.turns[0, 0])
    tokens[at : at + 1] = ord("7")
    other = judge.changed(2, 0, tokens=tokens)
    groups = tuple(enumerate(other.groups))[2:3]
    assert judge_groups(other.sampling(groups), CPU_FP32, CPU_FP32).outcome == PROVEN_FALSE
    assert find_groups(other.sampling(groups), CPU_FP32).outcome == PROVEN_FALSE


def test_a_judge_that_reads_another_sample_is_found() -> None:
    judge = honest_judge()
    first, second = judge.groups[0], judge.groups[1]
    with pytest.raises(Malformed, match="the environment says something else"):
        checked(Judged(judge.round, judge.number, (second, first, *judge.groups[2:])))


def test_judgments_of_others_and_too_few_are_refused() -> None:
    judge, other = honest_judge(), honest_judge(NUMBERS[1])
    for wrong in (judge.judgments[:-1], other.judgments, judge.judgments[::-1], ()):
        with pytest.raises(Malformed, match="judgments, and not of the"):
            checked(judge, wrong)


def test_who_was_not_merged_before_judges_nothing() -> None:
    docket = judged_round().docket()
    assert docket.charges(77) == ()
    assert check_judgments(docket, 77, ()) == ()


def test_the_median_of_the_judges_takes_the_place_that_a_sample_left_open() -> None:
    manifest, round_ = judged_manifest(), judged_round()
    blobs = [
        write_published(
            manifest,
            Published(
                nothing_learned(manifest),
                # a blob holds rollouts too; whose does not matter here
                _groups(round_.blobs[number]),
                honest_judge(number).judgments,
            ),
        )
        for number in NUMBERS
    ]
    assert [len(read_judgments(manifest, blob)) for blob in blobs] == [6, 6, 6, 6]
    said = judged_scores(manifest, blobs)
    groups = [(number, index) for number in NUMBERS for index in range(3)]
    assert set(said) == set(groups), "everybody's groups were judged"
    by_hand: dict[tuple[int, int], list[tuple[float, ...]]] = {}
    for number in NUMBERS:
        judge = honest_judge(number)
        for charge, group in zip(round_.docket().charges(number), judge.groups, strict=True):
            assert charge.number != number, "nobody judges its own"
            scores = tuple(float(sample.rewards[0, 0]) for sample in group)
            by_hand.setdefault((charge.number, charge.group), []).append(scores)
    for name, scores in by_hand.items():
        assert len(scores) == 2
        assert said[name] == tuple((one + other) / 2 for one, other in zip(*scores, strict=True))
    files = {one.blob: round_.read(one.blob) for one in round_.lessons}
    judges = {lesson.blob: blob for lesson, blob in zip(_named(blobs), blobs, strict=True)}
    lessons = Lessons(learned=round_.lessons, judging=_named(blobs))
    experience = Experience.read(manifest, lessons, (files | judges).__getitem__)
    for name, group in zip(groups, experience.groups, strict=True):
        assert [float(sample.rewards[0, 1]) for sample in group] == list(said[name])
    unjudged = Experience.read(manifest, Lessons(learned=round_.lessons), files.__getitem__)
    assert not any(np.any(sample.rewards[:, 1]) for group in unjudged.groups for sample in group)


def _groups(blob: bytes) -> tuple[bytes, ...]:

    return read_rollouts(judged_manifest(), blob)


def _named(blobs: list[bytes]) -> tuple[Lesson, ...]:

    return tuple(Lesson(number=n, blob=digest(blob)) for n, blob in zip(NUMBERS, blobs, strict=True))
