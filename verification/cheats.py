"""Every way to cheat: its name, what it does, what it saves, and what must become of it."""

from dataclasses import dataclass
from enum import StrEnum

from protocol.manifest import RunManifest


class Fate(StrEnum):
    """Say what verification must make of a cheat, whenever one of its dishonest units is drawn."""

    SLASHED = "slashed"  # proven false: it loses its stake
    CAUGHT = "caught"  # proven false or void, depending on how far beyond the tolerance it is
    VOID = "void"  # nothing can be proven, and nothing is paid
    UNPAID = "unpaid"  # never merged, so never paid, drawn or not
    REFUSED = "refused"  # never heard: every frame is refused
    HARMLESS = (
        "harmless"  # a contradiction that is refused and proven on the ledger; the unit itself is honest
    )


@dataclass(frozen=True)
class Kind:
    """Describe one way to cheat."""

    does: str
    saving: float = 0.0  # of a unit's honest compute, at most
    fate: Fate = Fate.SLASHED


class Cheat(StrEnum):
    """Name the ways to cheat."""

    SKIP_STEPS = "skip-steps"
    SKIP_TENTH = "skip-tenth"
    HALF_STEPS = "half-steps"
    SMALL_BATCH = "small-batch"
    WRONG_DATA = "wrong-data"
    OTHER_SEED = "other-seed"
    POISON = "poison"
    REUSE_GRADIENTS = "reuse-gradients"
    FROZEN_LAYERS = "frozen-layers"
    LR_90 = "lr-0.9"
    LR_99 = "lr-0.99"
    NO_WEIGHT_DECAY = "no-weight-decay"
    BF16 = "bf16"
    TF32 = "tf32"
    STALE_START = "stale-start"
    ONE_FORGED_SEGMENT = "one-forged-segment"
    NUDGE = "nudge"
    HIDDEN_MOMENTS = "hidden-moments"
    COPYCAT = "copycat"
    PERTURBED_COPY = "perturbed-copy"
    RANDOM_UPDATE = "random-update"
    DROPPED_RESIDUAL = "dropped-residual"
    FORGED_RESIDUAL = "forged-residual"
    CARRIED_RESIDUAL = "carried-residual"
    FORGED_UPDATE = "forged-update"
    FORGED_MOMENTS = "forged-moments"  # where the run publishes them
    FORGED_BYTES = "forged-bytes"
    REFUSE_OPENING = "refuse-opening"
    LATE_OPENING = "late-opening"
    WITHHOLD_REVEAL = "withhold-reveal"
    EQUIVOCATE = "equivocate"
    GARBAGE = "garbage"

    @property
    def kind(self) -> Kind:
        """Return what this cheat is."""
        return _KINDS[self]


class PolicyCheat(StrEnum):
    """Name the ways to cheat with the rollouts of a unit, in a run where a policy learns."""

    REWARD_LIAR = "reward-liar"
    CHERRY_PICKER = "cherry-picker"
    FLATTERER = "flatterer"  # where the run has a judge

    @property
    def kind(self) -> Kind:
        """Return what this cheat is."""
        return _POLICY_KINDS[self]


AnyCheat = Cheat | PolicyCheat


def cheats_in(manifest: RunManifest) -> tuple[Cheat, ...]:
    """Return the ways to cheat that a run leaves something to do."""
    return tuple(one for one in Cheat if one is not Cheat.FORGED_MOMENTS or manifest.moment_slices)


def cheat_named(name: str) -> AnyCheat:
    """Return a cheat by its name.

    Raises:
        ValueError: no such cheat.
    """
    return PolicyCheat(name) if name in set(PolicyCheat) else Cheat(name)


_POLICY_KINDS = {
    PolicyCheat.REWARD_LIAR: Kind("claims the highest reward for a sample that earned the least"),
    PolicyCheat.CHERRY_PICKER: Kind(
        "draws every sample several times with its own noise, and keeps the best"
    ),
    PolicyCheat.FLATTERER: Kind("as a judge, gives the worst sample of each group the best one's answer"),
}

_KINDS = {
    Cheat.SKIP_STEPS: Kind("takes one step of three", 2 / 3),
    Cheat.SKIP_TENTH: Kind("leaves out one step in ten", 0.1),
    Cheat.HALF_STEPS: Kind("takes every second step", 0.5),
    Cheat.SMALL_BATCH: Kind("trains on three of four samples of each batch", 0.25),
    Cheat.WRONG_DATA: Kind("trains on text that nobody is assigned"),
    Cheat.OTHER_SEED: Kind("draws its batches with another number"),
    Cheat.POISON: Kind("replaces one sample in four"),
    Cheat.REUSE_GRADIENTS: Kind("takes every second step along the gradient of the one before", 0.5),
    Cheat.FROZEN_LAYERS: Kind("computes no gradient for the lower half of the layers", 0.33),
    Cheat.LR_90: Kind("takes 0.9 of the learning rate"),
    Cheat.LR_99: Kind("takes 0.99 of the learning rate", fate=Fate.CAUGHT),
    Cheat.NO_WEIGHT_DECAY: Kind("leaves out weight decay", fate=Fate.CAUGHT),
    Cheat.BF16: Kind("computes in bfloat16", 0.5, fate=Fate.CAUGHT),
    Cheat.TF32: Kind("rounds factors of matrix products to ten bits", 0.5, fate=Fate.CAUGHT),
    Cheat.STALE_START: Kind("trains from the parameters of the round before"),
    Cheat.ONE_FORGED_SEGMENT: Kind("invents one segment among honest ones", 0.2),
    Cheat.NUDGE: Kind("adds a little to one tensor after each segment", fate=Fate.CAUGHT),
    Cheat.HIDDEN_MOMENTS: Kind("shifts the smallest moments by what is lost in the norm of their tensor"),
    Cheat.COPYCAT: Kind("commits to what another peer revealed, around invented states", 1.0),
    Cheat.PERTURBED_COPY: Kind("commits to another peer's update, perturbed, on states made to fit", 1.0),
    Cheat.RANDOM_UPDATE: Kind("commits to noise of an update's norm, on states made to fit", 1.0),
    Cheat.DROPPED_RESIDUAL: Kind("leaves its residual out of the update"),
    Cheat.FORGED_RESIDUAL: Kind("commits to a residual ten times too large"),
    Cheat.CARRIED_RESIDUAL: Kind("forges its residual once in four units and carries it on"),
    Cheat.FORGED_UPDATE: Kind("commits to the opposite of its update"),
    Cheat.FORGED_MOMENTS: Kind("says second moments far above its own, so that nobody moves their entries"),
    Cheat.FORGED_BYTES: Kind("skips steps, and opens other bytes than it committed to", 2 / 3),
    Cheat.REFUSE_OPENING: Kind("skips steps, and opens nothing", 2 / 3, Fate.VOID),
    Cheat.LATE_OPENING: Kind("opens once its time is over", 0.0, Fate.VOID),
    Cheat.WITHHOLD_REVEAL: Kind("commits and reveals nothing", 0.0, Fate.UNPAID),
    Cheat.EQUIVOCATE: Kind("commits twice for one round", 0.0, Fate.HARMLESS),
    Cheat.GARBAGE: Kind("sends malformed and lying messages only", 1.0, Fate.REFUSED),
}
