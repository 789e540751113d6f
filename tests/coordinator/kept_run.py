"""A short run whose parameters are real files: its database, its checkpoints, and its API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from coordinator.api import create_app
from coordinator.state import Aggregate, Aggregated, Effect, Event, FetchUpdate
from coordinator.store import Store
from coordinator.tables import database_url, open_engine
from protocol.canonical import digest
from protocol.checkpoints import CHECKPOINTS_DIRECTORY, Checkpoints
from protocol.manifest import OuterConfig, RunManifest
from protocol.tensors import parameter_layout
from tests.coordinator.conftest import World, make_manifest
from training.model import initial_parameters
from training.outer import OuterState, initial_state, parameters_file

NOW = 1_000_000.0


def vector_of(manifest: RunManifest, round_: int) -> np.ndarray:
    """Return the parameters that a round starts from: float32[P]."""
    noise = np.random.default_rng(round_).normal(0, 0.1, parameter_layout(manifest.model).size)
    return initial_parameters(manifest.model, 0) + noise.astype(np.float32) * round_


class KeptWorld(World):
    """A run that keeps the file of every round's parameters."""

    def __init__(self, manifest: RunManifest) -> None:
        super().__init__(manifest)
        self.files = {0: parameters_file(manifest, initial_state(manifest, vector_of(manifest, 0)))}

    def _perform(self, effect: Effect) -> list[Event]:
        if isinstance(effect, Aggregate):
            after = effect.round + 1
            vector = vector_of(self.manifest, after)
            momentum = -vector if self.manifest.outer.momentum else None
            self.files[after] = parameters_file(self.manifest, OuterState(vector, momentum))
            self.parameters[after] = digest(self.files[after])
            return [Aggregated(after, self.parameters[after])]
        return super()._perform(effect)


@dataclass
class KeptRun:
    """Name the parts of the run."""

    directory: Path
    world: KeptWorld

    @property
    def manifest(self) -> RunManifest:
        return self.world.manifest

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.directory / CHECKPOINTS_DIRECTORY)

    @contextmanager
    def api(self) -> Iterator[TestClient]:
        engine = open_engine(database_url(self.directory), writer=False)
        with TestClient(create_app(engine, lambda: NOW, checkpoints=self.checkpoints)) as client:
            yield client
        engine.dispose()


def keep_run(directory: Path, *, momentum: float = 0.0, rounds: int = 3) -> KeptRun:
    """Play a whole run and keep it."""
    outer = OuterConfig(momentum=momentum)
    manifest = make_manifest(outer=outer)
    first = parameters_file(manifest, initial_state(manifest, vector_of(manifest, 0)))
    world = KeptWorld(make_manifest(outer=outer, initial_parameters=digest(first)))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").write_bytes(world.manifest.to_bytes())
    world.open()
    for round_ in range(rounds):
        world.play(round_)
    world.mine(10)
    run = KeptRun(directory, world)
    with Store.open(directory, world.manifest, clock=lambda: NOW) as store, store.write() as tx:
        tx.peers(world.chain.operators(), {}, world.state.ready)
        for message in world.heard:
            tx.heard(message)
        for effect in world.effects:
            if isinstance(effect, FetchUpdate):
                tx.revealed(effect)
        for message in world.statements.values():
            tx.say(message)
        for after, root in world.parameters.items():
            tx.parameters(after, root)
        for round_ in range(rounds + 1):
            tx.loss(round_, 5.5 - round_ / 2)
    for round_, file in world.files.items():
        blob = directory / "blob"
        blob.write_bytes(file)
        run.checkpoints.add(round_, digest(file), blob)
        blob.unlink()
    return run
