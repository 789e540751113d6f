from __future__ import annotations

from functools import partial

import pytest

from protocol.errors import Equivocation
from protocol.messages import INCONCLUSIVE, PROVEN_FALSE, Signed, Verdict, sign
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from tests.verification.testbed import Testbed, key
from verification.archive import RoundDossier
from verification.duty import Duty, duties, is_over, round_draws
from verification.ruling import Ruling, rule
from verification.sample import Draw


class Watch:
    """One verifier's look at a bed's chain, with a pool of its own."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.chain = bed.chain
        self.pool = MessagePool(bed.manifest, partial(speaker_of, self.chain))

    def hear(self, dossier: RoundDossier, *, openings: bool = True) -> None:
        assert dossier.record is not None
        for message in (dossier.listed, dossier.record, *dossier.commitments, *dossier.reveals):
            self.pool.add(message)
        for message in (*dossier.openings, *dossier.seals) if openings else ():
            self.pool.add(message)

    def draws(self, round_: int = 0) -> tuple[Draw, ...]:
        found = round_draws(self.bed.manifest, self.chain, self.pool, round_)
        assert found is not None
        return found

    def due(self, me: int, round_: int = 0, judged: set[int] | None = None) -> dict[int, Duty]:
        done = judged or set()
        found = duties(
            self.bed.manifest,
            self.chain,
            self.pool,
            me,
            round_,
            self.draws(round_),
            lambda key: key[1] in done,
        )
        return {duty.draw.number: duty for duty in found}


@pytest.fixture
def watch(bed: Testbed) -> Watch:
    return Watch(bed)


def test_the_first_ranks_judge_what_is_opened_and_the_last_waits(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    by_number = {draw.number: draw for draw in watch.draws()}
    for me in bed.judges:
        found = watch.due(me)
        assert set(found) == {n for n, draw in by_number.items() if me in draw.verifiers[:2]}
        for number, duty in found.items():
            assert duty.key == (0, number)
            assert duty.unit == bed.drawn(bed.made[0, number], by_number[number].segment)
            assert not duty.overdue
        assert set(watch.due(me, judged={1})) == set(found) - {1}


def test_what_is_not_opened_is_due_when_its_time_is_over(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0), openings=False)
    draw = watch.draws()[0]
    me = draw.verifiers[0]
    bed.chain.height = bed.chain.anchors[0] + 1
    assert watch.due(me) == {}
    bed.chain.height += bed.manifest.deadlines.verify // 2
    duty = watch.due(me)[draw.number]
    assert duty.overdue
    assert duty.opening is None


def test_a_later_rank_steps_in_for_a_silent_one_and_gives_time_to_open(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    draw = watch.draws()[0]
    last, wait = draw.verifiers[2], bed.manifest.deadlines.verify
    began = bed.chain.anchors[0] + 1
    bed.chain.height = began + wait - 1
    assert draw.number not in watch.due(last)
    bed.chain.height = began + wait
    assert not watch.due(last)[draw.number].overdue
    bed.chain.height = began + wait + wait // 2
    assert watch.due(last)[draw.number].overdue


def test_the_next_rank_steps_in_at_once_for_one_that_cannot_judge(bed: Testbed, watch: Watch) -> None:
    dossier = bed.play_round(0)
    watch.hear(dossier)
    draw = watch.draws()[0]
    bed.chain.height = bed.chain.anchors[0] + 1
    first, second = (one for one in dossier.verdicts if one.body.number == draw.number)
    body = first.body.model_copy(update={"outcome": INCONCLUSIVE, "reason": "other torch", "distance": 0.0})
    last = draw.verifiers[2]
    assert draw.number not in watch.due(last)
    watch.pool.add(sign(key(first.body.verifier), bed.manifest, 0, "verifier", body))
    assert draw.number in watch.due(last)
    watch.pool.add(second)
    assert draw.number in watch.due(last)
    report = bed.reports[0, draw.number]
    watch.pool.add(bed.verdict(draw, 0, last, report, second.body.opening))
    judged = {judge: one.body for (*_, judge), one in watch.pool.verdicts(0).items()}
    commitment = bed.made[0, draw.number].commitment.body
    ruling = rule(bed.manifest, commitment, draw, judged, closed=False)
    assert ruling == Ruling("passed", (second.body.verifier, last))


def test_the_next_rank_steps_in_at_once_when_two_disagree(bed: Testbed, watch: Watch) -> None:
    dossier = bed.play_round(0)
    watch.hear(dossier)
    draw = watch.draws()[0]
    bed.chain.height = bed.chain.anchors[0] + 1
    honest, other = (one for one in dossier.verdicts if one.body.number == draw.number)
    watch.pool.add(honest)
    lie = other.body.model_copy(
        update={
            "outcome": PROVEN_FALSE,
            "fingerprint": (),
            "salt": None,
            "reason": "invented",
            "distance": 0.0,
        }
    )
    assert draw.number not in watch.due(draw.verifiers[2])
    watch.pool.add(sign(key(other.body.verifier), bed.manifest, 0, "verifier", lie))
    assert draw.number in watch.due(draw.verifiers[2])


def test_a_verdict_without_its_seal_makes_nobody_s_turn_end(bed: Testbed, watch: Watch) -> None:
    dossier = bed.play_round(0)
    watch.hear(dossier, openings=False)
    draw = watch.draws()[0]
    first, second = (one for one in dossier.verdicts if one.body.number == draw.number)
    for opening in dossier.openings:
        watch.pool.add(opening)
    watch.pool.add(first)
    watch.pool.add(second)
    bed.chain.height = bed.chain.anchors[0] + 1 + bed.manifest.deadlines.verify
    assert draw.number in watch.due(draw.verifiers[2])
    for seal in dossier.seals:
        watch.pool.add(seal)
    assert draw.number not in watch.due(draw.verifiers[2])


def test_nobody_steps_in_once_two_have_judged_in_their_turn(bed: Testbed, watch: Watch) -> None:
    dossier = bed.play_round(0)
    watch.hear(dossier)
    draw = watch.draws()[0]
    bed.chain.height = bed.chain.anchors[0] + 1 + bed.manifest.deadlines.verify
    said: list[Signed[Verdict]] = [one for one in dossier.verdicts if one.body.number == draw.number]
    watch.pool.add(said[0])
    assert draw.number in watch.due(draw.verifiers[2])
    watch.pool.add(said[1])
    assert draw.number not in watch.due(draw.verifiers[2])


def test_a_round_is_over_when_all_its_time_is(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    drawn = watch.draws()
    bed.chain.height = bed.chain.anchors[0] + 1 + drawn[0].closes_after(bed.manifest)
    assert not is_over(bed.manifest, bed.chain, watch.pool, 0, drawn)
    bed.chain.height += 1
    assert is_over(bed.manifest, bed.chain, watch.pool, 0, drawn)
    assert watch.due(drawn[0].verifiers[0]) == {}


def test_a_list_or_record_that_the_chain_does_not_confirm_is_no_ground(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    bed.chain.height += 1
    watch.hear(bed.play_round(1))
    me = watch.draws(1)[0].verifiers[0]
    assert watch.due(me, 1)
    bed.chain.records[0] = "ab" * 32
    assert watch.due(me, 1) == {}
    bed.chain.records[1] = "ab" * 32
    assert round_draws(bed.manifest, bed.chain, watch.pool, 1) is None


def test_a_message_that_we_miss_is_our_own_fault(bed: Testbed, watch: Watch) -> None:
    first = bed.play_round(0)
    bed.chain.height += 1
    second = bed.play_round(1)
    watch.hear(second)
    me = watch.draws(1)[0].verifiers[0]
    assert watch.due(me, 1) == {}
    assert first.record is not None
    for message in (first.listed, first.record):
        watch.pool.add(message)
    assert watch.due(me, 1) == {}
    for commitment in first.commitments:
        watch.pool.add(commitment)
    assert watch.due(me, 1)


def test_a_peer_that_shows_verifiers_another_commitment_is_judged_all_the_same(
    bed: Testbed, watch: Watch
) -> None:
    dossier = bed.play_round(0)
    listed = dossier.commitments[0]
    number = listed.body.number
    body = listed.body.model_copy(update={"update": "ab" * 32})
    watch.pool.add(sign(key(number), bed.manifest, 0, "contributor", body))
    with pytest.raises(Equivocation):
        watch.pool.add(listed)
    watch.hear(dossier)  # as anti-entropy brings again what was refused
    draw = next(draw for draw in watch.draws() if draw.number == number)
    assert watch.due(draw.verifiers[0])[number].unit.commitment == listed
