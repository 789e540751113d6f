"""What a unit had to do, and what its reward is made of, in words."""

from protocol.manifest import RunManifest


def assigned_work(manifest: RunManifest) -> str:
    """Return the work of one unit."""
    steps, batch, rollouts = manifest.inner.steps, manifest.inner.batch, manifest.rollouts
    if rollouts is None:
        return f"{steps} steps of {batch} samples"
    sampling = rollouts.sampling
    return (
        f"{sampling.groups} groups of {sampling.group_size} samples to roll out in {rollouts.environment.name}, "
        f"{steps} steps of {batch} groups of rollouts {rollouts.lag} rounds old to learn from"
    )


def weighed_rewards(manifest: RunManifest) -> tuple[str, ...]:
    """Return a line for each component of a sample's reward: its weight, and how it is known."""
    if manifest.rollouts is None:
        return ()
    return tuple(
        f"{one.component}, weight {one.weight:g}: recomputed by everybody who plays the sample again"
        for one in manifest.rollouts.rewards
    )
