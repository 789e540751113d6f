"""What a unit had to do, and what its reward is made of, in words."""

from protocol.manifest import RunManifest
from protocol.rollout_config import RewardWeight, RolloutConfig


def assigned_work(manifest: RunManifest) -> str:
    """Return the work of one unit."""
    steps, batch, rollouts = manifest.inner.steps, manifest.inner.batch, manifest.rollouts
    if rollouts is None:
        return f"{steps} steps of {batch} samples"
    sampling, judge = rollouts.sampling, rollouts.judge
    judged = "" if judge is None else f"up to {sampling.groups * judge.judges} groups to judge, "
    return (
        f"{sampling.groups} groups of {sampling.group_size} samples to roll out in {rollouts.environment.name}, "
        f"{judged}"
        f"{steps} steps of {batch} groups of rollouts {rollouts.lag} rounds old to learn from"
    )


def weighed_rewards(manifest: RunManifest) -> tuple[str, ...]:
    """Return a line for each component of a sample's reward: its weight, and how it is known."""
    if manifest.rollouts is None:
        return ()
    return tuple(
        f"{one.component}, weight {one.weight:g}: {_known(manifest.rollouts, one)}"
        for one in manifest.rollouts.rewards
    )


def _known(rollouts: RolloutConfig, one: RewardWeight) -> str:
    """Return how a component of a reward is known."""
    if one.source == "verifiable":
        return "recomputed by everybody who plays the sample again"
    if not one.weight:
        return "asked of nobody in this run"
    if one.source == "human":
        assert rollouts.people is not None, "a weight and people come together"
        count = len(rollouts.people.addresses)
        said = "one person prefers" if count == 1 else f"{count} people prefer"
        return (
            f"what {said}: Bradley and Terry's values of the signed preferences that records carry until "
            f"{rollouts.lag - 1} rounds later"
        )
    assert rollouts.judge is not None, "a weight and a judge come together"
    return (
        f"the median score of up to {rollouts.judge.judges} peers, drawn by the beacon, who sample from the pinned "
        "judge model"
    )
