"""How well a swarm learns from samples that are rounds old, with the correction of their age and without it.

`python -m tests.bench staleness [--env sort] [--lags 0 1 2 4 8 16] [--control 4 16] [--seeds 3] [--json]`. A lag is
counted in rounds of the swarm; a peer takes `inner.steps` optimizer steps a round, and the outer step is one more. A
run's first `lag` rounds have nothing to learn from, so every run is that much longer than `--rounds`: success is told
after equally many rounds, and after equally many that learned. A seed's tasks and noise
are the same with correction and without, and others for another lag.
"""

import argparse
from statistics import fmean

from tests.bench._rows import Rows
from tests.bench._swarm import Swarm, run
from training.inner import prepare_process
from training.preset import Preset, preset


def row(chosen: Preset, lag: int, rounds: int, seeds: int, *, corrected: bool) -> dict[str, object]:
    """Return the figures of one lag, means over seeds and each seed's last success."""
    longer = chosen.model_copy(update={"rounds": rounds + lag})
    courses = [
        run(Swarm(longer, lag=lag, seed=seed, corrected=corrected), {0, rounds, rounds + lag})
        for seed in range(seeds)
    ]
    last = [one.success[rounds + lag] for one in courses]
    return {
        "lag": lag,
        "steps": lag * chosen.inner.steps,
        "corrected": corrected,
        "start": courses[0].success[0],
        f"after {rounds} rounds": round(fmean(one.success[rounds] for one in courses), 3),
        f"after {rounds} that learned": round(fmean(last), 3),
        "seeds": last,
    }


def main(arguments: list[str]) -> int:
    """Print a row a lag."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench staleness", description=__doc__)
    parser.add_argument("--env", default="sort")
    parser.add_argument("--lags", type=int, nargs="*", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--control", type=int, nargs="*", default=[4, 16], help="lags without correction")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="that learn; default: the preset's")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    chosen, rows = preset(options.env), Rows(options.json)
    rounds = options.rounds or chosen.rounds
    for corrected, lags in ((True, options.lags), (False, options.control)):
        for lag in lags:
            rows.add(row(chosen, lag, rounds, options.seeds, corrected=corrected))
    return 0
