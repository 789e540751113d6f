"""A real trainer process: what it answers can be rebuilt from the blobs it wrote, and its death is only a lost call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from node.honesty import HonestSteps
from node.trainer import Bench, TrainRequest
from node.unit import Work, opening
from protocol.blobs import BlobMissing
from protocol.canonical import digest
from protocol.errors import ConfigError, Malformed, OwnFault
from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32, NumericProfile
from protocol.messages import sign
from protocol.published import read_update
from protocol.tensors import moment_layout, pack, parameter_layout, unpack
from protocol.update import decode, symbols_digest
from protocol.worker import Worker, WorkerDied
from tests.node.conftest import Place
from tests.node.world import name, unit_of
from tests.verification.testbed import key
from training.assignment import assignment, assignment_digest
from training.codec import compress, decode_dense
from training.corpus import Shard
from training.inner import InnerState, replay
from training.outer import aggregate, load_parameters, parameters_file
from training.trainer import trainer_for
from training.workbench import TrainerLoadRequest
from verification.commit import Carried
from verification.opening import check_opening
from verification.unit import DrawnUnit

BEACON = name("beacon")
PROFILES = (CPU_FP32, CPU_BF16, CPU_EXACT)


@asynccontextmanager
async def trainer(place: Place, *arguments: str) -> AsyncIterator[Worker]:
    """Start a trainer and load the run."""
    argv = [sys.executable, "-m", "node.trainer", *arguments]
    async with Worker(argv, log_path=place.store.root.parent / "trainer.log") as worker:
        answer = await worker.call("load", place.load())
        assert answer == {"program": place.manifest.program}
        yield worker


def request(
    place: Place, round_: int = 0, before: Work | None = None, **changes: object
) -> dict[str, object]:
    fields = TrainRequest(
        round=round_,
        number=1,
        beacon=BEACON,
        parameters=place.manifest.initial_parameters,
        moments=None if before is None else before.moments,
        residual=None if before is None else before.residual,
    )
    return fields.model_dump(mode="json") | changes


def state(place: Place, work: Work, index: int) -> InnerState:
    files, model = work.segments[index], place.manifest.model
    limit = moment_layout(model).file_bytes
    parameters = place.store.get(files.parameters, max_size=limit)
    return InnerState.from_files(model, parameters, place.store.get(files.moments, max_size=limit))


async def test_what_the_process_answers_can_be_rebuilt_from_the_blobs_it_wrote(place: Place) -> None:
    seen: list[dict[str, object]] = []
    async with trainer(place) as worker:
        answers = [
            await worker.call("train", request(place, number=number), on_progress=seen.append)
            for number in (1, 2, 3)
        ]
        works = [Work.model_validate(answer) for answer in answers]
        again = Work.model_validate(await worker.call("train", request(place)))
        asked = {
            "parameters": place.manifest.initial_parameters,
            "updates": [work.blob for work in works],
            "weights": [1] * len(works),
        }
        found = await worker.call("aggregate", asked)
        nothing = await worker.call("aggregate", asked | {"updates": [], "weights": []})
        await _refuses_rubbish(place, worker)
    assert again.model_copy(update={"cpu_s": works[0].cpu_s, "figures": works[0].figures}) == works[0]
    assert [one["step"] for one in seen] == [2, 4, 6] * 3
    for number, work in enumerate(works, 1):
        _check_segments(place, work, number)
    assert place.store.get(found["parameters"], max_size=1 << 20) == _aggregated(place, works)
    assert nothing == {"parameters": place.manifest.initial_parameters}


def test_norms_are_those_of_what_was_made(place: Place) -> None:
    load = TrainerLoadRequest.model_validate(place.load())
    work = Bench(load, HonestSteps()).train(TrainRequest.model_validate(request(place)), lambda _: None)
    figures = work.figures
    assert figures is not None
    change = state(place, work, 0).parameters - state(place, work, -1).parameters
    assert figures.pseudo_gradient_norm == pytest.approx(np.linalg.norm(change), rel=1e-6)
    size, manifest = change.size, place.manifest
    symbols = read_update(manifest, place.store.get(work.blob, max_size=1 << 20))
    assert figures.update_norm == pytest.approx(np.linalg.norm(decode_dense(symbols, size)), rel=1e-6)
    assert figures.steps == manifest.inner.steps
    assert figures.gradient_norm is not None
    assert figures.gradient_norm_max is not None
    assert 0 < figures.gradient_norm <= figures.gradient_norm_max


async def _refuses_rubbish(place: Place, worker: Worker) -> None:
    with pytest.raises(BlobMissing):
        await worker.call("train", request(place, moments=name("gone")))
    rubbish = place.store.put(b"MURU" + np.full(64, np.nan, np.float32).tobytes())
    asked = {"parameters": place.manifest.initial_parameters, "updates": [rubbish], "weights": [1]}
    with pytest.raises(Malformed):
        await worker.call("aggregate", asked)
    with pytest.raises(OwnFault):
        await worker.call("train", request(place, parameters="../../etc/passwd"))


def _check_segments(place: Place, work: Work, number: int) -> None:
    manifest = place.manifest
    assert len(work.segments) == manifest.segments + 1
    assert work.segments[0].parameters == manifest.initial_parameters
    offsets = assignment(manifest, BEACON, 0, number)
    assert work.assignment == assignment_digest(offsets)
    shard = Shard.open(manifest.dataset, place.data_dir)
    for segment in range(manifest.segments):
        start = state(place, work, segment)
        end = replay(manifest, shard, start, offsets[2 * segment : 2 * segment + 2], 2 * segment)
        assert digest(end.parameters_file(manifest.model)) == work.segments[segment + 1].parameters
        assert digest(end.moments_file(manifest.model)) == work.segments[segment + 1].moments


def _aggregated(place: Place, works: list[Work]) -> bytes:
    manifest, size = place.manifest, parameter_layout(place.manifest.model).size
    blobs = [place.store.get(work.blob, max_size=1 << 20) for work in works]
    updates = [decode(blob, codec=manifest.codec, size=size) for blob in blobs]
    start = load_parameters(manifest, place.store.get(manifest.initial_parameters, max_size=1 << 20))
    return parameters_file(manifest, aggregate(manifest, start, updates))


def test_update_residual_and_roots_follow_from_the_states(place: Place) -> None:
    manifest, layout = place.manifest, parameter_layout(place.manifest.model)
    bench = Bench(TrainerLoadRequest.model_validate(place.load()), HonestSteps())
    first = bench.train(TrainRequest.model_validate(request(place)), _unheard)
    second = bench.train(TrainRequest.model_validate(request(place, 1, first)), _unheard)
    residual = None
    for work in (first, second):
        moved = state(place, work, 0).parameters - state(place, work, -1).parameters
        symbols, rest = compress(manifest.codec, moved, residual)
        blob = place.store.get(work.blob, max_size=work.blob_bytes)
        assert len(blob) == work.blob_bytes
        assert symbols_digest(symbols) == work.symbols
        assert symbols_digest(decode(blob, codec=manifest.codec, size=layout.size)) == work.symbols
        assert digest(pack(layout, rest)) == work.residual
        residual = unpack(layout, place.store.get(work.residual, max_size=layout.file_bytes))[0]
    assert second.segments[0].moments == first.moments
    assert state(place, second, -1).steps == 2 * manifest.inner.steps
    _check_every_opening(place, first, second)


def _check_every_opening(place: Place, first: Work, second: Work) -> None:
    units = [unit_of(place.manifest, 0, first, None)]
    units.append(unit_of(place.manifest, 1, second, units[0]))
    for unit, expected in zip(units, (Carried(), units[0].carried), strict=True):
        commitment = sign(key(1), place.manifest, unit.round, "contributor", unit.commitment)
        for segment in range(place.manifest.segments):
            said = sign(key(1), place.manifest, unit.round, "contributor", opening(unit, segment))
            check_opening(place.manifest, DrawnUnit(commitment, segment, BEACON, expected), said)


async def test_a_trainer_that_dies_costs_the_call_and_starts_again(place: Place) -> None:
    async with trainer(place) as worker:
        before = await worker.call("train", request(place))
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await worker.call("train", request(place))
        await worker.restart()
        with pytest.raises(OwnFault, match="not loaded"):
            await worker.call("train", request(place))
        await worker.call("load", place.load())
        after = await worker.call("train", request(place))
    assert after["segments"] == before["segments"]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_profile_decides_the_arithmetic(place: Place, profile: NumericProfile) -> None:
    verification = place.manifest.verification.model_copy(update={"profiles": PROFILES})
    manifest = place.manifest.model_copy(update={"verification": verification})
    place.manifest_path.write_bytes(manifest.to_bytes())
    loaded = place.load() | {"profile": profile.name}
    bench = Bench(TrainerLoadRequest.model_validate(loaded), HonestSteps())
    work = bench.train(TrainRequest.model_validate(request(place)), _unheard)
    repeated = trainer_for(manifest, Shard.open(manifest.dataset, place.data_dir), profile)
    repeated.load(state(place, work, 0))
    repeated.run(assignment(manifest, BEACON, 0, 1), 0)
    end = repeated.state().parameters_file(manifest.model)
    assert digest(end) == work.segments[-1].parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cuda:99"},
        {"data_dir": "empty", "data": "missing.txt"},
        {"profile": "cpu-exact"},
    ],
    ids=["no such device", "no such data", "no such profile"],
)
def test_a_machine_that_does_not_fit_the_run_says_what_is_wrong(
    place: Place, changes: dict[str, str]
) -> None:
    folder = place.store.root.parent
    paths = {name_: str(folder / value) if "data" in name_ else value for name_, value in changes.items()}
    with pytest.raises(ConfigError):
        Bench(TrainerLoadRequest.model_validate(place.load() | paths), HonestSteps())


def _unheard(progress: dict[str, object]) -> None:
    return None


def test_the_node_itself_never_loads_torch() -> None:
    program = "import sys, node.service, node.cheats.casting, node.workshop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
