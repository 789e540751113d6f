"""The evaluator as a real child process, on a tiny run."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from coordinator.evaluator import EvaluatorRequest
from protocol.blobs import BlobStore
from protocol.errors import ConfigError, MurmurError
from protocol.manifest import RunManifest
from protocol.tensors import parameter_layout
from protocol.update import encode
from protocol.worker import Worker
from tests.verification.rollout_run import rollout_manifest
from training.codec import compress
from training.corpus import dataset_config, prepare_corpus
from training.model import initial_parameters
from training.outer import aggregate, contribution, initial_state, parameters_file
from training.program import program_digest

TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom. " * 300


@pytest.fixture
def tiny(tmp_path: Path, make_world: Callable[..., Any]) -> RunManifest:
    source = tmp_path / "text.txt"
    source.write_bytes(TEXT)
    shard = prepare_corpus(source, tmp_path / "data")
    plain: RunManifest = make_world().manifest
    vector = initial_parameters(plain.model, 1)
    file = parameters_file(plain, initial_state(plain, vector))
    manifest = plain.model_copy(
        update={
            "dataset": dataset_config("times", shard),
            "initial_parameters": BlobStore(tmp_path / "blobs").put(file),
            "program": program_digest(),
        }
    )
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest


def _run(tmp_path: Path, talk: Callable[[Worker], Awaitable[Any]]) -> Any:
    request = EvaluatorRequest(
        manifest_path=tmp_path / "manifest.json",
        store=tmp_path / "blobs",
        control=tmp_path / "control",
        data_dir=tmp_path / "data",
    )

    async def main() -> Any:
        argv = [sys.executable, "-m", "coordinator.evaluator"]
        async with Worker(argv, log_path=tmp_path / "evaluator.log") as worker:
            await worker.call("load", request.params(), deadline_s=60)
            return await talk(worker)

    return trio.run(main)


def test_aggregation_in_the_child_is_the_one_that_everybody_computes(
    tmp_path: Path, tiny: RunManifest
) -> None:
    store = BlobStore(tmp_path / "blobs")
    size = parameter_layout(tiny.model).size
    generator = np.random.Generator(np.random.PCG64(5))
    updates = [
        compress(tiny.codec, generator.normal(0, 1e-3, size).astype(np.float32), None)[0] for _ in range(3)
    ]
    blobs = [store.put(encode(update)) for update in updates]
    state = initial_state(tiny, initial_parameters(tiny.model, 1))
    expected = store.put(parameters_file(tiny, aggregate(tiny, state, updates)))

    shares = [contribution(updates, 0), contribution(updates, 2)]
    without = store.put(parameters_file(tiny, aggregate(tiny, state, updates[:2], shares)))

    async def talk(worker: Worker) -> tuple[str, ...]:
        request = {"parameters": tiny.initial_parameters, "updates": blobs, "weights": [1] * 3}
        merged = await worker.call("aggregate", request)
        none = await worker.call("aggregate", {**request, "updates": [], "weights": []})
        all_of_them = {"updates": blobs, "weights": [1] * 3, "taken": [0, 2]}
        old = {"updates": blobs[:2], "weights": [1] * 2, "retracted": [all_of_them]}
        back = await worker.call("aggregate", {**request, **old})
        return merged["parameters"], none["parameters"], back["parameters"]

    assert _run(tmp_path, talk) == (expected, tiny.initial_parameters, without)


def test_what_waits_is_weighed_in_the_child(tmp_path: Path, tiny: RunManifest) -> None:
    store = BlobStore(tmp_path / "blobs")
    generator = np.random.Generator(np.random.PCG64(5))
    size = parameter_layout(tiny.model).size
    deltas = [generator.normal(0, scale, size).astype(np.float32) for scale in (1e-3, 1e-3, 3e-3, 3e-3)]
    blobs = [store.put(encode(compress(tiny.codec, delta, None)[0])) for delta in deltas]

    units = [{"number": number, "salt": "5a" * 32, "score": None} for number in (1, 2)]

    async def talk(worker: Worker) -> list[int]:
        counts = []
        for taken in ([], [0], [1, 0], [0, 1, 0]):
            old = [{"updates": blobs[2:], "weights": [1, 1], "taken": [place]} for place in taken]
            request = {"updates": blobs[:2], "weights": [1, 1], "retracted": old, "round": 1, "units": units}
            found = await worker.call("weigh", {**request, "parameters": tiny.initial_parameters})
            counts.append(found["count"])
        return counts

    # Each share is 1.5 times as long as the bound: the oldest goes alone.
    assert _run(tmp_path, talk) == [0, 1, 1, 1]


def test_the_control_group_learns_alone_and_can_be_taken_up_again(tmp_path: Path, tiny: RunManifest) -> None:
    def request(round_: int, number: int, parameters: str | None, moments: str | None) -> dict[str, Any]:
        return {
            "round": round_,
            "number": number,
            "beacon": f"{round_:064x}",
            "parameters": parameters,
            "moments": moments,
            "measure": round_ == 2,
        }

    async def rounds(worker: Worker) -> dict[str, Any]:
        start = await worker.call("heldout", {"parameters": tiny.initial_parameters})
        ends = []
        for number, first in ((1, 0), (2, 2)):
            found: dict[str, Any] = {"parameters": None, "moments": None}
            for round_ in range(first, 3):
                found = await worker.call(
                    "local", request(round_, number, found["parameters"], found["moments"])
                )
                if round_ == 1:
                    await worker.restart()
                    load = EvaluatorRequest(
                        manifest_path=tmp_path / "manifest.json",
                        store=tmp_path / "blobs",
                        control=tmp_path / "control",
                        data_dir=tmp_path / "data",
                    )
                    await worker.call("load", load.params())
            ends.append(found)
        return {"start": start["loss"], "ends": ends}

    found = _run(tmp_path, rounds)
    assert 5.5 < found["start"] < 7.0, "no better than guessing one of 256 before anything is learned"
    assert found["ends"][0]["loss"] < found["ends"][1]["loss"] < found["start"], "three rounds beat one"
    assert found["ends"][0]["parameters"] != found["ends"][1]["parameters"], "each on its own batches"


def test_a_policy_is_measured_on_held_out_tasks(tmp_path: Path) -> None:
    plain = rollout_manifest()
    file = parameters_file(plain, initial_state(plain, initial_parameters(plain.model, 1)))
    address = BlobStore(tmp_path / "blobs").put(file)
    manifest = plain.model_copy(update={"initial_parameters": address, "program": program_digest()})
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())

    async def talk(worker: Worker) -> dict[str, Any]:
        return await worker.call("heldout", {"parameters": address})

    found = _run(tmp_path, talk)
    assert found == {"success": 0.0, "reward": 0.0, "components": {"sorted": 0.0}}


def test_a_machine_that_computes_another_program_is_refused(tmp_path: Path, tiny: RunManifest) -> None:
    other = tiny.model_copy(update={"program": "00" * 32})
    (tmp_path / "manifest.json").write_bytes(other.to_bytes())

    async def talk(worker: Worker) -> None:
        return None

    with pytest.raises(ConfigError, match="computes program"):
        _run(tmp_path, talk)


def test_a_missing_update_is_an_error_and_not_an_empty_round(tmp_path: Path, tiny: RunManifest) -> None:
    async def talk(worker: Worker) -> Any:
        return await worker.call(
            "aggregate", {"parameters": tiny.initial_parameters, "updates": ["ee" * 32], "weights": [1]}
        )

    with pytest.raises(MurmurError, match="not in the store"):
        _run(tmp_path, talk)
