"""Why a peer was paid what it was paid for a round, line by line, from public data that the chain confirms.

Nothing is taken from the coordinator's word: what it published is compared with the chain first (`checks`), and the
pay is computed again from records, draws and verdicts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.chain import Operator
from protocol.errors import ConfigError, Malformed, ProofInconclusive, ProofRejected
from protocol.merkle import reward_tree
from protocol.messages import UnitRecord
from verification import audit_beacons, audit_choices, audit_rounds, audit_verdicts
from verification.assigned import assigned_work, weighed_rewards
from verification.audit_money import earnings, reward_tables, settled_epochs
from verification.audit_rounds import Found
from verification.duty import UnitKey
from verification.judge import OUTCOME_NAMES
from verification.pay import EpochPay, RoundPay, Vesting, epoch_pay, in_state, vesting
from verification.public import PublicRun
from verification.report import Check, exit_code

DECIMALS = 18

_CHECKS: tuple[tuple[str, Callable[[PublicRun], Found]], ...] = (
    ("run id", audit_rounds.check_run),
    ("authors", audit_rounds.check_authors),
    ("commitment roots", audit_rounds.check_roots),
    ("record hashes", audit_rounds.check_records),
    ("rosters", audit_rounds.check_rosters),
    ("forced inclusion", audit_choices.check_forced),
    ("beacons", audit_beacons.check_beacons),
    ("assignments", audit_rounds.check_assignments),
    ("witnesses", audit_choices.check_witnesses),
    ("sampling", audit_choices.check_sampling),
    ("draws", audit_verdicts.check_draws),
    ("verdicts", audit_verdicts.check_verdicts),
    ("outcomes", audit_verdicts.check_outcomes),
)


@dataclass
class Why:
    """The answer: lines for a person, the same as plain data, and what was compared with the chain."""

    run: str
    round: int
    number: int
    lines: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 6 if published data contradict the chain, 7 if they cannot be compared, else 0."""
        return exit_code(self.checks)

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain JSON data."""
        return {
            "run": self.run,
            "round": self.round,
            "number": self.number,
            **self.facts,
            "lines": [{"name": name, "text": text} for name, text in self.lines],
            "checks": [check.to_json() for check in self.checks],
        }

    def say(self, name: str, text: str, **facts: Any) -> None:
        """Add a line, and the facts in it."""
        self.lines.append((name, text))
        self.facts |= facts


def explain_pay(run: PublicRun, round_: int, number: int) -> Why:
    """Say what became of a peer's work of a round, and what it was paid for it.

    Raises:
        ConfigError: the run has no such round, or the chain no such number.
        ProofInconclusive: the round is not on chain yet.
        ProofRejected, Malformed: what is published is none of the run's.
    """
    operator = run.chain.operator(number)
    if operator is None:
        raise ConfigError(f"number {number} is not registered", hint="check --peer")
    if round_ >= run.manifest.rounds:
        raise ConfigError(f"the run has rounds 0 to {run.manifest.rounds - 1}", hint="check --round")
    if round_ not in run.rounds:
        raise ProofInconclusive(
            f"the record of round {round_} is not on chain yet", hint="try again when the round is over"
        )
    why = Why(run.run, round_, number)
    why.say("who", f"number {number}, {operator.role}, wallet {operator.wallet}")
    why.facts |= {"wallet": operator.wallet, "role": operator.role}
    if operator.role == "contributor":
        _tell_unit(why, run, round_, number)
    else:
        _tell_verdicts(why, run, round_, number)
    _tell_pay(why, run, operator)
    only = replace(run, only=range(round_, round_ + 1))
    why.checks = tuple(_made(name, check, only) for name, check in _CHECKS)
    return why


def _made(name: str, check: Callable[[PublicRun], Found], run: PublicRun) -> Check:
    rule = (check.__doc__ or "").partition("\n")[0]
    try:
        count, detail = check(run)
    except (ProofRejected, Malformed) as error:
        return Check(name, "rejected", error.message, 0, rule)
    except (ProofInconclusive, ConfigError) as error:
        return Check(name, "inconclusive", error.message, 0, rule)
    return Check(name, "ok", f"{count} {detail}", count, rule)


def _tell_unit(why: Why, run: PublicRun, round_: int, number: int) -> None:
    manifest, chain, dossier = run.manifest, run.chain, run.dossiers[round_]
    on_roster = number in {one.number for one in chain.roster(round_)}
    begun, commitment = chain.anchor(round_ - 1), run.commitment(round_, number)
    if on_roster:
        own = manifest if commitment is None else manifest.at(commitment.body.tier)
        text = f"{assigned_work(own)}, drawn by the beacon after block {begun}"
    else:
        text = f"nothing: not staked and on the roster at block {begun}"
    why.say("assigned", text, assigned=on_roster, roster_block=begun)
    for line in weighed_rewards(manifest) if on_roster else ():
        why.say("reward", line)
    posted = chain.commitments(round_)
    forced = _was_forced(run, round_, number)
    why.facts["forced"] = forced
    if forced and number in run.ignored(round_):
        unit = next(one for one in run.records[round_].body.units if one.number == number)
        why.say("committed", f"forced in on chain, and does not count: {unit.reason}", committed=None)
        return
    if commitment is None:
        why.say("committed", "nothing that the list on chain names, or that was forced in", committed=None)
        return
    block = None if posted is None else posted.block
    place = f"is in the list whose root is in block {block}"
    if forced:
        place = f"was forced in on chain, beside the list whose root is in block {block}"
    why.say("committed", f"{commitment.id} {place}", committed=commitment.id)
    why.facts["commitments_block"] = block
    reveal = run.reveals(round_).get(number)
    if reveal is None:
        why.say("revealed", "no update that opens the commitment", revealed=None)
    else:
        why.say("revealed", f"update {reveal.symbols}, {reveal.blob_bytes} bytes", revealed=reveal.symbols)
    named = sum(any(one.number == number for one in receipt.body.entries) for receipt in dossier.receipts)
    record = next(one for one in run.standing[round_].units if one.number == number)
    receipts = f"{named} of {len(dossier.receipts)} witnesses signed that they had it in time"
    why.say("received", f"{receipts}; {_timely(run, round_, record)}", receipts=named)
    why.facts |= {
        "merged": record.merged,
        "weight": record.weight,
        "reason": record.reason,
        "late": record.reason.startswith("late"),
    }
    why.say(
        "recorded",
        f"{record.fate}; record in block {chain.anchor(round_)}",
        record_block=chain.anchor(round_),
    )
    _tell_draw(why, run, (round_, number))
    _tell_cases(why, run)


def _was_forced(run: PublicRun, round_: int, number: int) -> bool:
    """Tell whether a number's unit is in a round because its owner forced it in."""
    listed = len(run.dossiers[round_].listed.body.entries)
    return any(entry.number == number for entry in run.entries[round_][listed:])


def _timely(run: PublicRun, round_: int, record: UnitRecord) -> str:
    if run.is_void(round_):
        return "the record itself came too late, which voids the round"
    return "late" if record.reason.startswith("late") else "not late"


def _tell_draw(why: Why, run: PublicRun, key: UnitKey) -> None:
    draw, judgement = run.draws.get(key), run.declared.get((*key, 0))
    why.facts["cases"] = []
    if draw is None:
        known = run.chain.sampling_beacon(why.round) is not None
        why.say("sampled", "not drawn" if known else "the beacon that draws is not there yet")
        why.facts["sampled"] = False if known else None
        return
    why.facts["sampled"] = True
    why.say("sampled", f"segment {draw.segment}, by the beacon after block {run.chain.anchor(why.round)}")
    said = run.verdict_bodies(key)
    for judge, verdict in sorted(said.items()):
        reason = f": {verdict.reason}" if verdict.reason else f", distance {verdict.distance:.3g}"
        why.say("verdict", f"verifier {judge}: {OUTCOME_NAMES[verdict.outcome]}{reason}")
    outcome = "undecided" if judgement is None else judgement.outcome
    why.say("outcome", outcome)
    verdicts = {str(judge): OUTCOME_NAMES[one.outcome] for judge, one in said.items()}
    why.facts["cases"].append({"case": 0, "segment": draw.segment, "outcome": outcome, "verdicts": verdicts})


def _tell_cases(why: Why, run: PublicRun) -> None:
    for case in run.chain.cases(why.round):
        if case.number != why.number:
            continue
        counts = (why.round, *case.label) in run.cases
        ruled = "is before the jury" if case.outcome is None else f"the jury ruled {case.outcome}"
        late = "" if counts else "; opened too late to change pay"
        kind = "contest" if case.contests else "accusation"
        why.say("case", f"{case.case}, {kind} of segment {case.segment} in block {case.block}: {ruled}{late}")
        why.facts["cases"].append(
            {"case": case.case, "segment": case.segment, "outcome": case.outcome, "counts": counts}
        )


def _tell_verdicts(why: Why, run: PublicRun, round_: int, number: int) -> None:
    keys = [key for key, draw in sorted(run.draws.items()) if key[0] == round_ and number in draw.verifiers]
    mine = [key for key in keys if number in run.verdicts.get(key, {})]
    why.say("drawn", f"ranked for {_count(len(keys), 'unit')}, and judged {len(mine)}", judged=len(mine))
    why.facts["cases"] = []
    for key in mine:
        judgement, verdict = run.declared.get((*key, 0)), run.verdicts[key][number].body
        state = "undecided"
        if judgement is not None:
            ruling = run.ruling(key)
            state = "right, and paid" if number in ruling.right else "not needed, and not paid"
            state = "wrong, and fined" if number in ruling.wrong else state
            state = "moot: no majority agreed" if number in ruling.moot else state
        said = OUTCOME_NAMES[verdict.outcome]
        why.say("verdict", f"unit of number {key[1]}: {said}; {state}")
        why.facts["cases"].append({"number": key[1], "case": 0, "verdict": said, "counts": state})


def _tell_pay(why: Why, run: PublicRun, operator: Operator) -> None:
    epoch = run.manifest.epoch_of(why.round)
    rounds = run.manifest.rounds_of(epoch)
    why.facts |= {
        "epoch": epoch,
        "round_wei": None,
        "epoch_wei": None,
        "root": None,
        "paid": None,
        "vesting": None,
    }
    settled = next((one for one in settled_epochs(run) if one.epoch == epoch), None)
    if settled is None:
        why.say("epoch", f"{epoch}, rounds {rounds[0]} to {rounds[-1]}: not all of its units are decided yet")
        return
    pay = epoch_pay(run.manifest, settled, why.number)
    mine = next(one for one in pay.rounds if one.round == why.round)
    amount = pay.round_wei(mine)
    terms, because = _terms(pay, (mine,)), _because(why, mine.reason)
    why.say("this round", f"{terms} = {tokens(amount)}{because}")
    why.facts["round_wei"] = str(amount)
    why.say(
        "epoch", f"{epoch}, rounds {rounds[0]} to {rounds[-1]}: {formula(pay)}", epoch_wei=str(pay.net_wei)
    )
    _tell_vesting(why, run, operator, epoch)


def _tell_vesting(why: Why, run: PublicRun, operator: Operator, epoch: int) -> None:
    """Say whether the epoch's pay is vested, unvested or forfeited, and what of all the peer's pay is."""
    found = vesting(run.manifest, earnings(run), operator.number)
    one = found[epoch]
    facts = {"state": one.state, "epoch": one.due, "forfeited_in": one.forfeited_in}
    why.say("vesting", vesting_text(run, one, operator.number), vesting=facts)
    vested, unvested, forfeited = (in_state(found, state) for state in ("vested", "unvested", "forfeited"))
    earned = sum(one.earned_wei for one in found)
    why.say(
        "in all",
        f"{tokens(earned)} earned in {_count(len(found), 'decided epoch')}: {tokens(vested)} vested, "
        f"{tokens(unvested)} unvested, {tokens(forfeited)} forfeited",
        earned_wei=str(earned),
        vested_wei=str(vested),
        unvested_wei=str(unvested),
        forfeited_wei=str(forfeited),
    )
    if one.state == "vested":
        tell_payment(why, run, operator, one.due)


def vesting_text(run: PublicRun, one: Vesting, number: int) -> str:
    """Say in words what became of an epoch's pay."""
    if one.forfeited_in is not None:
        faults = [
            str(settled.round)
            for epoch in settled_epochs(run)
            if epoch.epoch == one.forfeited_in
            for settled in epoch.rounds
            if settled.outcomes.get(number) == "false"
        ]
        if not faults:
            return f"forfeited in epoch {one.forfeited_in}: a jury found it at fault before this was vested"
        which = f"round{'s' if len(faults) > 1 else ''} {' and '.join(faults)}"
        return f"forfeited in epoch {one.forfeited_in}: a unit of {which} was proven false before this was vested"
    if one.state == "vested":
        return f"vested: in the reward table of epoch {one.due}"
    return f"unvested until the reward table of epoch {one.due}: a unit proven false before then forfeits it"


def _because(why: Why, reason: str) -> str:
    return f" ({reason})" if why.facts["role"] == "contributor" else ""


def _terms(pay: EpochPay, rounds: Sequence[RoundPay]) -> str:
    units = Counter(one.unit_wei for one in rounds if one.units)  # by what their tier earns
    right, wrong = sum(one.right for one in rounds), sum(one.wrong for one in rounds)
    shown = [f"{_count(units[wei], 'unit')} x {tokens(wei)}" for wei in sorted(units, reverse=True)]
    if right:
        shown.append(f"{_count(right, 'verdict')} x {tokens(pay.verdict_wei)}")
    if wrong:
        shown.append(f"(-{_count(wrong, 'wrong verdict')} x {tokens(pay.fine_wei)})")
    return " + ".join(shown) or "nothing"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def formula(pay: EpochPay) -> str:
    """Return an epoch's pay as a formula with its numbers."""
    terms = _terms(pay, pay.rounds)
    floor = ", not below 0" if pay.wrong and not pay.gross_wei else ""
    if not pay.lost_percent:
        return f"{terms} = {tokens(pay.net_wei)}{floor}"
    return f"({terms}) x {100 - pay.lost_percent} % = {tokens(pay.net_wei)}{floor}, because {pay.lost_why}"


def tokens(wei: int) -> str:
    """Return wei as tokens without trailing zeros."""
    sign, (whole, rest) = "-" if wei < 0 else "", divmod(abs(wei), 10**DECIMALS)
    return sign + f"{whole}.{rest:018d}".rstrip("0").rstrip(".")


def tell_payment(why: Why, run: PublicRun, operator: Operator, epoch: int) -> None:
    """Say which root carries what is vested up to an epoch, and which transaction paid it out.

    Raises:
        ProofRejected: the final root on chain is not that of the recomputed table.
    """
    tables, final = reward_tables(run), run.chain.finalized()
    upto = [one for one in sorted(tables) if one <= epoch]
    wallet = operator.wallet.lower()
    entries = tables[upto[-1]] if upto else ()
    cumulative = next((one.cumulative_wei for one in entries if one.account.lower() == wallet), 0)
    why.facts["cumulative_wei"] = str(cumulative)
    if not cumulative:
        why.say("settled", "nothing is owed to this wallet up to this table")
        return
    root, place = reward_tree(entries).root, len(upto) - 1  # the ledger counts epochs that have a root
    why.facts["root"] = root.hex()
    owed = f"{tokens(cumulative)} vested up to the table of epoch {upto[-1]}, root {root.hex()}"
    event = final.get(place)
    if event is None:
        why.say("settled", f"{owed}, which is not final on chain yet")
        return
    if event.root != root:
        raise ProofRejected(
            f"the final root of epoch {epoch} on chain is {event.root.hex()}; the records give {root.hex()}",
            hint="`murmur audit run` names what is wrong",
        )
    why.say("settled", f"{owed}, final in block {event.block}, transaction {event.tx}")
    why.facts |= {"final_block": event.block, "final_tx": event.tx}
    claims = [
        one for one in run.chain.claims() if one.account.lower() == wallet and one.cumulative >= cumulative
    ]
    if not claims:
        why.say("paid", "not claimed yet: `murmur rewards claim`")
        return
    paid = claims[0]
    why.say(
        "paid", f"transaction {paid.tx} in block {paid.block}, {tokens(paid.amount)} with what else was open"
    )
    why.facts["paid"] = {"tx": paid.tx, "block": paid.block, "amount_wei": str(paid.amount)}
