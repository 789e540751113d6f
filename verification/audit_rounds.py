"""The audit of rounds: who was listed, what was committed, revealed, merged, and what came out of it."""

from collections.abc import Iterable, Mapping, Sequence

from protocol.canonical import digest
from protocol.chain import Penalties
from protocol.errors import Malformed, Premature, ProofInconclusive, ProofRejected
from protocol.joint import max_joint_bytes, read_joint
from protocol.lessons import NOTHING
from protocol.merkle import commitments_root
from protocol.messages import Commitment, Retraction, Reveal, Signed, UnitRecord
from protocol.published import max_published_bytes, read_update
from protocol.speakers import check_signer, number_of, round_of, speaker_of
from protocol.update import SparseSymbols, Symbols
from training.assignment import assignment, assignment_digest
from training.joint import is_joint_of, share_of
from training.judging import Docket
from training.outer import (
    Contribution,
    OuterState,
    aggregate,
    load_parameters,
    outer_layout,
    parameters_file,
)
from verification.commit import carried, check_commitment
from verification.experience import experience
from verification.merge import check_published, check_reveal, copied_from
from verification.public import PublicRun
from verification.retract import moving_units, moving_updates, sources

Found = tuple[int, str]
"""How many things were compared, and a word about them."""


def check_run(run: PublicRun) -> Found:
    """The manifest is the run id's preimage, and the chain knows run and coordinator."""
    if run.manifest.run_id != run.run:
        raise ProofRejected(f"the manifest is of run {run.manifest.run_id}, not {run.run}")
    created = run.chain.coordinator()
    if created is None or created.run != run.run:
        raise ProofRejected("the chain does not know the run")
    if created.coordinator_key.lower() != run.manifest.coordinator.lower():
        raise ProofRejected("the chain names another coordinator key than the manifest")
    if run.chain.penalties() != Penalties.of(run.manifest):
        raise ProofRejected("the chain holds other penalties than the manifest")
    return 1, f"run {run.run}"


def check_authors(run: PublicRun) -> Found:
    """Every message is signed with a key that speaks for who says it; for the coordinator an operator may.

    Which key of a number speaks about a round says `protocol.speakers`. What a stand-in says counts as the
    coordinator's would: the other checks hold both against the chain and against what follows from it.
    """
    count, stood_in = 0, 0
    operators = {key.peer for one in run.chain.operators() for key in run.chain.keys(one.number)}
    for message in run.messages():
        kind = message.body.kind
        if message.role == "coordinator":
            if message.author in operators and message.author != run.manifest.coordinator:
                stood_in += 1
            elif message.author != run.manifest.coordinator:
                raise ProofRejected(
                    f"{kind} of round {message.round} is signed by {message.author}, not {run.manifest.coordinator}"
                )
        else:
            try:
                check_signer(message, speaker_of(run.chain, number_of(message.body), round_of(message)))
            except (Malformed, Premature) as error:
                raise ProofRejected(f"{kind} of round {message.round}: {error.message}") from error
        count += 1
    return count, "signatures by registered keys" + (f", {stood_in} by stand-ins" if stood_in else "")


def check_roots(run: PublicRun) -> Found:
    """Every commitment list gives the root on chain."""
    for dossier in run.audited:
        posted = run.chain.commitments(dossier.round)
        listed = dossier.listed.body
        if posted is None or (commitments_root(listed), len(listed.entries)) != (posted.root, posted.count):
            raise ProofRejected(
                f"the commitment list of round {dossier.round} does not give the root on chain"
            )
    return len(run.scope), "commitment roots"


def check_records(run: PublicRun) -> Found:
    """Every record has the hash on chain and says one thing of each commitment that is listed or was forced in."""
    forced = 0
    for round_ in run.scope:
        record = run.records[round_]
        if record.body.digest().hex() != run.chain.record_hash(round_):
            raise ProofRejected(f"the record of round {round_} does not have the hash on chain")
        entries, listed = run.entries[round_], run.dossiers[round_].listed.body.entries
        units = [(unit.number, unit.commitment) for unit in record.body.units]
        for entry in entries[len(listed) :]:
            forced += 1
            if (entry.number, entry.commitment) not in units:
                raise ProofRejected(
                    f"number {entry.number} forced its commitment into round {round_}, and the record has no unit of it"
                )
        if units != [(entry.number, entry.commitment) for entry in entries]:
            raise ProofRejected(
                f"the record of round {round_} holds other units than were listed and forced in, or in another order"
            )
    void = sum(map(run.is_void, run.scope))
    return (
        len(run.scope),
        f"records, {void} of them too late, which voids their rounds; {forced} commitments forced in",
    )


def check_rosters(run: PublicRun) -> Found:
    """Only peers that were registered and staked before a round are in its list."""
    count = 0
    for dossier in run.audited:
        roster = {one.number for one in run.chain.roster(dossier.round)}
        for entry in dossier.listed.body.entries:
            if entry.number not in roster:
                raise ProofRejected(f"number {entry.number} is listed in round {dossier.round} without stake")
            count += 1
    return count, "listed units of staked peers"


def check_assignments(run: PublicRun) -> Found:
    """Every commitment starts where it must, on the assigned batches, with the carried roots."""
    count = 0
    for dossier in run.audited:
        round_ = dossier.round
        for message in dossier.commitments:
            number = message.body.number
            if number in run.ignored(round_):
                continue
            if reason := commitment_fault(run, round_, message):
                raise ProofRejected(f"number {number} in round {round_}: {reason}")
            count += 1
    return count, "commitments start where they must"


def commitment_fault(run: PublicRun, round_: int, message: Signed[Commitment]) -> str:
    """Return what is wrong with a commitment by public rules, or an empty string.

    Raises:
        ProofInconclusive: the chain does not give the round's assignment beacon.
    """
    beacon = run.chain.assignment_beacon(round_)
    if beacon is None:
        raise ProofInconclusive(f"the chain does not give the assignment beacon of round {round_}")
    body, number = message.body, message.body.number
    previous = run.commitment(round_ - 1, number)
    before = run.standing[round_ - 1] if round_ else None
    try:
        check_commitment(
            run.manifest,
            round_,
            body,
            parameters=run.records[round_].body.parameters,
            assignment=assignment_digest(assignment(run.manifest.at(body.tier), beacon, round_, number)),
            expected=carried(number, None if previous is None else previous.body, before),
        )
    except Malformed as error:
        return error.message
    return ""


def check_merging(run: PublicRun) -> Found:
    """Every merged unit was revealed as committed, and who was is left out only as late."""
    earlier: dict[str, tuple[int, int]] = {}
    merged = late = 0
    for round_, record in enumerate(run.records):
        reveals = {one.body.number: one for one in run.dossiers[round_].reveals}
        opened = run.reveals(round_)
        void = run.is_void(round_)
        for unit in record.body.units:
            _check_unit_tier(run, round_, unit)
            # In a void round nothing merges, whatever its record says.
            if round_ in run.scope and not void and unit.counts:
                late += _check_merged(run, round_, unit, _why_not(run, round_, unit, reveals, earlier))
                merged += unit.merged
            if unit.symbols is not None:
                _check_shown(round_, unit, opened.get(unit.number))
                earlier.setdefault(unit.symbols, (round_, unit.number))
    return merged, f"merged units; {late} revealed ones left out as late"


def _check_unit_tier(run: PublicRun, round_: int, unit: UnitRecord) -> None:
    """Check that a record gives a unit that counts the tier of its commitment: draws and pay follow from it."""
    commitment = run.commitment(round_, unit.number)
    if unit.counts and commitment is not None and unit.tier != commitment.body.tier:
        raise ProofRejected(
            f"the record of round {round_} gives number {unit.number} tier {unit.tier}, its commitment has "
            f"{commitment.body.tier}"
        )


def _check_shown(round_: int, unit: UnitRecord, reveal: Reveal | None) -> None:
    """Check that a record shows only symbols that their owner revealed: whoever shows them first, merges them."""
    if reveal is None or reveal.symbols != unit.symbols:
        raise ProofRejected(
            f"the record of round {round_} shows symbols of number {unit.number} that it did not reveal"
        )


def _check_merged(run: PublicRun, round_: int, unit: UnitRecord, why_not: str) -> bool:
    """Compare what a record says of a unit with why it must not merge; tell whether it was left out as late."""
    where = f"number {unit.number} was {'merged in' if unit.merged else 'left out of'} round {round_}"
    if unit.merged and why_not:
        raise ProofRejected(f"{where}, although: {why_not}")
    if unit.merged or why_not:
        return False
    if not unit.reason.startswith("late: "):
        raise ProofRejected(f"{where}: {unit.reason}")
    return True


def _why_not(
    run: PublicRun,
    round_: int,
    unit: UnitRecord,
    reveals: Mapping[int, Signed[Reveal]],
    earlier: Mapping[str, tuple[int, int]],
) -> str:
    """Return why a unit must not be merged, or an empty string."""
    reveal, commitment = reveals.get(unit.number), run.commitment(round_, unit.number)
    if reveal is None or commitment is None:
        return "it was not revealed"
    limit = max_published_bytes(run.manifest)
    beacon, body = run.chain.assignment_beacon(round_), reveal.body
    try:
        check_reveal(commitment, body, limit)
        # A record that leaves a revealed unit out does not excuse it by leaving its name out too.
        if unit.merged and (unit.symbols != body.symbols or unit.blob is None):
            return "the record names another update than the revealed one"
        address = unit.blob if unit.merged and unit.blob is not None else body.blob
        blob = run.find(address, limit)
        if blob is None:
            if unit.merged:
                raise ProofInconclusive(f"the update {address} of round {round_} is missing")
            return "its update was never public"
        check_published(run.manifest, beacon or "", round_, body, blob, _docket(run, round_), address=address)
    except Malformed as error:
        return error.message
    return copied_from(body.symbols, unit.number, earlier)


def _docket(run: PublicRun, round_: int) -> Docket:
    """Return what a round's units judge."""

    def read(blob: str) -> bytes:
        data = run.find(blob, max_published_bytes(run.manifest))
        if data is None:
            raise ProofInconclusive(
                f"the rollouts {blob} of round {round_ - 1}, which were judged, are missing"
            )
        return data

    lessons = experience(run.manifest, run.standing.__getitem__, round_) or NOTHING
    beacon = run.chain.assignment_beacon(round_) or ""
    return Docket(run.manifest, beacon, round_, lessons.judged, read)


def check_aggregation(run: PublicRun) -> Found:
    """Every round's parameters follow from the initial ones and the records; so do the run's final ones."""
    manifest, records = run.manifest, run.records
    first, address, state = _start(run)
    for round_ in range(first, run.scope.stop):
        record = records[round_].body
        if record.parameters != address:
            raise ProofRejected(f"round {round_} starts from other parameters than the round before gives")
        try:
            shares = retracted_shares(run, round_, run.standing[round_].retracted)
            updates, weights = moved_by(run, round_)
            state = aggregate(manifest, state, updates, shares, weights)
        except Malformed as error:
            raise ProofRejected(f"round {round_} cannot be aggregated: {error.message}") from error
        file = parameters_file(manifest, state)
        address = digest(file)
        run.keep(round_ + 1, file)
    count = run.scope.stop - first
    if run.scope.stop < len(records):
        if records[run.scope.stop].body.parameters != address:
            raise ProofRejected(
                f"round {run.scope.stop} starts from other parameters than the round before gives"
            )
        return count, f"rounds aggregated again, to the start of round {run.scope.stop}: {address}"
    final, finish = run.chain.finished(), run.settlement.finish
    if final is not None and (len(records) != manifest.rounds or final != address):
        raise ProofRejected("the final parameters on chain do not follow from the records")
    if finish is not None and finish.body.parameters != address:
        raise ProofRejected("the closing word names other parameters than the records give")
    end = "to the final ones on chain" if final is not None else "so far"
    return count, f"rounds aggregated again, {end}: {address}"


def _start(run: PublicRun) -> tuple[int, str, OuterState]:
    """Return the round from which to aggregate, and its parameters: those of the scope's start, or the initial ones."""
    manifest = run.manifest
    limit, first = outer_layout(manifest).file_bytes, run.scope.start
    if 0 < first < len(run.records):
        address = run.records[first].body.parameters
        data = run.find(address, limit)
        if data is not None:
            return first, address, load_parameters(manifest, data)
    data = run.find(manifest.initial_parameters, limit)
    if data is None:
        raise ProofInconclusive("the initial parameters are missing")
    return 0, manifest.initial_parameters, load_parameters(manifest, data)


def moved_by(run: PublicRun, round_: int) -> tuple[Sequence[Symbols], tuple[int, ...]]:
    """Return the updates that move the parameters in a round, and their weights: all, or the joint one of them.

    Raises:
        ProofInconclusive: one of them is missing.
        Malformed: one of them is not an update of this run.
        ProofRejected: the joint update is not that of the updates.
    """
    record = run.standing[round_]
    moving = moving_updates(moving_units(record))
    updates = decoded(run, moving.updates)
    if record.joint is None:
        return updates, moving.weights
    joint = joint_update(run, record.joint)
    if not is_joint_of(run.manifest, joint, updates, moving.weights):
        raise ProofRejected(
            f"the joint update of round {round_}, {record.joint}, is not what its {len(updates)} updates give"
        )
    return (joint,), (1,)


def joint_update(run: PublicRun, address: str) -> SparseSymbols:
    """Return a joint update by the address of its file.

    Raises:
        ProofInconclusive: it is missing.
        Malformed: it is none of this run.
    """
    data = run.find(address, max_joint_bytes(run.manifest))
    if data is None:
        raise ProofInconclusive(f"the joint update {address} is missing")
    return read_joint(run.manifest, data)


def retracted_shares(run: PublicRun, round_: int, retracted: Sequence[Retraction]) -> list[Contribution]:
    """Return the shares of units that a round takes back.

    Raises:
        ProofInconclusive: an update of their rounds is missing.
        Malformed: a unit moved nothing before the round, or an update is not one of this run.
    """
    earlier = {one: run.standing[one] for one in range(round_)}
    found = []
    for source in sources(earlier, retracted):
        updates = decoded(run, source.updates)
        joint = None if source.joint is None else joint_update(run, source.joint)
        found += [share_of(updates, place, source.weights, joint) for place in source.taken]
    return found


def decoded(run: PublicRun, blobs: Iterable[str]) -> list[Symbols]:
    """Return updates by the addresses of their blobs.

    Raises:
        ProofInconclusive: one of them is missing.
        Malformed: one of them is not an update of this run.
    """
    manifest = run.manifest
    updates = []
    for address in blobs:
        blob = run.find(address, max_published_bytes(manifest))
        if blob is None:
            raise ProofInconclusive(f"the update {address} is missing")
        updates.append(read_update(manifest, blob))
    return updates
