"""How the groups of a drawn segment were sampled: one pass of the policy under a numeric profile, exact in dispute.

Only what the public parameters and the task's noise make most likely passes: each token has no regret beyond
rounding, its claimed log-probability is right, and the activations shown are those of the parameters. Rounding makes
honest values differ, by a profile's tolerance at most. What is beyond is judged by exact arithmetic, which everybody
repeats to the last bit: a token with more regret than `slash_regret` in it is one that no honest arithmetic takes.

Prompts, turns and rewards are `verification.rollouts`'s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from protocol.errors import ConfigError
from protocol.manifest import NumericProfile, RunManifest
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from protocol.rollout_config import RolloutTolerance
from protocol.rollouts import Group, rollouts_of
from protocol.tensors import Floats
from training.activations import distance
from training.model import Transformer
from training.prefill import ExactScorer, Judged, PlainScorer, Scorer, best_digest, judge
from training.sampling import noise_key

IndexedGroup = tuple[int, Group]
"""A group with its index in the unit."""

Check = Literal["regret", "median", "log-probability", "fingerprint"]
CHECKS: Final[tuple[Check, ...]] = get_args(Check)


@dataclass(frozen=True, eq=False)
class Sampling:
    """Name groups, and what they must have been sampled with."""

    name: Literal["rollouts", "judgments"]
    manifest: RunManifest  # whose policy was sampled from; of judgments that of `protocol.judging`
    parameters: Floats  # [P], the policy's
    weights: str  # their content address, which keys the noise
    groups: Sequence[IndexedGroup]
    seeds: Sequence[int]  # of all the unit's groups (`training.assignment.task_seeds`)


@dataclass(frozen=True)
class Value:
    """Hold the largest value that one check found."""

    check: Check
    value: float
    bound: float  # the tolerance
    where: str  # group, and sample and token where it is one's

    @property
    def ratio(self) -> float:
        """Return the value over its bound; more than one is out of tolerance."""
        if self.bound:
            return self.value / self.bound
        return math.inf if self.value else 0.0


@dataclass(frozen=True)
class Measured:
    """Say how far groups are from how they should have been sampled, in one arithmetic.

    Regret is a token's, in units of logit / temperature; log-probabilities are in nats beyond what quantising takes,
    a token's or a group's median; a fingerprint is a group's, relative.
    """

    values: tuple[Value, ...]  # of each check its largest; none where there are no groups
    best: str  # address of the tokens that all groups should have taken

    @property
    def failed(self) -> Value | None:
        """Return the first that is out of tolerance, in the order of the checks, or None."""
        return next((one for one in self.values if one.ratio > 1), None)

    @property
    def ratio(self) -> float:
        """Return how much of its tolerance the farthest value is."""
        return max((one.ratio for one in self.values), default=0.0)

    @property
    def regret(self) -> float:
        """Return the largest regret."""
        return max((one.value for one in self.values if one.check == "regret"), default=0.0)


@dataclass(frozen=True)
class GroupsReport:
    """Say what a check of a segment's groups found."""

    outcome: Literal[1, 2, 3]  # PASSED, REJECTED or PROVEN_FALSE of protocol.messages
    measured: Measured  # under the profile of the check
    reason: str = ""  # printable ASCII, at most 200 characters; empty when passed
    exact: Measured | None = None  # where the groups were disputed


def judge_groups(
    sampling: Sampling, profile: NumericProfile, own: NumericProfile, device: str = "cpu"
) -> GroupsReport:
    """Check how groups were sampled.

    Args:
        profile: that the unit was committed under, whose tolerance holds.
        own: that this check computes under: the same, or one that may judge it.
        device: torch device of the class that `own` names.

    Raises:
        OwnFault: the parameters lead to values that are not finite.
        ConfigError: the run has no tolerance for the profile.
    """
    tolerance = _tolerance(sampling.manifest, profile)
    measured = _measure(sampling, _scorer(sampling, own, device), tolerance)
    if measured.failed is None:
        return GroupsReport(PASSED, measured)
    exact = measured
    if own.arithmetic != "exact":
        exact = _measure(sampling, _exact(sampling), tolerance)
    return _disputed(tolerance, measured, measured.failed, exact)


def find_groups(sampling: Sampling, profile: NumericProfile) -> GroupsReport:
    """Check as a juror does, in exact arithmetic alone; `measured.best` is what jurors agree on.

    Arguments and errors are those of `judge_groups`.
    """
    tolerance = _tolerance(sampling.manifest, profile)
    exact = _measure(sampling, _exact(sampling), tolerance)
    if exact.failed is None:
        return GroupsReport(PASSED, exact)
    return _disputed(tolerance, exact, exact.failed, exact)


def _disputed(
    tolerance: RolloutTolerance, measured: Measured, failed: Value, exact: Measured
) -> GroupsReport:
    outcome: Literal[2, 3] = PROVEN_FALSE if exact.regret > tolerance.slash_regret else REJECTED
    reason = f"{failed.where}: {failed.check} {failed.value:.3g}, tolerance {failed.bound:.3g}"
    return GroupsReport(outcome, measured, f"{reason}; exact regret {exact.regret:.3g}"[:200], exact)


def _tolerance(manifest: RunManifest, profile: NumericProfile) -> RolloutTolerance:
    found = rollouts_of(manifest).tolerance(profile.name)
    if found is None:
        raise ConfigError(f"the run has no tolerance of rollouts under profile {profile.name}")
    return found


def _exact(sampling: Sampling) -> Scorer:
    return ExactScorer(sampling.manifest.model, sampling.parameters)


def _scorer(sampling: Sampling, own: NumericProfile, device: str) -> Scorer:
    if own.arithmetic == "exact":
        return _exact(sampling)
    model = Transformer.loaded(sampling.manifest.model, sampling.parameters, device)
    return PlainScorer(sampling.manifest.model, model, autocast=own.arithmetic == "bf16")


def _measure(sampling: Sampling, scorer: Scorer, tolerance: RolloutTolerance) -> Measured:
    manifest, groups = sampling.manifest, sampling.groups
    run, weights, seeds = manifest.run_id, sampling.weights, sampling.seeds
    keys = [
        noise_key(run, weights, seeds[index], place) for index, group in groups for place in range(len(group))
    ]
    samples = [sample for _, group in groups for sample in group]
    judged = judge(scorer, samples, keys, rollouts_of(manifest).sampling.temperature)
    found: list[Value] = []
    done = 0
    for index, group in groups:
        found += _values(f"group {index}", judged[done : done + len(group)], group, tolerance)
        done += len(group)
    # Of equal values the first counts, so that everybody names the same place.
    largest = [
        max(own, key=lambda one: one.value)
        for check in CHECKS
        if (own := [v for v in found if v.check == check])
    ]
    return Measured(tuple(largest), best_digest(judged))


def _values(
    where: str, judged: Sequence[Judged], group: Group, tolerance: RolloutTolerance
) -> tuple[Value, ...]:
    """Return what each check finds of one group."""
    regrets = [one.max_regret for one in judged]
    offs = [one.max_off for one in judged]
    median = float(np.median(np.concatenate([one.off for one in judged])))
    claimed = np.stack([sample.fingerprint for sample in group])
    energy = math.fsum(one.energy for one in judged)
    away = distance(claimed, np.stack([one.fingerprint for one in judged]), energy)
    regretted, off = int(np.argmax(regrets)), int(np.argmax(offs))
    regretted_at = group[regretted].spoken[int(judged[regretted].regret.argmax())]
    off_at = group[off].spoken[int(judged[off].off.argmax())]
    return (
        Value(
            "regret",
            regrets[regretted],
            tolerance.regret,
            f"{where}, sample {regretted}, token {regretted_at}",
        ),
        Value("median", median, tolerance.median_off, where),
        Value("log-probability", offs[off], tolerance.max_off, f"{where}, sample {off}, token {off_at}"),
        Value("fingerprint", away, tolerance.fingerprint, where),
    )
