"""Chains on which cases, rulings and slashes do not fit what was said."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from contracts.jury import vote_digest
from contracts.types import CaseOutcome

if TYPE_CHECKING:
    from tests.verification.test_audit import Forge


def judged_late_case(forge: Forge) -> None:
    case, state = next(
        (case, one) for case, one in forge.chain.opened.items() if one.outcome == CaseOutcome.RIGHT
    )
    forge.chain.opened[case] = dataclasses.replace(state, block=forge.chain.anchors[1] + 6)


def ruled_against_the_votes(forge: Forge) -> None:
    case, state = next(
        (case, one) for case, one in forge.chain.opened.items() if one.outcome == CaseOutcome.RIGHT
    )
    vote = vote_digest(CaseOutcome.VOID, bytes(32))
    forge.chain.opened[case] = dataclasses.replace(state, outcome=CaseOutcome.VOID, vote=vote)


def ruled_by_a_minority(forge: Forge) -> None:
    case, state = next(
        (case, one) for case, one in forge.chain.opened.items() if one.outcome == CaseOutcome.RIGHT
    )
    first, *others = state.seats
    silent = tuple(dataclasses.replace(one, outcome=0) for one in others)
    forge.chain.opened[case] = dataclasses.replace(state, juries=((first, *silent), ()))


def guilty(forge: Forge) -> int:
    return next(case for case, one in forge.chain.opened.items() if one.outcome == CaseOutcome.FALSE)


def slashed_without_a_ruling(forge: Forge) -> None:
    del forge.chain.opened[guilty(forge)]


def spared_the_cheat(forge: Forge) -> None:
    slashed_without_a_ruling(forge)
    forge.chain.slashings.clear()
