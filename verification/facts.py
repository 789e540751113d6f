"""What the chain says of one round, as plain values that a bundle can claim and an anchor can confirm."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from protocol.chain import ChainView, LinkedKey
from protocol.errors import Malformed, ProofInconclusive
from protocol.frozen import Address, Digest, Frozen
from protocol.manifest import RunManifest
from protocol.merkle import StandardMerkleTree, commitment_leaf
from protocol.messages import MAX_UNITS, CommitmentEntry, CommitmentList, Number, Round
from protocol.speakers import Speaker, keys_since
from verification.experience import learned_rounds
from verification.inclusion import forced_entries

MAX_OPERATORS = 65_536
MAX_KEYS = 4096  # of one number; of more the newest are kept
Block = Annotated[int, Field(ge=0, lt=2**53)]


Forced = Annotated[tuple[CommitmentEntry, ...], Field(max_length=MAX_UNITS)]


class KeyFact(Frozen):
    """Name a hot key and the block that linked it to its number."""

    peer: Address
    block: Block


class OperatorFact(Frozen):
    """Name a registered peer's role and its hot keys that follow one another, oldest first.

    A chain or an anchor file knows all of them, a bundle those that it needs: no key was linked between two of them.
    """

    number: Number
    role: Literal["contributor", "verifier"]
    keys: Annotated[tuple[KeyFact, ...], Field(min_length=1, max_length=MAX_KEYS)]

    def speaker(self, block: int) -> Speaker:
        """Return who speaks about a round with this roster block (`protocol.speakers`)."""
        linked = [LinkedKey(one.peer, "", one.block) for one in self.keys]
        return Speaker(self.role, keys_since(linked, block))

    def needed(self, block: int, authors: AbstractSet[str]) -> "OperatorFact":
        """Return the keys from the first to the last that signed something, or that was the number's at a block."""
        current = self.speaker(block).keys[0]
        found = [index for index, one in enumerate(self.keys) if one.peer == current or one.peer in authors]
        return self.model_copy(update={"keys": self.keys[min(found) : max(found) + 1]})

    def confirms(self, claimed: "OperatorFact", block: int) -> bool:
        """Tell whether what somebody claims of a number is known here, and holds the key that it had at a block.

        Without that key a claim would let another one, replaced by then or linked later, speak in its place.
        """
        if (claimed.number, claimed.role) != (self.number, self.role):
            return False
        first = next((index for index, one in enumerate(self.keys) if one == claimed.keys[0]), len(self.keys))
        if self.keys[first : first + len(claimed.keys)] != claimed.keys:
            return False
        return claimed.speaker(block).keys[:1] == self.speaker(block).keys[:1]


class RecordFact(Frozen):
    """Hold what the chain says of the record of an earlier round."""

    round: Round
    record: Digest  # its hash
    commitments_block: Block
    block: Block  # that anchored it


class RoundFacts(Frozen):
    """Hold what the chain says of one round whose record is anchored."""

    round: Round
    roster_block: Block  # whose stakes and keys make the round's roster
    commitments_root: Digest
    commitments_count: int = Field(ge=0, lt=2**32)
    commitments_block: Block
    forced: Forced = ()  # by the round's roster, first forced first
    record: Digest  # hash of the round record
    record_block: Block
    previous_root: Digest | None  # commitment root of the round before; None in round 0
    previous_commitments_block: Block | None
    previous_forced: Forced = ()
    previous_record: Digest | None
    previous_record_block: Block | None
    # Where a policy learns: the records before the previous one that say what from.
    learned: Annotated[tuple[RecordFact, ...], Field(max_length=8)] = ()
    assignment_beacon: Digest
    sampling_beacon: Digest
    verifiers: Annotated[tuple[Number, ...], Field(max_length=MAX_OPERATORS)]  # staked at the record's anchor

    def speaker_block(self, role: str) -> int:
        """Return the block that says with which keys one in a role speaks about the round (`protocol.speakers`)."""
        return self.record_block if role == "verifier" else self.roster_block


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


def round_facts(chain: ChainView, manifest: RunManifest, round_: int) -> RoundFacts | None:
    """Return what the chain says of a round, or None while its sampling beacon does not exist."""
    posted, record, anchored = chain.commitments(round_), chain.record_hash(round_), chain.anchor(round_)
    roster, assignment = chain.anchor(round_ - 1), chain.assignment_beacon(round_)
    sampling = chain.sampling_beacon(round_)
    if posted is None or record is None or anchored is None or roster is None:
        return None
    if assignment is None or sampling is None:
        return None
    before = chain.commitments(round_ - 1) if round_ else None
    return RoundFacts(
        round=round_,
        roster_block=roster,
        commitments_root=posted.root,
        commitments_count=posted.count,
        commitments_block=posted.block,
        forced=forced_entries(chain, round_),
        record=record,
        record_block=anchored,
        previous_root=None if before is None else before.root,
        previous_commitments_block=None if before is None else before.block,
        previous_forced=forced_entries(chain, round_ - 1) if round_ else (),
        previous_record=chain.record_hash(round_ - 1) if round_ else None,
        previous_record_block=chain.anchor(round_ - 1) if round_ else None,
        learned=tuple(_record_fact(chain, one) for one in learned_rounds(manifest, round_)[:-1]),
        assignment_beacon=assignment,
        sampling_beacon=sampling,
        verifiers=tuple(one.number for one in chain.verifiers(round_)),
    )


def _record_fact(chain: ChainView, round_: int) -> RecordFact:
    posted, record, anchored = chain.commitments(round_), chain.record_hash(round_), chain.anchor(round_)
    assert posted is not None, "rounds follow one another"
    assert record is not None, "rounds follow one another"
    assert anchored is not None, "rounds follow one another"
    return RecordFact(round=round_, record=record, commitments_block=posted.block, block=anchored)


def operator_facts(chain: ChainView) -> tuple[OperatorFact, ...]:
    """Return every registered peer's hot keys and role, by number."""
    return tuple(
        OperatorFact.model_validate(
            {
                "number": one.number,
                "role": one.role,
                "keys": [
                    KeyFact(peer=key.peer, block=key.block) for key in chain.keys(one.number)[-MAX_KEYS:]
                ],
            }
        )
        for one in chain.operators()
    )


def chain_facts(chain: ChainView, manifest: RunManifest) -> ChainFacts:
    """Return what a chain that was refreshed says about a run.

    Raises:
        ProofInconclusive: the run does not exist there.
    """
    if chain.created() is None:
        raise ProofInconclusive(f"the ledger does not know run {manifest.run_id}")
    found = {round_: round_facts(chain, manifest, round_) for round_ in range(manifest.rounds)}
    return ChainFacts(
        manifest.chain_id,
        manifest.ledger,
        manifest.run_id,
        {round_: facts for round_, facts in found.items() if facts is not None},
        {one.number: one for one in operator_facts(chain)},
    )
