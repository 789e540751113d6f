"""The evaluator: a child process that aggregates rounds and measures them, `python -m coordinator.evaluator`.

It speaks `protocol.worker`'s JSON lines; tensors pass as canonical files through blob stores, by content address. The
service runs two: one aggregates and is needed for every round, the other measures at low priority and is waited for by
nobody. Torch is loaded by the first call that needs it, so the aggregating one stays small.

The control group of a run of pre-training answers what a peer would reach alone: the same start, batches, learning
rates and carried moments as its units in the run, but nothing is exchanged and no outer step is taken.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from protocol.blobs import BlobStore
from protocol.errors import Malformed, OwnFault
from protocol.frozen import Digest, Frozen
from protocol.manifest import RunManifest
from protocol.messages import MAX_UNITS, Number, Round
from protocol.published import max_published_bytes, read_judgments
from protocol.rollouts import rollouts_of
from protocol.tensors import Floats, moment_layout, pack, parameter_layout, unpack
from protocol.worker import Method, Params, Progress, Result, serve
from training.assignment import assignment
from training.program import check_program, program_digest
from training.workbench import AggregateRequest, LoadRequest, Weighing, WeighRequest, Workbench


class EvaluatorRequest(LoadRequest):
    """Name what the evaluator works on and with."""

    control: Path  # store of the control group's states


class HeldoutRequest(Frozen):
    """Name the parameters to measure."""

    parameters: Digest


class RolloutsRequest(Frozen):
    """Name what the units of a round published, by number; those that are not in the store are left out."""

    units: dict[Number, Digest] = Field(max_length=MAX_UNITS)
    # What units of the round after published, among whom are its judges.
    judging: tuple[Digest, ...] = Field(default=(), max_length=MAX_UNITS)


class LocalRequest(Frozen):
    """Ask for one round of a peer that trains alone."""

    round: Round
    number: Number
    beacon: Digest  # assignment beacon of the round
    parameters: Digest | None  # where it stands; None: the run's initial parameters
    moments: Digest | None  # None: nothing carried
    measure: bool  # also return the held-out loss of the end


@dataclass(frozen=True)
class Loaded:
    """What every call works with."""

    work: Workbench
    control: BlobStore


def heldout(loaded: Loaded, request: HeldoutRequest) -> Result:
    """Return the held-out loss of the run's parameters in nats a byte; of a policy, what it does on held-out tasks."""
    from training.evaluate import heldout_loss, heldout_success
    from training.inner import prepare_process

    work = loaded.work
    prepare_process(work.request.threads)
    vector = work.parameters(request.parameters).parameters
    if work.manifest.rollouts is not None:
        return asdict(heldout_success(work.manifest, vector, _judge(work)))
    return {"loss": heldout_loss(work.manifest, vector, work.shard())}


def _judge(work: Workbench) -> Floats | None:
    """Return the parameters of the run's judge; None where it has none, or they are not here."""
    judge = work.manifest.judge
    if judge is None or not work.store.has(judge.parameters):
        return None
    layout = parameter_layout(judge.model)
    return unpack(layout, work.store.get(judge.parameters, max_size=layout.file_bytes))[0]


def _readable(manifest: RunManifest, blob: bytes) -> bool:
    """Tell whether a unit's judgments can be read; what did not merge may hold anything."""
    from training.judging import scores_of

    groups = rollouts_of(manifest).sampling.groups
    try:
        for one in read_judgments(manifest, blob):
            scores_of(manifest, one)
            if one.group >= groups:
                return False
    except Malformed:
        return False
    return True


def rollouts(loaded: Loaded, request: RolloutsRequest) -> Result:
    """Describe the rollouts of a round's units, by number."""
    from coordinator.rollouts import describe_rollouts
    from training.experience import judged_scores

    work, found = loaded.work, {}
    limit = max_published_bytes(work.manifest)
    judges = (work.store.get(blob, max_size=limit) for blob in request.judging if work.store.has(blob))
    scores = judged_scores(work.manifest, [one for one in judges if _readable(work.manifest, one)])
    for number, blob in request.units.items():
        own = {group: said for (author, group), said in scores.items() if author == number}
        if work.store.has(blob):
            try:
                data = work.store.get(blob, max_size=limit)
                found[str(number)] = describe_rollouts(work.manifest, data, own)
            except Malformed as error:
                found[str(number)] = {"unreadable": error.message}
    return {"units": found}


def local(loaded: Loaded, request: LocalRequest) -> Result:
    """Train a peer of the control group for one round; return its state, and its held-out loss if asked."""
    from training.evaluate import heldout_loss
    from training.inner import InnerState, InnerTrainer, prepare_process

    work, manifest, model = loaded.work, loaded.work.manifest, loaded.work.manifest.model
    prepare_process(work.request.threads)
    if request.parameters is None:
        start = InnerState.fresh(work.parameters(manifest.initial_parameters).parameters)
    else:
        limit = parameter_layout(model).file_bytes
        parameters = loaded.control.get(request.parameters, max_size=limit)
        moments = None
        if request.moments is not None:
            moments = loaded.control.get(request.moments, max_size=moment_layout(model).file_bytes)
        start = InnerState.from_files(model, parameters, moments)
    shard = work.shard()
    # Who trains alone has no rounds: its moments are carried, whatever the run's are.
    alone = manifest.inner.model_copy(update={"moments": "carried"})
    trainer = InnerTrainer(manifest.model_copy(update={"inner": alone}), shard)
    trainer.load(start)
    offsets = assignment(manifest, request.beacon, request.round, request.number)
    trainer.run(offsets, request.round * manifest.inner.steps)
    end = trainer.state()
    return {
        "parameters": loaded.control.put(pack(parameter_layout(model), end.parameters)),
        "moments": loaded.control.put(end.moments_file(model)),
        "loss": heldout_loss(manifest, end.parameters, shard) if request.measure else None,
    }


def weigh(work: Workbench, request: WeighRequest) -> Weighing:
    """Judge a round's merged updates, by their loss where the run has a gate (`Workbench.weigh`)."""
    from training.gate import judge_round

    shard = work.shard() if work.manifest.merging.gate_windows else None
    return work.weigh(request, partial(judge_round, work.manifest, shard, request))


def methods() -> dict[str, Method]:
    """Return the calls that the child answers."""
    here: list[Loaded] = []

    def load(params: Params, progress: Progress) -> Result:
        request = EvaluatorRequest.model_validate(params)
        work = Workbench.open(request)
        here[:] = [Loaded(work, BlobStore(request.control))]
        return {"program": check_program(work.manifest, program_digest())}

    def loaded() -> Loaded:
        if not here:
            raise OwnFault("the evaluator was called before it was loaded")
        return here[0]

    def call_aggregate(params: Params, progress: Progress) -> Result:
        return {"parameters": loaded().work.aggregate(AggregateRequest.model_validate(params))}

    def call_weigh(params: Params, progress: Progress) -> Result:
        return asdict(weigh(loaded().work, WeighRequest.model_validate(params)))

    def call_heldout(params: Params, progress: Progress) -> Result:
        return heldout(loaded(), HeldoutRequest.model_validate(params))

    def call_local(params: Params, progress: Progress) -> Result:
        return local(loaded(), LocalRequest.model_validate(params))

    def call_rollouts(params: Params, progress: Progress) -> Result:
        return rollouts(loaded(), RolloutsRequest.model_validate(params))

    return {
        "load": load,
        "aggregate": call_aggregate,
        "weigh": call_weigh,
        "heldout": call_heldout,
        "rollouts": call_rollouts,
        "local": call_local,
    }


if __name__ == "__main__":
    serve(methods())
