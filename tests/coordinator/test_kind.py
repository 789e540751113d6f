"""What `--people` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.kind import asking_people
from protocol.errors import ConfigError, UsageError
from tests.protocol.makers import key
from training.preset import preset

ONE, TWO = key("person 0").address, key("person 1").address


def test_people_are_named_by_address_or_in_a_file(tmp_path: Path) -> None:
    listed = tmp_path / "people.txt"
    listed.write_text(f"{ONE}\n{TWO}\n")
    for given in ([ONE, TWO], [str(listed)]):
        chosen = asking_people(preset("sort"), given, 0.5)
        assert chosen is not None
        assert chosen.people is not None
        assert chosen.people.addresses == (ONE, TWO)
        assert chosen.people_weight == 0.5
    assert asking_people(preset("sort"), None, 0.5) == preset("sort")


@pytest.mark.parametrize(
    ("people", "weight", "why"),
    [
        (["0x12"], 1.0, "--people"),
        ([ONE, ONE.lower()], 1.0, "named twice"),
        ([ONE], 0.0, "no weight"),
    ],
)
def test_people_that_make_no_sense_are_refused(people: list[str], weight: float, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        asking_people(preset("sort"), people, weight)


def test_nobody_compares_what_a_text_teaches() -> None:
    with pytest.raises(UsageError, match="samples of a policy"):
        asking_people(None, [ONE], 1.0)


def test_a_file_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        asking_people(preset("sort"), [str(tmp_path / "nobody")], 1.0)
