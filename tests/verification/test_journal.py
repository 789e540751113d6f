from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from protocol.errors import ConfigError, Held
from protocol.messages import Seal, Verdict
from tests.verification.testbed import Testbed, key
from verification.journal import VerdictJournal


def body(bed: Testbed, number: int = 1, outcome: int = 1) -> Verdict:
    return Verdict.model_validate(
        {
            "number": number,
            "verifier": 4,
            "outcome": outcome,
            "commitment": "ab" * 32,
            "opening": None,
            "segment": 0,
            "profile": "cpu-fp32",
            "reason": "",
            "distance": 0.0,
            "tensor": "",
            "replay_cpu_s": 0.0,
        }
    )


def test_a_unit_is_judged_once_for_ever(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "verifier" / "journal.sqlite"
    with VerdictJournal.open(path, key(4).address) as journal:
        first = journal.sign(key(4), bed.manifest, 0, body(bed), ["aa" * 32])
        again = journal.sign(key(4), bed.manifest, 0, body(bed, outcome=3), ["bb" * 32])
        assert again == first
        assert journal.sign(key(4), bed.manifest, 1, body(bed, outcome=3), []).body.outcome == 3
    assert path.stat().st_mode & 0o077 == 0
    with VerdictJournal.open(path, key(4).address) as journal:
        assert journal.verdict(bed.run, 0, 1) == first
        assert journal.verdict(bed.run, 0, 2) is None
        assert [one.round for one in journal.verdicts(bed.run)] == [0, 1]
        assert journal.verdicts(bed.run, since_round=1)[0].body.outcome == 3


def test_a_unit_is_sealed_once_for_ever(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    said = Seal(number=1, verifier=4, commitment="ab" * 32, opening="cd" * 32, segment=0, seal="ef" * 32)
    other = said.model_copy(update={"seal": "01" * 32})
    with VerdictJournal.open(path, key(4).address) as journal:
        assert journal.sealed(bed.run, 2, 1) is None
        first = journal.seal(key(4), bed.manifest, 2, said, (0.1, -2.5), "aa" * 32)
        assert journal.seal(key(4), bed.manifest, 2, other, (9.0,), "bb" * 32) == first
    with VerdictJournal.open(path, key(4).address) as journal:
        kept = journal.sealed(bed.run, 2, 1)
        assert kept == first
        assert (kept.message.body, kept.fingerprint, kept.salt) == (said, (0.1, -2.5), "aa" * 32)
        assert journal.seals(bed.run) == (first,)
        assert journal.seals(bed.run, since_round=3) == ()


def test_a_restored_verifier_neither_seals_nor_judges_what_it_may_have_judged(
    bed: Testbed, tmp_path: Path
) -> None:
    path, said = tmp_path / "journal.sqlite", body(bed)
    seal = Seal(number=1, verifier=4, commitment="ab" * 32, opening="cd" * 32, segment=0, seal="ef" * 32)
    with VerdictJournal.open(path, key(4).address) as journal:
        first = journal.sign(key(4), bed.manifest, 0, said, [])
    copy = path.read_bytes()
    path.unlink()
    (tmp_path / "another").touch()  # so that the inode is not the old one's again
    path.write_bytes(copy)
    with VerdictJournal.open(path, key(4).address, clock=lambda: 0.0) as journal:
        assert journal.settle(bed.run, 2, 10) == 4
        assert journal.sign(key(4), bed.manifest, 0, said, []) == first
        for round_ in (0, 3):
            with pytest.raises(Held):
                journal.sign(key(4), bed.manifest, round_, body(bed, number=2), [])
            with pytest.raises(Held):
                journal.seal(key(4), bed.manifest, round_, seal, (0.1,), "aa" * 32)
        assert journal.seals(bed.run) == ()
        assert journal.sign(key(4), bed.manifest, 4, body(bed, number=2), []).round == 4


def test_evidence_is_kept_for_the_newest_verdicts(bed: Testbed, tmp_path: Path) -> None:
    with VerdictJournal.open(tmp_path / "journal", key(4).address) as journal:
        for round_ in range(4):
            files = [f"{round_:064x}", "ff" * 32] if round_ != 2 else []
            journal.sign(key(4), bed.manifest, round_, body(bed), files)
        assert journal.evidence(bed.run, 2) == {f"{1:064x}", f"{3:064x}", "ff" * 32}
        assert journal.evidence(bed.run, 0) == frozenset()


def test_one_process_holds_a_journal(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with VerdictJournal.open(path, key(4).address), pytest.raises(ConfigError, match="another process"):
        VerdictJournal.open(path, key(4).address)


def test_a_journal_of_another_key_or_kind_is_refused(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    VerdictJournal.open(path, key(4).address).__exit__()
    with pytest.raises(ConfigError, match="another peer key"):
        VerdictJournal.open(path, key(5).address)
    other = tmp_path / "other"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE x (y)")
    database.close()
    with pytest.raises(ConfigError, match="not a verifier's journal"):
        VerdictJournal.open(other, key(4).address)
    broken = tmp_path / "broken"
    broken.write_bytes(b"noise" * 1000)
    with pytest.raises(ConfigError, match="damaged"):
        VerdictJournal.open(broken, key(4).address)
    broken.write_bytes(b"")
    with pytest.raises(ConfigError, match="is empty"):
        VerdictJournal.open(broken, key(4).address)


def test_a_journal_damaged_in_the_middle_is_refused_and_left_alone(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with VerdictJournal.open(path, key(4).address) as journal:
        for round_ in range(20):
            journal.sign(key(4), bed.manifest, round_, body(bed), ["ab" * 32])
    good = path.read_bytes()
    bad = good[:4096] + b"\xff" * 4096 + good[8192:]
    path.write_bytes(bad)
    with pytest.raises(ConfigError, match="damaged"):
        VerdictJournal.open(path, key(4).address)
    assert path.read_bytes() == bad


def test_a_journal_with_a_rollback_journal_instead_of_wal_still_opens(bed: Testbed, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with VerdictJournal.open(path, key(4).address) as journal:
        first = journal.sign(key(4), bed.manifest, 0, body(bed), [])
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    database.close()
    with VerdictJournal.open(path, key(4).address) as journal:
        assert journal.sign(key(4), bed.manifest, 0, body(bed, outcome=3), []) == first
