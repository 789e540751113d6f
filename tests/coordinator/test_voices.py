"""What `--judge` and `--people` mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.voices import Voices
from protocol.errors import ConfigError, UsageError
from tests.protocol.makers import key
from training.preset import preset

ONE, TWO = key("person 0").address, key("person 1").address


def test_people_are_named_by_address_or_in_a_file(tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_text(f"{ONE}\n{TWO}\n")
    for given in ((ONE, TWO), (str(listed),)):
        found = Voices(people=given, people_weight=0.5).signals(None)
        assert found.people is not None
        assert found.people.addresses == (ONE, TWO)
        assert found.people_weight == 0.5
    assert Voices().signals(None).rewards() == ()


@pytest.mark.parametrize(("people", "why"), [(("0x12",), "--people"), ((ONE, ONE.lower()), "named twice")])
def test_people_that_make_no_sense_are_refused(people: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Voices(people=people).signals(None)


@pytest.mark.parametrize(
    ("voices", "why"),
    [
        (Voices(people=(ONE,), people_weight=0.0), "no weight"),
        (Voices(judge="tuned", judge_weight=0.0), "no weight"),
        (Voices(own_weight=0.0), "nobody would reward anything"),
    ],
)
def test_a_voice_without_weight_is_refused(voices: Voices, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        voices.check(preset("sort"))


@pytest.mark.parametrize("voices", [Voices(people=(ONE,)), Voices(judge="tuned")])
def test_nobody_compares_what_a_text_teaches(voices: Voices) -> None:
    with pytest.raises(UsageError, match="about samples of a policy"):
        voices.check(None)


def test_a_judge_scores_one_player() -> None:
    with pytest.raises(UsageError, match="several play nim"):
        Voices(judge="tuned").check(preset("nim"))


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Voices(people=(str(tmp_path / "nobody"),)).signals(None)
    with pytest.raises(ConfigError, match="cannot read"):
        Voices(judge=str(tmp_path / "nowhere")).open_judge(preset("sort"), lambda line: None)
