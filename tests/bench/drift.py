"""How far honest replays differ between instruction sets, and dishonest ones from honest: what a tolerance rests on.

One peer's run is recorded, then every segment of some of its rounds is replayed on emulated machines
(`murmur.machines`), from carried moments and, as a newcomer, from zero moments. Distances are those of
`training.distance`, the worst tensor of each segment.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from murmur.machines import BASE, MACHINES
from protocol.manifest import InnerConfig, RunManifest
from protocol.tensors import Layout, parameter_layout
from tests.bench._peers import Peer, beacon, bench_manifest
from training.assignment import assignment
from training.corpus import Shard
from training.distance import segment_distances
from training.inner import InnerState, InnerTrainer, prepare_process
from training.model import initial_parameters
from training.outer import aggregate, initial_state
from training.trainer import Trainer

MANIFEST = "manifest.json"
NUMBER, OTHER_NUMBER = 1, 2_000_000
ROUNDS = (0, 1, 2, 5, 10, 20, 30, 39)
NEWCOMER_ROUNDS = (1, 5, 10, 20, 30, 39)
BY_NAME = {machine.name: machine for machine in MACHINES}
CHEATS = ("learning rate x 0.99", "one step of three", "other data")


@dataclass(frozen=True)
class Case:
    """Name a segment to replay."""

    round: int
    segment: int = 0
    newcomer: int = 0  # registration number of one who starts with zero moments; 0: the recorded peer

    @property
    def name(self) -> str:
        return f"{self.round}-{self.segment}-{self.newcomer}"

    @property
    def start(self) -> str:
        """Name the state it starts from, which newcomers of a round share."""
        return f"{self.round}-{self.segment}-{min(self.newcomer, 1)}"


def cases(manifest: RunManifest, newcomers: int) -> list[Case]:
    """List every segment of the recorded rounds, and the first segments of newcomers."""
    carried = [Case(round_, segment) for round_ in ROUNDS for segment in range(manifest.segments)]
    return carried + [Case(r, 0, number) for r in NEWCOMER_ROUNDS for number in range(1, newcomers + 1)]


def save(directory: Path, name: str, manifest: RunManifest, state: InnerState) -> None:
    (directory / f"{name}.parameters").write_bytes(state.parameters_file(manifest.model))
    (directory / f"{name}.moments").write_bytes(state.moments_file(manifest.model))


def load(directory: Path, name: str, manifest: RunManifest) -> InnerState:
    files = ((directory / f"{name}.{part}").read_bytes() for part in ("parameters", "moments"))
    return InnerState.from_files(manifest.model, *files)


def record(directory: Path, manifest: RunManifest, shard: Shard) -> None:
    """Run one peer through the whole run and keep the starts of the cases' segments."""
    peer, trainer = Peer(manifest, shard, NUMBER), InnerTrainer(manifest, shard)
    state = initial_state(manifest, initial_parameters(manifest.model, 0))
    for round_ in range(manifest.rounds):
        if round_ in ROUNDS:
            trainer.load(peer.start(state.parameters))
            offsets = assignment(manifest, beacon(0, round_), round_, NUMBER)
            for segment in range(manifest.segments):
                save(directory, Case(round_, segment).start, manifest, trainer.state())
                run_segment(manifest, trainer, offsets, round_, segment)
            if round_ in NEWCOMER_ROUNDS:
                fresh = InnerState.fresh(state.parameters)
                save(directory, Case(round_, 0, 1).start, manifest, fresh)
        state = aggregate(manifest, state, [peer.update(0, round_, state)])


def run_segment(
    manifest: RunManifest,
    trainer: Trainer,
    offsets: np.ndarray,
    round_: int,
    segment: int,
    steps: int | None = None,
) -> None:
    """Take the steps of a segment, or only the first `steps` of them."""
    length = manifest.verification.segment_steps
    rows = offsets[segment * length : segment * length + (steps or length)]
    trainer.run(rows, round_ * manifest.inner.steps + segment * length)


def replay_all(directory: Path, label: str, newcomers: int) -> None:
    """Replay every case on this machine and keep the ends under `label`."""
    prepare_process(BY_NAME.get(label, BASE).threads)
    honest = manifest = RunManifest.from_bytes((directory / MANIFEST).read_bytes())
    shard = Shard.open(manifest.dataset, directory)
    if label == "learning rate x 0.99":
        inner = manifest.inner.model_copy(update={"lr": manifest.inner.lr * 0.99})
        manifest = manifest.model_copy(update={"inner": inner})
    trainer = InnerTrainer(manifest, shard)
    for case in cases(manifest, newcomers):
        number = OTHER_NUMBER if label == "other data" else max(case.newcomer, NUMBER)
        offsets = assignment(honest, beacon(0, case.round), case.round, number)
        trainer.load(load(directory, case.start, manifest))
        steps = 1 if label == "one step of three" else None
        run_segment(manifest, trainer, offsets, case.round, case.segment, steps)
        save(directory, f"{label}.{case.name}", manifest, trainer.state())


def run_on(label: str, bench: str, directory: str, newcomers: int) -> None:
    """Have a process of the machine that `label` names, or of this one, replay with `python -m tests.bench`."""
    command = [sys.executable, "-m", "tests.bench", bench, "--replay", directory, label]
    command += ["--newcomers", str(newcomers)]
    subprocess.run(command, env=BY_NAME.get(label, BASE).environment(), check=True)


def unfloored(
    layout: Layout, start: InnerState, claimed: InnerState, replayed: InnerState
) -> dict[str, list[float]]:
    """Return root mean squares of difference and change of each tensor, for choosing floors."""
    found = {}
    for part in ("parameters", "exp_avg", "exp_avg_sq"):
        before, claim, again = (
            getattr(state, part).astype(np.float64) for state in (start, claimed, replayed)
        )
        for name, place in layout.slices.items():
            difference = np.sqrt(np.mean((claim[place] - again[place]) ** 2))
            change = np.sqrt(np.mean((again[place] - before[place]) ** 2))
            found[f"{part}.{name}"] = [float(difference), float(change)]
    return found


def compare(
    directory: Path, manifest: RunManifest, label: str, listed: Sequence[Case], raw: bool
) -> dict[str, object]:
    """Return the distribution over cases of the worst tensor's distance between `label` and the base machine."""
    worst, rows = {}, {}
    for case in listed:
        start, base, other = (
            load(directory, name, manifest)
            for name in (case.start, f"{BASE.name}.{case.name}", f"{label}.{case.name}")
        )
        distances = segment_distances(manifest, start, other, base)
        tensor = max(distances, key=lambda name: distances[name])
        worst[case.name] = (distances[tensor], tensor)
        if raw:
            rows[case.name] = unfloored(parameter_layout(manifest.model), start, other, base)
    values = np.array([distance for distance, _ in worst.values()])
    top = max(worst, key=lambda name: worst[name][0])
    found: dict[str, object] = {"machine": label, "moments": "zero" if listed[0].newcomer else "carried"}
    found |= {"segments": len(listed)}
    found |= {
        f"q{round(100 * q)}": float(f"{np.quantile(values, q):.3g}") for q in (0, 0.1, 0.5, 0.9, 0.99, 1)
    }
    found |= {"segment": top, "tensor": worst[top][1]}
    return {**found, "raw": rows} if raw else found


def main(arguments: Sequence[str]) -> int:
    """Record, replay on each machine, and print quantiles over segments of the worst tensor's distance."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench drift", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument(
        "--raw", action="store_true", help="with --json: differences and changes of every tensor"
    )
    parser.add_argument("--replay", nargs=2, metavar=("DIR", "LABEL"), help=argparse.SUPPRESS)
    parser.add_argument("--newcomers", type=int, default=4, help="with zero moments, in each of six rounds")
    parser.add_argument("--eps", type=float, help="of AdamW, instead of the default")
    parser.add_argument("--machines", nargs="+", choices=[*BY_NAME, *CHEATS], help="instead of all")
    options = parser.parse_args(arguments)
    if options.replay:
        replay_all(Path(options.replay[0]), options.replay[1], options.newcomers)
        return 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare_process(1)
        inner = InnerConfig() if options.eps is None else InnerConfig(eps=options.eps)
        manifest, shard = bench_manifest(directory, 0, inner=inner)
        (directory / MANIFEST).write_bytes(manifest.to_bytes())
        record(directory, manifest, shard)
        labels = list(dict.fromkeys([BASE.name, *(options.machines or [*BY_NAME, *CHEATS])]))
        for label in labels:
            run_on(label, "drift", name, options.newcomers)
        every = cases(manifest, options.newcomers)
        groups = [[case for case in every if bool(case.newcomer) is zero] for zero in (False, True)]
        found = [
            compare(directory, manifest, label, group, options.raw)
            for label in labels
            for group in groups
            if group
        ]
    if options.json:
        print(json.dumps({"tolerance": manifest.verification.profiles[0].tolerance, "machines": found}))
    else:
        for row in found:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    return 0
