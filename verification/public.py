"""What an audit reads: the public folder and the chain, put side by side and indexed once."""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

from contracts.cases import CaseState
from contracts.events import (
    Claimed,
    Equivocated,
    RewardsFinalized,
    RewardsProposed,
    RunCreated,
    Slashed,
)
from protocol.beacons import SignatureFiles
from protocol.chain import Case, ChainView
from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.manifest import RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentEntry,
    Judgement,
    Reveal,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
)
from protocol.published import max_published_bytes
from protocol.succession import acts_from
from verification.archive import Archive, RoundDossier, Settlement
from verification.bundle import FindBlob
from verification.cases import counted_cases, may_still_open
from verification.duty import UnitKey
from verification.inclusion import counted_entries, forced_entries
from verification.judge import Outcome, forged_residual, refused
from verification.lateness import in_force, is_void
from verification.merge import check_reveal
from verification.ruling import Ruling, in_turn, rule
from verification.sample import Draw, draws
from verification.settle import JudgedCase, SettledRound, settled_round

CaseKey = tuple[int, int, int]
"""Name what was judged: (round, number, case), where case 0 is the beacon's draw."""


class AuditChain(ChainView, Protocol):
    """What an audit asks of a chain beyond a run's rounds; `contracts.run.ChainRun` is one."""

    def coordinator(self) -> RunCreated | None:
        """Return who created the run, and the key that signs for it."""

    def drand_round(self, round_: int) -> int | None:
        """Return the drand round that a round's anchor fixes; None on a local chain, or where it is not known."""

    @property
    def funded_wei(self) -> int:
        """Return all that was paid into the run's pot."""

    def as_of(self, block: int) -> "AuditChain":
        """Return the chain as it stood after a block."""

    def proposals(self) -> tuple[RewardsProposed, ...]:
        """Return every reward root that was proposed, whatever became of it, in chain order."""

    def pending(self) -> RewardsProposed | None:
        """Return the reward root that is neither final nor cancelled."""

    def finalized(self) -> dict[int, RewardsFinalized]:
        """Return the final reward roots by the ledger's epoch."""

    def claims(self) -> tuple[Claimed, ...]:
        """Return the claims on the pot, in chain order."""

    def slashes(self) -> tuple[Slashed, ...]:
        """Return the slashes of this run, in chain order."""

    def every_case(self) -> tuple[CaseState, ...]:
        """Return the run's cases before the jury, oldest first."""

    def equivocations(self) -> tuple[Equivocated, ...]:
        """Return the equivocations that were proven in this run, in chain order."""


@dataclass(frozen=True)
class PublicRun:
    """Hold a run as everybody can see it."""

    manifest: RunManifest
    run: str
    chain: AuditChain
    dossiers: Sequence[RoundDossier]  # of the anchored rounds, from 0 on
    settlement: Settlement
    find: FindBlob
    signatures: SignatureFiles  # of drand rounds
    only: range | None = None  # the rounds to be judged; None: all
    keep: Callable[[int, bytes], None] = lambda round_, data: None  # takes the parameters a round starts from
    lapses: bool = True  # what nobody can declare any more counts as judged by nobody
    records: Sequence[Signed[RoundRecord]] = field(init=False)

    def __post_init__(self) -> None:
        records = [one.record for one in self.dossiers]
        missing = [round_ for round_, record in enumerate(records) if record is None]
        if missing:
            raise ProofInconclusive(f"the record of round {missing[0]} is missing from the public folder")
        object.__setattr__(self, "records", [record for record in records if record is not None])

    @classmethod
    def read(
        cls, archive: Archive, chain: AuditChain, run: str, find: FindBlob, only: range | None = None
    ) -> "PublicRun":
        """Read the folder as far as the chain has anchored the run.

        Every round is read, whichever are to be judged: what a peer carries, copies and is judged for lies in others.

        Raises:
            ConfigError: there is no manifest.
            Malformed: a file is not well formed, or a signature is not one.
            ProofInconclusive: the run is not on the chain, or a round's file is missing.
        """
        manifest = archive.manifest()
        if chain.created() is None:
            raise ProofInconclusive(f"the ledger does not know run {run}")
        dossiers = []
        for round_ in range(manifest.rounds):
            if chain.record_hash(round_) is None:
                break
            dossier = archive.round(manifest, round_)
            if dossier is None:
                raise ProofInconclusive(f"the file of round {round_} is missing from the public folder")
            dossiers.append(dossier)
        settlement = archive.settlement(manifest)
        return cls(manifest, run, chain, dossiers, settlement, find, archive.beacons, only)

    def is_void(self, round_: int) -> bool:
        """Tell whether a round's record was anchored too late."""
        return is_void(self.manifest, self.chain, round_)

    @cached_property
    def standing(self) -> Sequence[RoundRecord]:
        """Return what is in force of each record."""
        return [in_force(one.body, void=self.is_void(round_)) for round_, one in enumerate(self.records)]

    @property
    def rounds(self) -> range:
        """Return the anchored rounds."""
        return range(len(self.dossiers))

    def as_of(self, block: int, speakers: Container[str] = ()) -> "PublicRun":
        """Return the run as far as it had come after a block: records that were anchored, rulings that were closed.

        A closing word counts from the block that closed the run on chain.

        Args:
            speakers: addresses of keys whose closing word counts before that too.
        """
        chain, said = self.chain.as_of(block), self.settlement
        kept = [one for one in self.dossiers if chain.record_hash(one.round) is not None]
        counts = said.finish is not None and (chain.finished() is not None or said.finish.author in speakers)
        said = said if counts else replace(said, finish=None)
        return replace(self, chain=chain, dossiers=kept, settlement=said)

    @cached_property
    def _lapsed(self) -> bool:
        """Tell whether nobody can declare any more what the coordinator left open: others may act for it."""
        begins = acts_from(self.chain)
        return self.lapses and begins is not None and self.chain.height + 1 >= begins

    @property
    def scope(self) -> range:
        """Return the anchored rounds that are to be judged."""
        last = len(self.dossiers)
        return (
            self.rounds if self.only is None else range(min(self.only.start, last), min(self.only.stop, last))
        )

    @property
    def audited(self) -> Sequence[RoundDossier]:
        """Return the dossiers of the rounds that are to be judged."""
        return [self.dossiers[round_] for round_ in self.scope]

    @property
    def is_whole(self) -> bool:
        """Tell whether every anchored round is to be judged."""
        return self.scope == self.rounds

    def messages(self) -> Iterable[Signed[Body]]:
        """Yield every message of the rounds to be judged, and those about the whole run."""
        for dossier in self.audited:
            yield from dossier.messages()
        yield from self.settlement.messages()

    @cached_property
    def entries(self) -> Sequence[tuple[CommitmentEntry, ...]]:
        """Return what each round's record must name: what was listed, and what was forced in."""
        return [
            counted_entries(dossier.listed.body, forced_entries(self.chain, dossier.round))
            for dossier in self.dossiers
        ]

    def ignored(self, round_: int) -> frozenset[int]:
        """Return the numbers whose unit does not count, by the word of the round's record."""
        return frozenset(unit.number for unit in self.records[round_].body.units if not unit.counts)

    def commitment(self, round_: int, number: int) -> Signed[Commitment] | None:
        """Return a commitment that was listed or forced in."""
        if not 0 <= round_ < len(self.dossiers):
            return None
        return next((one for one in self.dossiers[round_].commitments if one.body.number == number), None)

    def reveals(self, round_: int) -> dict[int, Reveal]:
        """Return the published reveals that open their commitment, by number."""
        limit = max_published_bytes(self.manifest)
        found = {}
        for message in self.dossiers[round_].reveals:
            commitment = self.commitment(round_, message.body.number)
            try:
                if commitment is not None:
                    check_reveal(commitment, message.body, limit)
                    found[message.body.number] = message.body
            except Malformed:
                continue
        return found

    @cached_property
    def draws(self) -> Mapping[UnitKey, Draw]:
        """Return every draw, recomputed from the sampling beacons."""
        found: dict[UnitKey, Draw] = {}
        for round_ in self.rounds:
            beacon = self.chain.sampling_beacon(round_)
            if beacon is None:
                continue
            judges = [one.number for one in self.chain.verifiers(round_)]
            units = self.standing[round_].units
            drawn = draws(self.manifest, self.run, beacon, round_, units, judges)
            found |= {(round_, draw.number): draw for draw in drawn}
        return found

    @cached_property
    def cases(self) -> Mapping[CaseKey, Case]:
        """Return every case that changes a round's pay."""
        found: dict[CaseKey, Case] = {}
        for round_ in self.rounds:
            units = self.standing[round_].units
            drawn = [draw for (about, _), draw in self.draws.items() if about == round_]
            outcome = partial(self._outcome, round_)
            counted = counted_cases(self.manifest, self.chain, round_, units, drawn, outcome)
            found |= {(round_, *case.label): case for case in counted}
        return found

    def _outcome(self, round_: int, draw: Draw) -> Outcome | None:
        judged = self.judged((round_, draw.number))
        return None if judged is None else judged.judgement.outcome

    @cached_property
    def declared(self) -> Mapping[CaseKey, Judgement]:
        """Return the declared judgements; of two on one case the first."""
        return {(one.round, one.number, one.case): one for one, _ in reversed(self.judgements)}

    @cached_property
    def _declared_in(self) -> Mapping[CaseKey, int | None]:
        return {(one.round, one.number, one.case): place for one, place in reversed(self.judgements)}

    @cached_property
    def verdicts(self) -> Mapping[UnitKey, Mapping[int, Signed[Verdict]]]:
        """Return the published verdicts by unit, and then by verifier."""
        found: dict[UnitKey, dict[int, Signed[Verdict]]] = {}
        for dossier in self.dossiers:
            for message in dossier.verdicts:
                found.setdefault((dossier.round, message.body.number), {})[message.body.verifier] = message
        return found

    def verdict_bodies(self, key: UnitKey) -> dict[int, Verdict]:
        """Return the verdicts on a unit by verifier: those on which it was decided, once it is.

        Others came too late, and only a folder that was gathered from peers holds them.
        """
        found, declared = self.verdicts.get(key, {}), self.declared.get((*key, 0))
        return {
            judge: message.body
            for judge, message in found.items()
            if declared is None or judge in declared.heard
        }

    def seals(self, key: UnitKey) -> dict[int, Seal]:
        """Return the published seals on a unit by verifier."""
        bodies = (message.body for message in self.dossiers[key[0]].seals)
        return {one.verifier: one for one in bodies if one.number == key[1]}

    def ruling(self, key: UnitKey) -> Ruling:
        """Return what the published verdicts make of a drawn unit.

        Raises:
            ProofRejected: the unit's commitment is not there.
        """
        commitment = self.commitment(*key)
        if commitment is None:
            raise ProofRejected(f"number {key[1]} was drawn in round {key[0]} without a commitment")
        found = rule(self.manifest, commitment.body, self.draws[key], self.verdict_bodies(key), closed=True)
        assert found is not None, "what is closed is decided"
        return found

    @cached_property
    def judgements(self) -> Sequence[tuple[Judgement, int | None]]:
        """Return every declared outcome with the round whose record declares it; None: the closing word."""
        found: list[tuple[Judgement, int | None]] = [
            (judgement, round_)
            for round_, record in enumerate(self.records)
            for judgement in record.body.judged
        ]
        finish = self.settlement.finish
        if finish is not None:
            found += [(judgement, None) for judgement in finish.body.judged]
        return found

    @cached_property
    def _judged(self) -> dict[UnitKey, JudgedCase | None]:
        return {}

    def judged(self, key: UnitKey) -> JudgedCase | None:
        """Return what the verdicts that a record names make of a drawn unit; None while none names them in time.

        A declaration only says which verdicts were heard: what follows from them is worked out again. Where nobody
        can declare any more what the coordinator left open, the unit counts as judged by nobody.

        Raises:
            ProofInconclusive: a verdict that it names is missing.
        """
        if key not in self._judged:
            self._judged[key] = self._judge(key)
        return self._judged[key]

    def _judge(self, key: UnitKey) -> JudgedCase | None:
        draw, declared, commitment = self.draws[key], self.declared.get((*key, 0)), self.commitment(*key)
        if declared is None or commitment is None:
            if commitment is not None and not self._lapsed:
                return None
            nobody = Judgement(round=key[0], number=key[1], segment=draw.segment, outcome="unjudged")
            return JudgedCase(nobody, (), False)
        heard = self.verdict_bodies(key)
        if missing := [judge for judge in declared.heard if judge not in heard]:
            raise ProofInconclusive(
                f"the verdict of {missing[0]} on number {key[1]} in round {key[0]} is missing"
            )
        about = commitment.id, draw.segment
        said = {judge: one for judge, one in heard.items() if (one.commitment, one.segment) == about}
        blocks = self.declared_after(key[0], self._declared_in[*key, 0])
        said = in_turn(self.manifest, commitment.body, draw, said, blocks)
        closed = blocks > draw.closes_after(self.manifest)
        found = rule(self.manifest, commitment.body, draw, said, closed=closed)
        if found is None:
            return None
        right = [said[judge] for judge in found.right]
        judgement = declared.model_copy(
            update={
                "segment": draw.segment,
                "outcome": found.outcome,
                "forged_residual": forged_residual(found.outcome, right),
                "wrong": found.wrong,
            }
        )
        return JudgedCase(judgement, found.right, refused(self.manifest, right))

    def declared_after(self, round_: int, declared_in: int | None) -> int:
        """Return how many blocks after a round's beacon an outcome was declared: no later was it decided.

        Args:
            declared_in: round of the record that declares it; None: the closing word.
        """
        began = self.chain.anchor(round_)
        declared = self.chain.height if declared_in is None else self.chain.anchor(declared_in)
        assert began is not None
        assert declared is not None
        return declared - (began + 1)

    def settled(self, round_: int) -> SettledRound | None:
        """Return what pay depends on in a round, or None while something of it is undecided.

        From then on nothing that happens on chain changes it: all is declared, and no case that counts can come.

        Raises:
            ProofInconclusive: a verdict that a record names is missing.
        """
        drawn = [draw for (about, _), draw in self.draws.items() if about == round_]
        found = [self.judged((round_, draw.number)) for draw in drawn]
        judged = [one for one in found if one is not None]
        if self.chain.sampling_beacon(round_) is None or len(judged) < len(found):
            return None
        cases = [case for (about, *_), case in self.cases.items() if about == round_]
        record, outcome = self.standing[round_], partial(self._outcome, round_)
        if record.units and may_still_open(self.manifest, self.chain, round_, cases, drawn, outcome):
            return None
        return settled_round(round_, record, [*judged, *map(_ruled, cases)])


def _ruled(case: Case) -> JudgedCase:
    assert case.outcome is not None, "an open case keeps its round from being settled"
    judgement = Judgement(
        round=case.round,
        number=case.number,
        case=case.case,
        segment=case.segment,
        outcome=case.outcome,
        forged_residual=case.forged_residual,
    )
    return JudgedCase(judgement, (), False)


def closing_keys(manifest: RunManifest, chain: AuditChain, proposer: str) -> tuple[str, ...]:
    """Return the keys, newest first, that say a closing word for whoever proposes a root; none for who is neither.

    Args:
        proposer: wallet of the run's coordinator, or of an operator.
    """
    created = chain.coordinator()
    if created is not None and created.coordinator == proposer:
        return (manifest.coordinator,)
    number = next((one.number for one in chain.operators() if one.wallet == proposer), None)
    return () if number is None else tuple(one.peer for one in reversed(chain.keys(number)))
