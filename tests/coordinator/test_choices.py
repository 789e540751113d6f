"""What is chosen of a run becomes fields of its manifest, and what no run can be is refused."""

from __future__ import annotations

import pytest

from coordinator.choices import Choices, MomentsStart, Optimizer
from protocol.errors import UsageError
from training.preset import preset

PUBLISHED = Choices(moments=MomentsStart.PUBLISHED)


def test_what_nobody_chose_is_left_to_the_manifest() -> None:
    Choices().check(preset("sort"))
    assert Choices().fields({"inner": {"lr": 1e-3}}) == {}


def test_every_choice_is_a_field() -> None:
    chosen = Choices(delay=2, joint_k=1024, moments=MomentsStart.FRESH, optimizer=Optimizer.MUON)
    chosen.check()
    assert chosen.fields() == {
        "outer": {"delay": 2},
        "merging": {"joint_k": 1024},
        "inner": {"moments": "fresh", "muon": {}},
    }


def test_a_choice_keeps_the_fields_that_were_given() -> None:
    given = {"inner": {"lr": 1e-3}, "merging": {"similarity": 0.5}, "rounds": 4}
    assert PUBLISHED.fields(given) == {"inner": {"lr": 1e-3, "moments": "published"}}
    rates = {"inner": {"muon": {"lr": 0.01}}}
    assert Choices(optimizer=Optimizer.MUON).fields(rates) == rates
    assert Choices(optimizer=Optimizer.ADAMW).fields(rates) == {"inner": {"muon": None}}
    assert Choices(joint_k=9).fields(given) == {"merging": {"similarity": 0.5, "joint_k": 9}}


@pytest.mark.parametrize(
    "one", [Choices(delay=1), Choices(joint_k=1024), PUBLISHED, Choices(optimizer=Optimizer.ADAMW)], ids=str
)
def test_a_policy_has_none_of_these_choices(one: Choices) -> None:
    with pytest.raises(UsageError, match="a policy samples from the round's parameters"):
        one.check(preset("sort"))


@pytest.mark.parametrize("more", [{"delay": 1}, {"joint_k": 1024}], ids=str)
def test_published_moments_exclude_what_starts_elsewhere(more: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="has its own moments"):
        Choices(moments=MomentsStart.PUBLISHED, **more).check()


@pytest.mark.parametrize(
    ("choices", "rounds"),
    [
        (Choices(), 39),
        (Choices(moments=MomentsStart.CARRIED), 40),
        (Choices(moments=MomentsStart.FRESH), 40),
        (Choices(delay=1), 40),
        (Choices(joint_k=1024), 40),
    ],
    ids=str,
)
def test_nobody_lies_about_what_is_not_published(choices: Choices, rounds: int) -> None:
    choices.check(cheats=["skip-steps"], rounds=rounds)
    with pytest.raises(UsageError, match="publishes none"):
        choices.check(cheats=["skip-steps", "forged-moments"], rounds=rounds)


def test_whoever_publishes_moments_can_lie_about_them() -> None:
    PUBLISHED.check(cheats=["forged-moments"], rounds=1)
    Choices().check(cheats=["forged-moments"])
