"""The base model of a policy: a fresh model fine-tuned on demonstrations of its environment, of mixed quality.

A demonstration is learned as a policy's episode reads: turns count in full, and what the environment says for a
fraction, which teaches a small model what to expect. The same seed gives the same demonstrations everywhere, and the
same parameters on one machine and one build of torch; a manifest names them by their content address.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from protocol.canonical import ZERO_DIGEST
from protocol.frozen import Frozen
from protocol.manifest import LOCAL_CHAIN_ID, DatasetConfig, InnerConfig, RunManifest, VerificationConfig
from protocol.model_config import ModelConfig
from protocol.rollout_config import PolicyConfig, SamplingConfig
from protocol.tensors import Floats
from training.environments.demonstration import demonstrate
from training.environments.registry import Opened
from training.inner import InnerState
from training.model import initial_parameters
from training.policy import PolicyTrainer, SupervisedBatch
from training.rollout import Tokenizer

Progress = Callable[[int, int, float], None]
"""Told after every step: steps taken, steps in all, and the step's loss in nats a token."""

_ADDRESS: Final = "0x" + "00" * 20
_SEPARATOR: Final = b"\n"


class TuningConfig(Frozen):
    """Say what a base model is tuned on, and how."""

    demonstrations: int = 8192  # different ones; tuning goes over them again and again
    good_share: float | None = None  # of them that are meant to be good; None: the environment's own
    observation_weight: float = 0.2  # of a token that the environment says; one of the policy's weighs 1
    steps: int = 400
    batch: int = 64  # demonstrations a step
    lr: float = 4e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Corpus:
    """Hold demonstrations as tokens, with a weight for each."""

    episodes: tuple[tuple[Sequence[int], Sequence[float]], ...]

    def text(self) -> bytes:
        """Return all tokens as bytes, an empty line after each episode: the dataset that a run's manifest pins."""
        return _SEPARATOR.join(bytes(tokens) for tokens, _ in self.episodes) + _SEPARATOR


def corpus_of(opened: Opened, sampling: SamplingConfig, tokenizer: Tokenizer, config: TuningConfig) -> Corpus:
    """Let the environment's demonstrator show the tasks of seeds that follow one another.

    Raises:
        UsageError: nobody can show this environment.
        ConfigError: the environment says what the vocabulary does not hold.
    """
    first = config.seed * config.demonstrations
    episodes = []
    for seed in range(first, first + config.demonstrations):
        shown = demonstrate(opened.definition, opened.environment, seed, config.good_share).outcome
        tokens: list[int] = []
        weights: list[float] = []
        for turn in shown.turns:
            told = tokenizer.encode(turn.observation)
            said = [*tokenizer.encode(turn.action), sampling.end_token]
            tokens += [*told, *said]
            weights += [config.observation_weight] * len(told) + [1.0] * len(said)
        episodes.append((tokens[: sampling.tokens], weights[: sampling.tokens]))
    return Corpus(tuple(episodes))


def tune(
    model: ModelConfig, corpus: Corpus, config: TuningConfig, progress: Progress | None = None
) -> Floats:
    """Fine-tune a fresh model; return its parameters float32[P].

    Raises:
        OwnFault: the loss stopped being finite.
    """
    trainer = PolicyTrainer(_manifest(model, config), PolicyConfig(), 1.0)
    trainer.load(InnerState.fresh(initial_parameters(model, config.seed)))
    order = np.random.Generator(np.random.PCG64(config.seed))
    waiting: list[int] = []
    for step in range(config.steps):
        while len(waiting) < config.batch:
            waiting += order.permutation(len(corpus.episodes)).tolist()
        drawn, waiting = waiting[: config.batch], waiting[config.batch :]
        batch = SupervisedBatch.of([corpus.episodes[index] for index in drawn])
        (loss,) = trainer.run([batch], step)
        if progress is not None:
            progress(step + 1, config.steps, loss)
    return trainer.state().parameters


def _manifest(model: ModelConfig, config: TuningConfig) -> RunManifest:
    """Return what a trainer asks a run for."""
    return RunManifest(
        name="tuning",
        chain_id=LOCAL_CHAIN_ID,
        ledger=_ADDRESS,
        coordinator=_ADDRESS,
        rounds=1,
        model=model,
        inner=InnerConfig(
            steps=config.steps,
            batch=config.batch,
            lr=config.lr,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
        ),
        verification=VerificationConfig(segment_steps=1),
        dataset=DatasetConfig(name="tuning", root=ZERO_DIGEST, tokens=1),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )
