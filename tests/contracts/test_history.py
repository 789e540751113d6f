"""Questions about a run are answered from events alone."""

from hypothesis import given
from hypothesis import strategies as st

from contracts.events import (
    Claimed,
    CommitmentsPosted,
    Event,
    RecordAnchored,
    Registered,
    RewardsFinalized,
    RunCreated,
    RunFinished,
    RunOpened,
    Slashed,
    StakeChanged,
)
from contracts.history import (
    claims,
    commitments_posted,
    finalized_rewards,
    record_anchored,
    roster,
    run_created,
    run_finished,
    run_opened_block,
    slashes,
)
from contracts.types import Role

RUN, OTHER = "ab" * 32, "cd" * 32
TX = "0x" + "00" * 32
ROOT = bytes(32)


def test_each_question_sees_its_run_and_round_only() -> None:
    events: list[Event] = [
        RunCreated(1, 0, TX, OTHER, "0x1", "0x2"),
        RunOpened(2, 0, TX, OTHER),
        RunCreated(3, 0, TX, RUN, "0x3", "0x4"),
        RunOpened(4, 0, TX, RUN),
        CommitmentsPosted(5, 0, TX, OTHER, 0, ROOT, 1),
        CommitmentsPosted(6, 0, TX, RUN, 0, ROOT, 2),
        RecordAnchored(7, 0, TX, RUN, 0, ROOT),
        CommitmentsPosted(8, 0, TX, RUN, 1, ROOT, 3),
        RewardsFinalized(9, 0, TX, RUN, 0, ROOT, 10),
        RewardsFinalized(9, 1, TX, OTHER, 0, ROOT, 11),
        Claimed(10, 0, TX, RUN, "0x5", 4, 4),
        Slashed(11, 0, TX, 1, RUN, 0, 9, ROOT, ROOT),
        Slashed(11, 1, TX, 1, OTHER, 0, 9, ROOT, ROOT),
        RunFinished(12, 0, TX, RUN, ROOT),
    ]
    assert run_opened_block(events, RUN) == 4
    created, finished = run_created(events, RUN), run_finished(events, RUN)
    assert created is not None
    assert created.coordinator == "0x3"
    assert finished is not None
    assert finished.block == 12
    posted = commitments_posted(events, RUN, 0)
    assert posted is not None
    assert posted.count == 2
    assert record_anchored(events, RUN, 0) is not None
    assert record_anchored(events, RUN, 1) is None
    assert [event.total for event in finalized_rewards(events, RUN)] == [10]
    assert [event.amount for event in claims(events, RUN)] == [4]
    assert [event.run for event in slashes(events, RUN)] == [RUN]
    for nothing in (run_opened_block, run_created, run_finished):
        assert nothing(events[:2], RUN) is None


changes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 200)), max_size=40
)  # (blocks later, number, stake)


@given(changes, st.integers(0, 60), st.integers(0, 200))
def test_roster_is_everybody_whose_last_stake_suffices(
    steps: list[tuple[int, int, int]], block: int, min_stake: int
) -> None:
    events: list[Event] = []
    stake: dict[int, int] = {}
    now = 1
    for later, number, amount in steps:
        now += later
        if not any(isinstance(event, Registered) and event.number == number for event in events):
            events.append(Registered(now, 0, TX, number, f"w{number}", f"p{number}", 1 + number % 2, ROOT, 0))
        events.append(StakeChanged(now, 1, TX, number, amount))
        if now <= block:
            stake[number] = amount
    found = {role: roster(events, block, role, min_stake) for role in Role}
    for role, entries in found.items():
        assert all(entry.number % 2 + 1 == role for entry in entries)
        assert [entry.number for entry in entries] == sorted(entry.number for entry in entries)
    both = {entry.number: entry.stake for entries in found.values() for entry in entries}
    assert both == {number: amount for number, amount in stake.items() if amount >= min_stake}
