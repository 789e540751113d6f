"""Decide a bundle offline: recompute everything in it, replay it, and say what the answer relies on.

A bundle holds (exit 0) when every signature, root and draw in it is right and our own replay gives the outcome that
its verdicts give, be the unit honest or a proven cheat. It does not hold (6) when anything in it is otherwise, and
is undecided (7) without a matching anchor, the dataset, the run's program, or the files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

from protocol.errors import ConfigError, Malformed, ProofInconclusive, ProofRejected
from protocol.manifest import RunManifest
from protocol.merkle import commitment_leaf, commitments_root, verify_proof
from protocol.messages import (
    INCONCLUSIVE,
    PASSED,
    PROVEN_FALSE,
    REJECTED,
    Body,
    CommitmentEntry,
    Signed,
    Verdict,
)
from protocol.published import max_published_bytes
from protocol.speakers import check_signer, number_of
from protocol.tensors import parameter_layout
from training.assignment import assignment, assignment_digest
from training.corpus import Shard, prepare_corpus
from training.inner import prepare_process
from training.judging import Docket
from training.program import program_digest
from verification.anchor import Anchor, Confirmed
from verification.bundle import Bundle, bundle_files, load_bundle
from verification.commit import check_commitment
from verification.experience import learned_rounds
from verification.inclusion import counted_entries
from verification.judge import disagreement
from verification.merge import check_published, check_reveal
from verification.opening import check_opening
from verification.replay import Units
from verification.report import Check, exit_code
from verification.ruling import fault, fingerprint_fault, rule
from verification.unit import ReplayReport, proven_false

OUTCOMES = {
    PASSED: "passed",
    REJECTED: "rejected",
    PROVEN_FALSE: "proven false",
    INCONCLUSIVE: "inconclusive",
}


MAX_STRANGER_BYTES = 1 << 30  # of parameters, or of one step's logits
MAX_STRANGER_FLOP = 10**14


@dataclass(frozen=True)
class BundleReport:
    """Say what became of a bundle."""

    checks: tuple[Check, ...]
    subject: Mapping[str, object] = field(default_factory=dict)  # chain, ledger, run, round, number
    confirmed: Confirmed | None = None  # by the anchor
    replay: ReplayReport | None = None
    tolerance: float | None = None
    unit: str | None = None  # what the verdicts make of the unit: passed, void, false, unjudged

    @property
    def exit_code(self) -> int:
        """Return 0, 6 or 7."""
        return exit_code(self.checks)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON data."""
        return {
            "exit_code": self.exit_code,
            "verdict": {0: "holds", 6: "rejected", 7: "inconclusive"}[self.exit_code],
            **self.subject,
            "relied_on": None if self.confirmed is None else self.confirmed.source,
            "taken_from_the_bundle": None if self.confirmed is None else list(self.confirmed.taken),
            "unit": self.unit,
            "replayed": None if self.replay is None else OUTCOMES[self.replay.outcome],
            "reason": None if self.replay is None else self.replay.reason,
            "distance": None if self.replay is None else self.replay.distance,
            "tensor": None if self.replay is None else self.replay.tensor,
            "tolerance": self.tolerance,
            "replay_cpu_s": None if self.replay is None else round(self.replay.cpu_s, 3),
            "checks": [check.to_json() for check in self.checks],
        }


def verify_bundle(
    path: Path, anchor: Anchor | None, *, data: Path | None = None, device: str = "cpu", replay: bool = True
) -> BundleReport:
    """Decide a bundle.

    Args:
        anchor: where roots, beacons and keys are known from; without one the answer is inconclusive at best.
        data: text or .xz of the run's dataset; None takes the packaged corpus. Its root is checked.
        replay: execute the drawn segment again; without, the answer is inconclusive at best.

    Raises:
        ConfigError: the bundle cannot be read from disk.
    """
    try:
        bundle = load_bundle(path)
    except ProofRejected as error:
        return BundleReport((Check("bundle", "rejected", error.message),))
    return decide(bundle, anchor, data=data, device=device, replay=replay)


def decide(
    bundle: Bundle,
    anchor: Anchor | None,
    *,
    data: Path | None = None,
    device: str = "cpu",
    replay: bool = True,
) -> BundleReport:
    """Decide a bundle that was read already; see `verify_bundle`."""
    return _Decision(bundle, anchor, data, device, replay).report()


class _Decision:
    """Go through the checks; a check that fails ends those that build on it."""

    def __init__(
        self, bundle: Bundle, anchor: Anchor | None, data: Path | None, device: str, replay: bool
    ) -> None:
        self._bundle = bundle
        self._anchor = anchor
        self._data = data
        self._device = device
        self._wanted = replay
        self._checks: list[Check] = []
        self._confirmed: Confirmed | None = None
        self._replay: ReplayReport | None = None
        self._unit: str | None = None

    def report(self) -> BundleReport:
        bundle = self._bundle
        stages: tuple[tuple[str, Callable[[Bundle], str]], ...] = (
            ("signatures", _check_signatures),
            ("commitment root", _check_list),
            ("record", _check_record),
            ("draw", _check_draw),
            ("commitment", _check_commitment),
            ("reveal", _check_update),
            ("files", _check_files),
            ("replay", self._check_replay),
            ("verdicts", self._check_verdicts),
        )
        self._run("anchor", self._check_anchor)
        for name, check in stages:
            if not self._run(name, check):
                break
        manifest = bundle.manifest
        subject = {
            "chain_id": manifest.chain_id,
            "ledger": manifest.ledger,
            "run": manifest.run_id,
            "root": bundle.facts.commitments_root,
            "round": bundle.round,
            "number": bundle.number,
            "segment": None if bundle.draw is None else bundle.draw.segment,
        }
        return BundleReport(
            tuple(self._checks), subject, self._confirmed, self._replay, bundle.tolerance, self._unit
        )

    def _run(self, name: str, check: Callable[[Bundle], str]) -> bool:
        try:
            self._checks.append(Check(name, "ok", check(self._bundle)))
        except (ProofRejected, Malformed) as error:
            self._checks.append(Check(name, "rejected", error.message))
        except (ProofInconclusive, ConfigError) as error:
            self._checks.append(Check(name, "inconclusive", error.message))
        return self._checks[-1].ok

    def _check_anchor(self, bundle: Bundle) -> str:
        if self._anchor is None:
            raise ProofInconclusive(
                "no root, RPC or anchor file was given: the bundle's own copy of a root proves nothing"
            )
        self._confirmed = self._anchor.confirm(bundle)
        if bundle.forced and "forced" not in self._confirmed.known:
            raise ProofInconclusive(
                f"the unit was forced in beside the list, which {self._confirmed.source} says nothing of"
            )
        return f"relies on {self._confirmed.source}"

    def _check_replay(self, bundle: Bundle) -> str:
        opening = bundle.opening
        if opening is None:
            raise ProofInconclusive("nothing was opened, which no file can prove")
        if self._confirmed is None and _is_heavy(bundle.manifest):
            raise ProofInconclusive(
                "a replay of this run takes long; it is made once an anchor knows the unit"
            )
        unit = bundle.unit(_drawn_segment(bundle))
        try:
            check_opening(bundle.manifest, unit, opening)
        except ProofRejected as error:
            self._replay = proven_false(error)
            return f"proven false by the signed opening: {error.message}"
        except Malformed as error:
            self._replay = ReplayReport(REJECTED, error.message)
            return f"the opening does not answer the draw: {error.message}"
        if not self._wanted:
            raise ProofInconclusive("nothing was executed again, so the verdicts are only believed")
        missing = [address for address in bundle_files(bundle) if address not in bundle.files]
        if missing:
            raise ProofInconclusive(f"the bundle lacks {len(missing)} files that a replay needs")
        if bundle.manifest.program != program_digest():
            raise ProofInconclusive("the run's program is not the one installed here")
        with TemporaryDirectory(prefix="murmur-proof-") as scratch:
            prepare_process(None)
            plain = bundle.manifest.rollouts is None
            shard = _shard(bundle, self._data, Path(scratch)) if plain else None
            units = Units(shard, self._device)
            started = process_time()
            report = units.replay(bundle.manifest, unit, opening.body, bundle.files)
        self._replay = replace(report, cpu_s=process_time() - started)
        found = OUTCOMES[report.outcome]
        if report.reason and not report.distance:
            return f"{found}: {report.reason}"
        return f"{found}: distance {report.distance:.3g} in {report.tensor}, tolerance {bundle.tolerance:g}"

    def _check_verdicts(self, bundle: Bundle) -> str:
        assert self._replay is not None
        assert bundle.draw is not None
        verdicts: dict[int, Verdict] = {}
        for signed in bundle.verdicts:
            body = signed.body
            if body.verifier not in bundle.draw.verifiers:
                raise ProofRejected(f"verdict by verifier {body.verifier}, who was not drawn")
            if body.verifier in verdicts:
                raise ProofRejected(f"two verdicts by verifier {body.verifier}")
            _check_verdict_subject(bundle, body)
            seal = next((one.body for one in bundle.seals if one.body.verifier == body.verifier), None)
            run, commitment = bundle.manifest.run_id, bundle.commitment.body
            if reason := fault(bundle.manifest, run, bundle.round, commitment, body, seal):
                raise ProofRejected(f"verdict by verifier {body.verifier}: {reason}")
            verdicts[body.verifier] = body
        commitment = bundle.commitment.body
        ruling = rule(bundle.manifest, commitment, bundle.draw, verdicts, closed=True)
        assert ruling is not None, "what is closed is decided"
        self._unit = ruling.outcome
        ours = self._replay.outcome
        for judge in (*ruling.right, *ruling.moot):
            difference = disagreement(verdicts[judge], self._replay) or fingerprint_fault(
                bundle.manifest, commitment, verdicts[judge], self._replay
            )
            if difference:
                raise ProofRejected(f"verifier {judge} {difference}")
        judges = len(ruling.right) + len(ruling.moot)
        if not judges and ours != PASSED:
            raise ProofRejected(f"nobody judged the unit, and our replay says {OUTCOMES[ours]}")
        against = f" ({len(ruling.wrong)} said otherwise)" if ruling.wrong else ""
        return f"{judges} verdicts say {OUTCOMES[ours]}{against}, as our replay does: the unit is {ruling.outcome}"


def _is_heavy(manifest: RunManifest) -> bool:
    """Tell whether a replay costs so much that a stranger's word is no reason to make one."""
    size = parameter_layout(manifest.model).size
    tokens = manifest.inner.batch * manifest.model.context * manifest.verification.segment_steps
    logits = manifest.inner.batch * manifest.model.context * manifest.model.vocab
    return max(4 * size, 4 * logits) > MAX_STRANGER_BYTES or 6 * size * tokens > MAX_STRANGER_FLOP


def _check_signatures(bundle: Bundle) -> str:
    """Check that everything was said by whom it should be, by the keys that the bundle claims."""
    if len({one.number for one in bundle.operators}) != len(bundle.operators):
        raise ProofRejected("the bundle says two things of one number")
    for message in bundle.messages:
        if not _is_signed(bundle, message):
            raise ProofRejected(f"{message.body.kind} is not signed by whom it should be")
    return f"{len(bundle.messages)} messages"


def _is_signed(bundle: Bundle, message: Signed[Body]) -> bool:
    """Tell whether a message is signed with a key that speaks for its number, by the keys and blocks claimed."""
    if message.role == "coordinator":
        # A stand-in may have said it: that it counts, the chain's root and hash say, which are compared below.
        known = {key.peer for operator in bundle.operators for key in operator.keys}
        return message.author in known | {bundle.manifest.coordinator}
    if getattr(message.body, "number", bundle.number) != bundle.number:
        raise ProofRejected(f"{message.body.kind} about another number")
    operator = bundle.operator(number_of(message.body))
    if operator is None:
        return False
    if message is bundle.previous_commitment:
        # The bundle has no roster block of the round before; its list, which is on chain, names what is signed here.
        return operator.role == message.role and message.author in {one.peer for one in operator.keys}
    try:
        check_signer(message, operator.speaker(bundle.facts.speaker_block(operator.role)))
    except Malformed:
        return False
    return True


def _check_list(bundle: Bundle) -> str:
    facts, listed = bundle.facts, bundle.listed.body
    if commitments_root(listed) != facts.commitments_root or len(listed.entries) != facts.commitments_count:
        raise ProofRejected("the commitment list does not give the claimed root")
    named = {entry.number: entry.commitment for entry in listed.entries}
    if len(named) != len(listed.entries):
        raise ProofRejected("the commitment list names a number twice")
    if bundle.forced:
        forced = counted_entries(listed, facts.forced)[len(named) :]
        if CommitmentEntry(number=bundle.number, commitment=bundle.commitment.id) not in forced:
            raise ProofRejected("the unit's commitment is neither listed nor forced in")
        if bundle.proof:
            raise ProofRejected("a Merkle proof of a commitment that the list does not name")
        return f"commitment {bundle.commitment.id} was forced in on chain beside the list"
    if named[bundle.number] != bundle.commitment.id:
        raise ProofRejected("the commitment list does not name the unit's commitment once")
    leaf = commitment_leaf(bundle.number, bundle.commitment.id)
    proof = [bytes.fromhex(sibling) for sibling in bundle.proof]
    if not verify_proof(bytes.fromhex(facts.commitments_root), leaf, proof):
        raise ProofRejected("the Merkle proof does not lead from the commitment to the root")
    return f"commitment {bundle.commitment.id} is under the root {facts.commitments_root}"


def _check_record(bundle: Bundle) -> str:
    if bundle.record.body.digest().hex() != bundle.facts.record:
        raise ProofRejected("the round record does not have the claimed hash")
    entry = bundle.entry
    if entry is None or entry.commitment != bundle.commitment.id:
        raise ProofRejected("the round record does not hold the unit's commitment once")
    if not entry.counts:
        raise ProofRejected(f"the round record says that the unit does not count: {entry.reason}")
    if entry.tier != bundle.commitment.body.tier:
        raise ProofRejected("the round record gives the unit another tier than its commitment has")
    if bundle.record.body.parameters != bundle.commitment.body.parameters:
        raise ProofRejected("the unit does not start from the record's parameters")
    _check_previous(bundle)
    return entry.fate


def _check_previous(bundle: Bundle) -> None:
    """Check the round before, which says what the peer had to carry."""
    facts = bundle.facts
    listed, record, commitment = bundle.previous_listed, bundle.previous_record, bundle.previous_commitment
    if bundle.round == 0:
        before = (
            facts.previous_root,
            facts.previous_record,
            facts.previous_commitments_block,
            facts.previous_record_block,
        )
        if before != (None,) * 4:
            raise ProofRejected("there is no round before the first")
        if (listed, record, commitment) != (None, None, None):
            raise ProofRejected("there are no messages before the first round")
        return
    if listed is None or record is None:
        raise ProofRejected("the list and record of the round before are missing")
    if facts.previous_commitments_block is None or facts.previous_record_block is None:
        raise ProofRejected("the blocks of the round before are missing")
    if commitments_root(listed.body) != facts.previous_root:
        raise ProofRejected("the list of the round before does not give the claimed root")
    if record.body.digest().hex() != facts.previous_record:
        raise ProofRejected("the record of the round before does not have the claimed hash")
    _check_learned(bundle)
    entries = counted_entries(listed.body, facts.previous_forced)
    named = [entry.commitment for entry in entries if entry.number == bundle.number]
    listed_too = any(entry.number == bundle.number for entry in listed.body.entries)
    counts = any(unit.counts for unit in record.body.units if unit.number == bundle.number)
    if commitment is None and named and (listed_too or counts):
        raise ProofRejected("the peer's commitment of the round before is missing")
    if commitment is not None and named != [commitment.id]:
        raise ProofRejected("the round before has another commitment of the peer")


def _check_learned(bundle: Bundle) -> None:
    """Check the earlier records that say whose rollouts the unit learned from."""
    rounds = [one.round for one in bundle.facts.learned]
    if rounds != list(learned_rounds(bundle.manifest, bundle.round)[:-1]):
        raise ProofRejected("records of other rounds than the unit learned from")
    for fact, record in zip(bundle.facts.learned, bundle.learned_records, strict=True):
        if record.body.digest().hex() != fact.record:
            raise ProofRejected(f"the record of round {fact.round} does not have the claimed hash")


def _drawn_segment(bundle: Bundle) -> int:
    if bundle.void:
        raise ProofRejected("the round is void: its record was anchored too late, so nothing is drawn")
    if bundle.draw is None:
        raise ProofRejected("the unit is not drawn under the claimed beacon")
    return bundle.draw.segment


def _check_draw(bundle: Bundle) -> str:
    segment = _drawn_segment(bundle)
    assert bundle.draw is not None
    judges = ", ".join(map(str, bundle.draw.verifiers[: bundle.manifest.verification.verifiers]))
    return f"segment {segment}, to be judged by {judges or 'nobody'}"


def _check_commitment(bundle: Bundle) -> str:
    manifest, body = bundle.manifest, bundle.commitment.body
    offsets = assignment(manifest.at(body.tier), bundle.facts.assignment_beacon, bundle.round, bundle.number)
    check_commitment(
        manifest,
        bundle.round,
        body,
        parameters=bundle.record.body.parameters,
        assignment=assignment_digest(offsets),
        expected=bundle.carried,
    )
    return "start, batches and carried roots follow from public data"


def _check_update(bundle: Bundle) -> str:
    entry = bundle.entry
    if entry is None or not entry.merged:
        return "not merged"
    if bundle.reveal is None:
        raise ProofRejected("the record merges an update that was not revealed")
    reveal = bundle.reveal.body
    check_reveal(bundle.commitment, reveal, max_published_bytes(bundle.manifest))
    if entry.symbols != reveal.symbols or entry.blob is None:
        raise ProofRejected("the record merges another update than the revealed one")
    blob = bundle.files.get(entry.blob)
    if blob is None:
        raise ProofInconclusive("the bundle lacks the update")
    beacon = bundle.facts.assignment_beacon
    docket = Docket(bundle.manifest, beacon, bundle.round, bundle.lessons.judged, bundle.file)
    check_published(bundle.manifest, beacon, bundle.round, reveal, blob, docket, address=entry.blob)
    return f"update {reveal.symbols}"


def _check_files(bundle: Bundle) -> str:
    extra = set(bundle.files) - set(bundle_files(bundle))
    if extra:
        raise ProofRejected(f"the bundle holds {len(extra)} files that nothing in it names")
    return f"{len(bundle.files)} files hash to their addresses"


def _check_verdict_subject(bundle: Bundle, body: Verdict) -> None:
    if body.commitment != bundle.commitment.id:
        raise ProofRejected(f"verifier {body.verifier} judged another commitment")
    if body.segment != _drawn_segment(bundle):
        raise ProofRejected(f"verifier {body.verifier} judged another segment than the drawn one")
    if body.opening is None:
        raise ProofInconclusive(f"verifier {body.verifier} met no opening, which no file can prove")
    if bundle.opening is None or body.opening != bundle.opening.id:
        raise ProofRejected(f"verifier {body.verifier} judged another opening")


def _shard(bundle: Bundle, data: Path | None, scratch: Path) -> Shard:
    try:
        prepare_corpus(data, scratch)
        return Shard.open(bundle.manifest.dataset, scratch)
    except ConfigError as error:
        name = bundle.manifest.dataset.name
        raise ProofInconclusive(f"the dataset {name} is not at hand: {error.message}") from error
