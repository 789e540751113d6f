"""`murmur jury` as typed: slots, their stake, and what is due of a seat."""

import json
from typing import Any

import pytest

from contracts.jury import sealed_vote
from contracts.jury_plan import JOIN_GAS, SLOT_GAS
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.wallet import open_wallet
from protocol.errors import UsageError
from tests.contracts.conftest import JURY, RUN, TOKEN
from tests.contracts.court import ROOT, SALT, close, draw, look
from tests.contracts.shell import Shell

ME = 1


@pytest.fixture
def verifier(shell: Shell) -> Shell:
    shell.type("stake deposit --role verifier --amount 100 --yes")
    return shell


def duties(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell.type(f"jury duties {RUN} --json").out)
    return found


def test_slots_are_taken_given_up_and_paid_back(verifier: Shell) -> None:
    before = verifier.block()
    dry = verifier.type("jury join --slots 3 --dry-run --json").document
    assert [one["what"] for one in dry["transactions"]] == ["let the jury take the tokens", "take slots"]
    assert verifier.type("jury join --slots 3").code == 2
    assert verifier.block() == before
    joined = verifier.type("jury join --slots 3 --yes --json")
    assert (joined.document["slots"], joined.document["paid_wei"]) == (3, str(60 * TOKEN))
    assert "60 tokens" in joined.err
    assert "not revealed costs 1" in joined.err
    receipt = verifier.network.chain.w3.eth.get_transaction_receipt(joined.document["tx"])
    assert int(receipt["gasUsed"]) <= JOIN_GAS + 3 * SLOT_GAS
    shown = verifier.type("jury status --json").document
    assert (shown["slots"], shown["of"], shown["bonded_wei"]) == (3, 3, str(60 * TOKEN))
    assert (shown["owed_wei"], shown["serving"], shown["credit_wei"]) == ("0", 0, "0")
    assert verifier.balance() == 840 * TOKEN

    given = verifier.type("jury resign --slots 2 --yes --json").document
    assert (given["slots"], given["leaving_wei"]) == (1, str(40 * TOKEN))
    assert given["leaving_at"] == verifier.block() + JURY.unbonding_blocks
    early = verifier.type("jury withdraw --yes")
    assert early.error is not None
    assert f"free from block {given['leaving_at']}" in early.error.message
    verifier.network.chain.mine(JURY.unbonding_blocks)
    assert verifier.type("jury withdraw --yes --json").document["withdrawn_wei"] == str(40 * TOKEN)
    assert verifier.balance() == 880 * TOKEN
    assert verifier.type("jury withdraw --yes").code == 5


def test_who_may_not_hold_slots_is_told_why(shell: Shell) -> None:
    for command, code, why in (
        ("join --slots 1", 5, "not registered"),
        ("resign --slots 1", 5, "not registered"),
        ("withdraw", 5, "not registered"),
        ("join --slots -1", 2, ""),
        ("join --slots 101", 2, ""),
        ("join", 2, ""),
        ("resign --slots 0", 2, ""),
    ):
        answer = shell.type(f"jury {command} --yes")
        assert answer.code == code, command
        assert why in (answer.error.message if answer.error else answer.err)
    assert shell.type("jury status").code == 5
    shell.type("stake deposit --amount 100 --yes")
    contributor = shell.type("jury join --slots 1 --yes")
    assert contributor.error is not None
    assert "is a contributor" in contributor.error.message
    assert "--role verifier" in contributor.error.hint


def test_amounts_that_do_not_fit_are_refused(verifier: Shell) -> None:
    nothing = verifier.type("jury join --slots 0 --yes")
    assert isinstance(nothing.error, UsageError)
    assert "owes nothing" in nothing.error.message
    much = verifier.type("jury join --slots 50 --yes")
    assert much.error is not None
    assert "holds 900 tokens, and this takes 1000" in much.error.message
    none = verifier.type("jury resign --slots 1 --yes")
    assert none.error is not None
    assert "holds 0 slots, not 1" in none.error.message


def test_duties_say_what_is_due_until_which_block_and_silence_is_made_up(verifier: Shell) -> None:
    network = verifier.network
    verifier.type("jury join --slots 3 --yes")  # alone on the jury, so that every seat is its own
    network.register("alice")
    network.open_run()
    network.play_round(0)
    jury, anyone = network.ledger.jury, network.person("anyone")
    case = jury.accuse(anyone, RUN, 0, 2, 1, anyone.address).case
    assert duties(verifier) == []
    assert verifier.type(f"jury duties {RUN}").out == "no seats in open cases\n"
    draw(network, case)
    drawn = verifier.block()
    rows = duties(verifier)
    assert [(row["seat"], row["due"], row["until"]) for row in rows] == [
        (seat, "seal a vote", drawn + JURY.vote_blocks) for seat in range(3)
    ]
    assert (rows[0]["case"], rows[0]["about"]) == (case, "round 0, number 2, segment 1")
    busy = verifier.type("jury resign --slots 1 --yes")
    assert busy.error is not None
    assert "3 seats in cases that are not over" in busy.error.message

    me = Sender(network.chain.w3, open_wallet(verifier.home))
    place = (network.ledger.chain_id, jury.address, case)
    for seat in range(2):
        vote = {"second": False, "seat": seat, "juror": ME, "outcome": 1, "result": ROOT, "salt": SALT}
        jury.commit_vote(me, case, seat, sealed_vote(*place, **vote))  # type: ignore[arg-type]
    assert [row["due"] for row in duties(verifier)] == [None, None, "seal a vote"]
    network.chain.mine(JURY.vote_blocks)
    last = drawn + JURY.vote_blocks + JURY.reveal_blocks
    assert [(row["due"], row["until"]) for row in duties(verifier)] == [
        ("reveal the vote", last),
        ("reveal the vote", last),
        (None, None),
    ]
    told = verifier.type(f"jury duties {RUN}").out.splitlines()
    assert told[0].startswith(f"case {case}, seat 0: reveal the vote until block {last}")
    for seat in range(2):
        jury.reveal_vote(anyone, case, seat, 1, ROOT, SALT)
    jury.rule(anyone, case)

    run = ChainRun(network.ledger, RUN)
    close(network, run, case)
    assert look(run, case).closed
    assert duties(verifier) == []
    owing = verifier.type("jury status --json")
    assert owing.document["owed_wei"] == str(TOKEN)
    assert owing.document["credit_wei"] == str(2 * JURY.fee)
    assert "murmur jury join --slots 0" in owing.err
    again = verifier.type("jury join --slots 0 --yes --json")
    assert again.document["paid_wei"] == str(TOKEN)
    assert verifier.type("jury status --json").document["owed_wei"] == "0"
