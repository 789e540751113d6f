"""Portable evidence of one drawn unit: everything that was said of it, and the files a replay needs.

A bundle claims what the chain says (`facts`) and proves nothing about that; `verification.proof` compares the claims
with an anchor and recomputes the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, ValidationError

from protocol.canonical import canonical_json, parse_canonical_json
from protocol.errors import ConfigError, Malformed, ProofInconclusive, ProofRejected
from protocol.frozen import Digest, Frozen
from protocol.joint import max_joint_bytes
from protocol.lessons import NOTHING, Lessons
from protocol.manifest import RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentList,
    Opening,
    Reveal,
    RoundRecord,
    Seal,
    Signed,
    UnitRecord,
    Verdict,
    check_tiers,
    parse_message,
)
from protocol.pool import slot_of
from protocol.published import max_published_bytes
from protocol.tensors import moment_layout
from training.outer import outer_layout
from verification.archive import Archive, RoundDossier
from verification.commit import Carried, carried
from verification.container import MAX_DOCUMENT_BYTES, Contents, read_bundle, write_bundle
from verification.experience import experience
from verification.facts import ChainFacts, OperatorFact, RoundFacts, commitment_proof
from verification.judge import is_fresh
from verification.lateness import in_force, is_late
from verification.opening import needed_files
from verification.sample import Draw, draws
from verification.unit import DrawnUnit

B = TypeVar("B", bound=Body)
FindBlob = Callable[[str, int], bytes | None]
"""Return the blob with this address if it is at hand and has at most that many bytes."""

Wire = dict[str, Any]


class BundleDocument(Frozen):
    """The bundle's `bundle.json`: messages in their wire form, and what they claim of the chain."""

    format: Literal["murmur-bundle/1"] = "murmur-bundle/1"
    manifest: Wire
    facts: RoundFacts
    operators: Annotated[tuple[OperatorFact, ...], Field(max_length=64)]  # of everybody who signs below
    listed: Wire
    proof: Annotated[tuple[Digest, ...], Field(max_length=64)]  # from a listed commitment to the root
    commitment: Wire
    record: Wire
    previous_listed: Wire | None
    previous_commitment: Wire | None
    previous_record: Wire | None
    learned_records: Annotated[tuple[Wire, ...], Field(max_length=8)] = ()  # before the previous one
    reveal: Wire | None
    opening: Wire | None
    seals: Annotated[tuple[Wire, ...], Field(max_length=64)]
    verdicts: Annotated[tuple[Wire, ...], Field(max_length=64)]


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle: every message has a valid signature of somebody, and every file hashes to its address."""

    manifest: RunManifest
    facts: RoundFacts
    operators: tuple[OperatorFact, ...]
    listed: Signed[CommitmentList]
    proof: tuple[str, ...]
    commitment: Signed[Commitment]
    record: Signed[RoundRecord]
    previous_listed: Signed[CommitmentList] | None
    previous_commitment: Signed[Commitment] | None
    previous_record: Signed[RoundRecord] | None
    learned_records: tuple[Signed[RoundRecord], ...]
    reveal: Signed[Reveal] | None
    opening: Signed[Opening] | None
    seals: tuple[Signed[Seal], ...]
    verdicts: tuple[Signed[Verdict], ...]
    files: Mapping[str, bytes]

    @property
    def number(self) -> int:
        """Return the registration number of the peer whose unit this is."""
        return self.commitment.body.number

    @property
    def forced(self) -> bool:
        """Tell whether the unit counts because it was forced in, by the claimed facts: the list does not name it."""
        return all(entry.number != self.number for entry in self.listed.body.entries)

    @property
    def round(self) -> int:
        """Return the unit's round."""
        return self.facts.round

    @property
    def carried(self) -> Carried:
        """Return what the peer had to bring into the round, by the messages in the bundle."""
        before = None if self.previous_commitment is None else self.previous_commitment.body
        facts, record = self.facts, self.previous_record
        posted, anchored = facts.previous_commitments_block, facts.previous_record_block
        if record is None or posted is None or anchored is None:
            return carried(self.number, before, None)
        void = is_late(self.manifest, posted, anchored)
        return carried(self.number, before, in_force(record.body, void=void))

    @property
    def lessons(self) -> Lessons:
        """Return what the unit built on of earlier rounds, by the records in the bundle."""
        facts, manifest = self.facts, self.manifest
        standing = {
            fact.round: in_force(record.body, void=is_late(manifest, fact.commitments_block, fact.block))
            for fact, record in zip(facts.learned, self.learned_records, strict=False)
        }
        posted, anchored = facts.previous_commitments_block, facts.previous_record_block
        if self.previous_record is not None and posted is not None and anchored is not None:
            void = is_late(manifest, posted, anchored)
            standing[self.round - 1] = in_force(self.previous_record.body, void=void)
        return experience(manifest, standing.get, self.round) or NOTHING

    @property
    def void(self) -> bool:
        """Tell whether the record was anchored too late, by the claimed blocks."""
        return is_late(self.manifest, self.facts.commitments_block, self.facts.record_block)

    @cached_property
    def draw(self) -> Draw | None:
        """Return the draw of this unit under the claimed beacon, or None if it is not drawn."""
        found = draws(
            self.manifest,
            self.manifest.run_id,
            self.facts.sampling_beacon,
            self.round,
            in_force(self.record.body, void=self.void).units,
            self.facts.verifiers,
        )
        return next((draw for draw in found if draw.number == self.number), None)

    @property
    def tolerance(self) -> float | None:
        """Return the distance up to which a replay of the unit passes; None under an unknown profile."""
        body = self.commitment.body
        profile = self.manifest.verification.profile(body.profile)
        return (
            None
            if profile is None or self.draw is None
            else profile.bound(is_fresh(self.manifest, body, self.draw.segment))
        )

    @property
    def entry(self) -> UnitRecord | None:
        """Return what the record says of the unit; None unless it says one thing."""
        found = [unit for unit in self.record.body.units if unit.number == self.number]
        return found[0] if len(found) == 1 else None

    def unit(self, segment: int) -> DrawnUnit:
        """Return the unit as a verifier would have met it."""
        facts, owner = self.facts, self.operator(self.number)
        openers = () if owner is None else owner.speaker(facts.roster_block).keys[1:]
        return DrawnUnit(
            self.commitment,
            segment,
            facts.assignment_beacon,
            self.carried,
            facts.sampling_beacon,
            openers,
            self.lessons,
        )

    def operator(self, number: int) -> OperatorFact | None:
        """Return what the bundle claims of a number."""
        return next((one for one in self.operators if one.number == number), None)

    def file(self, address: str) -> bytes:
        """Return a file that the bundle should hold.

        Raises:
            ProofInconclusive: it does not.
        """
        found = self.files.get(address)
        if found is None:
            raise ProofInconclusive(f"the bundle lacks the file {address}")
        return found

    @property
    def messages(self) -> tuple[Signed[Body], ...]:
        """Return every message in the bundle."""
        optional = (
            self.previous_listed,
            self.previous_commitment,
            self.previous_record,
            self.reveal,
            self.opening,
        )
        present: tuple[Signed[Body], ...] = tuple(one for one in optional if one is not None)
        earlier = self.learned_records
        return (self.listed, self.commitment, self.record, *earlier, *present, *self.seals, *self.verdicts)


def load_bundle(path: Path) -> Bundle:
    """Read and parse a bundle from anyone.

    Raises:
        ConfigError: there is no such file.
        ProofRejected: it does not have a bundle's form; the message says where.
    """
    return parse_bundle(read_bundle(path, file_limit))


def file_limit(document: bytes) -> int:
    """Return the size of the largest file that a bundle with this document may hold.

    Raises:
        ProofRejected: the document is not one.
    """
    manifest = _manifest(_document(document))
    return max(
        outer_layout(manifest).file_bytes,
        moment_layout(manifest.model).file_bytes,
        max_published_bytes(manifest),
        max_joint_bytes(manifest),
    )


def parse_bundle(contents: Contents) -> Bundle:
    """Parse what was read from a bundle's file; see `load_bundle`."""
    said = _document(contents.document)
    manifest = _manifest(said)
    round_ = said.facts.round
    return Bundle(
        manifest=manifest,
        facts=said.facts,
        operators=said.operators,
        listed=_message(manifest, round_, CommitmentList, said.listed),
        proof=said.proof,
        commitment=_message(manifest, round_, Commitment, said.commitment),
        record=_message(manifest, round_, RoundRecord, said.record),
        previous_listed=_optional(manifest, round_ - 1, CommitmentList, said.previous_listed),
        previous_commitment=_optional(manifest, round_ - 1, Commitment, said.previous_commitment),
        previous_record=_optional(manifest, round_ - 1, RoundRecord, said.previous_record),
        learned_records=_learned(manifest, said),
        reveal=_optional(manifest, round_, Reveal, said.reveal),
        opening=_optional(manifest, round_, Opening, said.opening),
        seals=tuple(_message(manifest, round_, Seal, wire) for wire in said.seals),
        verdicts=tuple(_message(manifest, round_, Verdict, wire) for wire in said.verdicts),
        files=contents.files,
    )


def _document(data: bytes) -> BundleDocument:
    try:
        return BundleDocument.model_validate(parse_canonical_json(data, max_bytes=MAX_DOCUMENT_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise ProofRejected(f"bundle field {where}: {first['type']}") from error
    except Malformed as error:
        raise ProofRejected(f"bundle document: {error.message}") from error


def _manifest(document: BundleDocument) -> RunManifest:
    try:
        return RunManifest.from_bytes(canonical_json(document.manifest))
    except Malformed as error:
        raise ProofRejected(f"bundle: {error.message}") from error


def _message(manifest: RunManifest, round_: int, kind: type[B], wire: Wire) -> Signed[B]:
    try:
        message = parse_message(canonical_json(wire))
        check_tiers(manifest, message.body)
    except Malformed as error:
        raise ProofRejected(f"{kind.kind} in the bundle: {error.message}") from error
    if not isinstance(message.body, kind):
        raise ProofRejected(f"{message.body.kind} in the place of a {kind.kind}")
    if message.run != manifest.run_id or message.round != round_:
        raise ProofRejected(f"{kind.kind} of another run or round")
    if (message.chain_id, message.ledger.lower()) != (manifest.chain_id, manifest.ledger.lower()):
        raise ProofRejected(f"{kind.kind} for another chain or ledger")
    return cast("Signed[B]", message)


def _learned(manifest: RunManifest, said: BundleDocument) -> tuple[Signed[RoundRecord], ...]:
    if len(said.learned_records) != len(said.facts.learned):
        raise ProofRejected("bundle with other records of what was learned than it claims facts of")
    pairs = zip(said.facts.learned, said.learned_records, strict=True)
    return tuple(_message(manifest, fact.round, RoundRecord, wire) for fact, wire in pairs)


def _optional(manifest: RunManifest, round_: int, kind: type[B], wire: Wire | None) -> Signed[B] | None:
    return None if wire is None else _message(manifest, round_, kind, wire)


def export_bundle(
    archive: Archive, chain: ChainFacts, find: FindBlob, round_: int, number: int, out: Path
) -> Draw:
    """Write the evidence of one drawn unit as a bundle.

    Args:
        archive: the run's public folder.
        chain: what the chain says, which the bundle then claims.
        find: where public files and opened states are at hand.

    Raises:
        ConfigError: there is no such unit, it was not drawn, or a file of it is not at hand.
        Malformed: the public folder is not well formed.
    """
    manifest = archive.manifest()
    dossier, facts = archive.round(manifest, round_), chain.rounds.get(round_)
    if dossier is None or dossier.record is None or facts is None:
        raise ConfigError(f"round {round_} is not anchored yet")
    previous = archive.round(manifest, round_ - 1) if round_ else None
    learned = [archive.round(manifest, one.round) for one in facts.learned]
    commitment = _of(dossier.commitments, number)
    if commitment is None:
        known = ", ".join(str(one.body.number) for one in dossier.commitments)
        raise ConfigError(f"number {number} has no unit in round {round_}", hint=f"units: {known or 'none'}")
    document, bundle = _describe(manifest, chain, dossier, previous, learned, commitment)
    if bundle.draw is None:
        raise ConfigError(
            f"the unit of number {number} was not drawn in round {round_}",
            hint="only drawn units are opened and judged",
        )
    write_bundle(out, canonical_json(document.model_dump(mode="json")), _collect(bundle, find))
    return bundle.draw


def _stand_ins(chain: ChainFacts, *dossiers: RoundDossier | None) -> Iterator[int]:
    """Yield the numbers of operators who said a list or record for the coordinator."""
    said: list[Signed[Body]] = [one.listed for one in dossiers if one is not None]
    said += [one.record for one in dossiers if one is not None and one.record is not None]
    authors = {one.author for one in said}
    return (one.number for one in chain.operators.values() if any(key.peer in authors for key in one.keys))


M = TypeVar("M", Commitment, Reveal)


def _of(messages: tuple[Signed[M], ...], number: int) -> Signed[M] | None:
    return next((message for message in messages if message.body.number == number), None)


def _describe(
    manifest: RunManifest,
    chain: ChainFacts,
    dossier: RoundDossier,
    previous: RoundDossier | None,
    learned: Sequence[RoundDossier | None],
    commitment: Signed[Commitment],
) -> tuple[BundleDocument, Bundle]:
    assert dossier.record is not None
    number = commitment.body.number
    verdicts = tuple(one for one in dossier.verdicts if one.body.number == number)
    seals = tuple(one for one in dossier.seals if one.body.number == number)
    signers = sorted(
        {
            number,
            *(one.body.verifier for one in verdicts),
            *(one.body.verifier for one in seals),
            *_stand_ins(chain, dossier, previous, *learned),
        }
    )
    unknown = [signer for signer in signers if signer not in chain.operators]
    if unknown:
        raise ConfigError(f"the chain does not know number {unknown[0]}")
    facts = chain.rounds[dossier.round]
    listed = any(entry.number == number for entry in dossier.listed.body.entries)
    bundle = Bundle(
        manifest=manifest,
        facts=facts,
        operators=(),
        listed=dossier.listed,
        proof=commitment_proof(dossier.listed.body, number) if listed else (),
        commitment=commitment,
        record=dossier.record,
        previous_listed=None if previous is None else previous.listed,
        previous_commitment=None if previous is None else _of(previous.commitments, number),
        previous_record=None if previous is None else previous.record,
        learned_records=tuple(one.record for one in learned if one is not None and one.record is not None),
        reveal=_of(dossier.reveals, number),
        opening=next((one for one in dossier.openings if slot_of(one)[2] == (number, 0)), None),
        seals=seals,
        verdicts=verdicts,
        files={},
    )
    authors = {message.author for message in bundle.messages}
    known = [chain.operators[signer] for signer in signers]
    operators = tuple(one.needed(facts.speaker_block(one.role), authors) for one in known)
    bundle = replace(bundle, operators=operators)

    def wire(message: Signed[Body] | None) -> Wire | None:
        return None if message is None else message.to_json()

    document = BundleDocument(
        manifest=parse_canonical_json(manifest.to_bytes(), max_bytes=MAX_DOCUMENT_BYTES),
        facts=bundle.facts,
        operators=bundle.operators,
        listed=bundle.listed.to_json(),
        proof=bundle.proof,
        commitment=bundle.commitment.to_json(),
        record=bundle.record.to_json(),
        previous_listed=wire(bundle.previous_listed),
        previous_commitment=wire(bundle.previous_commitment),
        previous_record=wire(bundle.previous_record),
        learned_records=tuple(one.to_json() for one in bundle.learned_records),
        reveal=wire(bundle.reveal),
        opening=wire(bundle.opening),
        seals=tuple(seal.to_json() for seal in seals),
        verdicts=tuple(verdict.to_json() for verdict in verdicts),
    )
    return document, bundle


def bundle_files(bundle: Bundle) -> dict[str, int]:
    """Return the addresses of the files that a bundle should hold, with the most bytes each may have."""
    wanted: dict[str, int] = {}
    if bundle.opening is not None:
        unit = bundle.unit(bundle.opening.body.segment)
        for needed in needed_files(bundle.manifest, unit, bundle.opening.body):
            wanted[needed.address] = needed.bytes
    if bundle.entry is not None and bundle.entry.merged and bundle.entry.blob is not None:
        judged = (one.blob for one in bundle.lessons.judged)
        wanted.update(dict.fromkeys((bundle.entry.blob, *judged), max_published_bytes(bundle.manifest)))
    return wanted


def _collect(bundle: Bundle, find: FindBlob) -> dict[str, bytes]:
    found = {address: find(address, limit) for address, limit in bundle_files(bundle).items()}
    missing = [address for address, data in found.items() if data is None]
    if missing:
        raise ConfigError(
            f"{len(missing)} files of the unit are not at hand, such as {missing[0]}",
            hint="export from the directory of a verifier that judged it, or of the whole local network",
        )
    return {address: data for address, data in found.items() if data is not None}
