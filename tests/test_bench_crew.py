"""How a bench talks with the processes that it starts."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench._crew import family, open_crew

TWO_LINES = 'import sys; print(\'{"a": 1}\\n{"a": 2}\', flush=True); sys.stdin.read()'
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
SILENT = "import sys; sys.exit('no reason')"


@dataclass(frozen=True)
class Here:
    """A host that is this machine."""

    def command(self, argv):
        return argv


def crew(directory: Path, *programs: str):
    commands = [[sys.executable, "-c", program] for program in programs]
    return open_crew([Here()] * len(programs), commands, directory, "crew")


def test_lines_that_come_at_once_are_heard_one_by_one(tmp_path):
    with crew(tmp_path, TWO_LINES) as found:
        assert [found.hear(0), found.hear(0)] == [{"a": 1}, {"a": 2}]


def test_all_are_asked_and_all_answer(tmp_path):
    with crew(tmp_path, ECHO, ECHO) as found:
        assert found.ask({"b": 3}) == [{"b": 3}] * 2
        assert found.cpu_s() >= 0


def test_who_ends_instead_of_answering_is_named_with_its_log(tmp_path):
    with (
        crew(tmp_path, SILENT) as found,
        pytest.raises(RuntimeError, match="process 0 said nothing\nno reason"),
    ):
        found.hear(0)


def test_a_family_has_its_root():
    assert family(os.getpid())
    assert family(0x7FFFFFFF) == []
