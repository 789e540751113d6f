"""The replayer: a child process that executes drawn segments again, `python -m verification.replayer`.

It speaks `protocol.worker`'s JSON lines; files come from the daemon's blob store by content address. Its only state
between calls is the program loaded, so killing it costs the call and nothing else.
"""

import time
from dataclasses import replace

from protocol.errors import OwnFault
from protocol.worker import Method, Params, Progress, Result, serve
from training.inner import prepare_process
from training.program import program_digest
from training.workbench import DeviceLoadRequest, Workbench
from verification.profile import this_machine
from verification.replay import TrainingUnits
from verification.request import ReplayAnswer, ReplayRequest
from verification.unit import ReplayReport


class Bench:
    """Hold what one run needs for its replays."""

    def __init__(self, request: DeviceLoadRequest) -> None:
        work = Workbench.open(request)
        self.manifest = work.manifest
        self._store = work.store
        prepare_process(request.threads)
        self.machine = this_machine(request.device)
        self._units = TrainingUnits(work.shard(), request.device)

    def replay(self, request: ReplayRequest) -> ReplayReport:
        """Replay one unit from the files in the store.

        Raises:
            NetworkError: a file is not in the store, or was damaged on disk.
            ProofInconclusive: the round's public parameters are unreadable.
            OwnFault: this machine failed.
        """
        began = time.process_time()
        unit, opening = request.unit(), request.opened()
        needed = self._units.needed_files(self.manifest, unit, opening)
        files = {one.address: self._store.get(one.address, max_size=one.bytes) for one in needed}
        report = self._units.replay(self.manifest, unit, opening, files)
        return replace(report, cpu_s=time.process_time() - began)


class Replayer:
    """Answer the daemon's calls: `load` first, then `replay`."""

    def __init__(self) -> None:
        self._loaded: Bench | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """Return the methods by the name they are called with."""
        return {"load": self.load, "replay": self.replay}

    def load(self, params: Params, progress: Progress) -> Result:
        """Prepare for a run (`DeviceLoadRequest`); return the program digest computed, and what machine this is."""
        self._loaded = Bench(DeviceLoadRequest.model_validate(params))
        return {"program": program_digest(), "machine": self._loaded.machine.model_dump(mode="json")}

    def replay(self, params: Params, progress: Progress) -> Result:
        """Replay a unit (`ReplayRequest`) and return a `ReplayAnswer`."""
        if self._loaded is None:
            raise OwnFault("the replayer was not loaded")
        report = self._loaded.replay(ReplayRequest.model_validate(params))
        return ReplayAnswer.of(report).model_dump(mode="json")


if __name__ == "__main__":
    serve(Replayer().methods)
