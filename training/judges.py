"""Judges that runs can pin: one tuned here for a shipped environment, or one that somebody brings in a directory.

A judge's directory holds its parameters, as `murmur model import` writes them, and judge.json: the fields of
`protocol.rollout_config.JudgeConfig` but for the parameters' address.

The tuned one is a fresh model that reads samples of the environment's base policy and of good demonstrations, and
learns to say what they earned, in tenths. It errs, as judges do, and knows nothing of the task but these.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from protocol.canonical import ZERO_DIGEST, canonical_json, digest, tagged_digest
from protocol.errors import ConfigError, Malformed
from protocol.rollout_config import SAMPLE, JudgeConfig
from protocol.tensors import Floats, parameter_layout, unpack
from training.base import base_model, keeping, kept
from training.cache import cache_directory
from training.environments.demonstration import demonstrate
from training.environments.protocol import as_text, total
from training.generate import Task, generate
from training.model import Transformer
from training.preset import Preset
from training.program import program_digest
from training.rewards import total_reward
from training.rollout import ByteTokenizer
from training.sampling import noise_key
from training.tuning import Corpus, Progress, TuningConfig, tune

PARAMETERS: Final = "parameters.safetensors"
CONFIG: Final = "judge.json"
ASKED: Final = "="
"""What the tuned judge reads after a sample."""
TUNING: Final = TuningConfig(demonstrations=12_288, observation_weight=0.0, steps=400, seed=1)
_GOOD: Final = 3  # samples of the policy for each good demonstration beside them
_MAX_CONFIG_BYTES: Final = 1 << 16
_ROLLOUTS: Final = 512  # that are sampled at once


@dataclass(frozen=True, eq=False)
class Judge:
    """Hold a judge that a run can pin."""

    config: JudgeConfig
    parameters: Floats  # [J]
    file: Path  # that holds them, canonical
    cached: bool = True


def read_judge(directory: Path) -> Judge:
    """Read a judge that somebody brings.

    Raises:
        ConfigError: the directory holds none.
    """
    try:
        with (directory / CONFIG).open("rb") as file:
            said = json.loads(file.read(_MAX_CONFIG_BYTES))
        config = JudgeConfig.model_validate({"parameters": ZERO_DIGEST, **said})
        layout = parameter_layout(config.model)
        with (directory / PARAMETERS).open("rb") as file:
            data = file.read(layout.file_bytes + 1)
        parameters, _ = unpack(layout, data)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, TypeError, Malformed) as error:
        raise ConfigError(
            f"{directory} holds no judge: {error}",
            hint=f"`murmur model import` writes {PARAMETERS}; {CONFIG} is described in docs/rollouts.md",
        ) from error
    return Judge(config.model_copy(update={"parameters": digest(data)}), parameters, directory / PARAMETERS)


def tuned_judge(preset: Preset, directory: Path | None = None, progress: Progress | None = None) -> Judge:
    """Return the judge of a preset's environment; where it was never tuned, tune it now and keep it.

    Args:
        directory: where models are kept; None: `cache_directory`.
        progress: told after every step of the tuning.

    Raises:
        ConfigError: the environment is not installed, or the directory cannot be written.
        UsageError: nobody can show the environment.
        OwnFault: the loss stopped being finite.
    """
    config = tuned_config(preset)
    base = base_model(preset, directory)
    facts = {
        "base": base.file.parent.name,
        "judge": config.model_dump(mode="json"),
        "tuning": TUNING.model_dump(),
    }
    key = tagged_digest("murmur/judge", program_digest(), digest(canonical_json(facts)))[:32]
    folder = (directory or cache_directory()) / "judges" / key
    path = folder / PARAMETERS
    with keeping(folder):
        parameters, cached = kept(
            path,
            config.model,
            lambda: tune(config.model, judge_corpus(preset, base.parameters), TUNING, progress),
        )
        address = digest(path.read_bytes())
    return Judge(config.model_copy(update={"parameters": address}), parameters, path, cached)


def tuned_config(preset: Preset) -> JudgeConfig:
    """Return how the tuned judge is asked; its parameters have no address yet."""
    answer = len("1.0\n")
    tokens = preset.sampling.tokens + len(ASKED) + answer
    return JudgeConfig(
        model=preset.model.model_copy(update={"context": tokens}),
        parameters=ZERO_DIGEST,
        prompt=SAMPLE + ASKED,
        end_token=preset.sampling.end_token,
        answer_tokens=answer,
        tokens=tokens,
    )


def judge_corpus(preset: Preset, parameters: Floats, tuning: TuningConfig = TUNING) -> Corpus:
    """Return samples of a policy float32[P] and a third as many good demonstrations, each with what it earned."""
    first = TUNING.seed << 32  # seeds that the policy was not tuned on
    shown = range(first, first + tuning.demonstrations)
    good = range(shown.stop, shown.stop + tuning.demonstrations // _GOOD)
    read = [*_sampled(preset, parameters, shown), *_good(preset, good)]
    episodes: list[tuple[list[int], list[float]]] = []
    for text, reward in read:
        asked, said = list((text + ASKED).encode()), list(f"{min(max(reward, 0.0), 1.0):.1f}\n".encode())
        episodes.append((asked + said, [0.0] * len(asked) + [1.0] * len(said)))
    return Corpus(tuple(episodes))


def _sampled(preset: Preset, parameters: Floats, seeds: range) -> list[tuple[str, float]]:
    opened, tokenizer = preset.open(), ByteTokenizer(preset.model.vocab)
    model = Transformer.loaded(preset.model, parameters)
    weights = [one.weight for one in opened.environment.spec.components]
    found: list[tuple[str, float]] = []
    for start in range(0, len(seeds), _ROLLOUTS):
        tasks = [
            Task(opened.another(), seed, noise_key(ZERO_DIGEST, ZERO_DIGEST, seed, 0))
            for seed in seeds[start : start + _ROLLOUTS]
        ]
        drawn = generate(model, preset.model, tasks, preset.sampling, tokenizer)
        found += [
            (tokenizer.decode(one.rollout.tokens), total_reward(one.rollout.rewards()[0], weights))
            for one in drawn
        ]
    return found


def _good(preset: Preset, seeds: range) -> list[tuple[str, float]]:
    opened = preset.open()
    found: list[tuple[str, float]] = []
    for seed in seeds:
        shown = demonstrate(opened.definition, opened.environment, seed, good_share=1.0).outcome
        text = "".join(f"{as_text(turn.observation)}{turn.action}\n" for turn in shown.turns)
        found.append((text, total(opened.environment.spec, shown.components[0])))
    return found
