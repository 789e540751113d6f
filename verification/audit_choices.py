"""The audit of what a record leaves the coordinator no choice in: who came in time, and how often each is drawn."""

from collections.abc import Mapping

from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.messages import Reveal, UnitRecord
from verification.audit_rounds import Found, commitment_fault
from verification.merge import copied_from
from verification.public import PublicRun
from verification.sample import NEWCOMER, Standing, count_listed, doubt
from verification.witness import RoundReceipts, check_receipt, witnesses


def check_witnesses(run: PublicRun) -> Found:
    """Every unit merges if the drawn witnesses' receipts say that it came in time, and no other does."""
    earlier: dict[str, tuple[int, int]] = {}
    decided = word = 0
    for round_, record in enumerate(run.records):
        reveals = run.reveals(round_)
        if round_ in run.scope and not run.is_void(round_):
            heard = _receipts(run, round_)
            judged = _check_round(run, round_, heard, reveals, earlier)
            decided += judged
            word += judged < len(record.body.units)
        for unit in record.body.units:
            if unit.symbols is not None:
                earlier.setdefault(unit.symbols, (round_, unit.number))
    return (
        decided,
        f"units merged or left out by receipts; rounds where the coordinator's word decided: {word}",
    )


def _receipts(run: PublicRun, round_: int) -> RoundReceipts:
    """Return what the receipts named by a record say."""
    beacon = run.chain.assignment_beacon(round_)
    if beacon is None:
        raise ProofInconclusive(f"the chain does not give the assignment beacon of round {round_}")
    dossier, named = run.dossiers[round_], run.records[round_].body.receipts
    found = {message.id: message for message in dossier.receipts}
    missing = [one for one in named if one not in found]
    if missing:
        raise ProofInconclusive(f"receipt {missing[0]}, which the record of round {round_} names, is missing")
    roster = [one.number for one in run.chain.roster(round_)]
    drawn = witnesses(run.manifest, run.run, beacon, round_, roster)
    numbers = [entry.number for entry in run.entries[round_]]
    receipts = {}
    for one in named:
        body = found[one].body
        try:
            check_receipt(body, drawn, numbers)
        except Malformed as error:
            raise ProofRejected(
                f"the record of round {round_} names an invalid receipt: {error.message}"
            ) from error
        if body.number in receipts:
            raise ProofRejected(f"the record of round {round_} names two receipts by number {body.number}")
        receipts[body.number] = body
    return RoundReceipts(drawn, receipts)


def _check_round(
    run: PublicRun,
    round_: int,
    heard: RoundReceipts,
    reveals: Mapping[int, Reveal],
    earlier: Mapping[str, tuple[int, int]],
) -> int:
    """Compare a record with the receipts; return of how many units they decide."""
    shown = dict(earlier)
    decided = 0
    for unit in run.records[round_].body.units:
        reveal = reveals.get(unit.number)
        if heard.decides(unit.number):
            decided += 1
            wanted = heard.rules(unit.number, None if reveal is None else reveal.symbols)
            copied = "" if reveal is None else copied_from(reveal.symbols, unit.number, shown)
            where = f"number {unit.number} in round {round_}: {heard.tally(unit.number)}"
            if unit.merged and not wanted:
                raise ProofRejected(f"{where}, and yet it was merged")
            if wanted and not copied and not unit.merged and not _breaks_rules(run, round_, unit):
                raise ProofRejected(f"{where}, and yet it was left out: {unit.reason}")
        if unit.symbols is not None:
            shown.setdefault(unit.symbols, (round_, unit.number))
    return decided


def _breaks_rules(run: PublicRun, round_: int, unit: UnitRecord) -> bool:
    """Tell whether a unit that does not count has a commitment at hand that breaks a public rule."""
    commitment = None if unit.counts else run.commitment(round_, unit.number)
    return commitment is not None and bool(commitment_fault(run, round_, commitment))


def check_forced(run: PublicRun) -> Found:
    """Every commitment that was forced in counts, unless it was not told in time or breaks a public rule.

    Whether it was told in time, messages alone do not show: its owner may have kept it back until the record, to cast
    suspicion, or the coordinator may have passed over what it had. So a valid one that the record calls untold is named
    here and blames nobody; where a majority of a quorum of witnesses signed that they had its update in time, the
    coordinator had to wait for it, and "witnesses" rejects the record. What blames the coordinator always: a record
    without a unit of it ("record hashes"), one that says of a listed unit that it does not count, and one that lets a
    unit count whose commitment breaks a rule ("assignments").
    """
    count, named = 0, []
    for round_ in run.scope:
        entries, dossier = run.entries[round_], run.dossiers[round_]
        forced = {entry.number: entry.commitment for entry in entries[len(dossier.listed.body.entries) :]}
        for message in dossier.commitments[len(dossier.listed.body.entries) :]:
            if forced.get(message.body.number) != message.id:
                raise ProofRejected(
                    f"the folder holds a commitment of number {message.body.number} in round {round_} that was "
                    "neither listed nor forced in"
                )
        for unit in run.records[round_].body.units:
            count += unit.number in forced
            where, commitment = f"number {unit.number} in round {round_}", run.commitment(round_, unit.number)
            if unit.counts and commitment is None:
                raise ProofInconclusive(f"the commitment of {where}, which was forced in, is missing")
            if unit.counts:
                continue
            if unit.number not in forced:
                raise ProofRejected(f"{where} was listed, and the record says that it does not count")
            if unit.merged or unit.symbols is not None or unit.blob is not None:
                raise ProofRejected(f"{where} does not count, and yet the record shows an update of it")
            if commitment is not None and not commitment_fault(run, round_, commitment):
                named.append(where)
    late = f"; valid, and not told in time by the record's word: {', '.join(named)}" if named else ""
    return count, f"units forced in beside the lists{late}"


def check_sampling(run: PublicRun) -> Found:
    """Every unit is drawn as often as the schedule says for what its number did before."""
    standings: Mapping[int, Standing] = {}
    count = 0
    for round_, record in enumerate(run.records):
        standings = doubt(run.manifest, standings, record.body.judged)
        for unit in record.body.units if round_ in run.scope else ():
            said, true = Standing(unit.earlier, unit.suspect), standings.get(unit.number, NEWCOMER)
            if said != true:
                raise ProofRejected(
                    f"number {unit.number} in round {round_}: the record says {_words(said)}, it has {_words(true)}"
                )
            count += 1
        standings = count_listed(
            run.manifest, standings, (unit.number for unit in run.standing[round_].units)
        )
    return count, "units with the chance to be drawn that their history gives"


def _words(standing: Standing) -> str:
    return f"{standing.earlier} units before and {standing.suspect} under suspicion"
