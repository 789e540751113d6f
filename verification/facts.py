"""What the chain says of one round, as plain values that a bundle can claim and an anchor can confirm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from protocol.chain import ChainView
from protocol.errors import Malformed, ProofInconclusive
from protocol.manifest import Address, Digest, Frozen, RunManifest
from protocol.merkle import StandardMerkleTree, commitment_leaf
from protocol.messages import CommitmentList, Number, Round

MAX_OPERATORS = 65_536
Block = Annotated[int, Field(ge=0, lt=2**53)]


class OperatorFact(Frozen):
    """Name a registered peer's hot key and role."""

    number: Number
    peer: Address
    role: Literal["contributor", "verifier"]


class RoundFacts(Frozen):
    """Hold what the chain says of one round whose record is anchored."""

    round: Round
    commitments_root: Digest
    commitments_count: int = Field(ge=0, lt=2**32)
    commitments_block: Block
    record: Digest  # hash of the round record
    record_block: Block
    previous_root: Digest | None  # commitment root of the round before; None in round 0
    previous_commitments_block: Block | None
    previous_record: Digest | None
    previous_record_block: Block | None
    assignment_beacon: Digest
    sampling_beacon: Digest
    verifiers: Annotated[tuple[Number, ...], Field(max_length=MAX_OPERATORS)]  # staked at the record's anchor


@dataclass(frozen=True)
class ChainFacts:
    """Say what one chain says about one run; what is absent is unknown."""

    chain_id: int
    ledger: str
    run: str
    rounds: Mapping[int, RoundFacts]
    operators: Mapping[int, OperatorFact]


def commitment_proof(listed: CommitmentList, number: int) -> tuple[str, ...]:
    """Return the siblings that lead from a number's commitment to the root.

    Raises:
        Malformed: the list does not name the number.
    """
    numbers = [entry.number for entry in listed.entries]
    if number not in numbers:
        raise Malformed(f"number {number} is not in the commitment list")
    tree = StandardMerkleTree([commitment_leaf(entry.number, entry.commitment) for entry in listed.entries])
    return tuple(sibling.hex() for sibling in tree.proof(numbers.index(number)))


def round_facts(chain: ChainView, round_: int) -> RoundFacts | None:
    """Return what the chain says of a round, or None while its sampling beacon does not exist."""
    posted, record, anchored = chain.commitments(round_), chain.record_hash(round_), chain.anchor(round_)
    assignment, sampling = chain.assignment_beacon(round_), chain.sampling_beacon(round_)
    if posted is None or record is None or anchored is None or assignment is None or sampling is None:
        return None
    before = chain.commitments(round_ - 1) if round_ else None
    return RoundFacts(
        round=round_,
        commitments_root=posted.root,
        commitments_count=posted.count,
        commitments_block=posted.block,
        record=record,
        record_block=anchored,
        previous_root=None if before is None else before.root,
        previous_commitments_block=None if before is None else before.block,
        previous_record=chain.record_hash(round_ - 1) if round_ else None,
        previous_record_block=chain.anchor(round_ - 1) if round_ else None,
        assignment_beacon=assignment,
        sampling_beacon=sampling,
        verifiers=tuple(one.number for one in chain.verifiers(round_)),
    )


def operator_facts(chain: ChainView) -> tuple[OperatorFact, ...]:
    """Return every registered peer's hot key and role, by number."""
    return tuple(
        OperatorFact.model_validate({"number": one.number, "peer": one.peer, "role": one.role})
        for one in chain.operators()
    )


def chain_facts(chain: ChainView, manifest: RunManifest) -> ChainFacts:
    """Return what a chain that was refreshed says about a run.

    Raises:
        ProofInconclusive: the run does not exist there.
    """
    if chain.created() is None:
        raise ProofInconclusive(f"the ledger does not know run {manifest.run_id}")
    found = {round_: round_facts(chain, round_) for round_ in range(manifest.rounds)}
    return ChainFacts(
        manifest.chain_id,
        manifest.ledger,
        manifest.run_id,
        {round_: facts for round_, facts in found.items() if facts is not None},
        {one.number: one for one in operator_facts(chain)},
    )
