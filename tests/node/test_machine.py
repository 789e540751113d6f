"""A unit's life, and everything that can come between."""

from __future__ import annotations

import pytest

from node.events import Aggregate, Cancel, Fetch, Progress, Publish, Release, Start, Train
from protocol.messages import Commitment, Judgement, Opening, Reveal, UnitRecord, sign
from protocol.state import NOTHING_CARRIED
from tests.node.world import Contributor, World, manifest, name, work
from tests.verification.testbed import key
from verification.commit import Carried, check_commitment
from verification.merge import check_reveal
from verification.sample import draws

EVERYBODY = {"schedule": {"fresh_probability": 1.0}}


def round_of(world: World, round_: int, *peers: Contributor) -> None:
    """Live a whole round: everybody trains, commits, reveals and aggregates."""
    for peer in peers:
        peer.look()
        peer.do()
    world.post(round_)
    for peer in peers:
        peer.look()
    world.anchor(round_)
    world.mine()
    for peer in peers:
        peer.look()
        peer.do()


def test_an_honest_round_commits_reveals_and_aggregates_in_this_order() -> None:
    world = World()
    peer = Contributor(world, 1)
    assert Start(Fetch(0, world.parameters(0))) in peer.look()
    assert any(isinstance(e, Start) and isinstance(e.job, Train) for e in peer.do())
    peer.do()
    assert (peer.said("commitment"), peer.said("reveal")) == ([0], [])
    world.post(0)
    peer.look()
    assert peer.said("reveal") == [0]
    world.anchor(0)
    peer.look()
    assert peer.job == Aggregate(0, world.parameters(0), world.record(0).units)
    assert peer.job.moving.updates == (work(0, 1).blob,)
    peer.do()
    assert peer.disk.progress == Progress(1, world.parameters(1), "unit")
    world.mine()
    peer.look()
    made = work(0, 1)
    beacon = world.chain.assignment_beacon(1)
    assert peer.job == Train(1, beacon, world.parameters(1), made.moments, made.residual)


def test_what_is_committed_and_revealed_passes_the_public_rules() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    first, second = world.pool.commitments(0)[1], world.pool.commitments(1)[1]
    carried = Carried(first.body.moments_after, first.body.residual_after)
    for round_, signed, expected in ((0, first, Carried()), (1, second, carried)):
        check_commitment(
            world.manifest,
            signed.round,
            signed.body,
            parameters=world.parameters(round_),
            assignment=work(round_, 1).assignment,
            expected=expected,
        )
    check_reveal(first, world.pool.reveals(0)[1].body, max_bytes=100)


def test_nothing_is_revealed_before_a_root_on_chain_includes_us() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.mine(5)
    peer.look()
    assert peer.said("reveal") == []


def test_nothing_is_revealed_while_the_list_does_not_give_the_root() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0, root=name("another root"))
    peer.look()
    assert peer.said("reveal") == []


def test_left_out_of_the_list_it_reveals_nothing_and_starts_afresh() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0, without=[1])
    peer.look()
    assert peer.said("reveal") == []
    assert peer.state.phase == "left out"
    world.anchor(0)
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.moments is None
    assert peer.job.residual is None
    assert 0 in peer.disk.released


def test_a_record_with_another_hash_than_the_anchored_one_is_ignored() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    peer.look()
    world.anchor(0, hash_=name("what the coordinator anchored instead"))
    world.mine()
    peer.look()
    assert peer.job is None
    assert peer.state.round == 0


def test_a_record_that_contradicts_our_aggregation_stops_with_both_roots() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    world.post(1)
    peer.look()
    lie = name("other parameters")
    world.anchor(1, world.record(1, parameters=lie))
    peer.look()
    (stop,) = peer.stops
    assert stop.error is not None
    assert lie in stop.error
    assert world.parameters(1) in stop.error
    assert peer.look() == []


def test_too_late_to_commit_it_follows_and_trains_the_next_round() -> None:
    world = World()
    world.mine(world.manifest.deadlines.commit + 1)
    peer = Contributor(world, 1).ready_to_train()
    assert peer.job is None
    world.empty_round(0)
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.round == 1


def test_a_round_that_goes_on_without_us_cancels_the_training() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    world.post(0)
    assert Cancel() in peer.look()
    assert peer.said("commitment") == []


def test_training_that_has_begun_may_run_over_the_deadline_while_no_root_is_posted() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    world.mine(world.manifest.deadlines.commit + 5)
    peer.look()
    peer.do()
    assert peer.said("commitment") == [0]


@pytest.mark.parametrize("number", [4, 7], ids=["a newcomer that has no stake yet", "no contributor"])
def test_who_is_not_on_the_roster_follows(number: int) -> None:
    world = World()
    world.chain.numbers.setdefault(4, "contributor")
    world.chain.out[4] = 0
    peer = Contributor(world, number).ready_to_train()
    assert peer.job is None
    assert peer.state.phase == "following"
    world.empty_round(0)
    peer.look()
    peer.do()
    assert peer.state.round == 1
    assert peer.effects.count(Start(Fetch(0, world.parameters(0)))) == 1


def test_slashed_it_leaves_the_roster_and_stays_in_step() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    world.chain.out[1] = world.chain.height  # counts from the next anchor on
    round_of(world, 0, peer)
    assert peer.job is None
    world.empty_round(1)
    peer.look()
    peer.do()
    assert (peer.state.round, peer.state.phase) == (2, "following")


def test_back_on_the_roster_it_trains_again() -> None:
    world = World()
    world.chain.out[1] = 0
    peer = Contributor(world, 1).ready_to_train()
    del world.chain.out[1]
    world.empty_round(0)
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)


@pytest.mark.parametrize("outcome", ["void", "false"])
def test_a_void_judgement_resets_what_is_carried(outcome: str) -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    world.post(1)
    peer.look()
    judged = Judgement.model_validate({"round": 0, "number": 1, "segment": 0, "outcome": outcome})
    world.anchor(1, world.record(1, judged=(judged,)))
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert (peer.job.round, peer.job.moments, peer.job.residual) == (2, None, None)
    peer.do()
    assert Carried(*_before(world, 2, 1)) == Carried()


def test_where_moments_are_fresh_only_the_residual_is_carried() -> None:
    world = World(manifest(inner={"moments": "fresh"}))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    before, unit = peer.state.units[0], peer.state.units[1]
    assert _before(world, 1, 1) == (NOTHING_CARRIED, before.commitment.residual_after)
    assert (unit.moments_before, unit.residual_before) == (None, before.work.residual)


def _before(world: World, round_: int, number: int) -> tuple[str, str]:
    body = world.pool.commitments(round_)[number].body
    return body.moments_before, body.residual_before


def test_somebody_elses_void_judgement_changes_nothing_for_us() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.do()
    world.post(1)
    peer.look()
    world.anchor(1, world.record(1, judged=(Judgement(round=0, number=2, segment=0, outcome="void"),)))
    world.mine()
    peer.look()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.moments == work(1, 1).moments


def test_a_joiner_far_behind_starts_from_the_newest_record() -> None:
    world = World()
    for round_ in range(4):
        world.empty_round(round_)
    peer = Contributor(world, 2)
    peer.look()
    assert peer.job == Fetch(3, world.parameters(3))
    peer.do()
    assert peer.job == Aggregate(3, world.parameters(3), ())
    peer.do()
    assert isinstance(peer.job, Train)
    assert (peer.job.round, peer.job.moments) == (4, None)


def test_a_joiner_a_little_behind_aggregates_for_itself() -> None:
    world = World()
    world.empty_round(0)
    world.empty_round(1)
    peer = Contributor(world, 2).ready_to_train()
    assert peer.job == Aggregate(0, world.parameters(0), ())
    peer.do()
    peer.do()
    assert isinstance(peer.job, Train)
    assert peer.job.round == 2


def test_far_behind_without_the_newest_record_it_waits_for_it() -> None:
    world = World()
    for round_ in range(3):
        world.empty_round(round_)
    world.post(3)
    unseen = world.record(3)
    world.chain.anchors[3], world.chain.records[3] = world.chain.height, unseen.digest().hex()
    peer = Contributor(world, 2)
    peer.look()
    assert peer.job is None
    world.say(3, unseen)
    peer.look()
    assert peer.job == Fetch(3, world.parameters(3))


def test_killed_while_training_it_trains_again_while_time_remains() -> None:
    world = World()
    job = Contributor(world, 1).ready_to_train()
    assert isinstance(job.job, Train)
    again = job.restarted()
    again.look()
    assert again.job == job.job


def test_killed_between_journal_and_publication_it_says_the_same_again() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    again = peer.restarted()
    (publish,) = [e for e in again.look() if isinstance(e, Publish)]
    assert publish.body == peer.disk.signed["commitment", 0, 0]
    assert again.job is None


def test_killed_before_the_reveal_it_reveals_and_never_trains_the_round_again() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    again = peer.restarted()
    again.look()
    assert (again.said("commitment"), again.said("reveal"), again.job) == ([], [0], None)


def test_killed_while_aggregating_it_aggregates_again_and_carries_its_unit() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    peer.look()
    world.anchor(0)
    world.mine()
    peer.look()
    again = peer.restarted()
    again.look()
    assert isinstance(again.job, Aggregate)
    again.do()
    assert isinstance(again.job, Train)
    assert again.job.moments == work(0, 1).moments


def test_killed_in_the_next_round_it_still_knows_what_it_carries() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    again = peer.restarted()
    again.look()
    assert again.job == peer.job
    again.do()
    assert _before(world, 1, 1) != (Carried().moments, Carried().residual)


def test_without_the_files_it_must_carry_it_sits_one_round_out() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.disk.blobs.discard(work(0, 1).residual)
    again = peer.restarted()
    again.look()
    assert again.job is None
    world.empty_round(1)
    again.look()
    again.do()
    assert isinstance(again.job, Train)
    assert (again.job.round, again.job.moments) == (2, None)


def test_carried_files_that_turn_out_damaged_cost_the_round_only() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    peer.lose_carried()
    assert peer.job is None
    assert peer.said("commitment") == [0]


def test_a_commitment_that_the_journal_does_not_hold_is_never_contradicted() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    amnesiac = Contributor(world, 1).ready_to_train()
    assert amnesiac.job is None
    world.post(0)
    world.anchor(0)
    world.mine()
    amnesiac.look()
    amnesiac.do()
    assert amnesiac.state.carry == "lost"
    assert amnesiac.job is None
    assert amnesiac.said("commitment") == []


def test_a_drawn_unit_is_opened_at_the_drawn_segment() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    beacon = world.chain.sampling_beacon(0)
    assert beacon is not None
    (draw,) = draws(
        world.manifest,
        world.manifest.run_id,
        beacon,
        0,
        [UnitRecord(number=1, commitment="ab" * 32, merged=True)],
        [7, 8, 9],
    )
    opening = world.pool.openings(0)[1, 0].body
    made = work(0, 1)
    assert opening.segment == draw.segment
    assert opening.start_parameters == made.segments[draw.segment].parameters
    assert opening.end_moments == made.segments[draw.segment + 1].moments
    assert opening.final_parameters == made.segments[-1].parameters
    assert opening.residual_before is None
    assert (opening.residual_after, opening.symbols) == (made.residual, made.symbols)


def test_the_opening_of_a_later_unit_names_the_residual_it_carried() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    round_of(world, 1, peer)
    assert world.pool.openings(1)[1, 0].body.residual_before == work(0, 1).residual


def test_an_unrevealed_unit_is_opened_too() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    world.anchor(0)
    world.mine()
    peer.look()
    assert (peer.said("reveal"), peer.said("opening")) == ([], [0])


def test_after_a_restart_the_opening_is_said_again_unless_it_is_too_late() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    again = peer.restarted()
    again.look()
    assert again.said("opening") == [0]
    world.mine(world.manifest.deadlines.verify + 1)
    late = peer.restarted()
    late.look()
    assert late.said("opening") == []
    assert 0 not in late.disk.released


def test_states_of_a_unit_that_is_not_drawn_go_when_nobody_can_accuse_it_but_not_what_is_carried() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    made = work(0, 1)
    assert Release(0) not in peer.effects, "somebody may accuse it still"
    world.mine_to_window(0)
    peer.look()
    assert Release(0) not in peer.effects, "this is the last block for it"
    world.mine()
    peer.look()
    peer.do()
    assert Release(0) in peer.effects
    assert peer.disk.blobs >= {made.moments, made.residual, made.blob}
    assert made.segments[2].parameters not in peer.disk.blobs


def test_states_of_a_drawn_unit_stay_until_a_record_brings_the_outcome() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    round_of(world, 1, peer)
    assert work(0, 1).segments[2].parameters in peer.disk.blobs
    peer.do()
    world.post(2)
    peer.look()
    world.anchor(2, world.record(2, judged=(Judgement(round=0, number=1, segment=0, outcome="passed"),)))
    peer.look()
    assert 0 not in peer.state.opened, "it is judged, so nothing of it is served any more"
    world.chain.height = world.chain.anchors[0] + world.manifest.penalties.window + 1
    peer.look()
    peer.do()
    assert 0 in peer.disk.released
    assert work(0, 1).segments[2].parameters not in peer.disk.blobs
    assert work(1, 1).segments[2].parameters in peer.disk.blobs


def test_states_of_a_drawn_unit_that_nobody_judges_go_when_the_time_is_over() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    world.mine(3 * world.manifest.deadlines.verify - 1)
    peer.look()
    assert 0 not in peer.disk.released
    world.mine(2)
    peer.look()
    assert 0 not in peer.state.opened
    world.mine_to_window(0)
    peer.look()
    assert 0 not in peer.disk.released, "it can be accused, and that nobody judged it be contested"
    world.mine()
    peer.look()
    assert 0 in peer.disk.released


def test_the_store_stays_bounded_over_a_long_run() -> None:
    deadlines = {"commit": 2, "reveal": 2, "verify": 2, "appeal": 1}
    world = World(manifest(rounds=13, deadlines=deadlines, penalties={"window": 8}))
    peer = Contributor(world, 1).ready_to_train()
    sizes = []
    for round_ in range(12):
        round_of(world, round_, peer)
        sizes.append(len(peer.disk.blobs))
    assert max(sizes[5:]) == sizes[5]
    assert len(peer.state.units) <= 4


def test_the_run_ends_when_the_chain_names_the_parameters_we_have() -> None:
    world = World(manifest(rounds=2))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    round_of(world, 1, peer)
    assert peer.state.phase == "finished"
    assert peer.stops == []
    world.finish(world.parameters(2))
    peer.look()
    world.mine_to_window(1)
    peer.look()
    assert peer.stops == [], "its last unit can still be accused, and its stake with it"
    world.mine()
    peer.look()
    assert [stop.error for stop in peer.stops] == [None]


def test_the_last_unit_is_still_opened_and_judged_before_the_end() -> None:
    world = World(manifest(rounds=1, verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    assert peer.said("opening") == [0]
    world.chain.final = world.parameters(1)
    peer.look()
    assert peer.stops == []
    world.finish(world.parameters(1), (Judgement(round=0, number=1, segment=0, outcome="passed"),))
    world.mine_to_window(0)
    world.mine()
    peer.look()
    assert [stop.error for stop in peer.stops] == [None]


def test_other_final_parameters_than_ours_are_an_error() -> None:
    world = World(manifest(rounds=1))
    peer = Contributor(world, 1).ready_to_train()
    round_of(world, 0, peer)
    world.finish(name("another result"))
    peer.look()
    assert peer.stops[0].error is not None


def test_two_peers_live_a_whole_run_and_each_speaks_once_a_round() -> None:
    world = World(manifest(verification={"schedule": {"fresh_probability": 0.5}}))
    peers = [Contributor(world, number).ready_to_train() for number in (1, 2)]
    for round_ in range(world.manifest.rounds):
        round_of(world, round_, *peers)
    for peer in peers:
        assert peer.said(Commitment.kind) == peer.said(Reveal.kind) == list(range(world.manifest.rounds))
        assert len(peer.said(Opening.kind)) == len(set(peer.said(Opening.kind)))
    assert world.pool.equivocations == []


def test_a_message_id_is_that_of_the_signed_commitment() -> None:
    world = World()
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    unit = peer.disk.units[0]
    assert unit.commitment_id == sign(key(1), world.manifest, 0, "contributor", unit.commitment).id


def test_a_record_that_is_anchored_too_late_merges_nothing_and_carries_nothing() -> None:
    world = World(manifest(verification=EVERYBODY))
    peer = Contributor(world, 1).ready_to_train()
    peer.do()
    world.post(0)
    peer.look()
    deadlines = world.manifest.deadlines
    world.mine(deadlines.reveal + deadlines.record)
    assert world.record(0).units[0].merged
    world.anchor(0)
    world.mine()
    peer.look()
    assert peer.job == Aggregate(0, world.parameters(0), ())
    peer.do(world.parameters(0))
    assert peer.disk.progress == Progress(1, world.parameters(0), "nothing")
    assert peer.said("opening") == []
    assert 0 in peer.disk.released
    assert isinstance(peer.job, Train)
    assert (peer.job.round, peer.job.moments, peer.job.residual) == (1, None, None)
