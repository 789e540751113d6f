"""Runs whose second moments are published: nothing is carried but residuals, and whoever lies about them is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from contracts.types import CaseOutcome
from node.unit import reveal
from protocol.errors import Malformed
from protocol.manifest import InnerConfig, MergingConfig, OuterConfig, TierConfig
from protocol.messages import PASSED, PROVEN_FALSE
from protocol.published import read_update
from protocol.state import NOTHING_CARRIED
from protocol.update import SparseSymbols, encode, symbols_digest
from tests.verification.test_joint import audited, faults
from tests.verification.testbed import Testbed, Trial
from training.inner import primed
from training.outer import load_parameters
from training.second_moments import codes_of
from verification.merge import check_published

INNER = InnerConfig(steps=6, batch=2, lr=4e-3, warmup_steps=2, moments="published", slices=3)


@pytest.fixture
def publishing(make_bed: Callable[..., Testbed]) -> Callable[..., Testbed]:
    def make(**changes: object) -> Testbed:
        bed = make_bed(**({"inner": INNER} | changes))
        bed.chain.height += 1
        return bed

    return make


def louder(trial: Trial) -> None:
    """Say larger second moments than the unit ended with."""
    assert isinstance(trial.symbols, SparseSymbols)
    assert trial.symbols.moments is not None
    codes = trial.symbols.moments.codes + np.uint8(20)
    trial.symbols = dataclasses.replace(
        trial.symbols, moments=dataclasses.replace(trial.symbols.moments, codes=codes)
    )


def unprimed(trial: Trial) -> None:
    """Take a first segment's steps from other second moments than the public ones."""
    start = trial.states[-1]
    trial.trainer.load(primed(start, codes_of(np.full(start.parameters.size, 1e-12, np.float32))))
    trial.run(0)


def test_a_run_that_publishes_moments_passes_every_check(publishing: Callable[..., Testbed]) -> None:
    bed = publishing()
    bed.play_run()
    assert {report.outcome for report in bed.reports.values()} == {PASSED}
    for (round_, _), made in bed.made.items():
        body = made.commitment.body
        assert (body.moments_before, body.moments_after) == (NOTHING_CARRIED, NOTHING_CARRIED)
        assert (body.residual_before == NOTHING_CARRIED) == (round_ == 0)
    end = load_parameters(bed.manifest, bed.public.get(bed.parameters, max_size=1 << 24))
    assert end.moments is not None
    assert np.count_nonzero(end.moments) > end.moments.size / 3
    report = audited(bed)
    assert not faults(report)
    assert next(one for one in report.checks if one.name == "replays").count == len(bed.reports)


def test_every_segment_of_a_later_round_replays_with_the_same_bits(
    publishing: Callable[..., Testbed],
) -> None:
    bed = publishing()
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    for segment in range(3):
        report = bed.replay(made, segment)
        assert (report.outcome, report.reason, report.distance) == (PASSED, "", 0.0)


def test_tiers_and_judged_updates_go_with_published_moments(publishing: Callable[..., Testbed]) -> None:
    tiers = (TierConfig(steps=6, batch=1), TierConfig(steps=2, batch=1))
    bed = publishing(merging=MergingConfig(gate_windows=8), tiers=tiers)
    bed.wishes = {1: 0, 2: 1, 3: 2}
    bed.play_run()
    assert {report.outcome for report in bed.reports.values()} == {PASSED}
    assert not faults(audited(bed))


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_other_moments_than_the_units_are_proven_false_in_any_segment(
    publishing: Callable[..., Testbed], segment: int
) -> None:
    bed = publishing()
    made = bed.make(0, 2, {"symbols": louder})
    report = bed.replay(made, segment)
    assert report.outcome == PROVEN_FALSE
    assert "symbols do not follow" in report.reason
    unit, opened = bed.drawn(made, segment), bed.open(made, segment)
    found = bed.units.find(bed.manifest, unit, opened.body, bed.files(unit, opened))
    assert found.outcome == CaseOutcome.FALSE


def test_a_first_segment_from_other_moments_than_the_public_ones_is_proven_false(
    publishing: Callable[..., Testbed],
) -> None:
    bed = publishing()
    bed.play_run({(1, 2): {"segment0": unprimed}})
    assert bed.replay(bed.made[1, 2], 0).outcome == PROVEN_FALSE
    assert bed.replay(bed.made[1, 1], 0).outcome == PASSED
    assert not faults(audited(bed))


def test_an_update_that_says_a_slice_nobody_drew_is_not_merged(publishing: Callable[..., Testbed]) -> None:
    bed = publishing()
    made = bed.make(0, 1)
    beacon = bed.chain.assignment_beacon(0)
    assert beacon is not None
    shown = reveal(made.unit)
    blob = bed.public.get(shown.blob, max_size=1 << 20)
    check_published(bed.manifest, beacon, 0, shown, blob)
    symbols = read_update(bed.manifest, blob)
    assert isinstance(symbols, SparseSymbols)
    assert symbols.moments is not None
    size, number = symbols.size, (symbols.moments.number + 1) % INNER.slices
    codes = np.zeros(-(-(size - number) // INNER.slices), np.uint8)
    other = dataclasses.replace(
        symbols, moments=dataclasses.replace(symbols.moments, number=number, codes=codes)
    )
    data = encode(other)
    changed = shown.model_copy(update={"symbols": symbols_digest(other), "blob_bytes": len(data)})
    with pytest.raises(Malformed, match="another slice"):
        check_published(bed.manifest, beacon, 0, changed, data)


@pytest.mark.parametrize(
    "changes",
    [{"outer": OuterConfig(delay=1)}, {"merging": MergingConfig(joint_k=48)}],
    ids=["delayed outer steps", "joint updates"],
)
def test_what_does_not_go_with_published_moments_is_refused(
    publishing: Callable[..., Testbed], changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="published needs"):
        publishing(**changes)
