"""Pay explained: every line follows from public data, every number from the rule, and a lie is found on chain."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer
from typer.testing import CliRunner, Result

from protocol.errors import ConfigError, LedgerError, OwnFault, ProofInconclusive, UsageError
from protocol.manifest import PayConfig
from protocol.messages import RewardTable, Signed, sign
from tests.verification.mischief import other_rate
from tests.verification.testbed import Testbed, key, wallet
from verification import pay
from verification.archive import Archive
from verification.audit import audit
from verification.audit_money import reward_tables, settled_epochs
from verification.blobs import find_blob
from verification.gather import public_run
from verification.pay import epoch_pay
from verification.pay_cli import COLUMNS, export, why
from verification.public import PublicRun
from verification.settle import earned_in_epoch
from verification.sources import Sources
from verification.why import explain_pay, formula, tokens

HONEST, CHEAT = 1, 2  # numbers in the played run; the cheat cheats in round 0

app = typer.Typer()
app.command()(why)
app.command()(export)


@pytest.fixture
def run(played: Testbed) -> PublicRun:
    return PublicRun.read(played.archive, played.chain, played.run, find_blob([played.archive.blobs]))


@pytest.fixture
def chain(played: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the simulated chain in the place of every other."""

    @contextmanager
    def given(self: Sources, manifest: object, run: str, rpc: str | None) -> Iterator[object]:
        yield played.chain

    monkeypatch.setattr(Sources, "chain", given)
    monkeypatch.setattr("verification.sources.connected", lambda *_: played.chain)


def type_(*arguments: object) -> Result:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def test_the_terms_of_every_peer_and_epoch_give_what_the_rule_gives(run: PublicRun) -> None:
    seen = 0
    for epoch in settled_epochs(run):
        ruled = earned_in_epoch(run.manifest, epoch.rounds, epoch.unpaid)
        for operator in run.chain.operators():
            found = epoch_pay(run.manifest, epoch, operator.number)
            assert found.net_wei == ruled.get(operator.number, 0)
            assert len(found.rounds) == len(epoch.rounds)
            seen += 1
    assert seen >= len(run.chain.operators())


def test_terms_that_do_not_give_the_sum_of_the_rule_are_our_fault(
    run: PublicRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pay, "earned_in_epoch", lambda *_: {HONEST: 1})
    with pytest.raises(OwnFault, match="the rule gives 1"):
        epoch_pay(run.manifest, next(settled_epochs(run)), HONEST)


def test_an_honest_unit_is_explained_from_assignment_to_root(run: PublicRun, played: Testbed) -> None:
    found = explain_pay(run, 0, HONEST)
    assert [check.name for check in found.checks if not check.ok] == []
    assert found.exit_code == 0
    names = [name for name, _ in found.lines]
    for name in (
        "assigned",
        "committed",
        "revealed",
        "received",
        "recorded",
        "sampled",
        "this round",
        "epoch",
    ):
        assert name in names
    facts = found.facts
    assert (facts["assigned"], facts["merged"], facts["late"]) == (True, True, False)
    assert facts["commitments_block"] == played.chain.posted[0].block
    assert facts["round_wei"] == str(run.manifest.pay.unit_wei)
    ours = epoch_pay(run.manifest, next(settled_epochs(run)), HONEST)
    assert facts["epoch_wei"] == str(ours.net_wei)
    assert facts["root"] == played.chain.rewards[0].root.hex()
    assert facts["final_block"] == played.chain.rewards[0].block


def test_a_cheat_reads_that_it_was_proven_false_and_lost_the_epoch(run: PublicRun) -> None:
    found = explain_pay(run, 0, CHEAT)
    assert found.facts["cases"][0]["outcome"] == "false"
    assert set(found.facts["cases"][0]["verdicts"].values()) == {"proven false"}
    assert found.facts["epoch_wei"] == "0"
    (epoch,) = [text for name, text in found.lines if name == "epoch"]
    assert "x 0 % = 0, because its unit of round 0 was proven false" in epoch
    (this,) = [text for name, text in found.lines if name == "this round"]
    assert this.startswith("nothing = 0")


def test_pay_is_explained_from_earned_to_vested_unvested_or_forfeited(
    make_bed: Callable[..., Testbed], monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = make_bed(rounds=4, pay=PayConfig(epoch_rounds=1, vest_epochs=1))
    cheat = other_rate(0, 0.5) | other_rate(1, 0.5) | other_rate(2, 0.5)
    bed.play_run({(1, CHEAT): cheat})
    run = PublicRun.read(bed.archive, bed.chain, bed.run, find_blob([bed.archive.blobs]))
    unit = bed.manifest.pay.unit_wei
    assert sorted(reward_tables(run)) == [1, 2, 3], "no table while nothing is vested"
    report = audit(bed.archive, bed.chain, bed.run, find_blob([bed.archive.blobs]), only=None)
    assert not [one for one in report.checks if one.result == "rejected"]
    assert {one.result for one in report.checks if "reward" in one.name} == {"ok"}
    told = [explain_pay(run, round_, CHEAT) for round_ in range(4)]
    assert [one.facts["vesting"]["state"] for one in told] == [
        "forfeited",
        "forfeited",
        "forfeited",
        "vested",
    ]
    first = dict(told[0].lines)
    assert first["epoch"].endswith("= 1"), "it was earned"
    assert (
        first["vesting"] == "forfeited in epoch 1: a unit of round 1 was proven false before this was vested"
    )
    assert first["in all"] == "2 earned in 4 decided epochs: 0 vested, 0 unvested, 2 forfeited"
    third = dict(told[2].lines)["vesting"]
    assert third == "forfeited in epoch 2: a jury found it at fault before this was vested"
    honest = [explain_pay(run, round_, HONEST) for round_ in range(4)]
    assert [one.facts["vesting"]["epoch"] for one in honest] == [1, 2, 3, 3]
    assert {one.facts["vested_wei"] for one in honest} == {str(4 * unit)}
    rows = list(reward_tables(run)[3])
    assert wallet(CHEAT) not in {row.account for row in rows}
    # While epoch 1 is not decided, what epoch 0 earned is unvested.
    settled = PublicRun.settled
    monkeypatch.setattr(
        PublicRun, "settled", lambda self, round_: settled(self, round_) if not round_ else None
    )
    early = explain_pay(run, 0, CHEAT)
    assert (early.facts["unvested_wei"], early.facts["forfeited_wei"]) == (str(unit), "0")
    assert "unvested until the reward table of epoch 1" in dict(early.lines)["vesting"]
    assert early.facts["root"] is None


def test_a_verifier_reads_which_of_its_verdicts_were_paid(run: PublicRun) -> None:
    judges = [one.number for one in run.chain.operators() if one.role == "verifier"]
    paid = 0
    for judge in judges:
        found = [explain_pay(run, round_, judge) for round_ in run.rounds]
        cases = [case for one in found for case in one.facts["cases"]]
        right = sum(case["counts"] == "right, and paid" for case in cases)
        assert right == sum(epoch_pay(run.manifest, epoch, judge).right for epoch in settled_epochs(run))
        paid += right
    assert paid > 0


def test_who_claimed_reads_the_transaction_that_paid(run: PublicRun, played: Testbed) -> None:
    (claim,) = played.chain.claimed
    for operator in run.chain.operators():
        paid = explain_pay(run, 0, operator.number).facts["paid"]
        if operator.wallet == claim.account:
            assert paid == {"tx": claim.tx, "block": claim.block, "amount_wei": str(claim.amount)}
        else:
            assert paid is None


def test_what_is_not_there_is_said_before_anything_is_explained(run: PublicRun) -> None:
    with pytest.raises(ConfigError, match="not registered"):
        explain_pay(run, 0, 99)
    with pytest.raises(ConfigError, match="the run has rounds"):
        explain_pay(run, run.manifest.rounds, HONEST)
    with pytest.raises(ProofInconclusive, match="not on chain yet"):
        explain_pay(replace(run, dossiers=run.dossiers[:1]), 1, HONEST)


def test_an_epoch_that_is_not_decided_has_no_sum_yet(run: PublicRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicRun, "settled", lambda *_: None)
    found = explain_pay(run, 0, HONEST)
    assert found.facts["epoch_wei"] is None
    assert any("not all of its units are decided yet" in text for _, text in found.lines)


def test_formulas_carry_their_numbers() -> None:
    one = pay.RoundPay(0, 1, 10**18, "", 2, 1)
    found = pay.EpochPay(0, (one,), 2 * 10**17, 3 * 10**17, 50, "it did not open its unit of round 4")
    assert formula(found) == (
        "(1 unit x 1 + 2 verdicts x 0.2 + (-1 wrong verdict x 0.3)) x 50 % = 0.55, "
        "because it did not open its unit of round 4"
    )
    assert [tokens(wei) for wei in (0, -15 * 10**17, 10**20)] == ["0", "-1.5", "100"]


@pytest.mark.usefixtures("chain")
def test_the_command_explains_the_pay_of_a_wallet(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    address = {"version": 3, "address": wallet(HONEST), "crypto": {"kdfparams": {}}}
    (home / "wallet.json").write_text(json.dumps(address))
    (home / "wallet.json").chmod(0o600)
    told = type_("why", "--round", 1, "--from", folder, "--dir", home)
    assert told.exit_code == 0, told.output
    assert f"number {HONEST}, contributor, wallet {wallet(HONEST)}" in told.stdout
    assert "against the chain: run id, authors" in told.stdout
    same = json.loads(type_("why", "--round", 1, "--from", folder, "--peer", HONEST, "--json").stdout)
    assert (same["number"], same["round"], same["wallet"]) == (HONEST, 1, wallet(HONEST))
    assert all(check["ok"] for check in same["checks"])


@pytest.mark.usefixtures("chain")
def test_a_folder_that_contradicts_the_chain_is_rejected_whatever_it_says(
    folder: Path, played: Testbed
) -> None:
    archive = Archive(folder)
    dossier = archive.round(played.manifest, 1)
    assert dossier is not None
    assert dossier.record is not None
    units = [one.model_copy(update={"merged": False, "reason": "late"}) for one in dossier.record.body.units]
    body = dossier.record.body.model_copy(update={"units": tuple(units)})
    archive.write_round(replace(dossier, record=sign(key(0), played.manifest, 1, "coordinator", body)))
    told = type_("why", "--round", 1, "--from", folder, "--peer", CHEAT)
    assert told.exit_code == 6
    assert "record hashes: rejected: the record of round 1 does not have the hash on chain" in told.stdout


@pytest.mark.usefixtures("chain")
def test_a_lying_reward_table_changes_nothing_of_the_explanation(folder: Path, played: Testbed) -> None:
    command = ("why", "--round", 0, "--from", folder, "--peer", HONEST, "--json")
    before = json.loads(type_(*command).stdout)["lines"]
    last = played.manifest.pay.epoch_rounds - 1
    lie: Signed[RewardTable] = sign(
        key(0), played.manifest, last, "coordinator", RewardTable(epoch=0, entries=())
    )
    archive = Archive(folder)
    archive.write_settlement(replace(archive.settlement(played.manifest), rewards=(lie,)))
    assert json.loads(type_(*command).stdout)["lines"] == before


@pytest.mark.usefixtures("chain")
def test_a_source_and_a_peer_must_be_named(folder: Path) -> None:
    for arguments in (
        ("why", "--round", 0, "--peer", 1),
        ("why", "--round", 0, "--peer", 1, "--from", folder, "--api", "http://127.0.0.1:9"),
        ("why", "--round", 0, "--from", folder),
    ):
        with pytest.raises(UsageError):
            type_(*arguments)
    with pytest.raises(LedgerError, match="proves nothing"):
        type_("why", "--round", 0, "--peer", 1, "--api", "http://127.0.0.1:9")


@contextmanager
def api_of(bed: Testbed, left_out: int = 0) -> Iterator[str]:
    """Serve a run's messages as a coordinator's API does, a few a page."""
    messages = [one.to_json() for dossier in bed.dossiers.values() for one in dossier.messages()]
    messages += [one.to_json() for one in bed.settlement.messages()]
    messages = messages[left_out:]

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            after = int(parse_qs(urlsplit(self.path).query)["after"][0])
            page = [{"sequence": n + 1, "message": one} for n, one in enumerate(messages)][after : after + 20]
            following: Any = page[-1]["sequence"] if len(page) == 20 else None
            body = json.dumps({"messages": page, "next": following}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("chain")
def test_an_api_serves_as_well_as_a_folder_and_is_believed_as_little(
    folder: Path, played: Testbed, tmp_path: Path
) -> None:
    command = ("why", "--round", 1, "--peer", HONEST, "--json")
    from_folder = json.loads(type_(*command, "--from", folder).stdout)
    more = ("--rpc", "http://127.0.0.1:9", "--manifest", folder / "manifest.json")
    with api_of(played) as url:
        assert json.loads(type_(*command, "--api", url, *more).stdout) == from_folder
        with pytest.raises(ConfigError, match="there is no"):
            type_(*command, "--api", url, "--rpc", "http://127.0.0.1:9", "--manifest", tmp_path / "none")
    with api_of(played, left_out=1) as url, pytest.raises(ProofInconclusive, match="nobody delivered"):
        type_(*command, "--api", url, *more)


def test_messages_that_are_none_are_passed_over(run: PublicRun, played: Testbed) -> None:
    wires = [one.wire for dossier in played.dossiers.values() for one in dossier.messages()]
    wires += [one.wire for one in played.settlement.messages()]
    hostile = [b"", b"{" * 9999, wires[0][:-1], *wires]
    found = public_run(run.manifest, run.chain, hostile, run.find, run.signatures)
    assert explain_pay(found, 0, HONEST).to_json() == explain_pay(run, 0, HONEST).to_json()


@pytest.mark.usefixtures("chain")
def test_the_csv_sums_up_to_the_pay_of_the_epochs(folder: Path, run: PublicRun, tmp_path: Path) -> None:
    out = tmp_path / "pay.csv"
    told = type_("export", "--csv", out, "--from", folder, "--peer", HONEST)
    assert (told.exit_code, told.stdout) == (0, "")
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["round"]) for row in rows] == list(run.rounds)
    epochs = [epoch_pay(run.manifest, epoch, HONEST) for epoch in settled_epochs(run)]
    assert [int(row["epoch_wei"]) for row in rows if row["epoch_wei"]] == [one.net_wei for one in epochs]
    assert int(rows[-1]["cumulative_wei"]) == sum(one.net_wei for one in epochs)
    assert rows[-1]["reward_root"] == run.chain.finalized()[epochs[-1].epoch].root.hex()
    assert type_("export", "--csv", "-", "--from", folder, "--peer", HONEST).stdout == out.read_text()
    with pytest.raises(ConfigError, match="cannot write"):
        type_("export", "--csv", tmp_path / "none" / "pay.csv", "--from", folder, "--peer", HONEST)
