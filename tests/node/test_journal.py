"""The journal forgets nothing, signs nothing twice, and refuses what is not its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from node.events import Progress
from node.journal import Journal
from node.unit import Unit, commit, reveal
from protocol.errors import ConfigError, Equivocation
from protocol.messages import Receipt, ReceivedUpdate, signing_digest
from tests.node.world import manifest, name, work
from tests.verification.testbed import key
from verification.commit import Carried

MANIFEST = manifest()
RUN = MANIFEST.run_id
KEY = key(1)


def unit_of(round_: int, salt: str = "salt") -> Unit:
    body = commit(
        RUN,
        round_,
        1,
        profile="cpu-fp32",
        parameters=name("p"),
        expected=Carried(),
        salt=name(salt),
        work=work(round_, 1),
    )
    id_ = signing_digest(MANIFEST.chain_id, MANIFEST.ledger, RUN, round_, "contributor", body).hex()
    return Unit(
        round=round_,
        commitment=body,
        commitment_id=id_,
        salt=name(salt),
        moments_before=None,
        residual_before=None,
        work=work(round_, 1),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def opened(path: Path) -> Journal:
    return Journal.open(path, KEY.address)


def test_a_statement_survives_a_kill_before_it_is_published(path: Path) -> None:
    unit = unit_of(0)
    journal = opened(path)
    message = journal.sign(KEY, MANIFEST, 0, unit.commitment, unit=unit)
    journal._database.close()  # as a kill does: nothing is flushed or finished after `sign` returned
    with opened(path) as again:
        assert again.units(RUN) == ({0: unit}, frozenset())
        assert again.sign(KEY, MANIFEST, 0, unit.commitment).wire == message.wire


def test_a_copy_of_the_files_taken_right_after_signing_holds_the_statement(
    path: Path, tmp_path: Path
) -> None:
    unit = unit_of(0)
    with opened(path) as journal:
        journal.sign(KEY, MANIFEST, 0, unit.commitment, unit=unit)
        copy = tmp_path / "after-the-kill"
        copy.mkdir()
        for file in tmp_path.glob("journal.sqlite*"):
            (copy / file.name).write_bytes(file.read_bytes())
    with opened(copy / path.name) as again, pytest.raises(Equivocation):
        again.sign(KEY, MANIFEST, 0, unit_of(0, "another salt").commitment)


def test_a_second_commitment_for_a_round_is_refused_even_after_reopening(path: Path) -> None:
    with opened(path) as journal:
        journal.sign(KEY, MANIFEST, 3, unit_of(3).commitment, unit=unit_of(3))
        with pytest.raises(Equivocation):
            journal.sign(KEY, MANIFEST, 3, unit_of(3, "another salt").commitment)
    with opened(path) as journal, pytest.raises(Equivocation):
        journal.sign(KEY, MANIFEST, 3, unit_of(3, "another salt").commitment)


def test_other_kinds_rounds_and_runs_are_other_statements(path: Path) -> None:
    other_run = manifest(name="other")
    with opened(path) as journal:
        bodies = [(MANIFEST, 0, unit_of(0).commitment), (MANIFEST, 0, reveal(unit_of(0)))]
        bodies += [(MANIFEST, 1, unit_of(1).commitment), (other_run, 0, unit_of(0, "x").commitment)]
        ids = {journal.sign(KEY, of, round_, body).id for of, round_, body in bodies}
        assert len(ids) == 4


def test_a_reveal_or_opening_is_signed_once_too(path: Path) -> None:
    first = reveal(unit_of(0))
    with opened(path) as journal:
        journal.sign(KEY, MANIFEST, 0, first)
        with pytest.raises(Equivocation):
            journal.sign(KEY, MANIFEST, 0, first.model_copy(update={"salt": name("other")}))


def test_progress_and_released_units_are_remembered(path: Path) -> None:
    with opened(path) as journal:
        assert journal.progress(RUN) is None
        for round_ in range(4):
            unit = unit_of(round_)
            journal.sign(KEY, MANIFEST, round_, unit.commitment, unit=unit)
            journal.advance(RUN, Progress(round_ + 1, name("parameters", round_ + 1), "unit"))
        for round_ in (0, 1, 3):
            journal.release(RUN, round_)
    with opened(path) as journal:
        assert journal.progress(RUN) == Progress(4, name("parameters", 4), "unit")
        units, released = journal.units(RUN)
        assert set(units) == {2, 3}, "units that are settled and no longer carried are left out"
        assert released == {3}


def test_a_second_process_on_the_directory_is_refused(path: Path) -> None:
    with opened(path):
        with pytest.raises(ConfigError, match="another process"):
            opened(path)
        program = "import sys; from node.journal import Journal; from pathlib import Path;"
        program += "Journal.open(Path(sys.argv[1]), sys.argv[2])"
        other = subprocess.run(
            [sys.executable, "-c", program, str(path), KEY.address],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "another process" in other.stderr
    opened(path).close()


def test_a_killed_process_leaves_no_lock_behind(path: Path) -> None:
    program = "import os, sys; from node.journal import Journal; from pathlib import Path;"
    program += "journal = Journal.open(Path(sys.argv[1]), sys.argv[2]); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", program, str(path), KEY.address], check=False)
    assert killed.returncode == -9
    opened(path).close()


@pytest.mark.parametrize("damage", ["emptied", "noise", "middle", "truncated"])
def test_a_damaged_journal_is_refused_and_left_alone(path: Path, damage: str) -> None:
    with opened(path) as journal:
        for round_ in range(6):
            journal.sign(KEY, MANIFEST, round_, unit_of(round_).commitment, unit=unit_of(round_))
    good = path.read_bytes()
    bad = {
        "emptied": b"",
        "noise": b"\x5a" * len(good),
        "middle": good[:4096] + b"\xff" * 4096 + good[8192:],
        "truncated": good[: len(good) // 2],
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(ConfigError) as caught:
        opened(path)
    assert caught.value.hint
    assert path.read_bytes() == bad


def test_another_programs_database_is_refused(path: Path) -> None:
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE statement (x)")
    foreign.commit()
    foreign.close()
    with pytest.raises(ConfigError, match="not a journal"):
        opened(path)


def test_another_keys_journal_is_refused(path: Path) -> None:
    opened(path).close()
    with pytest.raises(ConfigError, match="another peer key"):
        Journal.open(path, key(2).address)


def test_the_file_is_readable_by_its_owner_only(path: Path) -> None:
    with opened(path):
        assert path.stat().st_mode & 0o077 == 0


def test_a_start_that_was_killed_half_way_leaves_nothing_to_stumble_over(path: Path) -> None:
    path.with_name(path.name + ".new").write_bytes(b"half a journal")
    opened(path).close()
    assert path.exists()


def test_a_witness_finds_its_receipt_again_and_signs_no_other(path: Path) -> None:
    entry = ReceivedUpdate(number=2, symbols=name("s"), blob=name("b"))
    first, second = Receipt(number=1, entries=()), Receipt(number=1, entries=(entry,))
    with opened(path) as journal:
        assert journal.receipts(RUN) == {}
        journal.sign(KEY, MANIFEST, 3, first)
        journal.sign(KEY, MANIFEST, 3, unit_of(3).commitment, unit=unit_of(3))
    with opened(path) as journal:
        assert journal.receipts(RUN) == {3: first}
        with pytest.raises(Equivocation):
            journal.sign(KEY, MANIFEST, 3, second)
        journal.advance(RUN, Progress(4, name("p"), "nothing"))
        assert journal.receipts(RUN) == {}, "of rounds that are over nothing is said again"
