"""The replayer: a child process that executes drawn segments again, `python -m verification.replayer`.

It speaks `protocol.worker`'s JSON lines; files come from the daemon's blob store by content address. Between calls it
keeps the program loaded and a few replays that wait for their unit's end; killing it costs time and nothing else.
"""

import time
from dataclasses import replace

from protocol.errors import OwnFault
from protocol.messages import Opening
from protocol.worker import Method, Params, Progress, Result, serve
from training.inner import prepare_process
from training.program import program_digest
from training.workbench import DeviceLoadRequest, Workbench
from verification.profile import this_machine
from verification.replay import Replayed, Units
from verification.request import BeginAnswer, FindAnswer, ReplayAnswer, ReplayRequest
from verification.unit import DrawnUnit, Finding, ReplayReport

KEPT = 4  # replays whose end has not been served yet; one that is pushed out is done again


class Bench:
    """Hold what one run needs for its replays."""

    def __init__(self, request: DeviceLoadRequest) -> None:
        work = Workbench.open(request)
        self.manifest = work.manifest
        self._store = work.store
        prepare_process(request.threads)
        self.machine = this_machine(request.device)
        self._units = Units(None if self.manifest.rollouts else work.shard(), request.device)
        self._kept: dict[str, Replayed] = {}  # by commitment id, oldest first

    def begin(self, request: ReplayRequest) -> BeginAnswer:
        """Replay one unit from the start in the store, and keep what came out for `compare`.

        Raises:
            NetworkError: a file is not in the store, or was damaged on disk.
            ProofInconclusive: the round's public parameters are unreadable.
            OwnFault: this machine failed.
        """
        began = time.process_time()
        found = self._begin(request)
        if isinstance(found, Replayed):
            return BeginAnswer(fingerprint=found.fingerprint)
        report = replace(found, cpu_s=time.process_time() - began)
        return BeginAnswer(report=ReplayAnswer.of(report))

    def compare(self, request: ReplayRequest) -> ReplayReport:
        """Compare a unit's replay with the end in the store; replay it again if it is not kept.

        Raises:
            NetworkError, ProofInconclusive, OwnFault: as `begin`.
        """
        began = time.process_time()
        unit, opening = request.unit(), request.opened()
        kept = self._kept.pop(unit.commitment.id, None)
        found = self._begin(request) if kept is None else kept
        self._kept.pop(unit.commitment.id, None)
        spent = 0.0 if kept is None else kept.cpu_s
        if isinstance(found, Replayed):
            late = self._files(unit, opening, late=True)
            found = self._units.compare(self.manifest, unit, opening, late, found)
        return replace(found, cpu_s=spent + time.process_time() - began)

    def find(self, request: ReplayRequest) -> Finding:
        """Judge one segment as a juror does, from the files in the store.

        Raises:
            NetworkError: a file is not in the store, or was damaged on disk.
        """
        unit, opening = request.unit(), request.opened()
        files = self._files(unit, opening, late=False) | self._files(unit, opening, late=True)
        return self._units.find(self.manifest, unit, opening, files)

    def _begin(self, request: ReplayRequest) -> Replayed | ReplayReport:
        unit, opening = request.unit(), request.opened()
        files = self._files(unit, opening, late=False)
        found = self._units.begin(self.manifest, unit, opening, files)
        if isinstance(found, Replayed):
            self._kept[unit.commitment.id] = found
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        return found

    def _files(self, unit: DrawnUnit, opening: Opening, *, late: bool) -> dict[str, bytes]:
        needed = self._units.needed_files(self.manifest, unit, opening)
        return {
            one.address: self._store.get(one.address, max_size=one.bytes)
            for one in needed
            if one.late is late
        }


class Replayer:
    """Answer the daemon's calls: `load` first, then `begin` and `compare` for each unit, or `find`."""

    def __init__(self) -> None:
        self._loaded: Bench | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """Return the methods by the name they are called with."""
        return {"load": self.load, "begin": self.begin, "compare": self.compare, "find": self.find}

    def load(self, params: Params, progress: Progress) -> Result:
        """Prepare for a run (`DeviceLoadRequest`); return the program digest computed, and what machine this is."""
        self._loaded = Bench(DeviceLoadRequest.model_validate(params))
        return {"program": program_digest(), "machine": self._loaded.machine.model_dump(mode="json")}

    def begin(self, params: Params, progress: Progress) -> Result:
        """Replay a unit (`ReplayRequest`) up to what can be sealed; return a `BeginAnswer`."""
        return self._bench.begin(ReplayRequest.model_validate(params)).model_dump(mode="json")

    def compare(self, params: Params, progress: Progress) -> Result:
        """Compare a unit's replay with its opened end (`ReplayRequest`) and return a `ReplayAnswer`."""
        report = self._bench.compare(ReplayRequest.model_validate(params))
        return ReplayAnswer.of(report).model_dump(mode="json")

    def find(self, params: Params, progress: Progress) -> Result:
        """Judge a segment as a juror does (`ReplayRequest`) and return a `FindAnswer`."""
        found = self._bench.find(ReplayRequest.model_validate(params))
        return FindAnswer.of(found).model_dump(mode="json")

    @property
    def _bench(self) -> Bench:
        if self._loaded is None:
            raise OwnFault("the replayer was not loaded")
        return self._loaded


if __name__ == "__main__":
    serve(Replayer().methods)
