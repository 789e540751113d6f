"""What verdicts of several verifiers make of a unit, and of the verifiers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.manifest import RunManifest
from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Commitment, Verdict
from protocol.state import NOTHING_CARRIED
from verification.ruling import Ruling, agree, fingerprint_fault, in_turn, may_judge, may_seal, rule, silent
from verification.sample import Draw
from verification.unit import ReplayReport

HONEST, NEAR, OTHER, THIRD = (0.5, -1.0), (0.50001, -1.00001), (0.6, -1.0), (0.9, 2.0)
DRAW = Draw(1, 2, (7, 8, 9, 10))
COMMITMENT = Commitment(
    number=1,
    profile="cpu-fp32",
    parameters="ab" * 32,
    assignment="ab" * 32,
    moments_before="cd" * 32,
    moments_after="ab" * 32,
    residual_before=NOTHING_CARRIED,
    residual_after="ab" * 32,
    segments=("ab" * 32,) * 4,
    update="ab" * 32,
)


def said(judge: int, outcome: int = PASSED, shown: tuple[float, ...] = HONEST, **changes: object) -> Verdict:
    fields: dict[str, object] = {
        "number": 1,
        "verifier": judge,
        "outcome": outcome,
        "commitment": "ab" * 32,
        "opening": "cd" * 32,
        "segment": 2,
        "profile": "cpu-fp32",
        "reason": "",
        "distance": 0.0,
        "tensor": "",
        "fingerprint": shown,
        "salt": "ef" * 32,
        "replay_cpu_s": 0.0,
        **changes,
    }
    return Verdict.model_validate(fields)


def not_opened(judge: int) -> Verdict:
    return said(judge, REJECTED, (), opening=None, salt=None)


def ruled(manifest: RunManifest, *verdicts: Verdict, closed: bool = False) -> Ruling | None:
    return rule(manifest, COMMITMENT, DRAW, {one.verifier: one for one in verdicts}, closed=closed)


def test_two_who_agree_decide(manifest: RunManifest) -> None:
    assert ruled(manifest, said(7)) is None
    assert ruled(manifest, said(7), said(8, shown=NEAR)) == Ruling("passed", (7, 8))
    accused = [said(judge, PROVEN_FALSE, exact="aa" * 32) for judge in (7, 8)]
    assert ruled(manifest, *accused) == Ruling("false", (7, 8))
    assert ruled(manifest, not_opened(7), not_opened(8)) == Ruling("void", (7, 8))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_one_of_three_who_did_not_compute_is_wrong(manifest: RunManifest, place: int) -> None:
    for liar in (
        said((7, 8, 9)[place], PASSED, OTHER),
        said((7, 8, 9)[place], PROVEN_FALSE, HONEST),
        not_opened((7, 8, 9)[place]),
    ):
        verdicts = [liar if judge == liar.verifier else said(judge) for judge in (7, 8, 9)]
        found = ruled(manifest, *verdicts)
        assert found is not None
        assert found.outcome == "passed"
        if place == 2:
            assert (found.right, found.wrong) == ((7, 8), ()), "nobody asked the third"
        else:
            assert found.wrong == (liar.verifier,)
            assert set(found.right) == {7, 8, 9} - {liar.verifier}


def test_three_who_all_differ_void_the_unit_and_nobody_can_be_told_right(manifest: RunManifest) -> None:
    three = (said(7), said(8, shown=OTHER), said(9, shown=THIRD))
    assert ruled(manifest, *three[:2]) is None
    assert ruled(manifest, *three) == Ruling("void", moot=(7, 8, 9))
    assert ruled(manifest, *three, said(10)) == Ruling("void", moot=(7, 8, 9))


def test_when_the_time_is_over_a_lone_verdict_decides_but_is_not_paid(manifest: RunManifest) -> None:
    assert ruled(manifest, closed=True) == Ruling("unjudged")
    assert ruled(manifest, said(8), closed=True) == Ruling("passed", moot=(8,))
    assert ruled(manifest, said(8, PROVEN_FALSE), closed=True) == Ruling("void", moot=(8,))
    assert ruled(manifest, said(8), said(9, shown=OTHER), closed=True) == Ruling("void", moot=(8, 9))


def test_only_proofs_with_one_exact_reference_agree(manifest: RunManifest) -> None:
    def proof(judge: int, exact: str | None) -> Verdict:
        return said(judge, PROVEN_FALSE, exact=exact)

    assert agree(manifest, COMMITMENT, proof(7, "aa" * 32), proof(8, "aa" * 32))
    assert not agree(manifest, COMMITMENT, proof(7, "aa" * 32), proof(8, "bb" * 32))
    assert not agree(manifest, COMMITMENT, proof(7, "aa" * 32), proof(8, None))
    found = ruled(manifest, proof(7, "aa" * 32), proof(8, "bb" * 32), proof(9, "aa" * 32))
    assert found == Ruling("false", (7, 9), (8,))


def test_a_fingerprint_may_be_as_far_away_as_the_profile_allows(manifest: RunManifest) -> None:
    profile = manifest.verification.profiles[0]
    bound = 3 * profile.tolerance
    assert agree(manifest, COMMITMENT, said(7), said(8, shown=(0.5 + bound, -1.0)))
    assert not agree(manifest, COMMITMENT, said(7), said(8, shown=(0.5 + 2 * bound, -1.0)))
    fresh = COMMITMENT.model_copy(update={"moments_before": NOTHING_CARRIED})
    far = (0.5 + 3 * profile.fresh_tolerance, -1.0)
    assert agree(manifest, fresh, said(7, segment=0), said(8, shown=far, segment=0))
    assert not agree(manifest, fresh, said(7), said(8, shown=far))


def test_the_next_rank_is_called_at_once_when_the_first_disagree(manifest: RunManifest) -> None:
    def due(judge: int, blocks: int, *verdicts: Verdict) -> bool:
        return may_judge(manifest, COMMITMENT, DRAW, judge, {one.verifier: one for one in verdicts}, blocks)

    wait = manifest.deadlines.verify
    assert [judge for judge in DRAW.verifiers if due(judge, 0)] == [7, 8]
    assert not due(9, 0, said(7), said(8))
    assert due(9, 0, said(7), said(8, PROVEN_FALSE))
    assert not due(10, 0, said(7), said(8, PROVEN_FALSE))
    assert due(9, wait, said(7))
    assert not due(10, wait, said(7), said(9))
    assert due(10, wait, said(7), said(9, shown=OTHER)), "7 and 9 disagree, and 8 is silent"
    assert due(9, 0, said(7, INCONCLUSIVE, ()))
    assert not due(5, 9 * wait)


def test_a_verdict_before_its_turn_does_not_count_yet(manifest: RunManifest) -> None:
    verdicts = {one.verifier: one for one in (said(7), said(9))}
    assert in_turn(manifest, COMMITMENT, DRAW, verdicts, 0).keys() == {7}
    assert in_turn(manifest, COMMITMENT, DRAW, verdicts, manifest.deadlines.verify).keys() == {7, 9}
    verdicts[8] = said(8, PROVEN_FALSE)
    assert in_turn(manifest, COMMITMENT, DRAW, verdicts, 0).keys() == {7, 8, 9}


def test_no_seal_is_taken_that_could_have_copied_a_fingerprint(manifest: RunManifest) -> None:
    def takes(verifier: int, sealed: set[int], *verdicts: Verdict) -> bool:
        return may_seal(manifest, DRAW, verifier, sealed, {one.verifier: one for one in verdicts})

    assert takes(8, {7, 9})
    assert not takes(8, {7, 9}, said(7))
    assert takes(8, {7}, said(7)), "two are needed, and one has sealed"
    assert takes(9, {7, 8}, said(7), said(8, shown=OTHER))
    assert takes(8, {7, 9}, not_opened(7)), "it shows nothing to copy"


def test_who_was_waited_for_in_vain_is_silent(manifest: RunManifest) -> None:
    def missing(*verdicts: Verdict, closed: bool = False) -> tuple[int, ...]:
        by = {one.verifier: one for one in verdicts}
        found = rule(manifest, COMMITMENT, DRAW, by, closed=closed)
        assert found is not None
        return silent(manifest, DRAW, found, by)

    assert missing(said(7), said(8)) == ()
    assert missing(said(7), said(9)) == (8,)
    assert missing(said(7), said(8, INCONCLUSIVE, ()), said(9)) == ()
    assert missing(said(8), closed=True) == (7, 9, 10)
    assert missing(closed=True) == (7, 8, 9, 10)


def test_a_fingerprint_is_compared_with_our_replay(manifest: RunManifest) -> None:
    ours = ReplayReport(PASSED, fingerprint=HONEST)
    assert fingerprint_fault(manifest, COMMITMENT, said(7, shown=NEAR), ours) == ""
    assert "0.0707 away" in fingerprint_fault(manifest, COMMITMENT, said(7, shown=OTHER), ours)
    assert fingerprint_fault(manifest, COMMITMENT, not_opened(7), ours) == ""


VERDICTS = st.dictionaries(
    st.sampled_from(DRAW.verifiers),
    st.tuples(
        st.sampled_from([PASSED, REJECTED, PROVEN_FALSE, INCONCLUSIVE]),
        st.sampled_from([HONEST, NEAR, OTHER]),
    ),
)


@given(VERDICTS, st.booleans())
def test_only_a_majority_decides_and_everybody_has_one_place(
    manifest: RunManifest, found: dict[int, tuple[int, tuple[float, ...]]], closed: bool
) -> None:
    verdicts = {judge: said(judge, *one) for judge, one in found.items()}
    ruling = rule(manifest, COMMITMENT, DRAW, verdicts, closed=closed)
    if ruling is None:
        assert not closed
        return
    places = (*ruling.right, *ruling.wrong, *ruling.moot)
    assert len(set(places)) == len(places)
    assert all(verdicts[judge].outcome != INCONCLUSIVE for judge in places)
    assert len(ruling.right) in (0, manifest.verification.verifiers)
    assert not (ruling.right and ruling.moot)
    assert len({verdicts[judge].outcome for judge in ruling.right}) <= 1
    if ruling.outcome == "false":
        assert [verdicts[judge].outcome for judge in ruling.right] == [PROVEN_FALSE] * 2
