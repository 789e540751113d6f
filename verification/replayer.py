"""The replayer: a child process that executes drawn segments again, `python -m verification.replayer`.

It speaks `protocol.worker`'s JSON lines; files come from the daemon's blob store by content address. Its only state
between calls is the program loaded, so killing it costs the call and nothing else.
"""

import time
from dataclasses import replace
from typing import Annotated, Any, cast

from pydantic import Field

from protocol.canonical import canonical_json
from protocol.errors import OwnFault
from protocol.manifest import Digest, Frozen
from protocol.messages import Commitment, Opening, Signed, parse_message
from protocol.worker import Method, Params, Progress, Result, serve
from training.inner import prepare_process
from training.program import program_digest
from training.workbench import DeviceLoadRequest, Workbench
from verification.commit import Carried
from verification.replay import TrainingUnits
from verification.unit import DrawnUnit, ReplayReport


class ReplayRequest(Frozen):
    """Name one drawn unit and what was opened of it, both checked by the daemon already."""

    commitment: dict[str, Any]  # signed, in wire form
    opening: dict[str, Any]
    segment: int = Field(ge=0, le=1000)
    beacon: Digest
    carried_moments: Digest
    carried_residual: Digest

    @classmethod
    def of(cls, unit: DrawnUnit, opening: Signed[Opening]) -> "ReplayRequest":
        """Write a request for a unit."""
        return cls(
            commitment=unit.commitment.to_json(),
            opening=opening.to_json(),
            segment=unit.segment,
            beacon=unit.beacon,
            carried_moments=unit.carried.moments,
            carried_residual=unit.carried.residual,
        )

    def unit(self) -> DrawnUnit:
        """Return the unit."""
        commitment = parse_message(canonical_json(self.commitment))
        if not isinstance(commitment.body, Commitment):
            raise OwnFault("the daemon sent something else than a commitment")
        carried = Carried(self.carried_moments, self.carried_residual)
        return DrawnUnit(cast("Signed[Commitment]", commitment), self.segment, self.beacon, carried)

    def opened(self) -> Opening:
        """Return what was opened."""
        opening = parse_message(canonical_json(self.opening)).body
        if not isinstance(opening, Opening):
            raise OwnFault("the daemon sent something else than an opening")
        return opening


class ReplayAnswer(Frozen):
    """Carry a `ReplayReport` between processes."""

    outcome: Annotated[int, Field(ge=1, le=3)]
    reason: Annotated[str, Field(max_length=200)]
    distance: float
    tensor: Annotated[str, Field(max_length=100)]
    cpu_s: Annotated[float, Field(ge=0)]
    distances: dict[str, float]

    @classmethod
    def of(cls, report: ReplayReport) -> "ReplayAnswer":
        """Write an answer."""
        return cls.model_validate({**vars(report), "distances": dict(report.distances)})

    def report(self) -> ReplayReport:
        """Return the report."""
        return ReplayReport(**self.model_dump())


class Bench:
    """Hold what one run needs for its replays."""

    def __init__(self, request: DeviceLoadRequest) -> None:
        work = Workbench.open(request)
        self.manifest = work.manifest
        self._store = work.store
        prepare_process(request.threads)
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
        """Prepare for a run (`DeviceLoadRequest`) and return the program digest that this machine computes."""
        self._loaded = Bench(DeviceLoadRequest.model_validate(params))
        return {"program": program_digest()}

    def replay(self, params: Params, progress: Progress) -> Result:
        """Replay a unit (`ReplayRequest`) and return a `ReplayAnswer`."""
        if self._loaded is None:
            raise OwnFault("the replayer was not loaded")
        report = self._loaded.replay(ReplayRequest.model_validate(params))
        return ReplayAnswer.of(report).model_dump(mode="json")


if __name__ == "__main__":
    serve(Replayer().methods)
