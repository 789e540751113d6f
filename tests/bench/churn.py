"""What peers that drop out and peers that come late cost: held-out loss at equal rounds.

`python -m tests.bench churn [--rounds 40] [--peers 8] [--seeds 0 1] [--keep DIRECTORY]`. Everything goes through the
product's inner steps, codec and outer step, with the updates and outer steps that it chooses for the length, without
network and chain. In every round each peer is away with the same chance, drawn as `murmur up --drop` draws it. Whoever
was away starts its next round with fresh moments and no residual, as the rule of carried roots has it; `keeps` shows
what that rule costs, with peers who take up again what they had, or one half of it. `fresh moments` and `published
moments` show what is left of that cost where nobody's moments are its own. `late` is one peer that comes after half of
the rounds.

Who is away trains on nothing meanwhile, so rows differ in tokens; a run of so many fewer peers who all stay is the fair
comparison. Finished trainings are kept in DIRECTORY as those of `python -m tests.bench loss`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from tests.bench._cells import Cell
from tests.bench._rows import Rows
from tests.bench.loss import Keep, by_recipe
from training.inner import prepare_process

DROPS: Final = (0.25, 0.5)


def variants(base: Cell) -> dict[str, Cell]:
    """Return the cell of each row by its name."""
    found = {"all stay": base}
    for drop in DROPS:
        fewer = max(2, round(base.peers * (1 - drop)))
        away = base.model_copy(update={"drop": drop})
        found |= {
            f"drop {drop:g}": away,
            f"drop {drop:g}, keeps": away.model_copy(update={"away": "keeps"}),
            f"drop {drop:g}, keeps moments": away.model_copy(update={"away": "moments"}),
            f"drop {drop:g}, keeps residual": away.model_copy(update={"away": "residual"}),
            f"{fewer} peers, all stay": base.model_copy(update={"peers": fewer}),
        }
    fresh = base.model_copy(update={"moments": "fresh"})
    found |= {"fresh moments, all stay": fresh}
    found |= {f"fresh moments, drop {drop:g}": fresh.model_copy(update={"drop": drop}) for drop in DROPS}
    published = by_recipe(base, "published")
    found |= {"published moments, all stay": published}
    for drop in DROPS:
        away = published.model_copy(update={"drop": drop})
        found |= {
            f"published moments, drop {drop:g}": away,
            f"published moments, drop {drop:g}, keeps": away.model_copy(update={"away": "keeps"}),
        }
    return found | {"late": base.model_copy(update={"late": base.rounds // 2})}


def row(name: str, losses: Sequence[float | None], staying: Sequence[float | None]) -> dict[str, Any]:
    """Return a table's row; what diverged has no figure.

    Args:
        losses: by seed.
        staying: of the run in which all stay, by seed.
    """
    pairs = [
        (one, two) for one, two in zip(losses, staying, strict=True) if one is not None and two is not None
    ]
    whole = len(pairs) == len(losses)
    return {
        "variant": name,
        "loss": round(fmean(one for one, _ in pairs), 4) if whole else None,
        "minus all stay": round(fmean(one - two for one, two in pairs), 4) if whole else None,
        "seeds": [None if one is None else round(one, 4) for one in losses],
    }


def main(arguments: Sequence[str]) -> int:
    """Print a row for each way to come and go."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench churn", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--keep", type=Path, help="directory of finished cells, to go on from")
    parser.add_argument("--json", action="store_true", help="one document a row")
    options = parser.parse_args(arguments)
    prepare_process(1)
    output = Rows(options.json)
    cells = variants(by_recipe(Cell(rounds=options.rounds, peers=options.peers), "carried"))
    with tempfile.TemporaryDirectory() as data:
        keep = Keep(options.keep, Path(data))
        several = {
            name: [cell.model_copy(update={"seed": seed}) for seed in options.seeds]
            for name, cell in cells.items()
        }
        keep.planned = [cell for each in several.values() for cell in each]
        staying: list[float | None] = []
        for name, each in several.items():
            losses = [keep.figures(cell).report for cell in each]
            staying = staying or losses
            output.add(row(name, losses, staying))
    return 0
