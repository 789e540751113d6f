"""Every way to cheat with rollouts, and as a judge of others': its name, what it does, and what must become of it."""

from enum import StrEnum

from verification.cheats import Fate, Kind


class RolloutCheat(StrEnum):
    """Name the ways to cheat with rollouts."""

    GREEDY = "greedy"
    COOLER = "cooler"
    RE_ROLL = "re-roll"
    BEST_OF_N = "best-of-n"
    INT8 = "int8-weights"
    INT4 = "int4-weights"
    BF16 = "bf16-products"
    STALE = "stale-weights"
    OTHER_MODEL = "other-model"
    DROPPED_LAYER = "dropped-layer"
    EDITED = "edited-token"
    RIGHT_ANSWER = "right-answer"
    LOG_PROBABILITIES = "log-probabilities"
    NO_FINGERPRINT = "no-fingerprint"
    INVENTED_REWARD = "invented-reward"
    INVERTED_REWARD = "inverted-reward"
    OVER_LONG = "over-long"
    CUT_SHORT = "cut-short"
    PROMPT = "easier-prompt"
    MISSING_SAMPLE = "missing-sample"
    COPIED_GROUP = "copied-group"
    COPIED_UNIT = "copied-unit"

    @property
    def kind(self) -> Kind:
        """Return what it does and what must become of it."""
        return _KINDS[self]


class JudgeCheat(StrEnum):
    """Name the ways to cheat as a judge of others' rollouts."""

    FLATTERED = "flattered-answer"
    GREEDY = "greedy-judge"
    COPIED = "copied-judgments"
    OTHER_JUDGE = "other-judge"
    INVENTED_SCORE = "invented-score"
    OTHER_PROMPT = "other-prompt"
    OTHER_SAMPLE = "other-sample"
    MISSING = "missing-judgment"

    @property
    def kind(self) -> Kind:
        """Return what it does and what must become of it."""
        return _JUDGE_KINDS[self]


_JUDGE_KINDS = {
    JudgeCheat.FLATTERED: Kind("gives the worst sample of each group the best one's answer"),
    JudgeCheat.GREEDY: Kind("answers with the likeliest tokens"),
    JudgeCheat.COPIED: Kind("says what another judge of the same groups says"),
    JudgeCheat.OTHER_JUDGE: Kind("asks another model than the pinned one"),
    JudgeCheat.INVENTED_SCORE: Kind("claims the highest score for every answer", fate=Fate.UNPAID),
    JudgeCheat.OTHER_PROMPT: Kind("asks something else than the pinned prompt", fate=Fate.UNPAID),
    JudgeCheat.OTHER_SAMPLE: Kind("answers about other samples than it was to judge", fate=Fate.UNPAID),
    JudgeCheat.MISSING: Kind("leaves one group unjudged", fate=Fate.UNPAID),
}

_KINDS = {
    RolloutCheat.GREEDY: Kind("takes the likeliest token"),
    RolloutCheat.COOLER: Kind("samples at 0.7 of the run's temperature"),
    RolloutCheat.RE_ROLL: Kind("draws its own noise, once"),
    RolloutCheat.BEST_OF_N: Kind("draws four samples and keeps the best"),
    RolloutCheat.INT8: Kind("samples from weights rounded to 8 bits a row", fate=Fate.CAUGHT),
    RolloutCheat.INT4: Kind("samples from weights rounded to 4 bits a row", fate=Fate.CAUGHT),
    RolloutCheat.BF16: Kind("multiplies in bfloat16 where the profile says float32", fate=Fate.CAUGHT),
    RolloutCheat.STALE: Kind("samples from the round before's weights, with this round's noise"),
    RolloutCheat.OTHER_MODEL: Kind("samples from a model of the same shape, tuned less"),
    RolloutCheat.DROPPED_LAYER: Kind("leaves out the last layer", saving=0.5),
    RolloutCheat.EDITED: Kind("changes one token of one sample"),
    RolloutCheat.RIGHT_ANSWER: Kind("writes the right answer into one sample of each group"),
    RolloutCheat.LOG_PROBABILITIES: Kind("claims half the probability of every token", fate=Fate.VOID),
    RolloutCheat.NO_FINGERPRINT: Kind("shows no activations", fate=Fate.VOID),
    RolloutCheat.INVENTED_REWARD: Kind("claims every reward", fate=Fate.UNPAID),
    RolloutCheat.INVERTED_REWARD: Kind(
        "claims rewards for what failed and none for what did not", fate=Fate.UNPAID
    ),
    RolloutCheat.OVER_LONG: Kind("claims a reward for an answer that never ended its turn", fate=Fate.UNPAID),
    RolloutCheat.CUT_SHORT: Kind("leaves out the last token of a sample", fate=Fate.UNPAID),
    RolloutCheat.PROMPT: Kind("answers an easier question", fate=Fate.UNPAID),
    RolloutCheat.MISSING_SAMPLE: Kind("leaves out the worst sample of each group", fate=Fate.UNPAID),
    RolloutCheat.COPIED_GROUP: Kind("submits one group twice", fate=Fate.UNPAID),
    RolloutCheat.COPIED_UNIT: Kind("submits another peer's rollouts", fate=Fate.UNPAID),
}
