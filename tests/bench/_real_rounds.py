"""One point of the `overlap` bench with real processes: a whole network, each participant behind a link of its own.

Contributors' trainers rest most of the time (`murmur node start --cpu-share`), so that steps take as long as on a slow
machine of their own while two cores serve them all. Rest counts as inner steps.
"""

import json
import sqlite3
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from node.figures import Figures
from node.unit import Unit
from protocol.daemon import JOURNAL_FILE
from tests.bench._crew import open_crew
from tests.bench._lines import MBIT, Link
from tests.bench._links import open_links
from tests.bench._training import VERIFIERS


def live(
    mbit_s: float, delay_ms: float, *, delay: int, peers: int, rounds: int, cpu_share: float
) -> tuple[float, float]:
    """Live a network; return the contributors' share of time in inner steps, and the seconds of a round.

    Args:
        delay_ms: between any two hosts, one way.
        delay: segments that a unit takes before the outer step of the round before.

    Raises:
        RuntimeError: it did not end as a network of honest peers ends.
    """
    names = ["coordinator", *(f"peer-{place + 1}" for place in range(peers))]
    names += [f"verifier-{place + 1}" for place in range(VERIFIERS)]
    link = Link(mbit_s * MBIT, delay_ms / 2000)
    with tempfile.TemporaryDirectory() as where, open_links([link] * len(names)) as links:
        directory = Path(where)
        words = {
            "hosts": {name: asdict(host) for name, host in zip(names, links.hosts, strict=True)},
            "peers": peers,
            "verifiers": VERIFIERS,
            "rounds": rounds,
            "seed": 0,
            "directory": str(directory / "run"),
            "delay": delay,
            "cpu_share": cpu_share,
        }
        command = [sys.executable, "-m", "tests.bench._whole_network", json.dumps(words)]
        with open_crew(links.hosts[:1], [command], directory / "logs", "network") as crew:
            while "not_demonstrated" not in (told := crew.hear(0)):
                pass
        if told["not_demonstrated"]:
            raise RuntimeError(f"not demonstrated: {told['not_demonstrated']}")
        units = [figures_in(directory / "run" / name / JOURNAL_FILE) for name in names[1 : peers + 1]]
    return shares(units, cpu_share)


def figures_in(journal: Path) -> list[Figures]:
    """Return what a contributor measured of its units, by round."""
    database = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        rows = database.execute("SELECT body FROM unit ORDER BY round").fetchall()
    finally:
        database.close()
    found = [Unit.model_validate_json(body).work.figures for (body,) in rows]
    return [one for one in found if one is not None]


def shares(units: list[list[Figures]], cpu_share: float) -> tuple[float, float]:
    """Return the share of time in inner steps, rest included, and the seconds from unit to unit.

    Args:
        units: of each contributor, by round; the first, which waited for the run to open, is left out.
    """
    counted = [one for each in units for one in each[1:]]
    wall = sum(one.interval_s for one in counted)
    return sum(one.train_s for one in counted) / cpu_share / wall, wall / len(counted)


def row(mbit_s: float, delay_ms: float, delay: int, found: tuple[float, float]) -> dict[str, Any]:
    """Return the row of a network that was lived."""
    share, round_s = found
    return {
        "Mbit/s": mbit_s,
        "ms": delay_ms,
        "mode": f"real, {f'delay {delay}' if delay else 'waiting'}",
        "inner share": round(share, 4),
        "round s": round(round_s, 2),
    }
