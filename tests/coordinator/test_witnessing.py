"""Rounds in which witnesses' receipts, and not the coordinator, say what came in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from coordinator.state import Anchor, FetchUpdate, Voided
from protocol.canonical import tagged_digest
from protocol.manifest import DeadlineConfig
from protocol.messages import Receipt, ReceivedUpdate
from tests.coordinator.conftest import verification
from verification.witness import witnesses

MakeWorld = Callable[..., Any]


@pytest.fixture
def world(make_world: MakeWorld) -> Any:
    """Return a world in which all three contributors are witnesses, ready to reveal in round 0."""
    deadlines = DeadlineConfig(ready=20, commit=10, reveal=5, receipt=2, record=6, verify=6, appeal=1)
    found = make_world(verification=verification(witnesses=3), deadlines=deadlines)
    found.open()
    found.commit(0)
    return found


def attest(
    world: Any, witness: int, numbers: Iterable[int] = (1, 2, 3), round_: int = 0, **changes: object
) -> None:
    entries = []
    for number in numbers:
        symbols = world.symbols(number, round_)
        fields = {"number": number, "symbols": symbols, "blob": tagged_digest("test/blob", symbols)}
        entries.append(ReceivedUpdate.model_validate(fields | changes))
    world.hear(witness, round_, Receipt(number=witness, entries=tuple(entries)))


def recorded(world: Any, round_: int = 0) -> bool:
    return ("record", round_, 0) in world.statements


def test_the_record_is_written_as_soon_as_all_receipts_are_there(world: Any) -> None:
    world.reveal(0)
    for witness in (1, 2):
        attest(world, witness)
    assert not recorded(world), "a witness that takes part is waited for"
    attest(world, 3)
    assert recorded(world)
    assert world.reasons(0) == {1: "", 2: "", 3: ""}
    ids = {message.body.number: message.id for message in world.heard if message.body.kind == "receipt"}
    assert world.record(0).receipts == (ids[1], ids[2], ids[3])
    (exported,) = [one.dossier for one in world.effects if type(one).__name__ == "Export"][:1]
    assert [one.body.number for one in exported.receipts] == [1, 2, 3]


def test_what_witnesses_received_in_time_merges_although_we_did_not_hear_in_time(world: Any) -> None:
    world.reveal(0, (1, 2))
    world.mine(6)  # the reveals are closed, the receipts are not
    for witness in (1, 2, 3):
        attest(world, witness)
    assert not recorded(world), "the reveal is not here, and its update neither"
    world.mine()
    world.reveal(0, (3,))
    assert world.reasons(0) == {1: "", 2: "", 3: ""}


def test_what_a_majority_did_not_receive_does_not_merge_although_we_hold_it(world: Any) -> None:
    world.reveal(0)
    attest(world, 1, (1, 2))
    attest(world, 2, (1, 2))
    attest(world, 3)
    assert world.reasons(0) == {1: "", 2: "", 3: "late: named by 0 of 2 receipts"}
    unit = world.record(0).units[2]
    assert unit.symbols == world.symbols(3, 0), "it was shown all the same"


def test_without_a_majority_of_receipts_our_word_decides_at_the_deadline(world: Any) -> None:
    world.reveal(0, (1, 2))
    attest(world, 1, (1,))
    world.mine(6)
    assert not recorded(world)
    world.mine(1)
    assert world.reasons(0) == {1: "", 2: "", 3: "late: not revealed in time"}
    assert len(world.record(0).receipts) == 1


def test_a_witness_that_does_not_take_part_is_not_waited_for(make_world: MakeWorld) -> None:
    world = make_world(verification=verification(witnesses=3))
    world.open()
    world.commit(0, (1, 2))
    world.mine(10)
    world.reveal(0, (1, 2))
    attest(world, 1, (1, 2))
    assert not recorded(world)
    attest(world, 2, (1, 2))
    assert world.reasons(0) == {1: "", 2: ""}


@pytest.mark.parametrize("contributors", [1, 2])
def test_small_networks_are_witnessed_by_all(make_world: MakeWorld, contributors: int) -> None:
    numbers = tuple(range(1, contributors + 1))
    world = make_world(contributors=contributors, verification=verification(witnesses=3))
    world.open()
    world.commit(0, numbers)
    world.reveal(0, numbers)
    assert not recorded(world)
    for witness in numbers:
        attest(world, witness, numbers)
    assert world.reasons(0) == dict.fromkeys(numbers, "")


def test_receipts_of_those_who_were_not_drawn_are_refused(make_world: MakeWorld) -> None:
    world = make_world(contributors=4, verification=verification(witnesses=1))
    world.open()
    everybody = (1, 2, 3, 4)
    world.commit(0, everybody)
    beacon = world.chain.assignment_beacon(0)
    (drawn,) = witnesses(world.manifest, world.run, beacon, 0, everybody)
    other = next(number for number in everybody if number != drawn)
    attest(world, other, everybody)
    assert world.refusals() == [f"number {other} is not a witness of the round"]
    world.reveal(0, everybody)
    attest(world, drawn, everybody)
    assert recorded(world)
    attest(world, other, everybody)
    assert len(world.record(0).receipts) == 1


def test_a_copy_does_not_merge_although_witnesses_received_it(make_world: MakeWorld) -> None:
    world = make_world(verification=verification(witnesses=3))
    world.open()
    world.commit(0, (1, 3))
    first = world.symbols(1, 0)
    world.commit(0, (2,), symbols=first)
    world.reveal(0, (1, 3))
    world.reveal(0, (2,), symbols=first)
    for witness in (1, 2, 3):
        entries = tuple(
            ReceivedUpdate(number=number, symbols=symbols, blob=tagged_digest("test/blob", symbols))
            for number, symbols in ((1, first), (2, first), (3, world.symbols(3, 0)))
        )
        world.hear(witness, 0, Receipt(number=witness, entries=entries))
    assert world.reasons(0) == {1: "", 2: "same symbols as number 1 in round 0", 3: ""}


def test_an_update_that_its_owner_serves_to_witnesses_alone_comes_from_them(world: Any) -> None:
    world.withheld = {2}
    other = "e7" * 32  # another encoding of the same symbols
    world.held_by_witnesses = {other}
    world.reveal(0)
    for witness in (1, 3, 2):
        attest(world, witness, blob=other)
    assert world.reasons(0) == {1: "", 2: "", 3: ""}
    assert world.record(0).units[1].blob == other
    asked = [(one.reveal.body.number, one.blob) for one in world.wanted(FetchUpdate)]
    assert len(asked) == len(set(asked)), "once each"
    assert (2, other) in asked


def test_bytes_that_nobody_delivers_void_the_round_instead_of_making_a_liar(world: Any) -> None:
    world.withheld = {2}
    world.reveal(0)
    for witness in (1, 2, 3):
        attest(world, witness)
    assert not recorded(world)
    world.mine(8)
    assert "waiting for updates of [2]" in world.state.trouble
    world.mine(4)
    assert recorded(world), "too late to be believed, so whatever it says is no lie"
    assert world.wanted(Voided) == [Voided(0)]
    assert world.state.round == 1
    assert world.state.trouble == ""


def test_a_second_reveal_that_opens_the_commitment_takes_the_fault_away(world: Any) -> None:
    world.reveal(0, (1, 2))
    world.reveal(0, (3,), salt="00" * 32)
    world.reveal(0, (3,))
    for witness in (1, 2, 3):
        attest(world, witness)
    assert world.reasons(0) == {1: "", 2: "", 3: ""}


def test_a_receipt_that_comes_after_the_record_changes_nothing(world: Any) -> None:
    world.hold = {Anchor}
    world.reveal(0)
    attest(world, 1)
    attest(world, 2)
    world.mine(7)
    assert recorded(world)
    before = recorded(world)
    attest(world, 3, ())
    assert recorded(world) == before
    world.release()
    assert world.state.round == 1
    assert len(world.state.previous.receipts) == 2


@pytest.mark.parametrize("when", ["one receipt", "record said"])
def test_a_restart_keeps_the_receipts(make_world: MakeWorld, when: str) -> None:
    world = make_world(verification=verification(witnesses=3))
    world.open()
    world.commit(0)
    world.reveal(0)
    world.hold = {Anchor} if when == "record said" else set()
    attest(world, 1)
    if when == "record said":
        attest(world, 2)
        attest(world, 3)
        before = world.record(0)
    world.hold = set()
    world.restart()
    if when == "record said":
        assert world.record(0) == before
    else:
        attest(world, 2)
        attest(world, 3)
    assert len(world.record(0).receipts) == 3
    assert [one.body.number for one in world.state.previous.receipts] == [1, 2, 3]
