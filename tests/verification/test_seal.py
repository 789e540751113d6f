"""What a verifier shows of its replay, and when it may be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.messages import INCONCLUSIVE, PASSED, PROVEN_FALSE, REJECTED, Seal, Verdict
from tests.verification.testbed import Testbed
from training.inner import InnerState
from verification.fingerprint import VALUES, fingerprint, middle_steps
from verification.replay import Replayed
from verification.sample import Draw
from verification.seal import (
    broken_seal,
    ends_are_due,
    fingerprint_distance,
    fingerprint_tolerance,
    may_speak,
    needs_seal,
    seal_digest,
)

RUN, COMMITMENT, OPENING, SALT = "aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32
SHOWN = (0.25, -1.5, 3.0)


def verdict(**changes: object) -> Verdict:
    fields: dict[str, object] = {
        "number": 1,
        "verifier": 7,
        "outcome": PASSED,
        "commitment": COMMITMENT,
        "opening": OPENING,
        "segment": 2,
        "profile": "cpu-fp32",
        "reason": "",
        "distance": 0.0,
        "tensor": "",
        "fingerprint": SHOWN,
        "salt": SALT,
        "replay_cpu_s": 0.1,
        **changes,
    }
    return Verdict.model_validate(fields)


def seal(said: Verdict, round_: int = 3, shown: tuple[float, ...] = SHOWN) -> Seal:
    assert said.opening is not None
    place = {"number": said.number, "verifier": said.verifier, "segment": said.segment}
    fixed = seal_digest(
        RUN, round_, **place, commitment=said.commitment, opening=said.opening, fingerprint=shown, salt=SALT
    )
    return Seal(**place, commitment=said.commitment, opening=said.opening, seal=fixed)


def test_a_verdict_counts_with_the_fingerprint_that_was_sealed_and_no_other() -> None:
    said = verdict()
    assert broken_seal(RUN, 3, said, seal(said)) == ""
    assert "not sealed before" in broken_seal(RUN, 3, said, None)
    other = said.model_copy(update={"fingerprint": (0.25, -1.5, 3.0000001)})
    for changed in (
        other,
        said.model_copy(update={"salt": "ee" * 32}),
        said.model_copy(update={"verifier": 8}),
        said.model_copy(update={"segment": 1}),
    ):
        assert "not the sealed one" in broken_seal(RUN, 3, changed, seal(said))
    assert "not the sealed one" in broken_seal(RUN, 4, said, seal(said))
    assert "no fingerprint" in broken_seal(RUN, 3, said.model_copy(update={"fingerprint": ()}), seal(said))
    assert "no fingerprint" in broken_seal(RUN, 3, said.model_copy(update={"salt": None}), seal(said))


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, True),
        ({"outcome": REJECTED, "distance": 5e-4}, True),
        ({"outcome": PROVEN_FALSE, "distance": 0.5}, True),
        ({"outcome": PASSED, "fingerprint": ()}, True),
        ({"outcome": PROVEN_FALSE, "fingerprint": ()}, False),  # by the signed messages or the start
        ({"outcome": REJECTED, "opening": None, "fingerprint": ()}, False),
        ({"outcome": INCONCLUSIVE, "fingerprint": ()}, False),
    ],
)
def test_what_rests_on_a_replay_needs_a_seal(changes: dict[str, object], needed: bool) -> None:
    said = verdict(**changes)
    assert needs_seal(said) is needed
    assert bool(broken_seal(RUN, 3, said, None)) is needed


def test_the_end_is_served_once_the_first_ranks_have_sealed_or_half_the_time_is_over(bed: Testbed) -> None:
    manifest, draw = bed.manifest, Draw(1, 0, (9, 7, 8))
    half = manifest.deadlines.verify // 2
    assert not ends_are_due(manifest, draw, 0, ())
    assert not ends_are_due(manifest, draw, 0, (9,))
    assert not ends_are_due(manifest, draw, 0, (9, 8)), "8 is not among the first"
    assert ends_are_due(manifest, draw, 0, (7, 9))
    assert not ends_are_due(manifest, draw, half - 1, (9,))
    assert ends_are_due(manifest, draw, half, (9,))
    assert ends_are_due(manifest, draw, half, (8,))
    assert not ends_are_due(manifest, draw, 10 * half, ()), "nobody has fixed anything"
    assert not ends_are_due(manifest, draw, half, (5,)), "5 is no verifier of the round"
    assert not ends_are_due(manifest, Draw(1, 0, ()), half, ())


def test_a_fingerprint_is_shown_once_nobody_could_copy_it_or_time_runs_out(bed: Testbed) -> None:
    manifest, draw = bed.manifest, Draw(1, 0, (9, 7, 8))
    assert not may_speak(manifest, draw, 0, (9,))
    assert not may_speak(manifest, draw, 0, (9, 5))
    assert may_speak(manifest, draw, 0, (9, 8))
    late = draw.closes_after(manifest) - manifest.deadlines.verify // 2
    assert not may_speak(manifest, draw, late - 1, (9,))
    assert may_speak(manifest, draw, late, (9,))


def test_fingerprints_are_far_apart_in_other_lengths_and_near_in_small_differences() -> None:
    assert fingerprint_distance((), ()) == 0.0
    assert fingerprint_distance(SHOWN, SHOWN[:2]) == float("inf")
    assert fingerprint_distance((1.0, 1.0), (1.0, 1.2)) == pytest.approx(0.2 / 2**0.5)
    assert fingerprint_tolerance(1e-4) == pytest.approx(3e-4)
    assert fingerprint_tolerance(0.0) == 1e-8


def test_a_middle_is_inside_the_segment_or_beyond_it() -> None:
    assert [middle_steps(steps) for steps in (1, 2, 3, 4, 5)] == [2, 3, 2, 2, 3]


def noisy(state: InnerState, start: InnerState, distance: float) -> InnerState:
    """Return a state whose every part is a relative distance of its change away."""
    rng = np.random.default_rng(5)
    parts = []
    for name in ("parameters", "exp_avg", "exp_avg_sq"):
        before, after = getattr(start, name), getattr(state, name)
        error = rng.standard_normal(after.size)
        error *= distance * np.linalg.norm(after - before) / np.linalg.norm(error)
        parts.append((after + error).astype(np.float32))
    return InnerState(*parts, state.steps)


def test_honest_fingerprints_agree_and_interpolated_ones_do_not(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    files = bed.files(unit, opened)
    begun = bed.units.begin(bed.manifest, unit, opened.body, files)
    assert isinstance(begun, Replayed)
    shown = begun.fingerprint
    assert len(shown) == VALUES
    tolerance = fingerprint_tolerance(bed.manifest.verification.profiles[0].tolerance)
    again = bed.units.begin(bed.manifest, unit, opened.body, files)
    assert isinstance(again, Replayed)
    assert again.fingerprint == shown

    def seen(state: InnerState) -> float:
        return fingerprint_distance(
            fingerprint(bed.manifest, unit, begun.start, state),
            fingerprint(bed.manifest, unit, begun.start, begun.end),
        )

    assert seen(noisy(begun.end, begun.start, 1e-5)) < tolerance / 5
    assert seen(noisy(begun.end, begun.start, 3e-3)) > tolerance
    middle = InnerState(
        *(
            (getattr(begun.start, p) + getattr(begun.end, p)) / 2
            for p in ("parameters", "exp_avg", "exp_avg_sq")
        ),
        begun.end.steps,
    )
    guess = fingerprint(bed.manifest, unit, begun.start, middle)
    assert fingerprint_distance(guess, shown) > 100 * tolerance


def test_a_fingerprint_is_of_one_beacon_unit_and_segment(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    begun = bed.units.begin(bed.manifest, unit, opened.body, bed.files(unit, opened))
    assert isinstance(begun, Replayed)
    shown = fingerprint(bed.manifest, unit, begun.start, begun.end)
    for other in (replace(unit, sampling="ef" * 32), replace(unit, segment=0)):
        assert fingerprint_distance(fingerprint(bed.manifest, other, begun.start, begun.end), shown) > 0.1


def test_the_start_alone_is_enough_to_replay_and_the_end_to_compare(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 2), bed.open(made, 2)
    files = bed.files(unit, opened)
    late = {one.address for one in bed.units.needed_files(bed.manifest, unit, opened.body) if one.late}
    assert {opened.body.end_parameters, opened.body.end_moments, opened.body.final_parameters} == late
    early = {address: data for address, data in files.items() if address not in late}
    begun = bed.units.begin(bed.manifest, unit, opened.body, early)
    assert isinstance(begun, Replayed)
    report = bed.units.compare(bed.manifest, unit, opened.body, {a: files[a] for a in late}, begun)
    assert (report.outcome, report.distance, report.fingerprint) == (PASSED, 0.0, begun.fingerprint)
