"""Train to a fixed held-out loss over links: ours, hivemind's, and one peer alone."""

import json
import os
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self, get_args

import numpy as np

from coordinator.state import Phase
from protocol.manifest import RunManifest
from tests.bench._crew import Crew, gather, gather_hivemind, open_crew
from tests.bench._lines import Link
from tests.bench._links import Host, Links, Traffic, open_links
from tests.bench._peers import beacon, bench_manifest
from training.assignment import assignment
from training.corpus import Shard
from training.evaluate import heldout_loss
from training.inner import prepare_process
from training.model import initial_parameters
from training.recipe import recipe

PHASES: Final = get_args(Phase)  # of a round
VERIFIERS: Final = 2
SAMPLE_S: Final = 0.5
HIVEMIND: Final[Mapping[str, dict[str, Any]]] = {
    "a gradient every step": {"steps": 1, "local": False, "delayed": False},
    "a gradient every step, delayed": {"steps": 1, "local": False, "delayed": True},
    "a gradient every 4 steps": {"steps": 4, "local": False, "delayed": False},
    "parameters every 15 steps": {"steps": 15, "local": True, "delayed": False},
    "parameters every 60 steps": {"steps": 60, "local": True, "delayed": False},
    "parameters every 15 steps, delayed": {"steps": 15, "local": True, "delayed": True},
}
"""How hivemind's optimizer is used: steps of each peer between two averagings, and of what."""

ALONE: Final = "a peer alone"
CONTRIBUTORS: Final = "contributors only"
NETWORK: Final = "whole network"
TRIALS: Final = (ALONE, CONTRIBUTORS, *HIVEMIND, NETWORK)


@dataclass(frozen=True)
class Point:
    """Say how good parameters were that were there from some moment on."""

    at: float  # by the clock
    tokens: int  # that all peers had trained on
    loss: float


class Meter:
    """Note every half second what has gone over all links, and what all processes have computed."""

    def __init__(self, links: Links, crew: Crew) -> None:
        self._links, self._crew = links, crew
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[tuple[float, list[Traffic], float]] = []

    def _run(self) -> None:
        while True:
            self.samples.append((time.monotonic(), self._links.traffic(), self._crew.cpu_s()))
            if self._over.wait(SAMPLE_S):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def sample(samples: Sequence[tuple[float, list[Traffic], float]], at: float) -> tuple[list[Traffic], float]:
    """Return the last sample at or before a moment, or the first of all."""
    place = max(0, bisect_right([one[0] for one in samples], at) - 1)
    return samples[place][1], samples[place][2]


def reached(points: Sequence[Point], target: float) -> Point | None:
    """Return the first point at or below a loss."""
    return next((point for point in points if point.loss <= target), None)


@dataclass
class Trial:
    """Hold what one way to train came to."""

    who: str
    how: str
    began: float
    points: list[Point]
    samples: list[tuple[float, list[Traffic], float]]
    peers: int  # whose links are told
    skipped: int = 0  # hosts before them
    more: dict[str, Any] = field(default_factory=dict)

    def row(self, targets: Sequence[float]) -> dict[str, Any]:
        """Return the row of a table."""
        last = self.points[-1]
        hits = [reached(self.points, target) for target in targets]
        found: dict[str, Any] = {"who": self.who, "how": self.how}
        for target, hit in zip(targets, hits, strict=True):
            found[f"s to {target:g}"] = None if hit is None else round(hit.at - self.began, 1)
        hit = hits[-1]
        return {
            **found,
            "M tokens": None if hit is None else round(hit.tokens / 1e6, 3),
            "MB sent": None if hit is None else self._sent_mb(hit.at),
            "cpu s": None if hit is None else self._cpu_s(hit.at),
            "best loss": round(min(point.loss for point in self.points), 3),
            "end loss": round(last.loss, 3),
            "end s": round(last.at - self.began, 1),
            "end M tokens": round(last.tokens / 1e6, 3),
            "end MB sent": self._sent_mb(last.at),
            "end cpu s": self._cpu_s(last.at),
            "load": round(os.getloadavg()[0], 1),
        }

    def _sent_mb(self, at: float) -> float:
        before, after = sample(self.samples, self.began)[0], sample(self.samples, at)[0]
        sent = [(two - one).sent / 1e6 for one, two in zip(before, after, strict=True)]
        sent = sent[self.skipped : self.skipped + self.peers]
        return round(sum(sent) / len(sent), 2)

    def _cpu_s(self, at: float) -> float:
        return round(sample(self.samples, at)[1] - sample(self.samples, self.began)[1], 1)


@dataclass(frozen=True)
class Course:
    """Say what is trained where."""

    python: Path  # hivemind's
    directory: Path
    manifest: RunManifest
    shard: Shard
    peers: int
    link: Link
    matchmaking_s: float
    limit_s: float
    seed: int

    @classmethod
    def prepare(cls, directory: Path, seed: int, rounds: int, **named: Any) -> Self:
        """Write what all processes need: the run, its shard, where all start, and each peer's batches."""
        prepare_process(1)
        manifest, shard = bench_manifest(directory, seed, rounds, **recipe(rounds))
        (directory / "run.json").write_text(manifest.model_dump_json())
        np.save(directory / "start.npy", initial_parameters(manifest.model, seed))
        for place in range(named["peers"]):
            units = [
                assignment(manifest, beacon(seed, round_), round_, place + 1) for round_ in range(rounds)
            ]
            np.save(directory / f"offsets-{place}.npy", np.concatenate(units))
        return cls(directory=directory, seed=seed, manifest=manifest, shard=shard, **named)

    @property
    def step_tokens(self) -> int:
        """Return the tokens of one peer's step."""
        return self.manifest.inner.batch * self.manifest.model.context

    def trial(self, name: str) -> Trial:
        """Train in one of the ways of `TRIALS`."""
        ours = {ALONE: self.alone, CONTRIBUTORS: self.contributors, NETWORK: self.network}
        return ours[name]() if name in ours else self.hivemind(name)

    def alone(self) -> Trial:
        """Train one peer for as many steps."""
        with self._crew(1, "alone", lambda host, place: self._ours(host, place, 1)) as (links, crew):
            crew.hear(0)
            return self._train(links, crew, "local", ALONE, 1)

    def contributors(self) -> Trial:
        """Train with our peers, without chain, coordinator and verifiers."""
        peers = self.peers
        with self._crew(peers, "ours", lambda host, place: self._ours(host, place, peers)) as (links, crew):
            gather(crew, peers)
            return self._train(links, crew, "Murmur", CONTRIBUTORS, peers)

    def hivemind(self, how: str) -> Trial:
        """Train with hivemind's optimizer, used in one of several ways."""
        chosen = dict(HIVEMIND[how])
        settings = {
            **chosen,
            "samples": chosen["steps"] * self.manifest.inner.batch * self.peers,
            "peers": self.peers,
            "state_every": max(1, self.manifest.inner.steps // chosen["steps"]),
            "matchmaking_s": self.matchmaking_s,
            "limit_s": self.limit_s,
        }

        def command(host: Host, place: int) -> list[str]:
            start = [str(self.python), "-m", "tests.bench._hivemind_trainer", host.address]
            return [*start, str(self.directory), str(place), json.dumps(settings)]

        with self._crew(self.peers, "theirs", command) as (links, crew):
            gather_hivemind(crew, self.peers)
            samples = None if chosen["local"] else settings["samples"]
            return self._train(links, crew, "hivemind", how, self.peers, samples)

    def network(self) -> Trial:
        """Live a whole network: chain, coordinator, contributors, and verifiers."""
        names = ["coordinator", *(f"peer-{place + 1}" for place in range(self.peers))]
        names += [f"verifier-{place + 1}" for place in range(VERIFIERS)]
        with tempfile.TemporaryDirectory() as where, open_links([self.link] * len(names)) as links:
            words = {
                "hosts": {name: asdict(host) for name, host in zip(names, links.hosts, strict=True)},
                "peers": self.peers,
                "verifiers": VERIFIERS,
                "rounds": self.manifest.rounds,
                "seed": self.seed,
                "directory": where,
            }
            command = [sys.executable, "-m", "tests.bench._whole_network", json.dumps(words)]
            asked = time.monotonic()
            with open_crew(links.hosts[:1], [command], self.directory / "logs", "network") as crew:
                with Meter(links, crew) as meter:
                    marks, curve = [], None
                    while curve is None:
                        told = crew.hear(0)
                        curve = told.get("curve")
                        marks += [told] if curve is None else []
                shown = crew.hear(0)
        return self._lived(marks, told, shown, meter, asked)

    def _lived(
        self,
        marks: list[dict[str, Any]],
        told: dict[str, Any],
        shown: dict[str, Any],
        meter: Meter,
        asked: float,
    ) -> Trial:
        phases = [one for one in marks if one["phase"] not in ("created", "ready")]
        starts = round_starts(phases, self.manifest.rounds)
        tokens = self.manifest.inner.steps * self.peers * self.step_tokens
        losses = {int(one["round"]): float(one["loss"]) for one in told["curve"]}
        points = [
            Point(starts[round_], round_ * tokens, losses[round_])
            for round_ in sorted(starts)
            if round_ in losses
        ]
        more = {
            "not demonstrated": shown["not_demonstrated"],
            "set up s": round(phases[0]["at"] - asked, 1),
            "s by phase": by_phase(phases, self.manifest.rounds),
            "cpu s by process": cpu_by_process(phases, self.manifest.rounds),
            "all MB sent": round(
                sum((two - one).sent for one, two in self._ends(meter, points[0].at, points[-1].at)) / 1e6, 1
            ),
        }
        return Trial("Murmur", NETWORK, points[0].at, points, meter.samples, self.peers, 1, more)

    @staticmethod
    def _ends(meter: Meter, began: float, ended: float) -> list[tuple[Traffic, Traffic]]:
        return list(zip(sample(meter.samples, began)[0], sample(meter.samples, ended)[0], strict=True))

    def _ours(self, host: Host, place: int, peers: int) -> list[str]:
        start = [sys.executable, "-m", "tests.bench._training_peer", host.address]
        return [*start, str(self.directory), str(place), str(peers), str(self.seed)]

    @contextmanager
    def _crew(
        self, peers: int, name: str, command: Callable[[Host, int], list[str]]
    ) -> Iterator[tuple[Links, Crew]]:
        with open_links([self.link] * peers) as links:
            commands = [command(host, place) for place, host in enumerate(links.hosts)]
            with open_crew(links.hosts, commands, self.directory / "logs", name) as crew:
                yield links, crew

    def _train(
        self, links: Links, crew: Crew, who: str, how: str, peers: int, epoch_samples: int | None = None
    ) -> Trial:
        """Have all train, and evaluate what the first had on its way."""
        with Meter(links, crew) as meter:
            began = time.monotonic()
            answers = crew.ask({"go": True})
        context, points = self.manifest.model.context, []
        for one in answers[0]["course"]:
            tokens = (
                one["steps"] * peers * self.step_tokens
                if epoch_samples is None
                else one["epoch"] * epoch_samples * context
            )
            parameters = np.load(one["parameters"], allow_pickle=False)
            points.append(Point(one["at"], tokens, heldout_loss(self.manifest, parameters, self.shard)))
        more = {
            "steps": [one.get("steps") for one in answers],
            "epochs": [one.get("epoch") for one in answers],
        }
        return Trial(who, how, began, points, meter.samples, peers, more=more)


def round_starts(phases: Sequence[Mapping[str, Any]], rounds: int) -> dict[int, float]:
    """Return when each round was first seen, and under `rounds` when the last one was over."""
    starts: dict[int, float] = {}
    for one in phases:
        round_ = one["round"] if one["phase"] in PHASES else rounds
        starts.setdefault(round_, one["at"])
    return starts


def by_phase(phases: Sequence[Mapping[str, Any]], rounds: int) -> dict[str, float]:
    """Return the mean seconds a round of each phase."""
    spent: dict[str, float] = {}
    for one, two in pairwise(phases):
        if one["phase"] in PHASES:
            spent[one["phase"]] = spent.get(one["phase"], 0.0) + two["at"] - one["at"]
    return {phase: round(seconds / rounds, 2) for phase, seconds in spent.items()}


def cpu_by_process(phases: Sequence[Mapping[str, Any]], rounds: int) -> dict[str, float]:
    """Return the CPU-seconds of each process from the first round's start to the last one's end."""
    end = round_starts(phases, rounds)[rounds]
    last = next(one for one in phases if one["at"] == end)
    first = phases[0]["cpu_s"]
    return {name: round(spent - first.get(name, 0.0), 1) for name, spent in last["cpu_s"].items()}
