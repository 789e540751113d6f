"""A journal from a backup does not know what was signed since, and says nothing that could contradict it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from node.events import Train
from node.journal import Journal
from node.unit import opening, reveal
from protocol.clock import unix_time
from protocol.errors import Equivocation, Held
from protocol.keys import PeerKey
from protocol.messages import Receipt
from protocol.restored import HOLD_ROUNDS, ask_to_wait
from tests.node.test_journal import KEY, MANIFEST, RUN, opened, unit_of
from tests.node.test_machine import round_of
from tests.node.world import Contributor, World


def before_the_loss(directory: Path, *, ago_s: float = 0.0) -> Path:
    """Sign for round 3, and return the journal of a directory whose owner has backed it up so many seconds ago."""
    path = directory / "journal.sqlite"
    with Journal.open(path, KEY.address, clock=lambda: unix_time() - ago_s) as journal:
        journal.sign(KEY, MANIFEST, 3, unit_of(3).commitment, unit=unit_of(3))
    return path


def copied(path: Path) -> None:
    """Restore to another place."""
    elsewhere = path.with_name("backup")
    shutil.copy2(path, elsewhere)
    path.unlink()
    shutil.copy2(elsewhere, path.with_name("other"))
    path.with_name("other").rename(path)


def overwritten(path: Path) -> None:
    """Restore over the file, whose inode stays."""
    backup = path.read_bytes()
    inode = path.stat().st_ino
    path.write_bytes(backup)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("restore", [copied, overwritten])
def test_a_restored_journal_signs_nothing_that_may_have_been_signed_since(
    tmp_path: Path, restore: Callable[[Path], None]
) -> None:
    path = before_the_loss(tmp_path, ago_s=3600)
    restore(path)
    with opened(path) as journal:
        assert journal.restored
        assert journal.settle(RUN, 5, 10) == 5 + HOLD_ROUNDS
        for round_ in (4, 5, 6):
            with pytest.raises(Held, match="backup") as refused:
                journal.sign(KEY, MANIFEST, round_, unit_of(round_).commitment, unit=unit_of(round_))
            assert "round 7" in refused.value.hint
            with pytest.raises(Held):
                journal.sign(KEY, MANIFEST, round_, Receipt(number=1, entries=()))
        assert journal.units(RUN)[0].keys() == {3}
        assert journal.sign(KEY, MANIFEST, 7, unit_of(7).commitment, unit=unit_of(7)).round == 7
    with opened(path) as again:
        assert again.settle(RUN, 9, 10) == 7, "a restart is no restore"
        with pytest.raises(Held):
            again.sign(KEY, MANIFEST, 6, unit_of(6).commitment)


def test_a_journal_that_stayed_where_it_was_goes_on(tmp_path: Path) -> None:
    path = before_the_loss(tmp_path)
    journal = opened(path)
    journal.sign(KEY, MANIFEST, 4, unit_of(4).commitment, unit=unit_of(4))
    journal._database.close()  # as a kill does
    with opened(path) as again:
        assert not again.restored
        assert again.settle(RUN, 5, 10) == 0
        assert again.sign(KEY, MANIFEST, 5, unit_of(5).commitment).round == 5


@pytest.mark.parametrize("heir", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_what_opening_itself_writes_is_no_restore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heir: bool, killed: bool
) -> None:
    """A journal that lay still for long, and is opened by its key or by that key's successor."""
    path = before_the_loss(tmp_path)
    if killed:
        journal = opened(path)
        journal.sign(KEY, MANIFEST, 4, unit_of(4).commitment, unit=unit_of(4))
        wal = path.with_name(path.name + "-wal")
        left = path.read_bytes(), wal.read_bytes()
        journal._database.close()
        path.write_bytes(left[0])
        wal.write_bytes(left[1])
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}

    def change(_: Path) -> float:
        untouched = before == {one: one.read_bytes() for one in tmp_path.iterdir()}
        return 0.0 if untouched else unix_time() + 3600

    monkeypatch.setattr("protocol.journal.last_change", change)
    later = PeerKey(b"\x55" * 32).address if heir else KEY.address
    with Journal.open(path, later, heir_of=KEY.address) as journal:
        assert not journal.restored
        assert len(journal.statements()) == 1 + killed
    monkeypatch.undo()
    with Journal.open(path, later) as journal:
        assert not journal.restored


def test_what_the_journal_holds_is_said_again_and_what_it_fixes_is_said(tmp_path: Path) -> None:
    path = before_the_loss(tmp_path, ago_s=3600)
    overwritten(path)
    unit = unit_of(3)
    with opened(path) as journal:
        journal.settle(RUN, 3, 10)
        assert journal.sign(KEY, MANIFEST, 3, unit.commitment).body == unit.commitment
        assert journal.sign(KEY, MANIFEST, 3, reveal(unit)).body.kind == "reveal"
        assert journal.sign(KEY, MANIFEST, 3, opening(unit, 2, 0)).body.kind == "opening"
        with pytest.raises(Equivocation):
            journal.sign(KEY, MANIFEST, 3, unit_of(3, "another salt").commitment)
        for foreign in (reveal(unit_of(4)), opening(unit_of(4), 2, 0)):
            with pytest.raises(Held):
                journal.sign(KEY, MANIFEST, 4, foreign)


def test_a_second_restore_holds_back_again_and_each_run_for_itself(tmp_path: Path) -> None:
    path = before_the_loss(tmp_path)
    with opened(path) as journal:
        journal.mark_restored()
        assert journal.settle(RUN, 5, 10) == 7
        assert journal.settle("ef" * 32, None, 10) == 0, "nobody signs for a run before it opens"
        journal.mark_restored()
        assert journal.settle(RUN, 20, 10) == 22
        assert [(hold.run, hold.before) for hold in journal.holds] == [(RUN, 22)]


def test_a_key_without_its_journal_waits_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "home" / "journal.sqlite"
    ask_to_wait(path)
    with opened(path) as journal:
        assert journal.settle(RUN, 5, 10) == 15
        with pytest.raises(Held):
            journal.sign(KEY, MANIFEST, 14, unit_of(14).commitment)
    assert [one.name for one in path.parent.iterdir()] == ["journal.sqlite"]
    with opened(path) as again:
        assert again.settle(RUN, 30, 10) == 15


def test_a_restored_contributor_follows_in_silence_and_then_commits_again() -> None:
    """The machine, in a world that has not heard what the lost copy said: only its own restraint is left."""
    world = World()
    careless = Contributor(world, 1).ready_to_train()
    assert isinstance(careless.job, Train), "a journal that is not known to be restored would sign here"
    peer = Contributor(world, 1, signs_from=2).ready_to_train()
    for round_ in (0, 1):
        peer.look()
        assert peer.job is None
        assert peer.state.phase == "holding back"
        world.empty_round(round_)
        peer.look()
        peer.do()
    assert [*peer.said("commitment"), *peer.said("receipt")] == []
    peer.look()
    assert isinstance(peer.job, Train)
    round_of(world, 2, peer)
    assert peer.said("commitment") == [2]


def test_a_restored_witness_signs_no_receipt() -> None:
    world = World()
    others = [Contributor(world, number).ready_to_train() for number in (2, 3)]
    for other in others:
        other.do()
    restored = Contributor(world, 1, signs_from=2).ready_to_train()
    world.post(0)
    for peer in (*others, restored):
        peer.look()
    world.mine(world.manifest.deadlines.reveal)
    for peer in (*others, restored):
        peer.look()
    assert others[0].said("receipt") == [0]
    assert restored.said("receipt") == []


def test_a_commitment_of_the_lost_copy_costs_the_restored_peer_one_round() -> None:
    world = World()
    lost = Contributor(world, 1).ready_to_train()
    lost.do()
    restored = Contributor(world, 1, signs_from=1).ready_to_train()
    world.post(0)
    world.anchor(0)
    world.mine()
    restored.look()
    restored.do()
    assert restored.state.carry == "lost"
    assert restored.said("commitment") == []
