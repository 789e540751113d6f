"""What the coordinator makes of commitments that are forced in on chain beside its list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.judging import export
from coordinator.state import Anchor, Say
from protocol.canonical import digest, tagged_digest
from protocol.messages import Receipt, ReceivedUpdate, Reveal, UnitRecord
from tests.coordinator.conftest import verification

WINDOW = 2
MakeWorld = Callable[..., Any]


@pytest.fixture
def world(make_world: MakeWorld) -> Any:
    """Return an open run of three contributors, of whom two have committed, and whose list is on chain."""
    found = make_world()
    found.chain.force_blocks = WINDOW
    found.open()
    found.commit(0, (1, 3))
    found.mine(10)
    assert found.chain.roots[0].count == 2
    return found


def force(world: Any, number: int, round_: int = 0, **changes: object) -> Any:
    """Force a commitment in, in a block of its own; return it untold."""
    body = world.commitment(number, round_, **changes)
    message = world.signed(number, round_, body)
    world.chain.forcings.setdefault(round_, {})[number] = message.id
    world.mine()
    return body


def units(world: Any, round_: int = 0) -> dict[int, UnitRecord]:
    record = world.statements["record", round_, 0].body
    return {unit.number: unit for unit in record.units}


def test_a_late_commitment_that_is_forced_in_is_a_unit_like_any_other(world: Any) -> None:
    body = force(world, 2)
    world.hear(2, 0, body)
    world.reveal(0)
    assert not world.wanted(Say)[1:], "somebody may still be forced in"
    world.mine(WINDOW)
    assert world.reasons(0) == {1: "", 3: "", 2: ""}
    assert list(units(world)) == [1, 3, 2], "in the order of precedence"
    assert world.refusals() == []
    world.mine()
    assert {draw.number for draw in world.draws(0)} == {1, 2, 3}
    dossier = export(world.state.judging[0])
    assert [one.body.number for one in dossier.commitments] == [1, 3, 2]
    world.judge_all(0)
    world.mine(2)
    world.chain.force_blocks = 0
    world.play(1)
    carried = world.state.records[1].body
    assert {unit.number for unit in carried.units if unit.counts} == {1, 2, 3}, "it carried on from that unit"
    world.play(2)
    world.mine(10)
    pay = {entry.account: entry.cumulative_wei for entry in world.statements["rewards", 2, 1].body.entries}
    assert pay[world.chain.members[2].wallet] == 3 * world.manifest.pay.unit_wei


def test_a_commitment_told_before_its_forcing_is_seen_waits_for_it(world: Any) -> None:
    body = world.commitment(2, 0)
    world.hear(2, 0, body)
    assert world.refusals() == [], "it may still be forced in"
    force(world, 2)
    world.reveal(0)
    world.mine(WINDOW)
    assert units(world)[2].merged


def test_a_reveal_that_comes_before_its_forcing_is_seen_waits_too(world: Any) -> None:
    body = world.commitment(2, 0)
    early = Reveal(
        number=2,
        commitment=world.signed(2, 0, body).id,
        symbols=world.symbols(2, 0),
        salt="5a" * 32,
        blob=tagged_digest("test/blob", world.symbols(2, 0)),
        blob_bytes=100,
        train_cpu_s=1.0,
    )
    world.hear(2, 0, early)
    world.hear(2, 0, body)
    force(world, 2)
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    assert units(world)[2].merged


def test_who_is_late_and_does_not_force_itself_in_is_refused_when_the_window_closes(world: Any) -> None:
    world.commit(0, (2,))
    world.mine(WINDOW)
    assert world.refusals() == ["late: the list of round 0 is closed"]
    world.reveal(0, (1, 3))
    assert set(units(world)) == {1, 3}


def test_a_forced_commitment_that_nobody_tells_is_put_down_and_not_waited_for(world: Any) -> None:
    force(world, 2)
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    unit = units(world)[2]
    assert (unit.counts, unit.merged, unit.symbols) == (False, False, None)
    assert unit.reason == "late: its commitment was forced in and not told"
    world.mine()
    assert {draw.number for draw in world.draws(0)} == {1, 3}
    assert [one.body.number for one in export(world.state.judging[0]).commitments] == [1, 3]
    world.commit(1)
    assert 2 in world.state.current.commitments, "it starts from nothing, like a newcomer"


def test_a_forced_commitment_that_breaks_a_rule_is_put_down_with_its_reason(world: Any) -> None:
    world.hear(2, 0, force(world, 2, assignment=digest(b"other")))
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    unit = units(world)[2]
    assert (unit.counts, unit.reason) == (
        False,
        "invalid: commitment to other batches than the assigned ones",
    )
    world.mine()
    dossier = export(world.state.judging[0])
    assert [one.body.number for one in dossier.commitments] == [1, 3, 2], "so that anybody can check that"


def test_a_refused_commitment_may_be_forced_in_and_is_still_none(make_world: MakeWorld) -> None:
    world = make_world()
    world.chain.force_blocks = WINDOW
    world.open()
    world.commit(0, (2,), parameters=digest(b"other"))
    world.commit(0, (1, 3))
    force(world, 2, parameters=digest(b"other"))
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    assert units(world)[2].reason == "invalid: commitment starts from other parameters"


def test_what_a_stranger_to_the_roster_forces_in_is_nothing(world: Any) -> None:
    world.join(4, "contributor")
    world.chain.forcings[0] = {4: "ab" * 32}
    world.mine()
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    assert set(units(world)) == {1, 3}


def test_of_a_number_that_is_listed_another_forced_commitment_is_nothing(world: Any) -> None:
    force(world, 1, symbols=digest(b"other"))
    world.reveal(0, (1, 3))
    world.mine(WINDOW)
    assert {number: unit.merged for number, unit in units(world).items()} == {1: True, 3: True}


def test_an_update_copied_from_a_reveal_and_forced_in_is_the_later_one(make_world: MakeWorld) -> None:
    world = make_world()
    world.chain.force_blocks = WINDOW
    world.open()
    world.commit(0, (2, 3))
    world.mine(10)
    world.reveal(0, (2, 3))
    world.hear(1, 0, force(world, 1, symbols=world.symbols(3, 0)))
    world.reveal(0, (1,), symbols=world.symbols(3, 0))
    world.mine(WINDOW)
    assert world.reasons(0) == {2: "", 3: "", 1: "same symbols as number 3 in round 0"}


def test_no_record_is_said_or_anchored_while_the_window_is_open(world: Any) -> None:
    world.reveal(0, (1, 3))
    for _ in range(WINDOW - 1):
        world.mine()
        assert not [effect for effect in world.wanted(Say) if effect.body.kind == "record"]
    world.mine()
    assert [effect for effect in world.wanted(Say) if effect.body.kind == "record"]
    assert not world.wanted(Anchor)
    world.mine()
    assert world.wanted(Anchor)


def test_where_everybody_is_listed_the_record_is_said_at_once_and_anchored_after_the_window(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.chain.force_blocks = WINDOW
    world.open()
    world.commit(0)
    world.reveal(0)
    assert ("record", 0, 0) in world.statements
    world.mine(WINDOW)
    assert not world.wanted(Anchor)
    world.mine()
    assert world.wanted(Anchor)


@pytest.mark.parametrize("told", [True, False])
def test_a_restart_knows_what_was_forced_in(world: Any, told: bool) -> None:
    body = force(world, 2)
    if told:
        world.hear(2, 0, body)
    world.restart()
    world.reveal(0, (1, 2, 3) if told else (1, 3))
    world.hold.add(Anchor)
    world.mine(10)
    assert units(world)[2].counts == told
    if not told:
        world.hear(2, 0, body)  # after the record, which stays
        assert not units(world)[2].counts
    world.hold.clear()
    world.restart()
    world.mine(2)
    assert world.chain.record_hash(0) is not None
    anchored = world.state.judging[0]
    assert (2 in anchored.commitments) == told
    assert [one.body.number for one in anchored.ignored] == ([] if told else [2])


@pytest.fixture
def witnessed(make_world: MakeWorld) -> Any:
    found = make_world(verification=verification(witnesses=3))
    found.chain.force_blocks = WINDOW
    found.open()
    found.commit(0, (1, 3))
    found.mine(10)
    return found


def receive(world: Any, witness: int, numbers: tuple[int, ...]) -> None:
    entries = tuple(
        ReceivedUpdate(
            number=number,
            symbols=world.symbols(number, 0),
            blob=tagged_digest("test/blob", world.symbols(number, 0)),
        )
        for number in numbers
    )
    world.hear(witness, 0, Receipt(number=witness, entries=entries))


def test_receipts_of_whoever_saw_more_forced_in_wait_until_we_see_it(witnessed: Any) -> None:
    world = witnessed
    world.reveal(0, (1, 3))
    for witness in (1, 3):
        receive(world, witness, (1, 2, 3))
    assert world.refusals() == []
    world.hear(2, 0, force(world, 2))
    world.reveal(0, (2,))
    receive(world, 2, (1, 2, 3))
    world.mine(WINDOW)
    assert world.reasons(0) == {1: "", 3: "", 2: ""}


def test_an_untold_commitment_is_waited_for_where_witnesses_hold_its_update(witnessed: Any) -> None:
    world = witnessed
    body = force(world, 2)
    world.reveal(0, (1, 3))
    for witness in (1, 3):
        receive(world, witness, (1, 2, 3))
    world.mine(WINDOW + 1)
    assert ("record", 0, 0) not in world.statements
    world.hear(2, 0, body)
    world.reveal(0, (2,))
    receive(world, 2, (1, 2, 3))
    assert units(world)[2].merged
