"""One emulated machine: a child process that replays segments, `python -m murmur.machine` (see `murmur.machines`)."""

from functools import partial

import torch

from murmur.machines import Facts, Replay
from node.cheats.casting import steps_of
from node.honesty import HonestSteps
from node.unit import Files
from protocol.errors import OwnFault
from protocol.lessons import Lessons
from protocol.manifest import RunManifest
from protocol.published import max_published_bytes
from protocol.rollouts import Group
from protocol.tensors import moment_layout, parameter_layout
from protocol.worker import Method, Params, Progress, Result, serve
from training.experience import Experience
from training.inner import InnerState, prepare_process
from training.trainer import Trainer, trainer_for
from training.workbench import DeviceLoadRequest, Workbench


class Bench:
    """Replay segments of one run in the arithmetic of any of its profiles."""

    def __init__(self, request: DeviceLoadRequest) -> None:
        prepare_process(request.threads)
        self._work = Workbench.open(request)
        self._shard = self._work.shard()
        self._device = request.device
        self._trainers: dict[tuple[str, str], tuple[Trainer, HonestSteps]] = {}
        self._learned: Lessons | None = None
        self._groups: tuple[Group, ...] = ()

    def replay(self, replay: Replay) -> Files:
        """Return where the end of a segment is kept.

        Raises:
            NetworkError: its start is not in the store.
            OwnFault: the loss is not finite.
        """
        manifest, store = self._work.manifest, self._work.store
        model, steps = manifest.model, manifest.verification.segment_steps
        start = InnerState.from_files(
            model,
            store.get(replay.start.parameters, max_size=parameter_layout(model).file_bytes),
            store.get(replay.start.moments, max_size=moment_layout(model).file_bytes),
        )
        first = replay.segment * steps
        trainer, taken = self._trainer(replay)
        rows = taken.batches(manifest, replay.beacon, replay.round, replay.number)[first : first + steps]
        trainer.load(start)
        taken.run(trainer, rows, replay.round * manifest.inner.steps + first)
        end = trainer.state()
        return Files(
            parameters=store.put(end.parameters_file(model)), moments=store.put(end.moments_file(model))
        )

    def _trainer(self, replay: Replay) -> tuple[Trainer, HonestSteps]:
        name, cheat, learned = replay.profile, replay.cheat, replay.lessons
        manifest = self._work.manifest
        profile = manifest.verification.profile(name)
        if profile is None:
            raise OwnFault(f"the run has no profile {name}")
        if manifest.rollouts is not None:
            steps = steps_of(cheat or None)
            recipe = steps.recipe(manifest)
            return trainer_for(recipe, self._experience(recipe, learned), profile, self._device), steps
        if (name, cheat) not in self._trainers:
            steps = steps_of(cheat or None)
            self._trainers[name, cheat] = (
                trainer_for(steps.recipe(manifest), self._shard, profile, self._device),
                steps,
            )
        return self._trainers[name, cheat]

    def _experience(self, recipe: RunManifest, lessons: Lessons) -> Experience:
        if self._learned != lessons:
            get = partial(self._work.store.get, max_size=max_published_bytes(self._work.manifest))
            self._learned, self._groups = lessons, Experience.read(self._work.manifest, lessons, get).groups
        return Experience(recipe, self._groups)


class Machine:
    """Answer the parent's calls: `load` first, then `replay`."""

    def __init__(self) -> None:
        self._bench: Bench | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """Return the methods by the name they are called with."""
        return {"load": self.load, "replay": self.replay}

    def load(self, params: Params, progress: Progress) -> Result:
        """Prepare for a run (`DeviceLoadRequest`) and return `murmur.machines.Facts`."""
        self._bench = Bench(DeviceLoadRequest.model_validate(params))
        facts = Facts(
            torch=torch.__version__,
            capability=torch.backends.cpu.get_cpu_capability(),
            threads=torch.get_num_threads(),
        )
        return facts.model_dump(mode="json")

    def replay(self, params: Params, progress: Progress) -> Result:
        """Replay a list of segments and return the files of their ends, in order."""
        if self._bench is None:
            raise OwnFault("the machine was not loaded")
        replays = [Replay.model_validate(one) for one in params["replays"]]
        return {"ends": [self._bench.replay(one).model_dump(mode="json") for one in replays]}


if __name__ == "__main__":
    serve(Machine().methods)
