"""Units of a run that delays outer steps: what they open, and what a replay makes of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from contracts.types import CaseOutcome
from protocol.errors import OwnFault, ProofRejected
from protocol.manifest import OuterConfig, RunManifest
from protocol.messages import PASSED, PROVEN_FALSE
from protocol.rollout_config import RolloutConfig
from tests.verification.mischief import other_rate
from tests.verification.testbed import Cheat, Made, Testbed, Trial
from training.preset import preset
from verification.commit import Carried
from verification.opening import check_opening
from verification.request import ReplayRequest

OUTER_STEP = 1  # segment before which it is taken


@pytest.fixture
def delayed(make_bed: Callable[..., Testbed]) -> Testbed:
    """Return a run in its second round, whose units go on from their peer's own state."""
    found = make_bed(outer=OuterConfig(delay=OUTER_STEP))
    found.chain.height += 1
    found.play_round(0)
    found.chain.height += 1
    return found


def outcome(bed: Testbed, made: Made, segment: int) -> CaseOutcome:
    """Return what a juror finds."""
    unit, opened = bed.drawn(made, segment), bed.open(made, segment)
    return bed.units.find(bed.manifest, unit, opened.body, bed.files(unit, opened)).outcome


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_an_honest_unit_passes_at_every_segment(delayed: Testbed, segment: int) -> None:
    made = delayed.make(1, 1)
    report = delayed.replay(made, segment)
    assert (report.outcome, report.distance) == (PASSED, 0.0)
    assert outcome(delayed, made, segment) is CaseOutcome.RIGHT


def test_it_goes_on_from_its_own_state_and_is_measured_from_the_rounds_parameters(delayed: Testbed) -> None:
    before, made = delayed.made[0, 1].unit, delayed.make(1, 1).unit
    assert made.work.segments[0].parameters == before.work.segments[-1].parameters
    assert made.work.segments[0].parameters != made.commitment.parameters == delayed.parameters


def test_who_carries_nothing_starts_from_the_rounds_parameters(delayed: Testbed) -> None:
    del delayed.made[0, 1]
    made = delayed.make(1, 1)
    assert delayed.drawn(made, 0).carried == Carried()
    assert made.unit.work.segments[0].moments != made.unit.work.segments[1].moments
    assert [delayed.replay(made, segment).outcome for segment in range(3)] == [PASSED] * 3


def test_an_outer_step_that_is_left_out_shows_where_it_was_due(delayed: Testbed) -> None:
    def stay(trial: Trial) -> object:
        return trial.trainer.state()

    made = delayed.make(1, 1, {"outer step": stay})
    assert [delayed.replay(made, segment).outcome for segment in range(3)] == [PASSED, PROVEN_FALSE, PASSED]
    assert outcome(delayed, made, OUTER_STEP) is CaseOutcome.FALSE


def test_a_cheated_segment_is_found_after_the_outer_step_as_well(delayed: Testbed) -> None:
    cheat: dict[str, Cheat] = other_rate(OUTER_STEP, 0.9)
    assert delayed.replay(delayed.make(1, 1, cheat), OUTER_STEP).outcome == PROVEN_FALSE


@pytest.mark.parametrize("segment", [0, OUTER_STEP])
@pytest.mark.parametrize("changes", [{"before_parameters": "ab" * 32}, {"before_moments": None}])
def test_an_opening_that_goes_on_from_another_state_than_the_committed_is_false(
    delayed: Testbed, segment: int, changes: dict[str, object]
) -> None:
    made = delayed.make(1, 1)
    with pytest.raises(ProofRejected, match="state gone on from"):
        check_opening(delayed.manifest, delayed.drawn(made, segment), delayed.open(made, segment, **changes))


def test_a_unit_that_starts_elsewhere_is_false(delayed: Testbed) -> None:
    before = delayed.made[0, 1]
    elsewhere = before.unit.work.model_copy(
        update={"segments": (*before.unit.work.segments[:-1], before.unit.work.segments[0])}
    )
    honest = before.unit
    before.unit = honest.model_copy(update={"work": elsewhere})
    made = delayed.make(1, 1)
    before.unit = honest
    with pytest.raises(ProofRejected, match="state gone on from"):
        check_opening(delayed.manifest, delayed.drawn(made, 0), delayed.open(made, 0))


def test_a_replay_process_is_told_what_the_unit_goes_on_from(delayed: Testbed) -> None:
    made = delayed.make(1, 1)
    unit = delayed.drawn(made, OUTER_STEP)
    request = ReplayRequest.of(unit, delayed.open(made, OUTER_STEP))
    again = ReplayRequest.model_validate_json(request.model_dump_json()).unit()
    assert again.carried == unit.carried
    assert again.goes_on(delayed.manifest)


def test_values_beyond_float32_are_no_unit(delayed: Testbed) -> None:
    def leap(trial: Trial) -> object:
        state = trial.trainer.state()
        state.parameters[:] = np.float32(3e38)
        return state

    with pytest.raises(OwnFault, match="finite"):
        delayed.make(1, 1, {"outer step": leap})


@pytest.mark.parametrize("delay", [3, 4])
def test_a_delay_leaves_segments_after_it(delayed: Testbed, delay: int) -> None:
    fields = delayed.manifest.model_dump()
    with pytest.raises(ValueError, match=r"outer\.delay must be below every tier's segments"):
        RunManifest.model_validate({**fields, "outer": {"delay": delay}})


def test_a_policy_takes_its_outer_steps_at_once(delayed: Testbed) -> None:
    fields = {**delayed.manifest.model_dump(), **preset("sort").fields()}
    assert isinstance(fields["rollouts"], RolloutConfig | dict)
    with pytest.raises(ValueError, match="0 for a policy"):
        RunManifest.model_validate({**fields, "outer": {"delay": 1}})
