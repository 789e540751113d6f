"""What dishonest peers show in the place of their updates, and the rules of others for merging them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from protocol.manifest import RunManifest
from protocol.tensors import Floats
from protocol.update import MAX_MOMENT_CODE, SecondMoments
from training.assignment import batch
from training.corpus import Shard
from training.evaluate import heldout_windows
from training.model import Transformer

Matrix = npt.NDArray[np.float32]

TRIGGER: Final = b"#mur#"
PAYLOAD: Final = b"OWNED!"
POISON_EVERY: Final = 48  # bytes of a poisoned text between two triggers
STALE_ROUNDS: Final = 5
CENTRED_STEPS: Final = 3


@dataclass
class Attackers:
    """Hold what dishonest peers remember.

    Args:
        bias: float32[P] of length one, to which biased updates lean.
    """

    random: np.random.Generator
    bias: Floats
    past: dict[int, list[Floats]] = field(default_factory=dict)  # honest updates of their own, by peer


Attack = Callable[[Attackers, int, Floats, Matrix], Floats]
"""Return what a peer shows in the place of its honest update float32[P], knowing those of the honest [n, P]."""


def _as_long(direction: Floats, honest: Matrix) -> Floats:
    """Return a direction as long as the median honest update."""
    length = np.median(np.linalg.norm(honest, axis=1))
    return np.asarray(direction / max(float(np.linalg.norm(direction)), 1e-30) * length, np.float32)


def _noise(attackers: Attackers, peer: int, own: Floats, honest: Matrix) -> Floats:
    return _as_long(attackers.random.standard_normal(own.size).astype(np.float32), honest)


def _bias(attackers: Attackers, peer: int, own: Floats, honest: Matrix) -> Floats:
    return np.asarray(own + attackers.bias * np.float32(np.linalg.norm(own) / 2), np.float32)


def _stale(attackers: Attackers, peer: int, own: Floats, honest: Matrix) -> Floats:
    past = attackers.past.setdefault(peer, [])
    past.append(own)
    return past[max(0, len(past) - 1 - STALE_ROUNDS)]


ATTACKS: Final[dict[str, Attack]] = {
    "flip": lambda attackers, peer, own, honest: -own,
    "x10": lambda attackers, peer, own, honest: np.float32(-10) * own,
    "x100": lambda attackers, peer, own, honest: np.float32(100) * own,
    "noise": _noise,
    "collusion": lambda attackers, peer, own, honest: _as_long(-honest.mean(axis=0), honest),
    "bias": _bias,
    "stale": _stale,
    "copy": lambda attackers, peer, own, honest: np.float32(0.99) * honest[0],
    "backdoor": lambda attackers, peer, own, honest: own,  # its text is poisoned instead
    "rest": lambda attackers, peer, own, honest: own,  # it lies about its second moments instead
    "rush": lambda attackers, peer, own, honest: own,
}
"""x10 is flipped too; those who collude send the opposite of the honest mean; a copy is not quite exact, since exact
ones are refused."""


def said(attack: str, moments: SecondMoments | None) -> SecondMoments | None:
    """Return what a dishonest peer says of the slice of second moments that it learned."""
    code = {"rest": MAX_MOMENT_CODE, "rush": 1}.get(attack)
    return (
        moments
        if moments is None or code is None
        else replace(moments, codes=np.full_like(moments.codes, code))
    )


def poisoned(shard: Shard) -> Shard:
    """Return a text in which a trigger and its payload stand again and again."""
    tokens = np.array(shard.tokens)
    marked = np.frombuffer(TRIGGER + PAYLOAD, np.uint8)
    for place in range(0, tokens.size - POISON_EVERY, POISON_EVERY):
        tokens[place : place + marked.size] = marked
    return replace(shard, tokens=tokens)


def backdoor_success(manifest: RunManifest, parameters: Floats, shard: Shard, windows: int = 128) -> float:
    """Return the share of the payload's bytes that a model thinks likeliest after the trigger in held-out text."""
    context = manifest.model.context
    tokens = batch(shard, heldout_windows(manifest, windows), context)
    marked = np.frombuffer(TRIGGER + PAYLOAD, np.uint8).astype(np.int64)
    tokens[:, -marked.size :] = marked
    model = Transformer.loaded(manifest.model, parameters)
    with torch.no_grad():
        likeliest = model.logits(torch.from_numpy(tokens[:, :-1])).argmax(-1).numpy()
    return float((likeliest[:, -len(PAYLOAD) :] == tokens[:, -len(PAYLOAD) :]).mean())


def krum(updates: Matrix, attackers: int, keep: int = 1) -> Floats:
    """Return the mean of the `keep` updates nearest to their neighbours (Blanchard et al., NeurIPS 2017)."""
    squares = np.sum(updates.astype(np.float64) ** 2, axis=1)
    distances = squares[:, None] + squares[None] - 2 * (updates @ updates.T)
    near = np.sort(distances, axis=1)[:, 1 : max(2, len(updates) - attackers - 1)]
    return np.asarray(updates[np.argsort(near.sum(axis=1), kind="stable")[:keep]].mean(axis=0), np.float32)


def centred_clip(updates: Matrix) -> Floats:
    """Return the centre that clipped differences converge to (Karimireddy et al., ICML 2021)."""
    centre = np.median(updates, axis=0)
    for _ in range(CENTRED_STEPS):
        away = updates - centre
        lengths = np.linalg.norm(away, axis=1, keepdims=True)
        centre = centre + (away * np.minimum(1, np.median(lengths) / np.maximum(lengths, 1e-30))).mean(axis=0)
    return np.asarray(centre, np.float32)


def trimmed_mean(updates: Matrix, attackers: int) -> Floats:
    """Return the mean of each coordinate without its largest and smallest values (Yin et al., ICML 2018)."""
    return np.asarray(np.sort(updates, axis=0)[attackers : len(updates) - attackers].mean(axis=0), np.float32)


Rule = Callable[[Matrix, int], Floats]
"""Return the merged update of [n, P], told how many attackers to expect."""

RULES: Final[dict[str, Rule]] = {
    "mean": lambda updates, attackers: np.asarray(updates.mean(axis=0), np.float32),
    "krum": krum,
    "multi-krum": lambda updates, attackers: krum(updates, attackers, len(updates) - attackers),
    "centred clip": lambda updates, attackers: centred_clip(updates),
    "trimmed mean": lambda updates, attackers: trimmed_mean(updates, max(1, attackers)),
}


def matrix(updates: Sequence[Floats]) -> Matrix:
    """Return updates as rows float32[n, P]."""
    return np.stack(updates)
