"""What a person wants to know of the rollouts that a unit published: figures, and one group of samples to read.

Nothing here decides anything: what counts is in `verification.rollouts` and in records. All text is a peer's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from protocol.manifest import RunManifest
from protocol.published import published_sizes, read_rollouts
from protocol.rollouts import Group, Sample, Shape, decode_group, rollouts_of
from training.environments.pinned import open_environment_of
from training.environments.protocol import succeeded
from training.experience import Scores, with_scores
from training.rewards import group_rewards
from training.rollout import Tokenizer
from training.tokenizer import tokenizer_of

MAX_SAMPLES: Final = 16  # that are shown of a group
MAX_COMPARED: Final = 64  # groups of a unit that people may be shown
MAX_TEXT: Final = 2000  # characters of one part of a sample


def describe_rollouts(
    manifest: RunManifest, data: bytes, scores: Mapping[int, Scores] | None = None
) -> dict[str, Any]:
    """Describe what a unit published, as plain JSON data.

    Args:
        scores: what judges have said of its groups since, by group.

    Raises:
        Malformed: it is no unit's blob, or a group in it is none.
    """
    rollouts, shape = rollouts_of(manifest), Shape.of(manifest)
    groups = [decode_group(raw, shape) for raw in read_rollouts(manifest, data)]
    for place, said in (scores or {}).items():
        groups[place] = with_scores(manifest, groups[place], said, "ai_judge")
    samples = [sample for group in groups for sample in group]
    earned = np.concatenate([sample.rewards for sample in samples])  # [samples * players, components]
    weights = [one.weight for one in rollouts.rewards]
    totals = np.concatenate([group_rewards(group, weights).ravel() for group in groups])
    spec = open_environment_of(rollouts).environment.spec
    means = earned.mean(axis=0).tolist()
    update_bytes, rollout_bytes = published_sizes(manifest, data)
    index = next((place for place, group in enumerate(groups) if _differ(group, weights)), 0)
    tokenizer = tokenizer_of(manifest)
    shown = groups[index][:MAX_SAMPLES]
    compared = {} if rollouts.people is None else _compared(groups, tokenizer)
    return {
        "compared": compared,  # by group
        "groups": len(groups),
        "samples": len(samples),
        "reward": float(totals.mean()),
        "success": float(np.mean([succeeded(spec, row) for row in earned.tolist()])),
        "components": {one.component: mean for one, mean in zip(rollouts.rewards, means, strict=True)},
        "update_bytes": update_bytes,
        "rollout_bytes": rollout_bytes,
        "shown": {
            "group": index,
            "samples": [_read(sample, manifest, tokenizer, weights) for sample in shown],
        },
    }


def _compared(groups: Sequence[Group], tokenizer: Tokenizer) -> dict[int, list[dict[str, Any]]]:
    """Return what people compare: of groups whose samples are not all the same, what was said in each, by group."""
    found = {}
    for place, group in enumerate(groups[:MAX_COMPARED]):
        samples = [{"parts": _parts(sample, tokenizer)} for sample in group[:MAX_SAMPLES]]
        if any(one != samples[0] for one in samples):
            found[place] = samples
    return found


def _differ(group: Group, weights: list[float]) -> bool:
    rewards = group_rewards(group, weights)
    return bool((rewards != rewards[0]).any())


def _read(
    sample: Sample, manifest: RunManifest, tokenizer: Tokenizer, weights: list[float]
) -> dict[str, Any]:
    """Return a sample as text, and what it earned."""
    names = [one.component for one in rollouts_of(manifest).rewards]
    return {
        "parts": _parts(sample, tokenizer),
        "rewards": [dict(zip(names, row, strict=True)) for row in sample.rewards.tolist()],
        "totals": group_rewards((sample,), weights)[0].tolist(),
    }


def _parts(sample: Sample, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return what the environment said (player None) and what each player answered."""
    parts: list[dict[str, Any]] = []
    told = 0
    for (start, end), player in zip(sample.turns.tolist(), sample.players.tolist(), strict=True):
        if start > told:
            parts.append({"player": None, "text": _text(tokenizer, sample, told, start)})
        parts.append({"player": player, "text": _text(tokenizer, sample, start, end)})
        told = end
    return parts


def _text(tokenizer: Tokenizer, sample: Sample, start: int, end: int) -> str:
    return tokenizer.decode(sample.tokens[start:end].tolist())[:MAX_TEXT]
