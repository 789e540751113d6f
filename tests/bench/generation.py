"""What checking rollouts costs beside making them, in CPU-seconds of one process and one thread.

`python -m tests.bench generation [--envs sort shop] [--units 5] [--json]`. A contributor samples a unit from the base
model and learns from three such units. It is checked as everybody does: whoever merges plays all of it again,
verifiers judge a drawn segment's groups by one pass and repeat its steps, jurors do both in exact arithmetic. Figures
are medians over units, after one that is not counted. `cheaper` is what the contributor spent on the same groups or
steps over what the check spends on them, `unit` the check's share of what the whole unit took to make.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from protocol.canonical import digest
from protocol.manifest import CPU_EXACT, CPU_FP32, NumericProfile, RunManifest
from protocol.messages import PASSED
from protocol.rollouts import Group, Shape, encode_group
from protocol.tensors import Floats
from tests.bench._clock import Clock
from tests.bench._rows import Rows
from tests.bench._swarm import manifest_of
from training.assignment import assignment, task_seeds
from training.base import base_model
from training.experience import Experience, ExperienceTrainer
from training.inner import InnerState, prepare_process
from training.outer import initial_state, parameters_file
from training.preset import preset
from training.sampler import Sampler
from verification.rollouts import check_rollouts
from verification.sampled import GroupsReport, Sampling, find_groups, judge_groups

CONTRIBUTORS = 3
VERIFIERS, DRAWN = 2, 0.2  # of a drawn unit; share of units


@dataclass(frozen=True)
class Measured:
    """Hold what one unit took, by part."""

    seconds: dict[str, float]
    groups: int  # of the unit
    tokens: int  # that the policy chose in them
    drawn_groups: int  # of the segment
    drawn_tokens: int


def measure(manifest: RunManifest, parameters: Floats, beacon: str) -> Measured:
    """Make a unit and check it in every way."""
    clock = Clock()
    weights = digest(parameters_file(manifest, initial_state(manifest, parameters)))

    def sampled(number: int) -> tuple[Group, ...]:
        sampler = Sampler(manifest, parameters, weights, CPU_FP32)
        return sampler.groups(task_seeds(manifest, beacon, 0, number))

    def learnt(profile: NumericProfile, steps: int) -> None:
        trainer = ExperienceTrainer(experience, profile.arithmetic)
        trainer.load(InnerState.fresh(parameters))
        trainer.run(assignment(manifest, beacon, 0, 1)[:steps], 0)

    unit = clock("sampling", sampled, 1)
    others = [group for number in range(2, CONTRIBUTORS + 1) for group in sampled(number)]
    experience = Experience(manifest, (*unit, *others))
    clock("learning", learnt, CPU_FP32, manifest.inner.steps)
    raw = [encode_group(group, Shape.of(manifest)) for group in unit]
    clock("play again", check_rollouts, manifest, beacon, 0, 1, raw)
    drawn = list(enumerate(unit))[:: manifest.segments]
    seeds = task_seeds(manifest, beacon, 0, 1)
    sampling = Sampling("rollouts", manifest, parameters, weights, drawn, seeds)
    _passed(clock("drawn groups", judge_groups, sampling, CPU_FP32, CPU_FP32))
    _passed(clock("exact groups", find_groups, sampling, CPU_FP32))
    clock("drawn steps", learnt, CPU_FP32, manifest.verification.segment_steps)
    clock("exact steps", learnt, CPU_EXACT, manifest.verification.segment_steps)
    picked = [group for _, group in drawn]
    return Measured(clock.spent, len(unit), _tokens(unit), len(picked), _tokens(picked))


def _passed(report: GroupsReport) -> None:
    assert report.outcome == PASSED, report.reason


def _tokens(groups: Sequence[Group]) -> int:
    return sum(sample.codes.size for group in groups for sample in group)


def table(environment: str, units: int) -> Iterator[dict[str, object]]:
    """Yield a row a part."""
    chosen = preset(environment)
    parameters = base_model(chosen).parameters
    manifest = manifest_of(chosen, "generation")
    _warm, *found = [
        measure(manifest, parameters, digest(f"unit {index}".encode())) for index in range(units + 1)
    ]
    seconds = {name: median(one.seconds[name] for one in found) for name in found[0].seconds}
    made = seconds["sampling"] + seconds["learning"]

    def row(
        part: str, spent: float, beside: float, groups: float = 0, tokens: float = 0
    ) -> dict[str, object]:
        return {
            "environment": environment,
            "part": part,
            "cpu ms": round(1000 * spent, 1),
            "ms a group": round(1000 * spent / groups, 2) if groups else None,
            "us a token": round(1e6 * spent / tokens, 1) if tokens else None,
            "cheaper": round(beside / spent, 2),
            "unit": round(spent / made, 3),
        }

    groups, drawn = found[0].groups, found[0].drawn_groups
    tokens = median(one.tokens for one in found)
    drawn_tokens = median(one.drawn_tokens for one in found)
    a_token = seconds["sampling"] / tokens
    a_step = seconds["learning"] / manifest.inner.steps
    segment = a_step * manifest.verification.segment_steps
    yield row("sampling", seconds["sampling"], seconds["sampling"], groups, tokens)
    yield row("play again", seconds["play again"], seconds["sampling"], groups, tokens)
    for part in ("drawn groups", "exact groups"):
        yield row(part, seconds[part], a_token * drawn_tokens, drawn, drawn_tokens)
    yield row("learning", seconds["learning"], seconds["learning"])
    for part in ("drawn steps", "exact steps"):
        yield row(part, seconds[part], segment)
    judged = VERIFIERS * DRAWN * (seconds["drawn groups"] + seconds["drawn steps"])
    yield row(f"{VERIFIERS} verifiers, {DRAWN:.0%} drawn", judged, made)


def main(arguments: list[str]) -> int:
    """Print a row a part of each environment."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench generation", description=__doc__)
    parser.add_argument("--envs", nargs="*", default=["sort", "shop"])
    parser.add_argument("--units", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    rows = Rows(options.json)
    for environment in options.envs:
        for row in table(environment, options.units):
            rows.add(row)
    return 0
