"""What a round of a policy's run weighs on the wire, against other forms of the same rollouts and weights.

`python -m tests.bench traffic [--env sort] [--peers 3] [--rounds 8] [--json]`. A swarm plays a few rounds; every form
is measured on what it published once it learns, a mean over rounds and peers. Every contributor publishes one blob,
its update and its rollouts, and fetches those of the others; new weights are made from the updates. Beside it stands
a trainer of its own kind: workers send rollouts as JSON, and are sent whole weights. Commitments, records and other
messages are not in it, nor what a swarm's peers pass on for each other.
"""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
import zstandard

from protocol.rollouts import Group, Shape, decode
from protocol.tensors import Floats
from tests.bench._swarm import Course, Swarm, few_rounds, run


def as_json(groups: tuple[Group, ...]) -> bytes:
    """Return groups as JSON, everything that ours holds; log-probabilities of four digits."""
    return json.dumps(
        [
            [
                {
                    "tokens": sample.tokens.tolist(),
                    "turns": sample.turns.tolist(),
                    "players": sample.players.tolist(),
                    "log_probabilities": np.round(sample.log_probabilities, 4).tolist(),
                    "rewards": sample.rewards.tolist(),
                    "fingerprint": [float(str(value)) for value in sample.fingerprint],
                }
                for sample in group
            ]
            for group in groups
        ],
        separators=(",", ":"),
    ).encode()


def as_bf16(parameters: Floats) -> np.ndarray:
    """Return parameters in bfloat16, its bits as int16."""
    return torch.from_numpy(parameters).bfloat16().view(torch.int16).numpy()


def forms(swarm: Swarm, course: Course, first: int) -> Iterator[dict[str, object]]:
    """Yield a row a form, of the rounds from the first on."""
    rounds, shape = course.rounds[first:], Shape.of(swarm.manifest)
    peers, size = len(swarm.crowd), swarm.preset.sampling.groups
    compress = zstandard.ZstdCompressor().compress
    files = [file for one in rounds for file in one.files]
    updates = [update for one in rounds for update in one.updates]
    groups = [one.groups[start : start + size] for one in rounds for start in range(0, len(one.groups), size)]
    said = [as_json(own) for own in groups]
    vectors = [one.state.parameters for one in rounds]
    halves = [as_bf16(vector) for vector in vectors]
    changes = [(new - old).tobytes() for old, new in pairwise(halves)]
    compared = {
        "ours before zstd": fmean(len(b"".join(decode(file, shape))) for file in files),
        "JSON": mean(said),
        "JSON, zstd": mean([compress(one) for one in said]),
    }
    weights = {
        "fp32": mean([vector.tobytes() for vector in vectors]),
        "bf16": mean([half.tobytes() for half in halves]),
        "bf16, zstd": mean([compress(half.tobytes()) for half in halves]),
        "bf16 changes, zstd": mean([compress(change) for change in changes]),
    }
    rollouts, update = mean(files), mean(updates)
    blob = rollouts + update
    yield from beside("rollouts of a unit", "ours", rollouts, compared)
    yield from beside("weights of a round", f"ours: {peers} updates", peers * update, weights)
    yield from beside("up, a peer and round", "ours: 1 blob", blob, {"rollouts as JSON": compared["JSON"]})
    yield from beside("down, a peer and round", f"ours: {peers - 1} blobs", (peers - 1) * blob, weights)
    for form, value in weights.items():
        others = math.ceil(value / blob)  # whose blobs weigh as much
        yield from beside(
            f"down, of {others + 1} peers", f"ours: {others} blobs", others * blob, {form: value}
        )


def beside(what: str, ours: str, bytes_: float, others: Mapping[str, float]) -> Iterator[dict[str, object]]:
    """Yield our row, and those of other forms."""
    for form, value in {ours: bytes_, **others}.items():
        yield {"what": what, "form": form, "bytes": round(value), "times ours": round(value / bytes_, 2)}


def mean(blobs: list[bytes]) -> float:
    """Return how long blobs are, a mean."""
    return fmean(map(len, blobs))


def main(arguments: list[str]) -> int:
    """Print a row a form."""
    swarm, rows = few_rounds("traffic", __doc__, arguments)
    for row in forms(swarm, run(swarm, ()), swarm.preset.lag):
        rows.add(row)
    return 0
