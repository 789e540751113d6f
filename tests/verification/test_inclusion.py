"""Which commitments are a round's units, by list and chain alone."""

from __future__ import annotations

import pytest

from protocol.chain import PostedRoot
from protocol.messages import CommitmentEntry, CommitmentList, RoundRecord, UnitRecord
from tests.node.world import manifest
from tests.verification.simchain import SimChain
from verification.inclusion import (
    MAX_FORCED,
    MAX_LISTED,
    counted_entries,
    forced_entries,
    is_final,
    last_force_block,
)
from verification.lateness import in_force


def entry(number: int, tag: int = 0) -> CommitmentEntry:
    return CommitmentEntry(number=number, commitment=f"{tag:02x}{number:062x}")


def listed(*numbers: int) -> CommitmentList:
    return CommitmentList(entries=tuple(entry(number) for number in numbers))


@pytest.fixture
def chain() -> SimChain:
    roles = dict.fromkeys(range(1, 6), "contributor") | {7: "verifier"}
    found = SimChain(manifest(), roles, force_blocks=3)
    found.height += 1
    return found


def test_what_is_forced_comes_after_the_list_in_the_order_of_the_chain() -> None:
    found = counted_entries(listed(5, 2), [entry(4), entry(1), entry(3)])
    assert [one.number for one in found] == [2, 5, 4, 1, 3]


def test_of_a_number_that_is_listed_and_forced_the_listed_commitment_is_the_unit() -> None:
    found = counted_entries(listed(1, 2), [entry(2, tag=9), entry(3)])
    assert found == (entry(1), entry(2), entry(3))


def test_only_the_rosters_forcings_count(chain: SimChain) -> None:
    chain.out[4] = 5  # has had no stake since before the run opened
    chain.forcings[0] = {
        one.number: one.commitment for one in (entry(4), entry(7), entry(3), entry(1), entry(9))
    }
    assert forced_entries(chain, 0) == (entry(3), entry(1))
    assert forced_entries(chain, 1) == ()


@pytest.mark.parametrize(
    ("on_list", "room"), [(0, MAX_LISTED), (MAX_LISTED - 40, 40), (MAX_LISTED, MAX_FORCED), (150, MAX_FORCED)]
)
def test_a_record_has_room_for_so_many_forced_units_and_the_first_take_it(on_list: int, room: int) -> None:
    forced = [entry(1000 - place) for place in range(300)]
    found = counted_entries(listed(*range(1, 1 + on_list)), forced)
    assert len(found) == on_list + room
    assert list(found[on_list:]) == forced[:room]


def test_forcing_by_those_who_are_listed_takes_nobodys_room() -> None:
    forced = [entry(number, tag=1) for number in range(1, 1 + MAX_LISTED)] + [entry(500)]
    assert counted_entries(listed(*range(1, 1 + MAX_LISTED)), forced)[-1] == entry(500)


def test_nothing_can_be_forced_in_once_the_window_is_over(chain: SimChain) -> None:
    assert last_force_block(chain, 0) is None
    assert not is_final(chain, 0, listed(1))
    chain.posted[0] = PostedRoot("ab" * 32, 1, chain.height)
    assert last_force_block(chain, 0) == chain.height + 3
    chain.height += 2
    assert not is_final(chain, 0, listed(1))
    chain.height += 1
    assert is_final(chain, 0, listed(1))


def test_where_everybody_is_listed_nothing_can_be_forced_in_from_the_first(chain: SimChain) -> None:
    whole, short = listed(*range(1, 6)), listed(1, 2, 3, 5)
    assert not is_final(chain, 0, whole)
    chain.posted[0] = PostedRoot("ab" * 32, 5, chain.height)
    assert is_final(chain, 0, whole)
    assert not is_final(chain, 0, short)
    chain.out[4] = 5  # it is not on the roster
    assert is_final(chain, 0, short)


def test_a_unit_that_does_not_count_is_not_in_force() -> None:
    one = UnitRecord(number=1, commitment="ab" * 32, merged=True)
    two = UnitRecord(number=2, commitment="cd" * 32, merged=False, counts=False, reason="late: not told")
    record = RoundRecord(parameters="ef" * 32, units=(one, two), judged=())
    assert in_force(record, void=False).units == (one,)
    assert in_force(record, void=True).units == ()
    whole = record.model_copy(update={"units": (one,)})
    assert in_force(whole, void=False) is whole
