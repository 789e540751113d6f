"""One emulated machine: a child process that replays segments, `python -m murmur.machine` (see `murmur.machines`)."""

from typing import cast

import torch

from murmur.machines import Facts, Replay
from node.cheats.casting import steps_of
from node.honesty import HonestSteps
from node.unit import Files
from protocol.errors import OwnFault
from protocol.tensors import moment_layout, parameter_layout
from protocol.worker import Method, Params, Progress, Result, serve
from training.inner import InnerState, InnerTrainer, prepare_process
from training.trainer import trainer_for
from training.workbench import DeviceLoadRequest, Workbench


class Bench:
    """Replay segments of one run in the arithmetic of any of its profiles."""

    def __init__(self, request: DeviceLoadRequest) -> None:
        prepare_process(request.threads)
        self._work = Workbench.open(request)
        self._shard = self._work.shard()
        self._device = request.device
        self._trainers: dict[tuple[str, str], tuple[InnerTrainer, HonestSteps]] = {}

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
        trainer, taken = self._trainer(replay.profile, replay.cheat)
        rows = taken.batches(manifest, replay.beacon, replay.round, replay.number)[first : first + steps]
        trainer.load(start)
        taken.run(trainer, rows, replay.round * manifest.inner.steps + first)
        end = trainer.state()
        return Files(
            parameters=store.put(end.parameters_file(model)), moments=store.put(end.moments_file(model))
        )

    def _trainer(self, name: str, cheat: str) -> tuple[InnerTrainer, HonestSteps]:
        manifest = self._work.manifest
        if (name, cheat) not in self._trainers:
            profile = manifest.verification.profile(name)
            if profile is None:
                raise OwnFault(f"the run has no profile {name}")
            steps = steps_of(cheat or None)
            trainer = trainer_for(steps.recipe(manifest), self._shard, profile, self._device)
            # Cheats are written for the trainer of floating-point profiles; honest steps take any.
            self._trainers[name, cheat] = cast("InnerTrainer", trainer), steps
        return self._trainers[name, cheat]


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
