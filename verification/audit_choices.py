"""The audit of what a record leaves the coordinator no choice in: who came in time, and how often each is drawn."""

from collections.abc import Mapping

from protocol.errors import Malformed, ProofInconclusive, ProofRejected
from protocol.messages import Reveal
from verification.audit_rounds import Found
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
    listed = [entry.number for entry in dossier.listed.body.entries]
    receipts = {}
    for one in named:
        body = found[one].body
        try:
            check_receipt(body, drawn, listed)
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
            if wanted and not copied and not unit.merged:
                raise ProofRejected(f"{where}, and yet it was left out: {unit.reason}")
        if unit.symbols is not None:
            shown.setdefault(unit.symbols, (round_, unit.number))
    return decided


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
