"""Which reward root is due, recomputed by anybody, and what a juror finds of one that was proposed.

A root proposed in block N is judged by the run as it stood after block N - 1: the records that were anchored, the
rulings that were closed. A root is due once every drawn unit of its epochs was declared in an anchored record or in a
closing word, and no case that changes pay is open or can come. From then on nothing changes it, so that jurors who look
later, or at different heights, recompute the same one. Of closing words one counts: that of a run that is closed on
chain, else the proposer's own, who answers for saying it to everybody. What is declared only says which verdicts were
heard: outcomes are worked out again from them. Where the ledger lets anybody act for the coordinator, drawn units that
nothing declares are judged by nobody and earn nothing.

Messages are all that is needed, and they are signed: nothing of it is fetched by content address. Whoever proposes a
root answers for them: as long as nobody delivers one that the root depends on, the root cannot win.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, cast

from contracts.cases import CaseState
from contracts.events import RewardsProposed
from contracts.types import CaseKind, CaseOutcome
from protocol.beacons import SignatureFiles
from protocol.canonical import digest
from protocol.errors import ProofInconclusive, ProofRejected
from protocol.manifest import RunManifest
from protocol.merkle import reward_tree
from protocol.messages import Finish, Judgement, RewardEntry, Signed
from protocol.pool import MessagePool
from verification.archive import RoundDossier
from verification.audit_money import due_tables
from verification.gather import anchored_rounds, dossier_of, settlement_of, settling_gaps
from verification.public import AuditChain, PublicRun, closing_keys
from verification.seal import needs_seal
from verification.unit import Finding

NO_ROOT: Final = bytes.fromhex(digest(b"murmur: no reward root is due"))
"""Result of a finding against a root where none is due."""


@dataclass(frozen=True)
class DueRoot:
    """A reward root that the rules give."""

    epoch: int  # as the ledger counts: epochs that have a root
    table_epoch: int  # as the manifest counts
    entries: tuple[RewardEntry, ...]

    @property
    def root(self) -> bytes:
        """Return the root of the table's tree."""
        return reward_tree(self.entries).root

    @property
    def total_wei(self) -> int:
        """Return the sum of all cumulative pay."""
        return sum(entry.cumulative_wei for entry in self.entries)


@dataclass(frozen=True)
class KnownRun:
    """Hold a run as far as the messages at hand reach."""

    run: PublicRun
    missing: str = ""  # the first message that the chain says there must be; empty: none


def due_root(known: KnownRun, epoch: int) -> DueRoot | None:
    """Return the reward root of an epoch as the ledger counts; None if none is due.

    Raises:
        ProofInconclusive: a message is missing that says whether one is due, or which.
        ProofRejected: a number earned that is not registered.
    """
    found = next(islice(due_tables(known.run), epoch, None), None)
    if found is not None:
        return DueRoot(epoch, *found)
    if known.missing:
        raise ProofInconclusive(f"nobody delivers {known.missing}")
    return None


def known_run(
    manifest: RunManifest, chain: AuditChain, pool: MessagePool, beacons: SignatureFiles, proposer: str
) -> KnownRun:
    """Put together what pay depends on, up to the first anchored round of which something is missing.

    Args:
        chain: as of the block that counts.
        proposer: wallet that proposes a root.
    """
    dossiers: list[RoundDossier] = []
    missing = ""
    for round_ in anchored_rounds(manifest, chain):
        dossier = dossier_of(manifest, chain, pool, round_)
        if dossier is None:
            missing = next(settling_gaps(chain, pool, round_), f"a message of round {round_}")
            break
        dossiers.append(dossier)
    said, speakers = settlement_of(pool), closing_keys(manifest, chain, proposer)
    if chain.finished() is None:
        said_by = {
            one.author: one for one in pool.statements(manifest.rounds - 1) if isinstance(one.body, Finish)
        }
        own = next((said_by[one] for one in speakers if one in said_by), None)
        said = replace(said, finish=cast("Signed[Finish] | None", own))
    elif said.finish is None:
        missing = missing or "the closing word"
    # A missing message may declare what seems to be left open; what was declared without it stands.
    whole = PublicRun(
        manifest,
        manifest.run_id,
        chain,
        dossiers,
        said,
        lambda address, max_bytes: None,
        beacons,
        lapses=not missing,
    )
    return KnownRun(whole, missing)


def first_gap(manifest: RunManifest, chain: AuditChain, pool: MessagePool, start: int = 0) -> int | None:
    """Return the first round of which a message that pay depends on is missing, or None.

    Args:
        start: of earlier anchored rounds all is known to be here.
    """
    for round_ in anchored_rounds(manifest, chain)[start:]:
        if next(settling_gaps(chain, pool, round_), None) is not None:
            return round_
        record = pool.record(round_)
        unheard = [] if record is None else [one.round for one in record.body.judged if not _heard(pool, one)]
        if unheard:
            return min(unheard)
    if chain.finished() is not None and pool.finish() is None:
        return manifest.rounds - 1
    return None


def _heard(pool: MessagePool, one: Judgement) -> bool:
    """Tell whether the verdicts on which a unit was decided are here, with their seals."""
    verdicts, seals = pool.verdicts(one.round), pool.seals(one.round)
    keys = [(one.number, judge) for judge in one.heard]
    return all(key in verdicts and (key in seals or not needs_seal(verdicts[key].body)) for key in keys)


def judge_root(known: KnownRun, proposed: RewardsProposed) -> Finding:
    """Judge a proposed root as a juror does, with the same bits everywhere.

    Args:
        known: the run as it stood before the block of the proposal.

    Raises:
        ProofInconclusive: a message is missing that says which root is due.
    """
    try:
        due = due_root(known, proposed.epoch)
    except ProofRejected as error:
        return Finding(CaseOutcome.VOID, NO_ROOT, f"no root follows from the records: {error.message}"[:200])
    if due is None:
        return Finding(CaseOutcome.VOID, NO_ROOT, f"no reward root of epoch {proposed.epoch} is due yet")
    if proposed.root != due.root:
        return Finding(CaseOutcome.VOID, due.root, f"the rules give the root {due.root.hex()}")
    if proposed.total != due.total_wei:
        return Finding(CaseOutcome.VOID, due.root, f"the rules give a total of {due.total_wei} wei")
    return Finding(CaseOutcome.RIGHT, due.root)


def proposal_of(chain: AuditChain, case: CaseState) -> RewardsProposed:
    """Return the proposed root that a dispute is about.

    Raises:
        ProofInconclusive: the chain shows none; it was reorganised, or its events were read from a later block on.
    """
    assert case.kind is CaseKind.REWARDS
    found: Sequence[RewardsProposed] = [one for one in chain.proposals() if one.block == case.round]
    if not found:
        raise ProofInconclusive(f"the reward root that case {case.case} disputes is not on chain")
    return found[0]
