"""Held-out loss at equal tokens: ours, fp32 DiLoCo, data-parallel training and no communication.

`python -m tests.bench loss [--sizes 0.17M 1.2M] [--seeds 0 1 2] [--rounds 100] [--peers 8] [--keep DIRECTORY]`.
Every variant sees the same batches: those that the product assigns to so many peers of 15 steps of 4 x 64 bytes a
round. Ours goes through the product's inner steps, codec, container and outer step, with what its recipe chooses;
DiLoCo (Nesterov over mean pseudo-gradients in fp32) and data parallelism (the mean gradient of all peers, every step)
take AdamW's inner steps and send raw fp32; `muloco` is DiLoCo with Muon's, which ours has. `local` is the mean of two
peers who never communicate.

Each variant's rates are chosen first, size by size, on a seed that is not reported and on one half of the held-out
windows; the tables show the other half. Rates climb a ladder until both neighbours are worse.

Every finished training is a line of DIRECTORY/cells.jsonl under the hash of its configuration, so that an interrupted
run goes on where it was. `--explore "k=128 outer_lr=2" "trial.moments=fresh"` trains single cells instead, and shows
the loss on the windows that settings are chosen on.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from math import nan, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from protocol.manifest import CodecConfig, InnerConfig, OuterConfig
from tests.bench._cells import SIZES, Cell, Figures, parameters_of, train
from tests.bench._keep import Kept
from tests.bench._rows import Rows
from training.inner import prepare_process
from training.recipe import recipe

SCHEMES: Final = ("ours", "diloco", "muloco", "ddp", "local")
MUON: Final = 5.0  # Muon's rate in units of AdamW's, where others have it: as our recipe's
TUNING_SEED: Final = 100
EXPLORED: Final = 60  # characters of a row's fields
TELL_S: Final = 20.0  # between two words on progress

LADDER: Final = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)  # inner rates
PAIRS: Final = ((0.7, 0.6), (1.0, 0.0), (0.7, 0.9), (1.0, 0.3))  # (rate, momentum)
OUTER: Final = {"diloco": PAIRS, "muloco": PAIRS}
"""Of DiLoCo: what its paper and its followers publish, and what short runs want."""


T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 0.975 for 1 to 9 degrees of freedom."""


class Keep:
    """Keep what cells came to, and train those that are missing.

    Args:
        directory: where lines are kept; None keeps nothing.
    """

    def __init__(self, directory: Path | None, data: Path) -> None:
        self._kept = Kept(directory, "cells")
        self._data = data
        self._speed: dict[str, tuple[float, int]] = {}  # seconds and work by size
        self._told = 0.0
        self.planned: list[Cell] = []
        for line in self._kept.lines:
            self._measured(Cell.model_validate(line["cell"]), line["cpu_s"])

    def figures(self, cell: Cell) -> Figures:
        """Return what a cell came to, training it if nobody has."""
        known = self._kept.has(cell)
        kept = self._kept.figures(cell, lambda: asdict(train(cell, self._data, self._progress(cell))))
        if not known:
            self._measured(cell, kept["cpu_s"])
        return Figures(kept["choose"], kept["report"], kept["bytes"])

    def warn(self) -> None:
        """Say if what is planned, and done, was computed by different programs."""
        self._kept.warn(self.planned)

    def _measured(self, cell: Cell, seconds: float) -> None:
        spent, work = self._speed.get(cell.size, (0.0, 0))
        self._speed[cell.size] = spent + seconds, work + cell.work

    def _left(self, cell: Cell, done: int) -> float:
        """Return the seconds that what is planned will take, as far as it is known."""
        waiting = {one.key: one for one in (cell, *self.planned) if not self._kept.has(one)}
        known = {size: spent / work for size, (spent, work) in self._speed.items() if work}
        rate = {size: known.get(size, parameters_of(size) * 2e-8 + 6e-3) for size in SIZES}
        return sum(one.work * rate[one.size] for one in waiting.values()) - done * rate[cell.size]

    def _progress(self, cell: Cell) -> Callable[[int], None]:
        done = 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if time.monotonic() - self._told > TELL_S:
                self._told = time.monotonic()
                print(
                    f"{cell.scheme} {cell.size} seed {cell.seed}: {done / cell.work:.0%}; "
                    f"about {self._left(cell, done) / 60:.0f} CPU-minutes left",
                    file=sys.stderr,
                    flush=True,
                )

        return advance


def parse(text: str, base: Cell) -> Cell:
    """Return a cell with the named fields replaced: "k=128 trial.moments=fresh"."""
    values = base.model_dump(exclude_none=True)
    for word in text.split():
        name, _, value = word.partition("=")
        group, _, field = name.rpartition(".")
        place = values.setdefault(group, {}) if group else values
        place[field] = value
    return Cell.model_validate(values)


def by_recipe(base: Cell, moments: str | None = None) -> Cell:
    """Return a cell with the updates, moments and outer steps that the product chooses for its length.

    Args:
        moments: of the manifest, in the place of the chosen ones.
    """
    chosen = recipe(base.rounds, moments=moments, parameters=parameters_of(base.size))
    codec, outer = CodecConfig.model_validate(chosen["codec"]), OuterConfig.model_validate(chosen["outer"])
    named = {name: getattr(codec, name) for name in ("kind", "k", "bits", "decay")}
    config = InnerConfig.model_validate(chosen["inner"])
    inner = {name: value for name, value in chosen["inner"].items() if name != "muon" and value != "carried"}
    if config.muon is not None:
        inner["muon"] = config.muon.lr / config.lr
    return base.model_copy(update={**named, **inner, "outer_lr": outer.lr, "momentum": outer.momentum})


def better(one: Figures, other: Figures) -> bool:
    """Tell whether one came to less on the half that chooses; what diverged is worse than all."""
    if one.choose is None or other.choose is None:
        return one.choose is not None
    return one.choose < other.choose


def choose(keep: Keep, scheme: str, base: Cell) -> Cell:
    """Return a scheme's cell with the rates that did best on the tuning seed."""
    best = base.model_copy(update={"scheme": scheme, "seed": TUNING_SEED})
    for rate, momentum in OUTER.get(scheme, ()):
        best = _best(keep, best, best.model_copy(update={"outer_lr": rate, "momentum": momentum}))
    # Up the ladder, then down from where that ended, until a step is no gain.
    for direction in (1, -1):
        place = LADDER.index(best.lr) + direction
        while 0 <= place < len(LADDER):
            tried = _best(keep, best, best.model_copy(update={"lr": LADDER[place]}))
            if tried == best:
                break
            best, place = tried, place + direction
    return best


def _best(keep: Keep, held: Cell, tried: Cell) -> Cell:
    return tried if better(keep.figures(tried), keep.figures(held)) else held


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and the half width of its 95 % interval (Student's t)."""
    mean, count = fmean(differences), len(differences)
    if not 2 <= count <= len(T_975) + 1:
        return mean, nan
    return mean, T_975[count - 2] * stdev(differences) / sqrt(count)


def rows(keep: Keep, size: str, base: Cell, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row a variant of one size."""
    base = base.model_copy(update={"size": size})
    keep.planned = _plan(base, seeds)
    muloco = base.model_copy(update={"muon": MUON})
    bases = dict.fromkeys(SCHEMES, base) | {"ours": by_recipe(base), "muloco": muloco}
    chosen = {scheme: choose(keep, scheme, bases[scheme]) for scheme in SCHEMES}
    cells = {
        scheme: [chosen[scheme].model_copy(update={"seed": seed}) for seed in seeds] for scheme in SCHEMES
    }
    keep.planned = [cell for several in cells.values() for cell in several]
    found = {scheme: [keep.figures(cell) for cell in cells[scheme]] for scheme in SCHEMES}
    keep.warn()
    return [_row(chosen, found, scheme) for scheme in SCHEMES]


def _row(chosen: Mapping[str, Cell], found: Mapping[str, Sequence[Figures]], scheme: str) -> dict[str, Any]:
    cell, losses = chosen[scheme], [one.report for one in found[scheme]]
    row: dict[str, Any] = {
        "size": cell.size,
        "variant": scheme,
        "loss": _mean(losses),
        "seeds": [None if loss is None else round(loss, 4) for loss in losses],
    }
    for other in SCHEMES[1:]:
        pairs = [(one, two.report) for one, two in zip(losses, found[other], strict=True)]
        known = [one - two for one, two in pairs if one is not None and two is not None]
        whole = other != scheme and len(known) == len(pairs)
        row[f"minus {other}, ±"] = [round(part, 4) for part in interval(known)] if whole else None
    sent = {name: fmean(one.bytes for one in several) for name, several in found.items()}
    row["MB a peer"] = round(sent[scheme] / 1e6, 3)
    for other in ("diloco", "ddp"):
        row[f"bytes {other}/this"] = round(sent[other] / sent[scheme], 1) if sent[scheme] else None
    row["lr"] = cell.lr
    row["outer, mu"] = [cell.outer_lr, cell.momentum] if scheme not in ("ddp", "local") else None
    return row


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return round(fmean(known), 4) if len(known) == len(losses) else None


def _plan(base: Cell, seeds: Sequence[int]) -> list[Cell]:
    """Return about what a size will take: three rates a variant, DiLoCo's pairs, and every seed."""
    tuning = base.model_copy(update={"seed": TUNING_SEED})
    rates = [{"scheme": scheme, "lr": rate} for scheme in SCHEMES for rate in LADDER[2:5]]
    pairs = [
        {"scheme": scheme, "outer_lr": rate, "momentum": mu}
        for scheme, several in OUTER.items()
        for rate, mu in several[1:]
    ]
    reported = [{"scheme": scheme, "seed": seed} for scheme in SCHEMES for seed in seeds]
    return [tuning.model_copy(update=one) for one in (*rates, *pairs, *reported)]


def explore(keep: Keep, cells: Mapping[str, Sequence[Cell]], output: Rows) -> None:
    """Print a row for each text's cells: their losses on the windows that choose, and their mean."""
    keep.planned = [cell for several in cells.values() for cell in several]
    for text, several in cells.items():
        found = [keep.figures(cell) for cell in several]
        losses = [one.choose for one in found]
        output.add(
            {
                "fields": text.ljust(EXPLORED),
                "loss": _mean(losses),
                "seeds": [None if loss is None else round(loss, 4) for loss in losses],
                "kB an update": round(fmean(one.bytes for one in found) / several[0].rounds / 1e3, 2),
            }
        )


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or explored cells."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench loss", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--keep", type=Path, help="directory of finished cells, to go on from")
    parser.add_argument("--explore", nargs="+", metavar="FIELDS", help="single cells: fields to replace")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    base, output = Cell(rounds=options.rounds, peers=options.peers), Rows(options.json)
    with tempfile.TemporaryDirectory() as data:
        keep = Keep(options.keep, Path(data))
        if options.explore:
            base = base.model_copy(update={"size": options.sizes[0]})
            cells = {
                text: [parse(text, base.model_copy(update={"seed": seed})) for seed in options.seeds]
                for text in options.explore
            }
            explore(keep, cells, output)
            return 0
        for size in options.sizes:
            for row in rows(keep, size, base, options.seeds):
                output.add(row)
    return 0
