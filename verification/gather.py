"""From the messages that peers hold to the public folder: what a coordinator wrote, put together by anybody.

What counts is what the chain confirms: the list that gives the posted root, the record that has the anchored hash.
A folder that was gathered holds every verdict that was heard; which of them made an outcome, its judgement says.
"""

from collections.abc import Iterable, Iterator
from functools import partial

from protocol.beacons import SignatureFiles
from protocol.chain import ChainView
from protocol.errors import MurmurError, ProofInconclusive
from protocol.manifest import RunManifest
from protocol.messages import Commitment, RoundRecord, Signed
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from protocol.succession import Succession
from verification.archive import RoundDossier, Settlement
from verification.bundle import FindBlob
from verification.duty import confirmed_entries, confirmed_list, told
from verification.public import AuditChain, PublicRun
from verification.ruling import fault


def anchored_rounds(manifest: RunManifest, chain: ChainView) -> range:
    """Return the rounds whose record is on chain."""
    count = 0
    while count < manifest.rounds and chain.record_hash(count) is not None:
        count += 1
    return range(count)


def settling_gaps(chain: ChainView, pool: MessagePool, round_: int) -> Iterator[str]:
    """Name the messages without which the pay of an anchored round cannot be recomputed."""
    record = pool.record(round_)
    if record is None or record.body.digest().hex() != chain.record_hash(round_):
        yield f"the record of round {round_}"
    entries = confirmed_entries(chain, pool, round_)
    if entries is None:
        yield f"the commitment list of round {round_}"
        return
    needless = _needless(record)
    for entry in entries:
        if entry.number not in needless and told(pool, entries, round_, entry.number) is None:
            yield f"the commitment of number {entry.number} in round {round_}"


def gaps(chain: ChainView, pool: MessagePool, round_: int) -> Iterator[str]:
    """Name the messages without which an anchored round cannot be audited."""
    yield from settling_gaps(chain, pool, round_)
    record = pool.record(round_)
    if record is not None and confirmed_list(chain, pool, round_) is not None:
        revealed = pool.reveals(round_)
        for unit in record.body.units:
            if unit.merged and unit.number not in revealed:
                yield f"the reveal of number {unit.number} in round {round_}"
        received = {message.id for message in pool.receipts(round_).values()}
        for receipt in record.body.receipts:
            if receipt not in received:
                yield f"receipt {receipt} of round {round_}"


def _needless(record: Signed[RoundRecord] | None) -> frozenset[int]:
    """Return the numbers whose commitment a record says was not told, or is none."""
    units = () if record is None else record.body.units
    return frozenset(unit.number for unit in units if not unit.counts)


def run_gaps(chain: AuditChain, pool: MessagePool) -> Iterator[str]:
    """Name the messages about the whole run that the chain says there must be.

    Of a root that others proposed nobody said the table: it is recomputed.
    """
    created, proposers = chain.coordinator(), {one.epoch: one.proposer for one in chain.proposals()}
    others = {epoch for epoch, one in proposers.items() if created is None or one != created.coordinator}
    lacking = len(chain.finalized().keys() - others) - len(pool.rewards())
    if lacking > 0:
        yield f"{lacking} reward tables"
    if chain.finished() is not None and pool.finish() is None:
        yield "the closing word"


def dossier_of(
    manifest: RunManifest, chain: ChainView, pool: MessagePool, round_: int
) -> RoundDossier | None:
    """Put the file of an anchored round together, or return None while its list, a commitment or its record lacks."""
    listed, record = confirmed_list(chain, pool, round_), pool.record(round_)
    entries = confirmed_entries(chain, pool, round_)
    if listed is None or entries is None or record is None:
        return None
    if record.body.digest().hex() != chain.record_hash(round_):
        return None
    forced = {entry.number for entry in entries} - {entry.number for entry in listed.body.entries}
    commitments: list[Signed[Commitment]] = []
    for number in [entry.number for entry in listed.body.entries] + sorted(forced):
        found = told(pool, entries, round_, number)
        if found is not None:
            commitments.append(found)
        elif number not in forced or number not in _needless(record):
            return None
    numbers = {one.body.number for one in commitments}
    reveals, openings, verdicts = pool.reveals(round_), pool.openings(round_), pool.verdicts(round_)
    received = {message.id: message for message in pool.receipts(round_).values()}
    seals = {key: one for key, one in pool.seals(round_).items() if key[0] in numbers}
    bodies = {one.body.number: one.body for one in commitments}

    run = manifest.run_id

    def counts(key: tuple[int, int]) -> bool:
        seal = seals[key].body if key in seals else None
        return not fault(manifest, run, round_, bodies[key[0]], verdicts[key].body, seal)

    return RoundDossier(
        round=round_,
        listed=listed,
        commitments=tuple(commitments),
        reveals=tuple(reveals[number] for number in sorted(reveals) if number in numbers),
        receipts=tuple(received[one] for one in record.body.receipts if one in received),
        record=record,
        openings=tuple(openings[key] for key in sorted(openings) if key[0] in numbers),
        verdicts=tuple(verdicts[key] for key in sorted(verdicts) if key[0] in numbers and counts(key)),
        seals=tuple(seals[key] for key in sorted(seals)),
    )


def settlement_of(pool: MessagePool) -> Settlement:
    """Put together what was said about the run as a whole."""
    ready, rewards = pool.ready(), pool.rewards()
    return Settlement(
        ready=tuple(ready[number] for number in sorted(ready)),
        rewards=tuple(rewards[epoch] for epoch in sorted(rewards)),
        finish=pool.finish(),
    )


def public_run(
    manifest: RunManifest,
    chain: AuditChain,
    messages: Iterable[bytes],
    find: FindBlob,
    beacons: SignatureFiles,
) -> PublicRun:
    """Put a run together from its signed messages, whoever delivered them, as far as the chain has anchored it.

    Args:
        messages: wire bytes; what the run's rules do not let in is passed over.
        find: finds what is public by content address.
        beacons: drand signatures at hand.

    Raises:
        ProofInconclusive: a message is missing without which a round cannot be read; it is named.
    """
    cases_of, succession = partial(_cases_of, chain), Succession(manifest, chain)
    pool = MessagePool(manifest, partial(speaker_of, chain), cases_of, succession, chain.forced)
    pool.round = manifest.rounds
    for wire in messages:
        try:
            pool.accept(wire)
        except MurmurError:
            continue
    rounds = anchored_rounds(manifest, chain)
    missing = [gap for round_ in rounds for gap in gaps(chain, pool, round_)]
    found = [dossier_of(manifest, chain, pool, round_) for round_ in rounds]
    dossiers = [one for one in found if one is not None]
    if missing or len(dossiers) < len(found):
        raise ProofInconclusive(f"nobody delivered {missing[0] if missing else 'a message of the run'}")
    return PublicRun(manifest, manifest.run_id, chain, dossiers, settlement_of(pool), find, beacons)


def _cases_of(chain: AuditChain, round_: int) -> set[tuple[int, int]]:
    return {case.label for case in chain.cases(round_)}
