from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.events import Claimed
from contracts.types import CaseOutcome
from protocol.chain import PostedRoot
from protocol.errors import ConfigError
from protocol.keys import PeerKey
from protocol.merkle import commitments_root, reward_tree
from protocol.messages import (
    CommitmentEntry,
    CommitmentList,
    Judgement,
    Retraction,
    RewardTable,
    RoundRecord,
    Signed,
    sign,
)
from tests.verification.jury_lies import (
    judged_late_case,
    ruled_against_the_votes,
    ruled_by_a_minority,
    slashed_without_a_ruling,
    spared_the_cheat,
)
from tests.verification.lies import (
    change_verdict,
    hidden_verdict,
    ignored_verdict,
    judged_out_of_turn,
    other_fingerprint,
    slandered_verifier,
    unsealed_verdict,
    verdict_beside_its_distance,
    verdict_of_nothing,
)
from tests.verification.testbed import SimChain, Testbed, key, wallet
from training.corpus import Shard
from verification.archive import Archive, RoundDossier
from verification.audit import AuditReport, audit
from verification.blobs import find_blob


@dataclasses.dataclass
class Forge:
    """A copy of the played run, folder and chain, for a coordinator that lies."""

    bed: Testbed
    archive: Archive
    chain: SimChain

    def audit(self, **options: Any) -> AuditReport:
        find = find_blob([self.archive.blobs, self.bed.states.root])
        return audit(self.archive, self.chain, self.bed.run, find, **options)

    def round(self, round_: int) -> RoundDossier:
        found = self.archive.round(self.bed.manifest, round_)
        assert found is not None
        return found

    def record(self, round_: int, **changes: Any) -> None:
        """Sign and anchor another record."""
        dossier = self.round(round_)
        assert dossier.record is not None
        body = dossier.record.body.model_copy(update=changes)
        signed: Signed[RoundRecord] = sign(key(0), self.bed.manifest, round_, "coordinator", body)
        self.archive.write_round(dataclasses.replace(dossier, record=signed))
        self.chain.records[round_] = body.digest().hex()

    def units(self, round_: int) -> list[Any]:
        dossier = self.round(round_)
        assert dossier.record is not None
        return list(dossier.record.body.units)

    def settlement(self, **changes: Any) -> None:
        self.archive.write_settlement(dataclasses.replace(self.bed.settlement, **changes))


@pytest.fixture
def forge(played: Testbed, folder: Path) -> Forge:
    return Forge(played, Archive(folder), copy.deepcopy(played.chain))


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.checks if check.result == "rejected"}


def undecided(report: AuditReport) -> set[str]:
    """Return the checks that were neither kept nor broken, but for replays, which only some tests ask for."""
    return {check.name for check in report.checks if check.result == "inconclusive"} - {"replays"}


def test_an_honest_record_of_a_run_with_a_cheater_holds(forge: Forge) -> None:
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert [check for check in report.checks if not check.ok] == []
    assert (report.ok, report.exit_code, report.rounds) == (True, 0, 3)
    counts = {check.name: check.count for check in report.checks}
    assert counts["record hashes"] == 3
    assert counts["draws"] == 3 + 3 + 2  # it is slashed after round 1 has begun
    assert counts["verdicts"] == 2 * counts["draws"]
    assert counts["rulings"] == 2, "an accusation for nothing, and that of the cheat"
    assert counts["slashes"] == 1
    assert counts["replays"] == counts["draws"] + counts["rulings"]
    assert counts["claims"] == 1
    assert report.overhead == pytest.approx(16 * 0.1 / (8 * 0.5))
    told = report.to_json()
    assert json.loads(json.dumps(told))["ledger"] == forge.bed.manifest.ledger


def test_a_run_under_way_is_audited_as_far_as_it_is_anchored(forge: Forge) -> None:
    forge.chain.final = None
    del forge.chain.records[2], forge.chain.anchors[2], forge.chain.rewards[1]
    forge.chain.claimed.clear()
    forge.settlement(rewards=forge.bed.settlement.rewards[:0], finish=None)
    (forge.archive.root / "rounds" / "000002.json").unlink()
    forge.chain.rewards.clear()
    report = forge.audit(replay="first", shard=lambda: forge.bed.shard)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.rounds == 2


def other_manifest(forge: Forge) -> None:
    manifest = forge.bed.manifest.model_copy(update={"name": "other"})
    forge.archive.write_manifest(manifest)


def other_coordinator(forge: Forge) -> None:
    created = forge.chain.coordinator()
    assert created is not None
    forge.chain.coordinator = lambda: dataclasses.replace(created, coordinator_key=wallet(9))  # type: ignore[method-assign]


def other_key(forge: Forge) -> None:
    dossier = forge.round(0)
    reveal = dossier.reveals[0]
    forged = sign(PeerKey(b"\7" * 32), forge.bed.manifest, 0, "contributor", reveal.body)
    forge.archive.write_round(dataclasses.replace(dossier, reveals=(forged, *dossier.reveals[1:])))


def other_root(forge: Forge) -> None:
    posted = forge.chain.posted[1]
    forge.chain.posted[1] = PostedRoot("ab" * 32, posted.count, posted.block)


def dropped_unit(forge: Forge) -> None:
    dossier = forge.round(1)
    listed = sign(
        key(0),
        forge.bed.manifest,
        1,
        "coordinator",
        dossier.listed.body.model_copy(update={"entries": dossier.listed.body.entries[1:]}),
    )
    kept = {entry.number for entry in listed.body.entries}
    forge.archive.write_round(
        dataclasses.replace(
            dossier,
            listed=listed,
            commitments=dossier.commitments[1:],
            seals=tuple(one for one in dossier.seals if one.body.number in kept),
            reveals=tuple(one for one in dossier.reveals if one.body.number in kept),
            openings=tuple(one for one in dossier.openings if one.body.number in kept),
            verdicts=tuple(one for one in dossier.verdicts if one.body.number in kept),
        )
    )


def other_record_hash(forge: Forge) -> None:
    forge.chain.records[1] = "ab" * 32


def swapped_units(forge: Forge) -> None:
    forge.record(1, units=tuple(reversed(forge.units(1))))


def invented_update(forge: Forge) -> None:
    invented = forge.units(1)[0].model_copy(update={"number": 9, "commitment": "ab" * 32})
    forge.record(1, units=(*forge.units(1), invented))


def invented_peer(forge: Forge) -> None:
    # The list, its root on chain and the record agree about a unit of somebody who has no stake.
    dossier = forge.round(1)
    assert dossier.record is not None
    first = dossier.commitments[0]
    body = first.body.model_copy(update={"number": 9})
    commitment = sign(key(9), forge.bed.manifest, 1, "contributor", body)
    entries = (*dossier.listed.body.entries, CommitmentEntry(number=9, commitment=commitment.id))
    listed = sign(key(0), forge.bed.manifest, 1, "coordinator", CommitmentList(entries=entries))
    unit = forge.units(1)[0].model_copy(update={"number": 9, "commitment": commitment.id})
    forge.archive.write_round(
        dataclasses.replace(dossier, listed=listed, commitments=(*dossier.commitments, commitment))
    )
    posted = forge.chain.posted[1]
    forge.chain.posted[1] = PostedRoot(commitments_root(listed.body), len(entries), posted.block)
    forge.record(1, units=(*forge.units(1), unit))


def judged_undrawn(forge: Forge) -> None:
    record = forge.round(2).record
    assert record is not None
    forge.record(2, judged=(*record.body.judged, Judgement(round=1, number=9, segment=0, outcome="passed")))


def ignored_case(forge: Forge) -> None:
    record = forge.round(2).record
    assert record is not None
    forge.record(2, judged=tuple(one for one in record.body.judged if not one.case))


def without_stake(forge: Forge) -> None:
    forge.chain.out[3] = 5


def other_start(forge: Forge) -> None:
    forge.record(2, parameters=forge.round(1).record.body.parameters)  # type: ignore[union-attr]


def forgotten_void(forge: Forge) -> None:
    judged = tuple(
        Judgement(round=one.round, number=one.number, segment=one.segment, heard=one.heard, outcome="void")
        if one.number == 1
        else one
        for one in forge.round(1).record.body.judged  # type: ignore[union-attr]
    )
    forge.record(1, judged=judged)


def left_out(forge: Forge) -> None:
    units = forge.units(1)
    units[0] = units[0].model_copy(update={"merged": False, "reason": "we do not like it"})
    forge.record(1, units=tuple(units))


def left_out_unnamed(forge: Forge) -> None:
    units = forge.units(1)
    hidden = {"merged": False, "reason": "not revealed", "symbols": None, "blob": None}
    units[0] = units[0].model_copy(update=hidden)
    forge.record(1, units=tuple(units))


def merged_a_copy(forge: Forge) -> None:
    units = forge.units(1)
    units[0] = units[0].model_copy(update={"symbols": units[1].symbols, "blob": units[1].blob})
    forge.record(1, units=tuple(units))


def never_taken_back(forge: Forge) -> None:
    forge.record(1, retracted=())


def honest_taken_back(forge: Forge) -> None:
    forge.record(1, retracted=(Retraction(round=0, number=1), Retraction(round=0, number=2)))


def taken_back_twice(forge: Forge) -> None:
    forge.record(2, retracted=(Retraction(round=0, number=2),))


def taken_back_before_it_was_made(forge: Forge) -> None:
    forge.record(1, retracted=(Retraction(round=2, number=1),))


def residual_called_forged(forge: Forge) -> None:
    judged = forge.round(1).record.body.judged  # type: ignore[union-attr]
    changed = (
        one.model_copy(update={"forged_residual": True}) if one.outcome == "false" else one for one in judged
    )
    forge.record(1, judged=tuple(changed))


def other_final(forge: Forge) -> None:
    forge.chain.final = forge.bed.manifest.initial_parameters


def other_segment(forge: Forge) -> None:
    dossier = forge.round(1)
    opening = dossier.openings[0]
    body = opening.body.model_copy(update={"segment": (opening.body.segment + 1) % 3})
    forged = sign(key(body.number), forge.bed.manifest, 1, "contributor", body)
    forge.archive.write_round(dataclasses.replace(dossier, openings=(forged, *dossier.openings[1:])))


def whitewashed(forge: Forge) -> None:
    judged = tuple(
        Judgement(round=one.round, number=one.number, segment=one.segment, heard=one.heard, outcome="passed")
        for one in forge.round(1).record.body.judged  # type: ignore[union-attr]
    )
    forge.record(1, judged=judged)


def never_judged(forge: Forge) -> None:
    finish = forge.bed.settlement.finish
    assert finish is not None
    body = finish.body.model_copy(update={"judged": ()})
    forge.settlement(finish=sign(key(0), forge.bed.manifest, 2, "coordinator", body))


def slashed_the_honest(forge: Forge) -> None:
    forge.chain.slashings.append(dataclasses.replace(forge.chain.slashings[0], number=1))


def pay(forge: Forge, more: int) -> None:
    last = forge.bed.settlement.rewards[-1]
    entries = tuple(
        entry.model_copy(update={"cumulative_wei": entry.cumulative_wei + (more if i == 0 else 0)})
        for i, entry in enumerate(last.body.entries)
    )
    table = RewardTable(epoch=last.body.epoch, entries=entries)
    signed = sign(key(0), forge.bed.manifest, last.round, "coordinator", table)
    forge.settlement(rewards=(*forge.bed.settlement.rewards[:-1], signed))
    event = forge.chain.rewards[1]
    total = sum(entry.cumulative_wei for entry in entries)
    forge.chain.rewards[1] = dataclasses.replace(event, root=reward_tree(entries).root, total=total)


def paid_too_much(forge: Forge) -> None:
    pay(forge, 10**18)


def root_without_table(forge: Forge) -> None:
    forge.chain.rewards[2] = dataclasses.replace(forge.chain.rewards[1], epoch=2)


def missing_table(forge: Forge) -> None:
    forge.settlement(rewards=forge.bed.settlement.rewards[:-1])


def pot_too_small(forge: Forge) -> None:
    forge.chain.funded_wei -= 1


def claimed_too_much(forge: Forge) -> None:
    first = forge.chain.claimed[0]
    more = 10**18
    forge.chain.claimed.append(
        Claimed(first.block, 1, "0x", first.run, first.account, more, first.cumulative + more)
    )


def broken_file(forge: Forge) -> None:
    path = forge.archive.root / "rounds" / "000001.json"
    path.write_bytes(path.read_bytes().replace(b'"merged":true', b'"merged":tru3', 1))


LIES: list[tuple[Callable[[Forge], None], set[str]]] = [
    (other_coordinator, {"run id"}),
    (other_key, {"authors"}),
    (other_root, {"commitment roots"}),
    (dropped_unit, {"commitment roots", "record hashes"}),
    (other_record_hash, {"record hashes"}),
    (swapped_units, {"record hashes"}),
    (invented_update, {"record hashes", "merging"}),
    (invented_peer, {"authors", "rosters"}),
    (without_stake, {"rosters"}),
    (other_start, {"assignments", "aggregation"}),
    (forgotten_void, {"assignments", "outcomes"}),
    (left_out, {"merging", "aggregation"}),
    (left_out_unnamed, {"merging", "aggregation"}),
    (merged_a_copy, {"merging"}),
    (never_taken_back, {"retractions", "aggregation"}),
    (honest_taken_back, {"retractions", "aggregation"}),
    (taken_back_twice, {"retractions", "aggregation"}),
    (taken_back_before_it_was_made, {"retractions", "aggregation"}),
    (residual_called_forged, {"outcomes"}),
    (other_final, {"aggregation"}),
    (other_segment, {"draws"}),
    (verdict_of_nothing, {"verdicts"}),
    (verdict_beside_its_distance, {"verdicts"}),
    (ignored_verdict, {"outcomes"}),
    (hidden_verdict, {"outcomes"}),
    (judged_out_of_turn, {"outcomes"}),
    (unsealed_verdict, {"verdicts"}),
    (other_fingerprint, {"outcomes"}),
    (slandered_verifier, {"outcomes"}),
    (whitewashed, {"outcomes"}),
    (never_judged, {"outcomes"}),
    (judged_undrawn, {"outcomes"}),
    (ignored_case, {"outcomes"}),
    (judged_late_case, {"outcomes"}),
    (ruled_against_the_votes, {"outcomes", "rulings"}),
    (ruled_by_a_minority, {"rulings"}),
    (slashed_the_honest, {"slashes"}),
    (slashed_without_a_ruling, {"outcomes", "slashes"}),
    (spared_the_cheat, {"outcomes", "slashes"}),
    (paid_too_much, {"reward tables", "reward roots"}),
    (root_without_table, {"reward roots"}),
    (missing_table, {"reward tables"}),
    (pot_too_small, {"reward roots"}),
    (claimed_too_much, {"claims"}),
    (broken_file, {"public folder"}),
]


@pytest.mark.parametrize(("lie", "checks"), LIES, ids=[lie.__name__ for lie, _ in LIES])
def test_a_lie_is_caught_by_name(forge: Forge, lie: Callable[[Forge], None], checks: set[str]) -> None:
    lie(forge)
    report = forge.audit()
    assert report.exit_code == 6
    assert checks <= failed(report), report.checks
    told = report.to_json()
    assert told["first_failure"] in failed(report)
    violation = report.first_violation
    assert violation is not None
    assert violation["check"] == told["first_failure"]
    assert lie is broken_file or violation["rule"].endswith(".")


def test_only_the_rounds_asked_for_are_judged(forge: Forge) -> None:
    other_root(forge)
    left_out(forge)
    change_verdict(forge, distance=0.5)
    assert {"commitment roots", "merging", "verdicts"} <= failed(forge.audit(only=range(1, 2)))
    for only in (range(1), range(2, 9)):
        report = forge.audit(only=only, replay="all", shard=lambda: forge.bed.shard)
        assert report.exit_code == 0, [check for check in report.checks if not check.ok]
        assert report.rounds == 1


def test_aggregation_of_later_rounds_starts_where_their_parameters_are_at_hand(forge: Forge) -> None:
    def aggregated(first: int) -> int:
        find = find_blob([forge.archive.blobs])
        report = audit(forge.archive, forge.chain, forge.bed.run, find, only=range(first, 3))
        return next(check.count for check in report.checks if check.name == "aggregation")

    assert aggregated(2) == 1
    record = forge.round(2).record
    assert record is not None
    start = record.body.parameters
    (forge.archive.blobs / start[:2] / start).unlink()
    assert aggregated(2) == 3


def test_replays_find_the_parameters_that_the_aggregation_computed(forge: Forge) -> None:
    hidden = {record.body.parameters for record in forge.bed.records.values()}
    hidden.discard(forge.bed.manifest.initial_parameters)
    known = find_blob([forge.archive.blobs, forge.bed.states.root])

    def find(address: str, max_bytes: int) -> bytes | None:
        return None if address in hidden else known(address, max_bytes)

    report = audit(
        forge.archive, forge.chain, forge.bed.run, find, replay="all", shard=lambda: forge.bed.shard
    )
    assert report.ok, [check for check in report.checks if not check.ok]
    assert {check.name: check.count for check in report.checks}["replays"] == 10


def end_after(forge: Forge, round_: int) -> None:
    """Take a look while the record after a round is not anchored yet, which will declare the round's outcomes."""
    forge.chain.final = None
    for later in range(round_ + 1, forge.bed.manifest.rounds):
        del forge.chain.records[later], forge.chain.anchors[later]
    forge.chain.claimed.clear()


def test_a_slash_or_a_reward_root_that_precedes_its_outcomes_in_a_record_is_no_lie(forge: Forge) -> None:
    (slash,) = forge.chain.slashings
    end_after(forge, slash.round)
    forge.chain.rewards.clear()
    forge.settlement(rewards=(), finish=None)
    report = forge.audit()
    assert (failed(report), undecided(report)) == (set(), set())
    assert {check.name: check.count for check in report.checks}["slashes"] == 1


def test_a_table_whose_outcomes_no_record_has_declared_yet_is_undecided(forge: Forge) -> None:
    end_after(forge, 1)
    del forge.chain.rewards[1]
    forge.settlement(rewards=forge.bed.settlement.rewards[:1], finish=None)
    report = forge.audit()
    assert failed(report) == set()
    assert undecided(report) == {"reward tables", "reward roots"}


def test_a_peer_that_shows_a_verifier_another_opening_makes_nobody_else_a_liar(forge: Forge) -> None:
    change_verdict(forge, opening="cd" * 32, outcome=1)
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert failed(report) == set()
    assert undecided(report) == {"verdicts"}


def test_a_verifier_that_was_not_served_is_not_contradicted_by_a_replay(forge: Forge) -> None:
    dossier = forge.round(0)
    where = next(i for i, one in enumerate(dossier.verdicts) if one.body.outcome == 3)
    body = dossier.verdicts[where].body
    said = body.model_copy(
        update={"opening": None, "outcome": 2, "distance": 0.0, "tensor": "", "reason": "not opened"}
    )
    verdicts = list(dossier.verdicts)
    verdicts[where] = sign(key(body.verifier), forge.bed.manifest, 0, "verifier", said)
    forge.archive.write_round(dataclasses.replace(dossier, verdicts=tuple(verdicts)))
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert "replays" not in failed(report)


def test_a_cheat_that_had_withdrawn_its_stake_makes_nobody_else_a_liar(forge: Forge) -> None:
    (slash,) = forge.chain.slashings
    spared_the_cheat(forge)
    forge.chain.left.add(slash.number)
    report = forge.audit()
    assert "slashes" not in failed(report)
    assert undecided(report) == {"slashes"}


def test_a_jury_that_ruled_what_no_exact_replay_gives_is_named(forge: Forge) -> None:
    case, state = next(
        (case, one) for case, one in forge.chain.opened.items() if one.outcome == CaseOutcome.RIGHT
    )
    forge.chain.close_case(case, CaseOutcome.RIGHT, bytes([7]) * 32)
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert failed(report) == {"replays"}
    assert f"the jury of case {case} ruled right" in next(
        check.detail for check in report.checks if check.name == "replays"
    )
    assert state.number == 3


def test_another_manifest_is_another_run(forge: Forge) -> None:
    other_manifest(forge)
    report = forge.audit()
    assert report.exit_code == 6


def test_missing_data_is_undecided_and_not_a_lie(forge: Forge) -> None:
    blob = next(unit.blob for unit in forge.units(1))
    (forge.archive.blobs / blob[:2] / blob).unlink()
    report = forge.audit()
    assert report.exit_code == 7
    assert undecided(report) == {"merging", "retractions", "aggregation"}
    (forge.archive.root / "rounds" / "000001.json").unlink()
    report = forge.audit()
    assert (report.exit_code, report.checks[0].name) == (7, "public folder")


def test_a_run_that_the_chain_does_not_know_is_undecided(forge: Forge) -> None:
    forge.chain.created = lambda: None  # type: ignore[method-assign]
    assert forge.audit().exit_code == 7


def test_no_folder_is_a_wrong_setting(played: Testbed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        audit(Archive(tmp_path), played.chain, played.run, find_blob([]))


def test_replays_without_files_or_data_are_undecided(forge: Forge) -> None:
    options: dict[str, Any] = {"replay": "first", "shard": lambda: forge.bed.shard}
    only_replays = audit(
        forge.archive, forge.chain, forge.bed.run, find_blob([forge.archive.blobs]), **options
    ).checks[-1]
    assert (only_replays.name, only_replays.result) == ("replays", "inconclusive")

    def missing() -> Shard:
        raise ConfigError("no shard")

    assert forge.audit(replay="first", shard=missing).checks[-1].result == "inconclusive"


def test_a_replay_contradicts_verdicts_that_cover_a_cheat(forge: Forge) -> None:
    dossier = forge.round(0)
    verdicts = tuple(
        sign(
            key(one.body.verifier),
            forge.bed.manifest,
            0,
            "verifier",
            one.body.model_copy(update={"outcome": 1, "distance": 0.0, "reason": ""}),
        )
        for one in dossier.verdicts
    )
    forge.archive.write_round(dataclasses.replace(dossier, verdicts=verdicts))
    report = forge.audit(replay="all", shard=lambda: forge.bed.shard)
    assert "replays" in failed(report)


def test_the_list_root_of_nobody_is_zero(played: Testbed) -> None:
    empty = played.listed[0].body.model_copy(update={"entries": ()})
    assert commitments_root(empty) == "00" * 32
