"""A run whose first list leaves number 2 out, who forces its commitment in: told honestly, and with lies."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import Signed, sign
from tests.verification.test_audit import Forge, failed, undecided
from tests.verification.testbed import Testbed, key, tiny_manifest
from verification.anchor import ChainAnchor, RootAnchor
from verification.archive import Archive
from verification.blobs import find_blob
from verification.bundle import export_bundle, load_bundle
from verification.explain import explain
from verification.facts import chain_facts
from verification.gather import public_run
from verification.proof import decide, verify_bundle
from verification.report import Check
from verification.why import explain_pay

OUT = 2  # whom the list of round 0 leaves out


@pytest.fixture(scope="module")
def censored(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    directory = tmp_path_factory.mktemp("censored")
    found = Testbed(directory, tiny_manifest(corpus, directory / "data", rounds=2))
    found.left_out[0] = {OUT}
    found.play_run()
    return found


@pytest.fixture
def forge(censored: Testbed, tmp_path: Path) -> Forge:
    shutil.copytree(censored.archive.root, tmp_path / "public")
    return Forge(censored, Archive(tmp_path / "public"), copy.deepcopy(censored.chain))


def check(forge: Forge, name: str) -> Check:
    return next(one for one in forge.audit().checks if one.name == name)


def ignore(forge: Forge, number: int = OUT, **more: Any) -> None:
    """Let the record of round 0 say that a unit does not count."""
    nothing = {"counts": False, "merged": False, "reason": "late: not told", "symbols": None, "blob": None}
    units = [unit.model_copy(update=nothing) if unit.number == number else unit for unit in forge.units(0)]
    forge.record(0, units=tuple(units), **more)


def without(forge: Forge, number: int) -> None:
    """Let nobody hold what a number said in round 0."""
    dossier = forge.round(0)

    def kept(messages: tuple[Signed[Any], ...]) -> tuple[Signed[Any], ...]:
        return tuple(one for one in messages if one.body.number != number)

    names = ("commitments", "reveals", "openings", "verdicts", "seals")
    forge.archive.write_round(
        dataclasses.replace(dossier, **{one: kept(getattr(dossier, one)) for one in names})
    )


def test_who_was_left_out_and_forced_itself_in_is_merged_drawn_and_paid(
    forge: Forge, censored: Testbed
) -> None:
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert [one for one in report.checks if not one.ok] == []
    assert check(forge, "forced inclusion").detail == "1 units forced in beside the lists"
    assert [unit.number for unit in forge.units(0)] == [1, 3, OUT]
    assert {one.body.number for one in forge.round(0).verdicts} == {1, 2, 3}, "everybody is drawn"
    pay = {entry.account: entry.cumulative_wei for entry in censored.settlement.rewards[-1].body.entries}
    operator = censored.chain.operator(OUT)
    assert operator is not None
    assert pay[operator.wallet] == 2 * censored.manifest.pay.unit_wei
    told = public(censored)
    assert explain_pay(told, 0, OUT).facts["forced"]
    lines = dict(explain_pay(told, 0, OUT).lines)
    assert "was forced in on chain, beside the list" in lines["committed"]
    assert not explain_pay(told, 0, 1).facts["forced"]


def public(bed: Testbed) -> Any:
    """Return the run as anybody gathers it from the messages of peers."""
    messages = [one.wire for dossier in bed.dossiers.values() for one in dossier.messages()]
    messages += [one.wire for one in bed.settlement.messages()]
    find = find_blob([bed.archive.blobs, bed.states.root])
    return public_run(bed.manifest, bed.chain, messages, find, bed.archive.beacons)


def test_what_peers_hold_gives_the_same_file_of_the_round(censored: Testbed) -> None:
    gathered, written = public(censored).dossiers[0], censored.dossiers[0]
    assert [one.id for one in gathered.commitments] == [one.id for one in written.commitments]
    assert gathered.record == written.record


def no_unit(forge: Forge) -> None:
    forge.record(0, units=tuple(unit for unit in forge.units(0) if unit.number != OUT))


def before_the_listed(forge: Forge) -> None:
    forge.record(0, units=tuple(sorted(forge.units(0), key=lambda unit: unit.number)))


def another_commitment(forge: Forge) -> None:
    forge.chain.forcings[0] = {OUT: "ab" * 32}


def nobody_forced(forge: Forge) -> None:
    forge.chain.forcings.clear()


def in_spite_of_witnesses(forge: Forge) -> None:
    ignore(forge)


def listed_and_ignored(forge: Forge) -> None:
    ignore(forge, number=1)


def shown_and_ignored(forge: Forge) -> None:
    units = [unit.model_copy(update={"counts": unit.number != OUT}) for unit in forge.units(0)]
    forge.record(0, units=tuple(units))


def breaks_a_rule(forge: Forge) -> None:
    dossier = forge.round(0)
    (first, last) = dossier.commitments[:-1], dossier.commitments[-1]
    body = last.body.model_copy(update={"assignment": "ab" * 32})
    other = sign(key(OUT), forge.bed.manifest, 0, "contributor", body)
    forge.chain.forcings[0] = {OUT: other.id}
    forge.archive.write_round(dataclasses.replace(dossier, commitments=(*first, other)))
    renamed = {"commitment": other.id}
    units = [unit.model_copy(update=renamed) if unit.number == OUT else unit for unit in forge.units(0)]
    forge.record(0, units=tuple(units))


LIES: tuple[tuple[Callable[[Forge], None], str, str], ...] = (
    (
        no_unit,
        "record hashes",
        "number 2 forced its commitment into round 0, and the record has no unit of it",
    ),
    (before_the_listed, "record hashes", "in another order"),
    (another_commitment, "record hashes", "the record has no unit of it"),
    (nobody_forced, "record hashes", "holds other units than were listed and forced in"),
    (nobody_forced, "forced inclusion", "neither listed nor forced in"),
    (in_spite_of_witnesses, "witnesses", "and yet it was left out: late: not told"),
    (listed_and_ignored, "forced inclusion", "number 1 in round 0 was listed"),
    (shown_and_ignored, "forced inclusion", "and yet the record shows an update of it"),
    (breaks_a_rule, "assignments", "commitment to other batches than the assigned ones"),
)


@pytest.mark.parametrize(("lie", "rule", "says"), LIES, ids=lambda one: getattr(one, "__name__", None))
def test_a_coordinator_that_passes_over_what_was_forced_in_is_named(
    forge: Forge, lie: Callable[[Forge], None], rule: str, says: str
) -> None:
    lie(forge)
    found = check(forge, rule)
    assert found.result == "rejected"
    assert says in found.detail


def test_a_valid_commitment_that_the_record_calls_untold_is_named_and_blames_nobody(forge: Forge) -> None:
    ignore(forge, receipts=())
    found = check(forge, "forced inclusion")
    assert found.result == "ok", found.detail
    assert found.detail.endswith("valid, and not told in time by the record's word: number 2 in round 0")
    assert "witnesses" not in failed(forge.audit())


def test_a_commitment_that_nobody_tells_need_not_be_there_and_one_that_counts_must(forge: Forge) -> None:
    without(forge, OUT)
    assert "forced inclusion" in undecided(forge.audit())
    ignore(forge, receipts=())
    found = check(forge, "forced inclusion")
    assert (found.result, found.detail) == ("ok", "1 units forced in beside the lists")


def test_a_commitment_that_breaks_a_rule_is_rightly_ignored(forge: Forge) -> None:
    breaks_a_rule(forge)
    ignore(forge)
    broken = failed(forge.audit(only=range(1)))  # what it committed next carried on from this unit
    assert not broken & {"forced inclusion", "witnesses", "assignments", "record hashes"}
    assert check(forge, "forced inclusion").detail == "1 units forced in beside the lists"


def test_a_bundle_shows_why_a_forced_unit_counts(censored: Testbed, tmp_path: Path) -> None:
    facts = chain_facts(censored.chain, censored.manifest)
    anchor = ChainAnchor(facts, "the simulated chain")
    find = find_blob([censored.archive.blobs, censored.states.root])
    for round_ in (0, 1):
        out = tmp_path / f"{round_}.murmur"
        export_bundle(censored.archive, facts, find, round_, OUT, out)
        report = verify_bundle(out, anchor, data=None, replay=False)
        assert [one.name for one in report.checks if not one.ok] == ["replay"]
    bundle = load_bundle(tmp_path / "0.murmur")
    assert bundle.forced
    assert bundle.proof == ()
    named = verify_bundle(tmp_path / "0.murmur", RootAnchor(bundle.facts.commitments_root), replay=False)
    assert (named.checks[0].name, named.checks[0].result) == ("anchor", "inconclusive")
    told = explain(bundle, verify_bundle(tmp_path / "0.murmur", anchor, replay=False))
    assert "put it on chain itself" in str(told)
    unforced = dataclasses.replace(bundle, facts=bundle.facts.model_copy(update={"forced": ()}))
    denied = decide(unforced, None, replay=False)
    assert next(one for one in denied.checks if one.name == "commitment root").result == "rejected"
    later = load_bundle(tmp_path / "1.murmur")
    assert not later.forced
    assert later.previous_commitment is not None
    lost = dataclasses.replace(later, facts=later.facts.model_copy(update={"previous_forced": ()}))
    denied = decide(lost, None, replay=False)
    assert next(one for one in denied.checks if one.name == "record").result == "rejected"
    silent = dataclasses.replace(later, previous_commitment=None)
    denied = decide(silent, None, replay=False)
    assert next(one for one in denied.checks if one.name == "record").result == "rejected"
