"""What a record leaves the coordinator no choice in: who came in time, and how often each is drawn."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.messages import Receipt, sign
from protocol.preferences import listed
from tests.protocol.makers import preference
from tests.verification.test_audit import Forge, failed
from tests.verification.testbed import Testbed, key
from verification.archive import Archive


@pytest.fixture
def forge(played: Testbed, folder: Path) -> Forge:
    return Forge(played, Archive(folder), copy.deepcopy(played.chain))


LATE = {"merged": False, "reason": "late: not revealed in time", "symbols": None, "blob": None}


def dropped_witnessed(forge: Forge) -> None:
    forge.record(1, units=(forge.units(1)[0].model_copy(update=LATE), *forge.units(1)[1:]))


def dropped_and_hidden(forge: Forge) -> None:
    # Without its reveal nothing but the receipts says that it came.
    dropped_witnessed(forge)
    dossier = forge.round(1)
    forge.archive.write_round(dataclasses.replace(dossier, reveals=dossier.reveals[1:]))


def witness_again(forge: Forge, change: Callable[[Receipt], Receipt]) -> None:
    """Let every witness of round 1 have signed something else, which the record names."""
    dossier = forge.round(1)
    changed = [change(one.body) for one in dossier.receipts]
    receipts = tuple(sign(key(one.number), forge.bed.manifest, 1, "contributor", one) for one in changed)
    forge.archive.write_round(dataclasses.replace(dossier, receipts=receipts))
    forge.record(1, receipts=tuple(one.id for one in receipts))


def merged_what_nobody_received(forge: Forge) -> None:
    witness_again(forge, lambda one: one.model_copy(update={"entries": one.entries[1:]}))


def merged_what_only_its_owner_received(forge: Forge) -> None:
    def change(one: Receipt) -> Receipt:
        return one if one.number == 1 else one.model_copy(update={"entries": one.entries[1:]})

    witness_again(forge, change)


def receipt_by_no_witness(forge: Forge) -> None:
    witness_again(forge, lambda one: one if one.number != 1 else one.model_copy(update={"number": 4}))


def receipt_of_the_unlisted(forge: Forge) -> None:
    def change(one: Receipt) -> Receipt:
        entry = one.entries[-1].model_copy(update={"number": 9})
        return one.model_copy(update={"entries": (*one.entries, entry)})

    witness_again(forge, change)


def invented_unit(forge: Forge) -> None:
    last = forge.units(1)[-1]
    forge.record(1, units=(*forge.units(1), last.model_copy(update={"number": last.number + 1})))


def shown_for_another(forge: Forge) -> None:
    # Symbols that somebody else will reveal would make its unit a copy.
    later = forge.units(2)[0].symbols
    unit = forge.units(0)[2].model_copy(update={**LATE, "symbols": later})
    forge.record(0, units=(*forge.units(0)[:2], unit))


def bytes_of_another(forge: Forge) -> None:
    units = forge.units(1)
    units[0] = units[0].model_copy(update={"blob": units[1].blob})
    forge.record(1, units=tuple(units))


def forgotten_suspicion(forge: Forge) -> None:
    units = [one.model_copy(update={"suspect": 0}) for one in forge.units(1)]
    assert units != forge.units(1)
    forge.record(1, units=tuple(units))


def older_than_it_is(forge: Forge) -> None:
    units = [one.model_copy(update={"earlier": 20}) if one.number == 3 else one for one in forge.units(2)]
    forge.record(2, units=tuple(units))


def said_where_nobody_is_asked(forge: Forge) -> None:
    forge.record(1, preferences=(listed(preference(forge.bed.manifest, 0, 0, 1)),))


LIES: list[tuple[Callable[[Forge], None], set[str]]] = [
    (dropped_witnessed, {"witnesses", "aggregation"}),
    (dropped_and_hidden, {"witnesses", "aggregation"}),
    (merged_what_nobody_received, {"witnesses"}),
    (merged_what_only_its_owner_received, {"witnesses"}),
    (receipt_by_no_witness, {"authors", "witnesses"}),
    (receipt_of_the_unlisted, {"witnesses"}),
    (invented_unit, {"record hashes"}),
    (shown_for_another, {"merging"}),
    (bytes_of_another, {"merging"}),
    (forgotten_suspicion, {"sampling"}),
    (older_than_it_is, {"sampling"}),
    (said_where_nobody_is_asked, {"preferences"}),
]


@pytest.mark.parametrize(("lie", "checks"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_caught_by_name(forge: Forge, lie: Callable[[Forge], None], checks: set[str]) -> None:
    lie(forge)
    report = forge.audit()
    assert report.exit_code == 6
    assert checks <= failed(report), report.checks


def test_only_receipts_tell_of_a_unit_that_was_dropped_with_its_reveal(forge: Forge) -> None:
    dropped_and_hidden(forge)
    report = forge.audit()
    assert "merging" not in failed(report)
    (found,) = (check for check in report.checks if check.name == "witnesses")
    assert found.detail.startswith("number 1 in round 1: named by 2 of 2 receipts, and yet it was left out")


def test_what_the_coordinators_word_decided_is_counted(forge: Forge) -> None:
    forge.record(1, receipts=())
    (found,) = (check for check in forge.audit().checks if check.name == "witnesses")
    assert found.ok
    assert (found.count, found.detail.endswith("the coordinator's word decided: 1")) == (3 + 2, True)


def test_a_late_unit_that_a_minority_received_is_rightly_left_out(forge: Forge) -> None:
    def change(one: Receipt) -> Receipt:
        return one if one.number == 2 else one.model_copy(update={"entries": one.entries[1:]})

    witness_again(forge, change)
    unit = forge.units(1)[0]
    left_out = unit.model_copy(update={"merged": False, "reason": "late: named by 1 of 2 receipts"})
    forge.record(1, units=(left_out, *forge.units(1)[1:]))
    assert {"witnesses", "merging"}.isdisjoint(failed(forge.audit()))


def test_a_receipt_that_is_missing_is_named_and_blames_nobody(forge: Forge) -> None:
    dossier = forge.round(1)
    forge.archive.write_round(dataclasses.replace(dossier, receipts=dossier.receipts[1:]))
    (found,) = (check for check in forge.audit().checks if check.name == "witnesses")
    assert found.result == "inconclusive"
    assert dossier.receipts[0].id in found.detail
