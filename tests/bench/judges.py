"""How often the tuned judge errs: what it says of held-out samples of the policy that runs start from.

`python -m tests.bench judges [--env sort] [--tasks 1024] [--json]`. A sample is right where the environment calls its
task done. Told is the mean score of right and of wrong ones, and how often one judge, and the median of three, put a
sample on the right side of one half. What judges alone teach a policy: `murmur up --kind rollout --judge tuned
--own-weight 0`.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np

from protocol.canonical import ZERO_DIGEST
from tests.bench._rows import Rows
from tests.bench._swarm import manifest_of
from training.assignment import heldout_seeds
from training.base import base_model
from training.environments.protocol import succeeded
from training.evaluate import ask_judge
from training.generate import Task, generate
from training.inner import prepare_process
from training.judges import tuned_judge
from training.model import Transformer
from training.preset import Signals, preset
from training.sampling import noise_key
from training.tokenizer import tokenizer_of

JUDGES = 3


def main(arguments: list[str]) -> int:
    """Print a row for right samples and one for wrong ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench judges", description=__doc__)
    parser.add_argument("--env", default="sort")
    parser.add_argument("--tasks", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen = preset(options.env)
    base, judge = base_model(chosen), tuned_judge(chosen)
    manifest = manifest_of(chosen, "judges", Signals(judge=judge.config))
    opened, tokenizer = chosen.open(), tokenizer_of(manifest)
    model = Transformer.loaded(chosen.model, base.parameters)
    tasks = [
        Task(opened.another(), seed, noise_key(ZERO_DIGEST, ZERO_DIGEST, seed, 0))
        for seed in heldout_seeds(options.tasks)
    ]
    played = generate(model, chosen.model, tasks, chosen.sampling, tokenizer)
    right = np.array(
        [succeeded(opened.environment.spec, one.rollout.rewards()[0].tolist()) for one in played]
    )
    texts = [tokenizer.decode(one.rollout.tokens) for one in played]
    # One list three times over: the place in it keys the noise, so that each asks another judge.
    said = np.array(ask_judge(manifest, judge.parameters, texts * JUDGES)).reshape(JUDGES, -1)
    middle = np.array([median(three) for three in said.T.tolist()])
    rows = Rows(options.json)
    for name, own in (("right", right), ("wrong", ~right)):
        side = name == "right"
        rows.add(
            {
                "samples": name,
                "count": int(own.sum()),
                "score": float(said[0, own].mean()),
                "one_judge": float(((said[0, own] > 0.5) == side).mean()),
                "median_of_three": float(((middle[own] > 0.5) == side).mean()),
            }
        )
    return 0
