"""From the name of a cheat to what it replaces: the trainer's steps, the daemon's behaviour, or both."""

from collections.abc import Callable

from node.cheats.claims import (
    FORGES_EVERY,
    Copycat,
    DroppedResidual,
    ForgedBytes,
    ForgedMoments,
    ForgedResidual,
    ForgedUpdate,
    PerturbedCopy,
    RandomUpdate,
)
from node.cheats.garbage import Garbage
from node.cheats.rollouts import CherryPicker, Flatterer, RewardLiar
from node.cheats.silence import Equivocate, LateOpening, RefuseOpening, WithholdReveal
from node.cheats.steps import (
    Bf16,
    FrozenLayers,
    HiddenMoments,
    Nudge,
    OneForgedSegment,
    OtherOptimizer,
    OtherSeed,
    Poison,
    ReusedGradients,
    SkippedSteps,
    SmallBatch,
    StaleStart,
    Tf32,
    WrongData,
)
from node.honesty import HonestSteps, Honesty
from protocol.errors import ConfigError
from protocol.manifest import RunManifest
from verification.cheats import AnyCheat, Cheat, PolicyCheat, cheat_named, cheats_in

_STEPS: dict[AnyCheat, Callable[[], HonestSteps]] = {
    Cheat.SKIP_STEPS: lambda: SkippedSteps(every=3, taken=1),
    Cheat.SKIP_TENTH: lambda: SkippedSteps(every=10, taken=9),
    Cheat.HALF_STEPS: lambda: SkippedSteps(every=2, taken=1),
    Cheat.SMALL_BATCH: SmallBatch,
    Cheat.WRONG_DATA: WrongData,
    Cheat.OTHER_SEED: OtherSeed,
    Cheat.POISON: Poison,
    Cheat.REUSE_GRADIENTS: ReusedGradients,
    Cheat.FROZEN_LAYERS: FrozenLayers,
    Cheat.LR_90: lambda: OtherOptimizer(rate=0.9),
    Cheat.LR_99: lambda: OtherOptimizer(rate=0.99),
    Cheat.NO_WEIGHT_DECAY: lambda: OtherOptimizer(decay=0.0),
    Cheat.BF16: Bf16,
    Cheat.TF32: Tf32,
    Cheat.STALE_START: StaleStart,
    Cheat.ONE_FORGED_SEGMENT: OneForgedSegment,
    Cheat.NUDGE: Nudge,
    Cheat.HIDDEN_MOMENTS: HiddenMoments,
    Cheat.DROPPED_RESIDUAL: DroppedResidual,
    Cheat.FORGED_RESIDUAL: ForgedResidual,
    Cheat.CARRIED_RESIDUAL: lambda: ForgedResidual(FORGES_EVERY),
    Cheat.FORGED_UPDATE: ForgedUpdate,
    Cheat.FORGED_MOMENTS: ForgedMoments,
    PolicyCheat.REWARD_LIAR: RewardLiar,
    PolicyCheat.CHERRY_PICKER: CherryPicker,
    PolicyCheat.FLATTERER: Flatterer,
}

_HONESTY: dict[AnyCheat, Callable[[], Honesty]] = {
    Cheat.COPYCAT: Copycat,
    Cheat.PERTURBED_COPY: PerturbedCopy,
    Cheat.RANDOM_UPDATE: RandomUpdate,
    Cheat.FORGED_BYTES: lambda: ForgedBytes(Cheat.SKIP_STEPS),
    Cheat.REFUSE_OPENING: lambda: RefuseOpening(Cheat.SKIP_STEPS),
    Cheat.LATE_OPENING: LateOpening,
    Cheat.WITHHOLD_REVEAL: WithholdReveal,
    Cheat.EQUIVOCATE: Equivocate,
    Cheat.GARBAGE: Garbage,
}


class CheatingTrainer(Honesty):
    """Cheat in the trainer's process; everything here is honest."""

    def __init__(self, cheat: AnyCheat) -> None:
        self.trainer_arguments = (cheat.value,)


def check_cheat(manifest: RunManifest, cheat: AnyCheat | None) -> None:
    """Refuse a cheat that a run leaves nothing to do.

    Raises:
        ConfigError: it is one with rollouts, of judges or with published moments, in a run without.
    """
    if isinstance(cheat, Cheat) and cheat not in cheats_in(manifest):
        raise ConfigError(
            f"{cheat} lies about second moments, and the run publishes none", hint="choose another --cheat"
        )
    if isinstance(cheat, PolicyCheat) and manifest.rollouts is None:
        raise ConfigError(
            f"{cheat} cheats with rollouts, and the run has none", hint="choose another --cheat"
        )
    if cheat is PolicyCheat.FLATTERER and manifest.judge is None:
        raise ConfigError(
            f"{cheat} lies about what the run's judge says, and it has none", hint="choose another --cheat"
        )


def steps_of(cheat: str | None) -> HonestSteps:
    """Return how the trainer takes its steps.

    Raises:
        ValueError: no such cheat.
    """
    make = None if cheat is None else _STEPS.get(cheat_named(cheat))
    return HonestSteps() if make is None else make()


def honesty_of(cheat: AnyCheat | None) -> Honesty:
    """Return how the daemon behaves."""
    if cheat is None:
        return Honesty()
    make = _HONESTY.get(cheat)
    return CheatingTrainer(cheat) if make is None else make()
