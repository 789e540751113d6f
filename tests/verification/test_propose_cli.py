"""Pay that a lost coordinator left behind, proposed, made final and claimed by others, as typed, on a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from contracts.claims import parse_tables, read_settlement
from contracts.plan import PROPOSE_GAS
from contracts.types import Role
from protocol.errors import LedgerError, ProofInconclusive, UsageError
from protocol.merkle import reward_tree
from tests.contracts.conftest import DISPUTE_BLOCKS, TERMS, chain, deployed, network, shell
from tests.contracts.shell import Answer, Shell, answer
from tests.verification.anybody import Anybody, said
from verification.propose_cli import propose, tables
from verification.public import PublicRun

__all__ = ["chain", "deployed", "network", "shell"]

app = typer.Typer()
app.command()(propose)
app.command()(tables)


@dataclass
class Heir:
    """The shell's owner, who wants pay of a run whose coordinator is gone."""

    shell: Shell
    anybody: Anybody

    @property
    def run(self) -> str:
        return self.anybody.bed.run

    def type(self, command: str) -> Answer:
        name, _, rest = command.partition(" ")
        flags = self.shell.flags(f"{name} --run {self.run} --from data {rest}".strip())
        return answer(app, flags)

    def wait(self) -> None:
        """Let the ledger's patience with the coordinator end."""
        self.shell.network.chain.mine(TERMS.timeout_blocks + 1)

    def finish(self) -> Answer:
        self.shell.network.chain.mine(DISPUTE_BLOCKS)
        return self.shell.type(f"rewards finalize --run {self.run} --yes --json")


@pytest.fixture
def heir(shell: Shell, anybody: Anybody, monkeypatch: pytest.MonkeyPatch) -> Heir:
    network = shell.network
    ledger = network.ledger.address
    anybody.chain.rewards = {}
    pot = sum(one.cumulative_wei for one in anybody.bed.settlement.rewards[-1].body.entries)
    network.open_run(pot, run=anybody.bed.run)

    @contextmanager
    def opened(*_: object) -> Iterator[tuple[PublicRun, None]]:
        run = anybody.known().run
        yield replace(run, manifest=run.manifest.model_copy(update={"ledger": ledger}), run=run.run), None

    monkeypatch.setattr("verification.propose_cli.opened_run", opened)
    return Heir(shell, anybody)


def test_anybody_proposes_what_is_due_once_the_coordinator_had_its_time(heir: Heir) -> None:
    root, total = said(heir.anybody, 0)
    early = heir.type("propose --yes")
    assert isinstance(early.error, LedgerError)
    assert "the run's coordinator has time until block" in early.error.message
    heir.wait()
    before = heir.shell.balance()
    dry = heir.type("propose --dry-run --json")
    assert dry.code == 0, dry
    assert [one["what"] for one in dry.document["transactions"]] == [
        "let the ledger take the tokens",
        "propose",
    ]
    assert heir.type("propose").code == UsageError.exit_code, "nobody was asked"
    done = heir.type("propose --yes --json")
    assert done.code == 0, done
    told = done.document
    assert (told["epoch"], told["root"], told["total_wei"]) == (0, "0x" + root.hex(), str(total))
    assert before - heir.shell.balance() == TERMS.proposal_bond
    receipt = heir.shell.network.chain.w3.eth.get_transaction_receipt(told["tx"])
    assert int(receipt["gasUsed"]) <= PROPOSE_GAS
    again = heir.type("propose --yes")
    assert again.error is not None
    assert f"can be final from block {told['final_at']} on" in again.error.message
    soon = heir.shell.type(f"rewards finalize --run {heir.run} --yes")
    assert soon.error is not None
    assert f"before block {told['final_at']}" in soon.error.message
    assert heir.finish().document["root"] == "0x" + root.hex()
    assert heir.shell.balance() == before, "the bond is back"
    info = heir.shell.network.ledger.run_info(heir.run)
    assert info is not None
    assert (info.final_root, info.next_epoch) == (root, 1)


def test_the_coordinator_itself_need_not_wait(heir: Heir) -> None:
    ledger, network = heir.shell.network.ledger, heir.shell.network
    coordinator = network.person("coordinator").address
    dry = heir.type(f"propose --dry-run --json --owner {coordinator}")
    assert dry.code == 0, dry
    assert ledger.pending_rewards(heir.run) is None


def test_who_stands_in_need_not_wait_again(heir: Heir) -> None:
    network = heir.shell.network
    network.register("vera", Role.VERIFIER)
    heir.wait()
    vera = network.person("vera")
    network.ledger.post_commitments(vera, heir.run, 0, bytes([1]) * 32, 2)
    early = heir.type("propose --dry-run")
    assert early.error is not None
    assert "has time until block" in early.error.message
    dry = heir.type(f"propose --dry-run --json --owner {vera.address}")
    assert dry.code == 0, dry


def test_recomputed_tables_are_enough_to_claim(heir: Heir, tmp_path: Path) -> None:
    heir.wait()
    assert heir.type("propose --yes").code == 0
    assert heir.finish().code == 0
    file = tmp_path / "tables.json"
    found = CliRunner().invoke(app, ["tables", "--from", "data", "--out", str(file), "--json"])
    assert found.exit_code == 0, found.output
    entries = heir.anybody.bed.settlement.rewards[0].body.entries
    assert reward_tree(parse_tables(read_settlement(str(file)))[0].entries).root == reward_tree(entries).root
    one = entries[0]
    none = heir.shell.type(f"rewards claim --run {heir.run} --settlement {file} --yes --json")
    assert none.document["paid_wei"] == "0", "the shell's wallet earned nothing"
    listed = heir.shell.type(f"rewards list --settlement {file} --owner {one.account} --json").document
    assert [row["claimable_wei"] for row in listed["runs"]] == [str(one.cumulative_wei)]
    compared = heir.shell.bare(
        f"rewards reconcile --run {heir.run} --settlement {file} --json",
        *("--rpc", heir.shell.network.chain.url, "--ledger", heir.shell.network.ledger.address),
    ).document
    assert compared["agrees"] is True
    file.write_text(file.read_text().replace("murmur-reward-tables/1", "murmur-reward-tables/2"))
    other = heir.shell.type(f"rewards claim --run {heir.run} --settlement {file} --yes")
    assert other.error is not None


def test_nothing_is_proposed_that_is_not_due(heir: Heir) -> None:
    heir.wait()
    other = CliRunner().invoke(app, heir.shell.flags(f"propose --run {'ab' * 32} --from data --yes"))
    assert isinstance(other.exception, LedgerError)
    heir.anybody.abandon()
    assert heir.type("propose --dry-run").code == 0, "the first epoch was declared before"
    anybody = heir.anybody
    anybody.chain = anybody.chain.as_of(anybody.chain.anchors[2] - 1)
    anybody.messages = [one for one in anybody.messages if one.round < 2]
    early = heir.type("propose --yes")
    assert isinstance(early.error, ProofInconclusive)
    assert "no reward root of epoch 0 is due" in early.error.message
    assert heir.shell.network.ledger.pending_rewards(heir.run) is None


def test_without_the_bond_or_the_pot_nothing_is_proposed(heir: Heir) -> None:
    heir.wait()
    pauper = "0x" + "11" * 20
    poor = heir.type(f"propose --dry-run --owner {pauper}")
    assert poor.error is not None
    assert "holds 0 tokens, and the bond is 5" in poor.error.message
    nobody = heir.shell.type(f"rewards finalize --run {heir.run} --yes")
    assert nobody.error is not None
    assert "no reward root of this run is pending" in nobody.error.message
