"""`murmur appeal` as typed: what it asks, what it takes, and how it refuses."""

import json
from typing import Any

import pytest

from contracts.anvil import request
from contracts.types import Role
from protocol.canonical import ZERO_DIGEST
from protocol.errors import LedgerError, UsageError
from protocol.manifest import LOCAL_CHAIN_ID, DatasetConfig, DeadlineConfig, RunManifest
from protocol.messages import PASSED, REJECTED
from tests.contracts.conftest import APPEAL_BLOCKS, APPEAL_BOND, RUN, TOKEN
from tests.contracts.shell import Shell, murmur
from tests.contracts.test_client import signed_verdict

MALLORY, ME = 1, 4  # registration numbers


@pytest.fixture
def staked(shell: Shell) -> Shell:
    """The owner of number 4, with a run of one anchored round in which mallory contributed too."""
    network = shell.network
    network.register("mallory")
    for name in ("vera", "vito"):
        network.register(name, Role.VERIFIER)
    network.open_run()
    network.play_round(0)
    shell.type("stake deposit --amount 100 --yes")
    return shell


def settle(shell: Shell, case: int, number: int, outcome: Any) -> None:
    network = shell.network
    a, b = (signed_verdict(network, name, number, case=case, outcome=outcome) for name in ("vera", "vito"))
    network.ledger.settle_appeal(network.person("anyone"), case, outcome, a, b)


def listed(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell.type(f"appeal list {RUN} --json").out)
    return found


ACCUSE = f"appeal accuse {RUN} --round 0 --peer {MALLORY} --segment 2"
CONTEST = f"appeal contest {RUN} --round 0 --segment 2"


def test_an_accusation_says_what_it_costs_and_what_comes_next(staked: Shell) -> None:
    answer = staked.type(f"{ACCUSE} --yes --json")
    block = staked.block()
    assert answer.document == {
        "case": 1,
        "round": 0,
        "number": MALLORY,
        "segment": 2,
        "kind": "accusation",
        "bond_wei": str(APPEAL_BOND),
        "block": block,
        "releasable_at": block + APPEAL_BLOCKS,
    }
    assert "a bond of 10 tokens" in answer.err
    assert f"half of the bond goes to number {MALLORY}" in answer.err
    assert "murmur appeal release 1" in answer.err
    assert staked.balance() == 890 * TOKEN
    info = staked.network.ledger.appeal_info(1)
    assert info is not None
    assert (info.appellant, info.number, info.segment) == (ME, MALLORY, 2)


def test_a_contest_is_about_the_wallets_own_unit(staked: Shell) -> None:
    answer = staked.type(f"{CONTEST} --yes --json")
    assert (answer.document["kind"], answer.document["number"]) == ("contest", ME)
    assert "goes to the run's pot" in answer.err
    own = staked.type(f"appeal accuse {RUN} --round 0 --peer {ME} --segment 3 --yes")
    assert isinstance(own.error, UsageError)
    assert "murmur appeal contest" in own.error.hint
    assert staked.network.ledger.appeal_count() == 1


def test_nothing_is_put_up_without_consent(staked: Shell) -> None:
    before = staked.block()
    assert staked.type(ACCUSE).code == 2
    dry = staked.type(f"{ACCUSE} --dry-run --json")
    assert dry.code == 0
    assert len(dry.document["plan"]) == 2
    assert staked.block() == before
    assert staked.balance() == 900 * TOKEN


def test_what_the_ledger_would_refuse_is_refused_before_it_may_take_the_bond(staked: Shell) -> None:
    before = staked.block()
    for command, code, why in (
        (f"appeal accuse {RUN} --round 1 --peer 1 --segment 2", 5, "1 rounds are"),
        (f"appeal accuse {RUN} --round 0 --peer 2 --segment 2", 5, "no contributor"),
        (f"appeal accuse {RUN} --round 0 --peer 99 --segment 2", 5, "no contributor"),
        (f"appeal accuse {'cd' * 32} --round 0 --peer 1 --segment 2", 5, "no run"),
        ("appeal accuse nonsense --round 0 --peer 1 --segment 2", 5, "not a run id"),
        (f"appeal accuse {RUN} --round 0 --peer 1 --segment 1001", 2, ""),
        (f"appeal accuse {RUN} --round -1 --peer 1 --segment 2", 2, ""),
        (f"appeal accuse {RUN} --round 0 --peer 0 --segment 2", 2, ""),
        (f"appeal accuse {RUN} --round 0 --segment 2", 2, ""),
        ("appeal release 1", 5, "no case 1"),
        ("appeal release 0", 2, ""),
        (f"appeal list {'cd' * 32}", 5, "no run"),
    ):
        yes = "" if command.startswith("appeal list") else " --yes"
        answer = staked.type(command + yes)
        assert answer.code == code, command
        assert answer.out == ""
        assert why in (answer.error.message if answer.error else answer.err), command
    assert staked.block() == before


def test_who_is_not_staked_or_too_poor_is_told_so(shell: Shell) -> None:
    network = shell.network
    network.register("mallory")
    network.open_run()
    network.play_round(0)
    stranger = shell.type(f"{ACCUSE} --yes")
    assert isinstance(stranger.error, LedgerError)
    assert "not registered" in stranger.error.message
    shell.type("stake deposit --amount 995 --yes")
    poor = shell.type(f"{ACCUSE} --yes")
    assert poor.error is not None
    assert "holds 5 tokens, and the bond is 10" in poor.error.message
    shell.type("stake unbond --amount 900 --yes")
    left = shell.type(f"{ACCUSE} --yes")
    assert left.error is not None
    assert "has 95 tokens at stake" in left.error.message
    assert network.ledger.appeal_count() == 0


def test_a_second_accusation_names_the_first(staked: Shell) -> None:
    staked.type(f"{ACCUSE} --yes")
    again = staked.type(f"{ACCUSE} --yes")
    assert again.code == 5
    assert again.error is not None
    assert "accused before: case 1" in again.error.message
    assert staked.balance() == 890 * TOKEN


def test_the_list_shows_what_became_of_every_case(staked: Shell) -> None:
    network = staked.network
    assert listed(staked) == []
    assert staked.type(f"appeal list {RUN}").out == "no appeals\n"
    staked.type(f"{ACCUSE} --yes")
    staked.type(f"{CONTEST} --yes")
    network.ledger.appeal(network.person("mallory"), RUN, 0, ME, 0)
    settle(staked, 1, MALLORY, REJECTED)
    settle(staked, 2, ME, REJECTED)
    network.chain.mine(APPEAL_BLOCKS)
    assert (
        staked.type("appeal release 3 --yes --json").document["wallet"] == network.person("mallory").address
    )
    staked.type(f"appeal accuse {RUN} --round 0 --peer {MALLORY} --segment 4 --yes")
    found = listed(staked)
    assert [(one["case"], one["kind"], one["status"], one["outcome"]) for one in found] == [
        (1, "accusation", "upheld", "rejected"),
        (2, "contest", "refused", "rejected"),
        (3, "accusation", "released", None),
        (4, "accusation", "open", None),
    ]
    assert found[2] == {
        "case": 3,
        "round": 0,
        "number": ME,
        "segment": 0,
        "appellant": MALLORY,
        "kind": "accusation",
        "bond_wei": str(APPEAL_BOND),
        "block": found[2]["block"],
        "releasable_at": found[2]["block"] + APPEAL_BLOCKS,
        "status": "released",
        "outcome": None,
    }
    lines = staked.type(f"appeal list {RUN}").out.splitlines()
    assert len(lines) == 5
    assert lines[1].endswith("upheld (rejected)")
    assert lines[4].endswith(f"open, to be released from block {found[3]['releasable_at']}")


def test_a_release_waits_for_its_block_and_pays_the_appellant(staked: Shell) -> None:
    staked.type(f"{ACCUSE} --yes")
    early = staked.type("appeal release 1 --yes")
    assert early.code == 5
    assert early.error is not None
    assert "AppealOpen" in early.error.message
    assert early.error.hint
    staked.network.chain.mine(APPEAL_BLOCKS)
    released = staked.type("appeal release 1 --yes --json").document
    assert released["returned_wei"] == str(APPEAL_BOND)
    assert released["block"] == staked.block()
    assert staked.balance() == 900 * TOKEN
    assert staked.type("appeal release 1 --yes").code == 5


def test_the_program_lists_what_was_settled(staked: Shell) -> None:
    staked.type(f"{ACCUSE} --yes")
    settle(staked, 1, MALLORY, PASSED)
    found = murmur(["appeal", *staked.flags(f"list {RUN} --json")])
    assert found.returncode == 0, found.stderr
    assert [one["status"] for one in json.loads(found.stdout)] == ["refused"]


def test_what_the_runs_rules_would_not_count_is_refused_where_they_are_known(staked: Shell) -> None:
    manifest = RunManifest(
        name="ruled",
        chain_id=LOCAL_CHAIN_ID,
        ledger=staked.network.ledger.address,
        coordinator=staked.network.peer("coordinator").address,
        rounds=1,
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=100_000),
        deadlines=DeadlineConfig(appeal=5),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )
    run, home = manifest.run_id, staked.home
    staked.network.open_run(0, run)
    staked.network.play_round(0, run)
    accuse = f"appeal accuse {run} --round 0 --peer {MALLORY} --yes"
    assert "were not checked" in staked.type(f"{accuse} --segment 0").err
    (home / "manifest.json").write_bytes(manifest.to_bytes())
    assert "were not checked" not in staked.type(f"{accuse} --segment 1").err
    beyond = staked.type(f"{accuse} --segment {manifest.segments}")
    assert isinstance(beyond.error, UsageError)
    request(staked.network.ledger.w3, "anvil_mine", "0x5")
    late = staked.type(f"{accuse} --segment 2")
    assert isinstance(late.error, LedgerError)
    assert "could be accused up to block" in late.error.message
    assert staked.network.ledger.appeal_count() == 2
