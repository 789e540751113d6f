"""The coordinator's rounds as scenarios on a simulated chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coordinator.state import Anchor, Close, Heard, Open, Post, Say, State, Voided
from protocol.canonical import ZERO_DIGEST, digest
from protocol.chain import PostedRoot
from protocol.manifest import DeadlineConfig
from protocol.messages import CommitmentList, Reveal
from protocol.state import NOTHING_CARRIED

MakeWorld = Callable[..., Any]


def test_everybody_delivers_and_the_run_finishes(world: Any) -> None:
    world.open()
    for round_ in range(3):
        world.play(round_)
    world.mine(10)
    assert [world.reasons(round_) for round_ in range(3)] == [{1: "", 2: "", 3: ""}] * 3
    assert world.chain.final == world.parameters[3]
    assert len(world.chain.finalized) == 2
    assert world.refusals() == []
    pay = world.statements["rewards", 2, 1].body.entries
    unit, verdict = world.manifest.pay.unit_wei, world.manifest.pay.verdict_wei
    assert sum(entry.cumulative_wei for entry in pay) == 9 * unit + 18 * verdict


def test_the_run_opens_when_all_staked_contributors_and_two_verifiers_are_ready(world: Any) -> None:
    world.ready((1, 2, 101, 102))
    assert not world.wanted(Open)
    world.ready((3,))
    assert len(world.wanted(Open)) == 1


def test_the_run_opens_at_the_deadline_with_who_is_there(make_world: MakeWorld) -> None:
    world = make_world(min_peers=2)
    world.ready((1, 101))
    world.mine(25)
    assert not world.wanted(Open), "below min_peers it keeps waiting"
    world.ready((2,))
    assert len(world.wanted(Open)) == 1


def test_a_peer_with_another_program_is_not_ready(world: Any) -> None:
    world.ready((1, 2, 101, 102))
    world.ready((3,), program="00" * 32)
    assert not world.wanted(Open)
    assert world.refusals() == ["its program digest is not the run's"]


def test_a_run_that_is_not_on_chain_does_not_open(world: Any) -> None:
    world.chain.created_at = None
    world.ready()
    world.mine(50)
    assert not world.wanted(Open)


def test_who_misses_the_commit_deadline_is_left_out(world: Any) -> None:
    world.open()
    world.commit(0, (1, 2))
    assert not world.wanted(Post)
    world.mine(10)
    assert world.chain.roots[0].count == 2
    world.commit(0, (3,))
    assert world.refusals() == ["late: the list of round 0 is closed"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parameters": digest(b"other")}, "commitment starts from other parameters"),
        ({"assignment": digest(b"other")}, "commitment to other batches than the assigned ones"),
        ({"moments_before": digest(b"other")}, "commitment breaks the chain of carried moments or residual"),
        ({"segments": ("00" * 32, "00" * 32)}, "commitment with 2 segment roots instead of 3"),
    ],
)
def test_an_invalid_commitment_is_refused_with_its_reason(
    world: Any, changes: dict[str, object], reason: str
) -> None:
    world.open()
    world.commit(0, (1,), **changes)
    world.commit(0, (2, 3))
    assert world.refusals() == [reason]
    assert world.chain.roots[0].count == 2, "the list closes once everybody was heard"


def test_a_peer_that_is_not_on_the_roster_is_refused(world: Any) -> None:
    world.open()
    world.join(4, "contributor")
    world.commit(0, (4,))
    assert world.refusals() == ["number 4 is not on the roster of round 0"]


def test_a_commitment_for_the_next_round_waits_for_it(world: Any) -> None:
    world.open()
    world.commit(0)
    world.reveal(0)
    early = world.state  # the round is anchored, its beacon not there yet
    assert early.round == 1
    world.mine()
    world.commit(1, (1,))
    assert 1 in world.state.current.commitments


def test_the_same_symbols_twice_void_the_later_unit(world: Any) -> None:
    world.open()
    world.commit(0, (1, 3))
    world.commit(0, (2,), symbols=world.symbols(1, 0))
    world.reveal(0, (2,), symbols=world.symbols(1, 0))
    world.reveal(0, (1, 3))
    assert world.reasons(0) == {1: "", 2: "same symbols as number 1 in round 0", 3: ""}


def test_symbols_of_an_earlier_round_do_not_merge_again(world: Any) -> None:
    world.open()
    world.play(0)
    world.commit(1, (1, 2))
    world.commit(1, (3,), symbols=world.symbols(3, 0))
    world.reveal(1, (1, 2))
    world.reveal(1, (3,), symbols=world.symbols(3, 0))
    assert world.reasons(1)[3] == "own symbols repeated"


def test_a_late_reveal_does_not_merge(world: Any) -> None:
    world.open()
    world.commit(0)
    commitment = world.state.current.commitments[3]
    world.reveal(0, (1, 2))
    world.mine(6)
    assert world.reasons(0) == {1: "", 2: "", 3: "late: not revealed in time"}
    assert {draw.number for draw in world.draws(0)} == {1, 2, 3}, "a unit that is not shown can be drawn"
    late = Reveal(
        number=3,
        commitment=commitment.id,
        symbols=world.symbols(3, 0),
        salt="5a" * 32,
        blob="00" * 32,
        blob_bytes=1,
        train_cpu_s=0,
    )
    world.hear(3, 0, late)
    assert "late: round 0 is over" in world.refusals()


def test_a_reveal_that_does_not_open_its_commitment_does_not_merge(world: Any) -> None:
    world.open()
    world.commit(0)
    world.reveal(0, (1, 2))
    world.reveal(0, (3,), salt="00" * 32)
    assert world.reasons(0)[3] == "reveal does not open the committed update"


def test_an_update_that_is_not_delivered_does_not_merge(world: Any) -> None:
    world.withheld = {2}
    world.open()
    world.commit(0)
    world.reveal(0)
    assert ("record", 0, 0) not in world.statements
    world.mine(5)
    assert world.reasons(0)[2] == "late: update not delivered in time"


def test_an_empty_roster_makes_empty_rounds_at_the_pace_of_the_deadline(world: Any) -> None:
    world.open()
    for number in (1, 2, 3):
        world.chain.slash(number)
    world.play(0)
    world.mine()
    assert world.state.round == 1
    assert 1 not in world.chain.roots, "newcomers get the time of the commit phase"
    world.mine(40)
    assert world.chain.roots[1].root == ZERO_DIGEST
    assert world.chain.final == world.parameters[1], "nobody merged, so nothing changed"


def test_a_newcomer_is_on_the_next_roster(world: Any) -> None:
    world.open()
    world.commit(0)
    world.join(4, "contributor")
    world.reveal(0)
    world.mine()
    world.judge_all(0)
    world.commit(1, (1, 2, 3))
    assert 1 not in world.chain.roots
    world.commit(1, (4,))
    assert world.chain.roots[1].count == 4


def test_transactions_are_asked_for_once(world: Any) -> None:
    world.hold = {Post}
    world.open()
    world.commit(0)
    world.mine(3)
    assert len(world.wanted(Post)) == 1


def _play_to(world: Any, stop: str) -> None:
    """Bring the run to a point where the process may be killed."""
    world.open()
    world.play(0)
    if stop == "mid commit":
        world.commit(1, (1, 2))
        return
    if stop in ("list said", "root posted", "reveals", "record said"):
        world.hold = {"list said": {Post}, "record said": {Anchor}}.get(stop, set())
    world.commit(1)
    if stop in ("list said", "root posted"):
        return
    world.reveal(1, (1, 2) if stop == "reveals" else (1, 2, 3))
    if stop in ("reveals", "record said"):
        return
    world.mine()
    world.judge_all(1, but=lambda draw: draw.number == 2)


def _resume(world: Any, stop: str) -> None:
    world.hold = set()
    world.restart()
    if stop == "mid commit":
        world.commit(1, (3,))
    if stop in ("mid commit", "list said", "root posted"):
        world.reveal(1)
    if stop == "reveals":
        world.reveal(1, (3,))
    if world.state.judging.get(1) is None or world.state.judging[1].draws is None:
        world.mine()
    judged = set(world.state.judging[1].verdicts)
    world.judge_all(1, but=lambda draw: draw.number in judged)


@pytest.mark.parametrize(
    "stop", ["mid commit", "list said", "root posted", "reveals", "record said", "judging"]
)
def test_a_restart_gives_the_same_list_and_record(make_world: MakeWorld, stop: str) -> None:
    undisturbed, killed = make_world(), make_world()
    for world in (undisturbed, killed):
        _play_to(world, stop)
    before = dict(killed.statements)
    undisturbed.release()
    killed.held.clear()
    _resume(undisturbed, stop)
    killed.restart()
    killed.restart()
    _resume(killed, stop)
    for key, message in before.items():
        assert killed.statements[key].id == message.id
    for key in (("commitments", 1, 0), ("record", 1, 0)):
        assert killed.statements[key].id == undisturbed.statements[key].id
    assert killed.state.round == 2
    assert {one.outcome for one in killed.decisions} == {"passed"}
    killed.play(2)
    killed.mine(10)
    assert killed.chain.final is not None


def test_after_a_long_absence_the_deadline_gets_some_grace(world: Any) -> None:
    world.open()
    world.commit(0, (1, 2))
    world.chain.mine(30)
    world.restart()
    assert ("commitments", 0, 0) not in world.statements, "peers repeat what the coordinator missed"
    world.commit(0, (3,))
    assert world.chain.roots[0].count == 3


def test_a_lost_list_is_never_said_a_second_time(world: Any) -> None:
    world.open()
    world.commit(0)
    lost = world.statements.pop(("commitments", 0, 0))
    world.heard = world.heard[:-1]
    world.restart()
    world.mine(30)
    assert ("commitments", 0, 0) not in world.statements
    assert "is not here" in world.state.trouble
    world.feed(Heard(lost))
    assert "waiting for listed commitments of [3]" in world.state.trouble
    world.commit(0, (3,))
    assert world.state.trouble == ""
    assert [unit.commitment for unit in world.record(0).units] == [
        entry.commitment for entry in lost.body.entries
    ]


def test_another_root_on_chain_stops_the_round_loudly(world: Any) -> None:
    world.hold = {Post}
    world.open()
    world.commit(0)
    world.chain.roots[0] = PostedRoot("77" * 32, 3, world.chain.height)
    world.mine()
    assert "another root" in world.state.trouble
    assert world.state.current.phase == "post"


def test_the_machine_asks_for_nothing_when_the_run_is_over(world: Any) -> None:
    world.open()
    for round_ in range(3):
        world.play(round_)
    world.mine(10)
    assert world.mine(5) == []
    assert len(world.wanted(Close)) == 1
    restarted: State = world.state
    world.restart()
    assert world.mine(3) == []
    assert world.state.round == restarted.round == 3


def test_a_list_names_each_commitment_by_number(world: Any) -> None:
    world.open()
    world.commit(0, (3, 1, 2))
    said = [effect.body for effect in world.wanted(Say) if isinstance(effect.body, CommitmentList)]
    assert [[entry.number for entry in one.entries] for one in said] == [[1, 2, 3]]


def test_a_record_that_gets_on_chain_too_late_voids_its_round(make_world: MakeWorld) -> None:
    world = make_world(deadlines=DeadlineConfig(ready=20, commit=10, reveal=5, record=4, verify=6, appeal=1))
    world.open()
    world.play(0)
    world.hold = {Anchor}
    world.commit(1)
    world.reveal(1)
    world.mine(9)
    world.release()
    world.mine()
    assert world.wanted(Voided) == [Voided(1)]
    assert all(unit.merged for unit in world.record(1).units), "the record was written in time"
    assert world.parameters[2] == world.parameters[1]
    assert 1 not in world.state.judging, "nothing is drawn, so nothing waits for verdicts"
    world.commit(2)
    assert world.refusals() == [], "everybody starts afresh"
    assert world.state.current.commitments[1].body.moments_before == NOTHING_CARRIED
    world.reveal(2)
    world.mine()
    world.judge_all(2)
    world.mine(10)
    pay = world.statements["rewards", 2, 1].body.entries
    unit, verdict = world.manifest.pay.unit_wei, world.manifest.pay.verdict_wei
    assert sum(entry.cumulative_wei for entry in pay) == 6 * unit + 12 * verdict
    assert [standing.earlier for standing in world.state.standings.values()] == [2, 2, 2]


def test_who_carries_something_out_of_a_void_round_is_refused(make_world: MakeWorld) -> None:
    world = make_world(deadlines=DeadlineConfig(ready=20, commit=10, reveal=5, record=4, verify=6, appeal=1))
    world.open()
    world.hold = {Anchor}
    world.commit(0)
    after = world.state.current.commitments[1].body.moments_after
    world.reveal(0)
    world.mine(9)
    world.release()
    world.mine()
    world.commit(1, (1,), moments_before=after)
    assert world.refusals() == ["commitment breaks the chain of carried moments or residual"]
