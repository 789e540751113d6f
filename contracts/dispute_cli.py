"""`murmur dispute`: accuse, contest, dispute a reward root, appeal, and prove that somebody said two things.

The commands that show and move cases are in `contracts.case_cli`.
"""

from pathlib import Path
from typing import Annotated

import typer

from contracts.case_cli import Case, Run, dispute_app
from contracts.hearing import (
    account_of,
    at_risk,
    check_unit,
    dates,
    find_case,
    follow,
    jury_blocks,
    pay_caveat,
    show_opened,
)
from contracts.purse import Purse, with_purse
from contracts.terminal import (
    check_balance,
    format_amount,
    mined,
)
from protocol.errors import LedgerError, UsageError

__all__ = ["dispute_app"]

Round = Annotated[int, typer.Option("--round", min=0, max=1_000_000, help="Round of the unit.")]
Number = Annotated[
    int, typer.Option("--number", min=1, max=2**53 - 1, help="Registration number of the unit's owner.")
]
Segment = Annotated[
    int, typer.Option("--segment", min=0, max=1000, help="Segment of the unit to be judged, from 0.")
]
Finder = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Who is paid if a fault is proven; default: the wallet itself."),
]


@dispute_app.command()
@with_purse
def accuse(
    purse: Purse,
    run: Run,
    round_: Round,
    number: Number,
    segment: Segment,
    finder: Finder = None,
) -> None:
    """Accuse a segment of somebody's unit before the jury. Anybody may, with a bond."""
    from contracts.docket import FINDER_BPS
    from contracts.jury_plan import accuse_steps
    from contracts.types import CaseKind

    found, wallet = purse.ledger, purse.wallet
    paid = account_of(finder, wallet)
    if found.number_of(wallet) == number:
        raise UsageError(
            f"number {number} is this wallet's own", hint="`murmur dispute contest` is for your own units"
        )
    chain, last = check_unit(found, wallet, run, round_, number, segment, CaseKind.ACCUSATION)
    terms = found.jury.terms
    plan = [
        f"accuse segment {segment} of the unit of number {number} of round {round_}; "
        f"{at_risk(found, chain, round_, number)}",
        f"put up {format_amount(terms.case_bond)} tokens: back if the segment is proven false or cannot be fetched, or "
        f"if the jury does not agree; less {format_amount(terms.fee)} a juror if it is void; if it is right, those "
        f"fees and then the rest go to number {number}",
        f"of what a fault costs, {FINDER_BPS // 100} % go to {paid}",
        *dates(found, last),
        *pay_caveat(purse.directory, chain, run, round_, segment, contest=False),
    ]
    sender = purse.confirm(plan, accuse_steps(found, wallet, run, round_, number, segment, paid))
    opened = found.jury.accuse(sender, run, round_, number, segment, paid)
    facts = {"kind": "accusation", "round": round_, "number": number, "segment": segment, "finder": paid}
    show_opened(found, opened, facts, purse.as_json)


@dispute_app.command()
@with_purse
def contest(
    purse: Purse,
    run: Run,
    round_: Round,
    segment: Segment,
) -> None:
    """Contest what was said of a segment of your own unit. The wallet that registered it, with a bond."""
    from contracts.jury_plan import contest_steps
    from contracts.types import CaseKind

    found, wallet = purse.ledger, purse.wallet
    number = found.number_of(wallet)
    if number is None:
        raise LedgerError(
            f"wallet {wallet} is not registered and has no units",
            hint="a contest is the owner's; `murmur dispute accuse` is anybody's",
        )
    chain, last = check_unit(found, wallet, run, round_, number, segment, CaseKind.CONTEST)
    terms = found.jury.terms
    plan = [
        f"contest what was said of segment {segment} of your unit (number {number}) of round {round_}; "
        f"{at_risk(found, chain, round_, number)}",
        f"put up {format_amount(terms.case_bond)} tokens: back less {format_amount(terms.fee)} a juror if the segment "
        "is right, whole if the jury does not agree; if not, the jurors are paid of it and the rest goes to the run's "
        "pot",
        *dates(found, last),
        *pay_caveat(purse.directory, chain, run, round_, segment, contest=True),
    ]
    sender = purse.confirm(plan, contest_steps(found, wallet, run, round_, segment))
    opened = found.jury.contest(sender, run, round_, number, segment)
    facts = {"kind": "contest", "round": round_, "number": number, "segment": segment}
    show_opened(found, opened, facts, purse.as_json)


@dispute_app.command()
@with_purse
def rewards(
    purse: Purse,
    run: Run,
    ground: Annotated[
        str,
        typer.Option(help="root: it is not what the rules give; data: what it is made of cannot be fetched."),
    ],
) -> None:
    """Dispute the pending reward root of a run. Anybody may, with a bond, once a ground."""
    from contracts.chain import block_number
    from contracts.docket import FINDER_BPS, GROUNDS
    from contracts.jury_plan import dispute_steps
    from contracts.types import CaseKind

    names = {name: which for which, name in GROUNDS.items()}
    if ground not in names:
        raise UsageError(f"no ground {ground!r}", hint="--ground root or --ground data")
    found, wallet = purse.ledger, purse.wallet
    if found.run_info(run) is None:
        raise LedgerError(f"the ledger knows no run {run}", hint="check RUN and --ledger")
    pending = found.pending_rewards(run)
    if pending is None:
        raise LedgerError("no reward root of this run is pending", hint="one is proposed after every epoch")
    last, height = pending.final_at - 1, block_number(found.w3)
    if height >= last:
        raise LedgerError(f"this root could be disputed up to block {last}, and the chain is at {height}")
    taken = found.jury.case_of(run, pending.proposed_at, 0, names[ground], CaseKind.REWARDS)
    if taken is not None:
        raise LedgerError(
            f"this root has been disputed on this ground before: case {taken}",
            hint=f"`murmur dispute show {taken}`",
        )
    terms = found.jury.terms
    check_balance(found, wallet, terms.case_bond, "the bond is")
    plan = [
        f"dispute the reward root 0x{pending.root.hex()} of epoch {pending.epoch}, over "
        f"{format_amount(pending.total_wei)} tokens, on the ground {ground!r}; its proposer has "
        f"{format_amount(found.proposal_bond)} tokens at stake, of which {FINDER_BPS // 100} % are yours if it is "
        "cancelled",
        f"put up {format_amount(terms.case_bond)} tokens: back if the root is cancelled or the jury does not agree; if "
        "the root is right, the jurors are paid of it and the rest goes to the run's pot",
        *dates(found, last),
    ]
    sender = purse.confirm(plan, dispute_steps(found, wallet, run, names[ground]))
    opened = found.jury.dispute_rewards(sender, run, pending.proposed_at, names[ground])
    facts = {"kind": "rewards", "root": "0x" + pending.root.hex(), "epoch": pending.epoch, "ground": ground}
    show_opened(found, opened, facts, purse.as_json)


@dispute_app.command()
@with_purse
def appeal(
    purse: Purse,
    case: Case,
) -> None:
    """Call a second jury, three times as large, with three times the bond. Anybody may, once, after the ruling."""
    from contracts.docket import SECOND, at_stake, outcome_text
    from contracts.jury_plan import appeal_steps
    from contracts.types import CaseStage

    found, wallet = purse.ledger, purse.wallet
    chain, state, _ = find_case(found, case)
    if state.second:
        raise LedgerError(f"case {case} has had its second jury", hint=f"`murmur dispute show {case}`")
    if state.stage is not CaseStage.RULED:
        stage = state.stage_at(chain.height, found.jury.terms)[0].name.lower()
        raise LedgerError(
            f"case {case} is {stage}: only a ruling can be appealed", hint=f"`murmur dispute show {case}`"
        )
    last = state.last_block(chain.height, found.jury.terms)
    if last is not None and chain.height >= last:
        raise LedgerError(f"case {case} could be appealed up to block {last}, the chain is at {chain.height}")
    bond = SECOND * found.jury.terms.case_bond
    check_balance(found, wallet, bond, "the bond is")
    stake = at_stake(chain, state)
    plan = [
        f"call a second jury of {SECOND * found.jury.terms.seats} seats for case {case}, which the first ruled "
        f"{outcome_text(state.kind, state.outcome)!r}; {format_amount(stake)} tokens at stake",
        f"put up {format_amount(bond)} tokens: back if the second jury says otherwise, or does not come together; else "
        "they go to the unit's owner who was accused for nothing, or to the run's pot",
        f"until block {last}; a second jury takes at most {jury_blocks(found)} blocks",
    ]
    sender = purse.confirm(plan, appeal_steps(found, wallet, case))
    receipt = found.jury.appeal(sender, case)
    purse.show(mined(receipt, case=case, bond_wei=str(bond)))


@dispute_app.command()
@with_purse
def equivocation(
    purse: Purse,
    run: Run,
    round_: Round,
    a: Annotated[Path, typer.Option("--a", help="File with one signed message, in wire form.")],
    b: Annotated[Path, typer.Option("--b", help="File with the other.")],
    record: Annotated[
        bool, typer.Option("--record", help="They are a coordinator's records; else commitments.")
    ] = False,
    finder: Finder = None,
) -> None:
    """Prove that one key signed two different commitments, or records, for one round. No jury, no bond."""
    from contracts.docket import BPS, FINDER_BPS
    from contracts.equivocation import contradiction, cost_of, read_message
    from contracts.jury_plan import equivocation_steps

    found, wallet = purse.ledger, purse.wallet
    paid = account_of(finder, wallet)
    proof = contradiction(
        read_message(a),
        read_message(b),
        chain_id=found.chain_id,
        ledger=found.address,
        run=run,
        round_=round_,
    )
    if proof.record != record:
        kind = "records" if proof.record else "commitments"
        raise UsageError(f"they are {kind}", hint="add --record" if proof.record else "leave --record out")
    who, cost = cost_of(follow(found, run), proof.signer, round_, record=record)
    plan = [
        f"prove that {who} signed two {'records' if record else 'commitments'} for round {round_}: it loses "
        f"{format_amount(cost)} tokens",
        f"{FINDER_BPS // 100} % of that, {format_amount(cost * FINDER_BPS // BPS)} tokens, go to {paid}; the rest is "
        "burned",
    ]
    steps = equivocation_steps(found, run, round_, proof.a, proof.b, paid, record=record)
    sender = purse.confirm(plan, steps)
    receipt = found.jury.prove_equivocation(sender, run, round_, proof.a, proof.b, paid, record=record)
    purse.show(mined(receipt, signer=proof.signer, lost_wei=str(cost), finder=paid))
