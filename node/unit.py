"""One unit of work as its owner knows it: what the trainer made, and what is said of it at each stage."""

from typing import Annotated

from pydantic import Field

from node.figures import Figures
from protocol.frozen import Digest, Frozen
from protocol.joint import Returned
from protocol.lessons import NOTHING, Lessons
from protocol.manifest import MAX_UNIT_SAMPLES, RunManifest
from protocol.messages import Commitment, Opening, Reveal, Round, Seconds, signing_digest
from protocol.state import NOTHING_CARRIED, moments_root, residual_root, segment_root, update_root
from verification.commit import Carried


class Files(Frozen):
    """Name the state at the end of a segment by the content addresses of its files."""

    parameters: Digest
    moments: Digest


class Ahead(Frozen):
    """Hold what was made of a unit before the outer step that it waits for: its first segments."""

    segments: tuple[Files, ...] = Field(
        min_length=2, max_length=1001
    )  # after 0, 1, .. `outer.delay` segments
    losses: tuple[float, ...] = Field(max_length=MAX_UNIT_SAMPLES)  # one a step
    gradient_norms: tuple[float, ...] = Field(max_length=MAX_UNIT_SAMPLES)
    cpu_s: Seconds
    train_s: Seconds  # in inner steps
    unit_s: Seconds


class Work(Frozen):
    """Hold what the trainer made of a unit; digests but `symbols` and `assignment` are addresses of blobs."""

    assignment: Digest  # hash of the batches
    segments: tuple[Files, ...] = Field(min_length=2, max_length=1001)  # after 0, 1, .. n segments
    parameters: Digest | None = None  # carried into the next round where outer steps are delayed
    moments: Digest  # carried into the next round
    residual: Digest  # carried into the next round
    symbols: Digest  # identity of the update
    blob: Digest  # container of the update
    blob_bytes: int = Field(ge=1, lt=2**40)
    cpu_s: Seconds
    loss: Annotated[
        float, Field(ge=-1e30, le=1e30)
    ]  # mean over the unit's steps, nats a token; a policy's objective
    figures: Figures | None = None  # for its owner; nobody else hears of them


class Unit(Frozen):
    """Hold everything needed to reveal and open one unit."""

    round: Round
    commitment: Commitment
    commitment_id: Digest
    salt: Digest
    moments_before: Digest | None  # blob carried in; None: started with nothing
    residual_before: Digest | None
    state_before: Files | None = None  # gone on from, where outer steps are delayed
    lessons: Lessons = NOTHING  # that it was built on
    returned: Returned | None = None  # what came back to it
    work: Work

    @property
    def files(self) -> frozenset[str]:
        """Return the addresses of every blob that belongs to the unit."""
        states = {address for files in self.work.segments for address in (files.parameters, files.moments)}
        return frozenset(states | self.carried_files | self._before | self.returned_files | {self.work.blob})

    @property
    def seeds(self) -> frozenset[str]:
        """Return the addresses of what the unit's states can be computed from again, and its update."""
        named = {*self.lessons.blobs, self.commitment.parameters, self.work.blob}
        return self._before | self.returned_files | named

    @property
    def returned_files(self) -> frozenset[str]:
        """Return the addresses of what came back to it, which are public."""
        return frozenset(() if self.returned is None else self.returned.blobs)

    @property
    def _before(self) -> frozenset[str]:
        state = () if self.state_before is None else (self.state_before.parameters, self.state_before.moments)
        return frozenset(a for a in (self.moments_before, self.residual_before, *state) if a is not None)

    def opened_files(self, segment: int, *, ends: bool) -> frozenset[str]:
        """Return the addresses that an opening of a segment asks for: its start, and with `ends` all of them."""
        said = opening(self, segment)
        found = {said.start_parameters, said.start_moments, said.residual_before, said.before_parameters}
        if ends:
            found |= {said.end_parameters, said.end_moments, said.final_parameters}
            if self.commitment.moments_after == NOTHING_CARRIED:  # the update may say a slice of them
                found.add(said.final_moments)
        return frozenset(address for address in found if address is not None)

    @property
    def carried_files(self) -> frozenset[str]:
        """Return the addresses of the blobs that the next round starts with."""
        work = self.work
        return frozenset(a for a in (work.moments, work.residual, work.parameters) if a is not None)

    @property
    def state(self) -> Files | None:
        """Return what the next unit goes on from, where outer steps are delayed."""
        return None if self.work.parameters is None else self.work.segments[-1]

    @property
    def carried(self) -> Carried:
        """Return what the next round must start with while this unit stands."""
        return Carried.after(self.commitment)


def commit(
    run: str,
    round_: int,
    number: int,
    *,
    profile: str,
    parameters: str,
    expected: Carried,
    salt: str,
    work: Work,
    carries_moments: bool = True,
    tier: int = 0,
    next_tier: int = 0,
) -> Commitment:
    """Bind a unit's work.

    Args:
        profile: name of the numeric profile it was computed under.
        parameters: content address of the round's global parameters.
        expected: the roots that the peer carries into the round.
        salt: 32 random bytes as hex, which hide the update until its reveal.
        carries_moments: whether the next round starts with the moments of this one.
        tier: of the unit.
        next_tier: of the peer's units from the next round on.
    """
    moments = moments_root(run, round_, number, work.moments) if carries_moments else NOTHING_CARRIED
    return Commitment(
        number=number,
        profile=profile,
        tier=tier,
        next_tier=next_tier,
        parameters=parameters,
        assignment=work.assignment,
        moments_before=expected.moments,
        moments_after=moments,
        residual_before=expected.residual,
        residual_after=residual_root(run, round_, number, work.residual),
        segments=tuple(
            segment_root(run, round_, number, index, files.parameters, files.moments)
            for index, files in enumerate(work.segments)
        ),
        update=update_root(run, round_, number, work.symbols, salt),
    )


def message_id(manifest: RunManifest, round_: int, commitment: Commitment) -> str:
    """Return the message id that a contributor's commitment has once it is signed."""
    place = manifest.chain_id, manifest.ledger, manifest.run_id, round_
    return signing_digest(*place, "contributor", commitment).hex()


def reveal(unit: Unit) -> Reveal:
    """Show the update that the unit committed."""
    return Reveal(
        number=unit.commitment.number,
        commitment=unit.commitment_id,
        symbols=unit.work.symbols,
        salt=unit.salt,
        blob=unit.work.blob,
        blob_bytes=unit.work.blob_bytes,
        train_cpu_s=unit.work.cpu_s,
    )


def opening(unit: Unit, segment: int, case: int = 0, *, rollouts: bool = False) -> Opening:
    """Open the states around one segment, the unit's end, and both residuals.

    Args:
        case: the jury's number of the case that asks for it; 0: the round's draw does.
        rollouts: whether the unit published rollouts, which are opened as well.
    """
    start, end, final = unit.work.segments[segment], unit.work.segments[segment + 1], unit.work.segments[-1]
    before = unit.state_before
    return Opening(
        number=unit.commitment.number,
        case=case,
        commitment=unit.commitment_id,
        segment=segment,
        start_parameters=start.parameters,
        start_moments=start.moments,
        end_parameters=end.parameters,
        end_moments=end.moments,
        final_parameters=final.parameters,
        final_moments=final.moments,
        residual_before=unit.residual_before,
        residual_after=unit.work.residual,
        symbols=unit.work.symbols,
        salt=unit.salt,
        before_parameters=None if before is None else before.parameters,
        before_moments=None if before is None else before.moments,
        published=unit.work.blob if rollouts else None,
        published_bytes=unit.work.blob_bytes if rollouts else 0,
    )
