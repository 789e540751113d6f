"""The pool lets in what the run's rules let in, once, and remembers who spoke twice."""

import pytest

from protocol.errors import Equivocation, Malformed, Premature
from protocol.messages import (
    Body,
    CommitmentEntry,
    CommitmentList,
    Objection,
    Ready,
    Receipt,
    ReceivedUpdate,
    Reveal,
    RewardEntry,
    RewardTable,
    RoundRecord,
    Signed,
    sign,
)
from protocol.pool import ROUNDS_AHEAD, MessagePool
from protocol.speakers import Speaker
from protocol.state import update_root
from tests.protocol.makers import commitment, digest_of, key, manifest, opening, verdict

KEYS = {1: ("peer-1", "contributor"), 2: ("peer-2", "contributor"), 7: ("judge", "verifier")}


def speaker_of(number: int, round_: int | None) -> Speaker | None:
    if number not in KEYS:
        return None
    name, role = KEYS[number]
    return Speaker(role, (key(name).address,))


def pool() -> MessagePool:
    return MessagePool(manifest(), speaker_of)


def test_a_message_is_new_once() -> None:
    held, message = pool(), sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    assert held.accept(message.wire) == message
    assert held.accept(message.wire) is None
    assert held.commitments(0) == {1: message}


def test_only_the_registered_key_speaks_for_a_number() -> None:
    stranger = sign(key("peer-2"), manifest(), 0, "contributor", commitment(1))
    unregistered = sign(key("peer-1"), manifest(), 0, "contributor", commitment(3))
    verifier = sign(key("judge"), manifest(), 0, "contributor", commitment(7))
    with pytest.raises(Malformed, match="not signed by the key of number 1"):
        pool().add(stranger)
    with pytest.raises(Premature, match="not registered"):
        pool().add(unregistered)
    with pytest.raises(Malformed, match="as contributor"):
        pool().add(verifier)


def test_only_the_coordinators_key_speaks_for_the_coordinator() -> None:
    body = CommitmentList(entries=(CommitmentEntry(number=1, commitment=digest_of("c")),))
    held = pool()
    with pytest.raises(Malformed, match="coordinator"):
        held.add(sign(key("peer-1"), manifest(), 0, "coordinator", body))
    assert held.add(sign(key("coordinator"), manifest(), 0, "coordinator", body)) is not None


def test_a_second_statement_for_one_slot_is_refused_and_kept_as_evidence() -> None:
    held = pool()
    first = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    second = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1, update=digest_of("other")))
    held.add(first)
    with pytest.raises(Equivocation):
        held.add(second)
    assert held.equivocations == [(first, second)]
    assert held.commitments(0) == {1: first}


def test_who_repeats_itself_does_not_use_up_the_room_for_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocol.pool.MAX_EQUIVOCATIONS", 2)
    held = pool()
    for name, number in (("peer-1", 1), ("peer-2", 2)):
        held.add(sign(key(name), manifest(), 0, "contributor", commitment(number)))
        for other in ("a", "b", "c"):
            second = commitment(number, update=digest_of(other))
            with pytest.raises(Equivocation):
                held.add(sign(key(name), manifest(), 0, "contributor", second))
    assert [one.body.number for one, _ in held.equivocations] == [1, 2]


def test_a_snapshot_stays_as_it_was_while_its_pool_goes_on() -> None:
    held = pool()
    first = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    held.add(first)
    then = held.snapshot()
    held.add(sign(key("peer-2"), manifest(), 0, "contributor", commitment(2)))
    entries = (CommitmentEntry(number=1, commitment=first.id),)
    listed = sign(key("coordinator"), manifest(), 0, "coordinator", CommitmentList(entries=entries))
    held.add(listed)
    assert (held.commitments(0).keys(), held.commitment_list(0)) == ({1, 2}, listed)
    assert (then.commitments(0), then.commitment_list(0)) == ({1: first}, None)
    assert (len(then), then.of_round(0)) == (1, [first])


def test_of_two_commitments_the_listed_one_counts_whichever_came_first() -> None:
    held = pool()
    shown = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    other = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1, update=digest_of("other")))
    held.add(shown)
    with pytest.raises(Equivocation):
        held.add(other)
    entries = (CommitmentEntry(number=1, commitment=other.id),)
    held.add(sign(key("coordinator"), manifest(), 0, "coordinator", CommitmentList(entries=entries)))
    assert held.add(other) == other
    assert held.commitments(0) == {1: other}
    with pytest.raises(Equivocation):
        held.add(shown)
    assert held.commitments(0) == {1: other}


def test_of_two_commitments_the_one_forced_in_counts_where_none_is_listed() -> None:
    forced: dict[int, str] = {}
    held = MessagePool(manifest(), speaker_of, forced_of=lambda round_: forced if round_ == 0 else {})
    first = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    second = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1, update=digest_of("other")))
    held.add(first)
    with pytest.raises(Equivocation):
        held.add(second)
    forced[1] = second.id
    assert held.add(second) == second
    assert held.commitments(0) == {1: second}
    with pytest.raises(Equivocation):
        held.add(first)
    entries = (CommitmentEntry(number=1, commitment=first.id),)
    held.add(sign(key("coordinator"), manifest(), 0, "coordinator", CommitmentList(entries=entries)))
    assert held.add(first) == first, "what the list names goes before what was forced in"
    assert held.commitments(0) == {1: first}


def judged(number: int) -> Signed[Body]:
    return sign(key("judge"), manifest(), 0, "verifier", verdict(number))


def test_a_verifier_cannot_fill_the_pool_with_verdicts_on_numbers_that_do_not_work() -> None:
    held = pool()
    assert held.add(judged(1)) is not None
    with pytest.raises(Premature, match="not registered"):
        held.add(judged(3))
    with pytest.raises(Malformed, match="not a contributor"):
        held.add(judged(7))
    assert len(held.of_round(0)) == 1


def test_a_peer_is_ready_for_the_run_and_not_for_a_round() -> None:
    body = Ready(number=1, program=digest_of("p"), addresses=())
    with pytest.raises(Malformed, match="ready"):
        pool().add(sign(key("peer-1"), manifest(), 1, "contributor", body))


def test_a_reward_table_has_one_place() -> None:
    run = manifest()
    entries = (RewardEntry(account=run.ledger, cumulative_wei=1),)
    for round_, epoch, why in ((0, 1, "another epoch"), (5, 2**50, "another epoch"), (4, 0, "epoch's last")):
        table = RewardTable(epoch=epoch, entries=entries)
        with pytest.raises(Malformed, match=why):
            pool().add(sign(key("coordinator"), run, round_, "coordinator", table))
    assert pool().add(sign(key("coordinator"), run, 5, "coordinator", RewardTable(epoch=0, entries=entries)))


def test_a_peer_may_say_again_where_it_listens() -> None:
    held = pool()
    for port in (1, 2):
        body = Ready(number=1, program=digest_of("p"), addresses=(f"/ip4/127.0.0.1/tcp/{port}",))
        held.add(sign(key("peer-1"), manifest(), 0, "contributor", body))
    assert held.ready()[1].body.addresses == ("/ip4/127.0.0.1/tcp/2",)
    assert len(held.wire_digests(0)) == 1


def test_messages_of_other_runs_rounds_and_chains_stay_out() -> None:
    held = pool()
    other = manifest(name="other")
    with pytest.raises(Malformed, match="another run"):
        held.add(sign(key("peer-1"), other, 0, "contributor", commitment(1)))
    with pytest.raises(Malformed, match="does not have"):
        held.add(sign(key("peer-1"), manifest(), 6, "contributor", commitment(1)))
    with pytest.raises(Premature, match="far ahead"):
        held.add(sign(key("peer-1"), manifest(), ROUNDS_AHEAD + 1, "contributor", commitment(1)))


def test_an_asker_gets_what_it_lacks_and_nothing_else() -> None:
    held = pool()
    one = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1))
    two = sign(key("peer-2"), manifest(), 1, "contributor", commitment(2))
    held.add(one)
    held.add(two)
    assert list(held.missing(0, set())) == [one.wire, two.wire]
    assert list(held.missing(0, {one.wire_digest})) == [two.wire]
    assert list(held.missing(1, set())) == [two.wire]
    assert held.wire_digests(1) == [two.wire_digest]


def test_of_two_reveals_the_one_that_opens_the_commitment_counts_whichever_came_first() -> None:
    held, run = pool(), manifest().run_id
    update = update_root(run, 0, 1, digest_of("symbols"), digest_of("salt"))
    committed = sign(key("peer-1"), manifest(), 0, "contributor", commitment(1, update=update))
    body = Reveal(
        number=1,
        commitment=committed.id,
        symbols=digest_of("symbols"),
        salt=digest_of("salt"),
        blob=digest_of("blob"),
        blob_bytes=1,
        train_cpu_s=0.0,
    )

    def reveal(**changes: object) -> Signed[Reveal]:
        return sign(key("peer-1"), manifest(), 0, "contributor", body.model_copy(update=changes))

    first, good, other = reveal(salt=digest_of("wrong")), reveal(), reveal(blob=digest_of("elsewhere"))
    held.add(committed)
    held.add(first)
    assert held.add(good) == good, "otherwise it could show the coordinator another one than the witnesses"
    assert held.reveals(0) == {1: good}
    for late in (first, other):
        with pytest.raises(Equivocation):
            held.add(late)
    assert held.reveals(0) == {1: good}
    assert held.equivocations == [(first, good)], "once a slot"


def test_a_witness_objects_to_one_record_of_a_round() -> None:
    held = pool()
    said, other = (
        sign(key("peer-1"), manifest(), 0, "contributor", Objection(number=1, record=digest_of(name)))
        for name in ("record", "another")
    )
    held.add(said)
    with pytest.raises(Equivocation):
        held.add(other)
    assert held.objections(0) == {1: said}
    with pytest.raises(Malformed, match="not signed by the key of number 1"):
        held.add(sign(key("peer-2"), manifest(), 0, "contributor", Objection(number=1, record=said.id)))


def test_of_two_receipts_the_one_that_the_record_names_counts() -> None:
    held = pool()

    def receipt(number: int) -> Signed[Receipt]:
        entry = ReceivedUpdate(number=number, symbols=digest_of("s"), blob=digest_of("b"))
        return sign(key("peer-1"), manifest(), 0, "contributor", Receipt(number=1, entries=(entry,)))

    held.add(receipt(1))
    with pytest.raises(Equivocation):
        held.add(receipt(2))
    record = RoundRecord(parameters=digest_of("p"), units=(), judged=(), receipts=(receipt(2).id,))
    held.add(sign(key("coordinator"), manifest(), 0, "coordinator", record))
    assert held.add(receipt(2)) == receipt(2)
    assert held.receipts(0) == {1: receipt(2)}


def opened(number: int, case: int, round_: int = 0) -> Signed[Body]:
    return sign(key(f"peer-{number}"), manifest(), round_, "contributor", opening(number, case))


def test_openings_of_a_draw_and_of_each_case_have_places_of_their_own() -> None:
    held = MessagePool(manifest(), speaker_of, lambda round_: {(1, 4), (1, 9)})
    for case in (0, 4, 9):
        assert held.add(opened(1, case)) is not None
        assert held.add(opened(1, case)) is None
    assert sorted(held.openings(0)) == [(1, 0), (1, 4), (1, 9)]


def test_an_opening_of_a_case_that_the_jury_does_not_know_is_taken_later() -> None:
    known = {0: {(1, 4)}}
    held = MessagePool(manifest(), speaker_of, lambda round_: known.get(round_, set()))
    for number, case, round_ in ((1, 5, 0), (2, 4, 0), (1, 4, 1)):
        with pytest.raises(Premature, match=f"no case {case} about number {number} in round {round_}"):
            held.add(opened(number, case, round_))
    assert not held.of_round(0)
    known[0].add((1, 5))
    assert held.add(opened(1, 5)) is not None, "once it is on chain"


def test_without_a_chain_no_case_is_known() -> None:
    with pytest.raises(Premature, match="no case 4"):
        pool().add(opened(1, 4))
    assert pool().add(opened(1, 0)) is not None
