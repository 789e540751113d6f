"""`murmur dispute` as typed: what it asks, what it takes, what it shows, and how it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.jury_plan import APPEAL_GAS, OPEN_CASE_GAS
from contracts.types import CaseOutcome
from protocol.canonical import ZERO_DIGEST
from protocol.errors import LedgerError, Malformed, UsageError
from protocol.keys import PeerKey
from protocol.manifest import LOCAL_CHAIN_ID, DatasetConfig, DeadlineConfig, RunManifest
from protocol.messages import Body, Commitment, RoundRecord, Signed, signing_digest
from tests.contracts.conftest import (
    DISPUTE_BLOCKS,
    JURY,
    LADDER,
    MIN_STAKE,
    RUN,
    TERMS,
    TOKEN,
    Network,
)
from tests.contracts.court import ROOT, ballot, court, judge, vote
from tests.contracts.shell import Shell, murmur

ALICE = 1
ACCUSE = f"dispute accuse {RUN} --round 0 --number {ALICE} --segment 2"
CONTEST = f"dispute contest {RUN} --round 0 --segment 2"
OTHER = "cd" * 32


class Court:
    """The shell's owner before a jury of three, in a run with one anchored round of number 1."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.network = shell.network
        self.run, self.jurors = court(shell.network)

    def open(self) -> int:
        """Accuse alice's segment 2 from the shell."""
        return int(self.shell.type(f"{ACCUSE} --yes --json").document["case"])

    def show(self, case: int) -> dict[str, Any]:
        return self.shell.type(f"dispute show {case} --json").document

    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.shell.type(f"dispute list {RUN} --json").out)
        return found


@pytest.fixture
def there(shell: Shell) -> Court:
    return Court(shell)


def test_an_accusation_says_what_it_costs_and_what_comes_next(there: Court) -> None:
    shell, anchor = there.shell, there.shell.block()
    dry = shell.type(f"{ACCUSE} --dry-run --json")
    assert dry.code == 0
    assert [one["what"] for one in dry.document["transactions"]] == ["let the jury take the tokens", "accuse"]
    assert int(dry.document["max_fee_wei"]) >= int(dry.document["fee_wei"]) > 0
    assert shell.type(ACCUSE).code == 2  # no terminal to ask on
    assert shell.block() == anchor
    answer = shell.type(f"{ACCUSE} --yes --json")
    block = shell.block()
    shown = dict(answer.document)
    assert shown.pop("tx").startswith("0x")
    assert shown == {
        "block": block,
        "case": 1,
        "kind": "accusation",
        "round": 0,
        "number": ALICE,
        "segment": 2,
        "finder": shell.wallet,
        "bond_wei": str(JURY.case_bond),
        "draw_until": block + JURY.draw_blocks,
    }
    for words in (
        "100 tokens of its stake are lost",
        "put up 10 tokens",
        f"possible until block {anchor + LADDER.window_blocks}",
        "30 % go to " + shell.wallet,
        "fee about",
        "murmur dispute show 1",
        "whether units have this segment was not checked",
    ):
        assert words in answer.err, words
    assert shell.balance() == 990 * TOKEN
    receipt = there.network.chain.w3.eth.get_transaction_receipt(answer.document["tx"])
    assert int(receipt["gasUsed"]) <= OPEN_CASE_GAS
    again = shell.type(f"{ACCUSE} --yes")
    assert again.error is not None
    assert "accused before: case 1" in again.error.message
    assert shell.balance() == 990 * TOKEN


def test_what_the_jury_would_refuse_is_refused_before_it_may_take_the_bond(there: Court) -> None:
    shell, before = there.shell, there.shell.block()
    for command, code, why in (
        (f"accuse {RUN} --round 1 --number 1 --segment 2", 5, "1 rounds are"),
        (f"accuse {RUN} --round 0 --number 2 --segment 2", 5, "no contributor"),
        (f"accuse {RUN} --round 0 --number 99 --segment 2", 5, "no contributor"),
        (f"accuse {OTHER} --round 0 --number 1 --segment 2", 5, "no run"),
        ("accuse nonsense --round 0 --number 1 --segment 2", 5, "not a run id"),
        (f"accuse {RUN} --round 0 --number 1 --segment 1001", 2, ""),
        (f"accuse {RUN} --round -1 --number 1 --segment 2", 2, ""),
        (f"accuse {RUN} --round 0 --number 0 --segment 2", 2, ""),
        (f"accuse {RUN} --round 0 --segment 2", 2, ""),
        (f"accuse {RUN} --round 0 --number 1 --segment 2 --finder me", 2, "not the address"),
        (f"accuse {RUN} --round 0 --number 1 --segment 2 --finder 0x{'00' * 20}", 2, "not the address"),
        (f"contest {RUN} --round 0 --segment 2", 5, "not registered"),
        (f"rewards {RUN} --ground root", 5, "no reward root"),
        (f"rewards {RUN} --ground taste", 2, "no ground"),
        ("appeal 1", 5, "no case 1"),
        ("advance 1", 5, "no case 1"),
        ("appeal 0", 2, ""),
        ("credit --withdraw", 5, "credited with nothing"),
    ):
        answer = shell.type(f"dispute {command} --yes")
        assert answer.code == code, command
        assert answer.out == ""
        assert why in (answer.error.message if answer.error else answer.err), command
    for command, why in ((f"list {OTHER}", "no run"), ("show 7", "no case 7"), ("respond 7", "no case 7")):
        answer = shell.type(f"dispute {command}")
        assert answer.code == 5
        assert answer.error is not None
        assert why in answer.error.message
    assert shell.block() == before
    network = there.network
    network.chain.mine(LADDER.window_blocks)
    late = shell.type(f"{ACCUSE} --yes")
    assert isinstance(late.error, LedgerError)
    assert f"up to block {before + LADDER.window_blocks}" in late.error.message


def test_without_jurors_or_tokens_nobody_is_accused(shell: Shell) -> None:
    network = shell.network
    network.register("alice")
    network.open_run()
    network.play_round(0)
    lonely = shell.type(f"{ACCUSE} --yes")
    assert lonely.error is not None
    assert "a jury has 3 seats, and verifiers hold 0 slots" in lonely.error.message
    assert "murmur jury join" in lonely.error.hint
    shell.type("stake deposit --role verifier --amount 911 --yes")
    shell.type("jury join --slots 4 --yes")
    poor = shell.type(f"{ACCUSE} --yes")
    assert poor.error is not None
    assert "holds 9 tokens, and the bond is 10" in poor.error.message
    own = shell.type(f"dispute contest {RUN} --round 0 --segment 1 --yes")
    assert own.error is not None
    assert "no contributor" in own.error.message


def test_a_proven_fault_from_the_accusation_to_the_payment(there: Court) -> None:
    shell, network, run = there.shell, there.network, there.run
    case = there.open()
    waiting = shell.type(f"dispute advance {case} --yes --json").document
    assert (waiting["step"], waiting["tx"]) == (None, None)
    network.chain.mine(3)
    assert shell.type(f"dispute advance {case}").code == 2
    drawn = shell.type(f"dispute advance {case} --yes --json").document
    assert drawn["step"] == "draw"
    assert drawn["stage"] == f"votes are sealed until block {drawn['block'] + JURY.vote_blocks}"
    (row,) = there.rows()
    assert (row["stage"], row["seats"], row["sealed"], row["revealed"]) == ("voting", 3, 0, 0)
    assert (row["at_stake_wei"], row["ruling"]) == (str(MIN_STAKE), None)
    ballot(network, run, case, there.jurors, CaseOutcome.FALSE)
    assert shell.type(f"dispute advance {case} --yes --json").document["step"] == "rule"
    ruled = there.show(case)
    assert (ruled["stage"], ruled["ruling"], ruled["ending"]) == ("ruled", "proven false", None)
    assert shell.type(f"dispute advance {case} --yes --json").document["step"] is None  # it can be appealed
    network.chain.mine(JURY.appeal_blocks + 1)
    assert shell.type(f"dispute advance {case} --yes --json").document["step"] == "close"
    assert "nothing is due" in shell.type(f"dispute advance {case} --yes").err

    life = there.show(case)
    share = MIN_STAKE * 2 // 10 // 3
    assert [seat["vote"] for seat in life["juries"][0]["seats"]] == ["proven false"] * 3
    assert {seat["result"] for seat in life["juries"][0]["seats"]} == {ROOT.hex()}
    ended = life["ending"]
    assert ended["slashed_wei"] == str(MIN_STAKE)
    paid = {one["account"]: int(one["wei"]) for one in ended["credited"]}
    assert paid[shell.wallet] == MIN_STAKE * 3 // 10 + JURY.case_bond
    assert sum(paid.values()) == MIN_STAKE * 3 // 10 + JURY.case_bond + 3 * share
    mine = next(one for one in ended["credited"] if one["account"] == shell.wallet)
    assert mine["as"] == ["appellant", "finder"]
    assert int(ended["burned_wei"]) == MIN_STAKE - MIN_STAKE * 3 // 10 - 3 * share
    assert (life["at_stake_wei"], ended["forfeited_wei"], ended["silent"]) == ("0", "0", [])
    told = shell.type(f"dispute show {case}").out
    assert "slashed  100 tokens" in told
    assert f"credited 40 tokens to {shell.wallet} (appellant, finder)" in told
    assert "closed; proven false" in shell.type(f"dispute list {RUN}").out

    assert shell.type("dispute credit --json").document["credit_wei"] == str(40 * TOKEN)
    assert shell.type("dispute credit --withdraw --yes --json").document["withdrawn_wei"] == str(40 * TOKEN)
    assert shell.balance() == 1030 * TOKEN
    assert shell.type("dispute credit --json").document["credit_wei"] == "0"


def test_a_silent_juror_and_a_lost_bond_are_shown_with_their_sums(there: Court) -> None:
    case = there.open()
    ended = judge(there.network, there.run, case, there.jurors, CaseOutcome.RIGHT, silent=1)
    found = there.show(case)["ending"]
    assert found["silent"] == [{"juror": ended.seats[-1].juror, "wei": str(JURY.silent_penalty)}]
    assert found["burned_wei"] == str(JURY.silent_penalty)
    alice = next(one for one in found["credited"] if one["account"] == there.network.person("alice").address)
    assert (alice["as"], alice["wei"]) == (["owner"], str(JURY.case_bond - 2 * JURY.fee))
    assert there.shell.balance() == 990 * TOKEN


def test_a_contest_is_about_the_wallets_own_unit_and_an_appeal_turns_it(shell: Shell) -> None:
    network = shell.network
    shell.type("stake deposit --amount 100 --yes")
    run, jurors = court(network)
    own = shell.type(f"dispute accuse {RUN} --round 0 --number 1 --segment 3 --yes")
    assert isinstance(own.error, UsageError)
    assert "murmur dispute contest" in own.error.hint
    opened = shell.type(f"{CONTEST} --yes --json")
    assert (opened.document["kind"], opened.document["number"]) == ("contest", 1)
    assert "the rest goes to the run's pot" in opened.err
    case = int(opened.document["case"])
    early = shell.type(f"dispute appeal {case} --yes")
    assert early.error is not None
    assert "only a ruling can be appealed" in early.error.message
    vote(network, run, case, jurors, CaseOutcome.VOID)
    appealed = shell.type(f"dispute appeal {case} --yes --json")
    assert appealed.document["bond_wei"] == str(3 * JURY.case_bond)
    assert "a second jury of 9 seats" in appealed.err
    receipt = network.chain.w3.eth.get_transaction_receipt(appealed.document["tx"])
    assert int(receipt["gasUsed"]) <= APPEAL_GAS
    assert "second jury: waits" in shell.type(f"dispute list {RUN}").out
    vote(network, run, case, jurors, CaseOutcome.RIGHT)
    twice = shell.type(f"dispute appeal {case} --yes")
    assert twice.error is not None
    assert "had its second jury" in twice.error.message
    network.ledger.jury.close(network.treasury, case)
    life = json.loads(shell.type(f"dispute show {case} --json").out)
    assert [jury["ruling"] for jury in life["juries"]] == ["void", "right"]
    assert life["called_by"] == shell.wallet
    assert life["ending"]["burned_wei"] == "0"
    back = next(one for one in life["ending"]["credited"] if one["account"] == shell.wallet)
    assert int(back["wei"]) == 4 * JURY.case_bond - 9 * JURY.fee
    assert network.ledger.run_info(RUN).funded_wei == 1000 * TOKEN  # type: ignore[union-attr]


def test_a_wrong_reward_root_is_cancelled_and_its_bond_shared(there: Court) -> None:
    shell, network = there.shell, there.network
    network.ledger.propose_rewards(network.person("coordinator"), RUN, 0, bytes(32), bytes([5]) * 32, TOKEN)
    opened = shell.type(f"dispute rewards {RUN} --ground root --yes --json")
    assert (opened.document["root"], opened.document["ground"]) == ("0x" + "05" * 32, "root")
    assert "5 tokens at stake, of which 30 % are yours" in opened.err
    case = int(opened.document["case"])
    again = shell.type(f"dispute rewards {RUN} --ground root --yes")
    assert again.error is not None
    assert f"before: case {case}" in again.error.message
    (row,) = there.rows()
    assert (row["ground"], row["round"], row["at_stake_wei"]) == ("root", None, str(TERMS.proposal_bond))
    judge(network, there.run, case, there.jurors, CaseOutcome.VOID)
    life = there.show(case)
    assert (life["ruling"], life["ending"]["root_cancelled"]) == ("wrong", True)
    share = TERMS.proposal_bond * 2 // 10 // 3
    assert (
        int(life["ending"]["burned_wei"]) == TERMS.proposal_bond - TERMS.proposal_bond * 3 // 10 - 3 * share
    )
    assert "the reward root is cancelled" in shell.type(f"dispute show {case}").out
    network.ledger.propose_rewards(network.person("coordinator"), RUN, 0, bytes(32), bytes([6]) * 32, TOKEN)
    network.chain.mine(DISPUTE_BLOCKS)
    late = shell.type(f"dispute rewards {RUN} --ground data --yes")
    assert late.error is not None
    assert "could be disputed up to block" in late.error.message


def test_what_a_case_means_for_pay_is_said_where_the_manifest_is_known(there: Court) -> None:
    network, shell = there.network, there.shell
    manifest = RunManifest(
        name="ruled",
        chain_id=LOCAL_CHAIN_ID,
        ledger=network.ledger.address,
        coordinator=network.peer("coordinator").address,
        rounds=1,
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=100_000),
        deadlines=DeadlineConfig(appeal=5),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )
    run = manifest.run_id
    network.open_run(0, run)
    network.play_round(0, run)
    (shell.home / "manifest.json").write_bytes(manifest.to_bytes())
    accuse = f"dispute accuse {run} --round 0 --number {ALICE} --dry-run"
    assert f"by block {shell.block() + 6}" in shell.type(f"{accuse} --segment 1").err
    beyond = shell.type(f"{accuse} --segment {manifest.segments}")
    assert isinstance(beyond.error, UsageError)
    network.chain.mine(6)
    assert "else the case is about stake alone" in shell.type(f"{accuse} --segment 1").err


def commitment(update: str) -> Commitment:
    return Commitment(
        number=ALICE,
        profile="cpu-fp32",
        parameters="ab" * 32,
        assignment="ab" * 32,
        moments_before="ab" * 32,
        moments_after="ab" * 32,
        residual_before="ab" * 32,
        residual_after="ab" * 32,
        segments=("ab" * 32, "cd" * 32),
        update=update,
    )


def write(network: Network, path: Path, key: PeerKey, body: Body, round_: int = 0) -> Path:
    """Sign a body for the run and put the message into a file, as it travels."""
    role = body.roles[0]
    digest = signing_digest(LOCAL_CHAIN_ID, network.ledger.address, RUN, round_, role, body)
    message = Signed(LOCAL_CHAIN_ID, network.ledger.address, RUN, round_, role, body, key.sign(digest))
    path.write_bytes(message.wire)
    return path


def test_two_commitments_of_one_round_cost_a_tenth_and_pay_the_finder(there: Court, tmp_path: Path) -> None:
    network, shell, alice = there.network, there.shell, there.network.peer("alice")
    a = write(network, tmp_path / "a", alice, commitment("aa" * 32))
    b = write(network, tmp_path / "b", alice, commitment("bb" * 32))
    prove = f"dispute equivocation {RUN} --round 0 --yes"

    def refused(first: Path, second: Path, command: str = prove) -> str:
        answer = shell.type(command, "--a", str(first), "--b", str(second))
        assert isinstance(answer.error, UsageError)
        return answer.error.message

    assert "both say the same" in refused(a, a)
    assert "two keys" in refused(
        a, write(network, tmp_path / "c", network.peer("bob"), commitment("bb" * 32))
    )
    assert "round 1" in refused(a, write(network, tmp_path / "d", alice, commitment("bb" * 32), round_=1))
    assert "another chain, ledger or run" in refused(a, b, prove.replace(RUN, OTHER))
    assert "they are commitments" in refused(a, b, f"{prove} --record")
    record = write(network, tmp_path / "e", alice, RoundRecord(parameters="ab" * 32, units=(), judged=()))
    assert "do not contradict" in refused(a, record)
    (tmp_path / "f").write_bytes(a.read_bytes().replace(b"aa" * 32, b"ac" * 32))  # altered: another signer
    assert "two keys" in refused(b, tmp_path / "f")
    (tmp_path / "g").write_bytes(b"{}")
    assert isinstance(shell.type(prove, "--a", str(a), "--b", str(tmp_path / "g")).error, Malformed)
    assert shell.type(prove, "--a", str(a), "--b", str(tmp_path / "none")).code == 3

    later = network.peer("alice again")  # two keys of one number prove nothing, a replaced one's two words do
    network.ledger.rotate_peer(network.person("alice"), later)
    assert "two keys" in refused(a, write(network, tmp_path / "h", later, commitment("bb" * 32)))

    answer = shell.type(f"{prove} --json", "--a", str(a), "--b", str(b))
    assert answer.document["lost_wei"] == str(MIN_STAKE // 10)
    assert "number 1 signed two commitments for round 0: it loses 10 tokens" in answer.err
    assert network.ledger.jury.credit(shell.wallet) == 3 * TOKEN
    operator = network.ledger.operator(ALICE)
    assert operator is not None
    assert (operator.stake_wei, operator.equivocations) == (MIN_STAKE * 9 // 10, 1)
    again = shell.type(prove, "--a", str(a), "--b", str(b))
    assert again.error is not None
    assert "punished for this round before" in again.error.message


def test_two_records_of_one_round_cost_the_coordinators_bond(there: Court, tmp_path: Path) -> None:
    network, shell, key = there.network, there.shell, there.network.peer("coordinator")
    a = write(network, tmp_path / "a", key, RoundRecord(parameters="ab" * 32, units=(), judged=()))
    b = write(network, tmp_path / "b", key, RoundRecord(parameters="cd" * 32, units=(), judged=()))
    prove = f"dispute equivocation {RUN} --round 0 --record --yes"
    answer = shell.type(prove, "--a", str(a), "--b", str(b), "--finder", network.person("finder").address)
    assert answer.code == 0, answer.error
    assert "the run's coordinator signed two records" in answer.err
    assert network.ledger.jury.credit(network.person("finder").address) == TERMS.run_bond * 3 // 10
    again = shell.type(prove, "--a", str(a), "--b", str(b))
    assert again.error is not None
    assert "nothing left to take" in again.error.message


def test_the_program_shows_a_case_and_says_where_there_is_none(there: Court) -> None:
    shell = there.shell
    assert shell.type(f"dispute list {RUN}").out == "no cases\n"
    shown = murmur(["dispute", *shell.flags(f"show {there.open()} --json")])
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["stage"] == "called"
    refused = murmur(["dispute", *shell.flags("show 99")])
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "next:" in refused.stderr
