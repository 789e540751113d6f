"""Who is accused hears of it at once, and can check that its segment is open."""

import os
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from contracts.alerts import Alert, alerts_about, open_alerts, run_alerts, unbonding_of
from contracts.hearing import describe_alert
from contracts.run import ChainRun
from contracts.sender import Sender
from contracts.types import CaseKind, CaseOutcome, CaseStage
from contracts.wallet import open_wallet
from protocol.blobs import BlobStore
from protocol.daemon import STATUS_FILE, write_status
from protocol.errors import UsageError
from protocol.history import HISTORY_FILE, MessageHistory
from protocol.keys import PeerKey, load_peer_key, save_peer_key
from protocol.manifest import LOCAL_CHAIN_ID
from protocol.messages import Opening, Signed, signing_digest
from tests.contracts.conftest import JURY, MIN_STAKE, RUN, TOKEN
from tests.contracts.court import court, vote
from tests.contracts.shell import Shell

ME, SEGMENT = 1, 2


def opening(store: BlobStore, segment: int, case: int = 0) -> Opening:
    files = [store.put(bytes([index])) for index in range(5)]
    return Opening(
        number=ME,
        case=case,
        commitment="ab" * 32,
        segment=segment,
        start_parameters=files[0],
        start_moments=files[1],
        end_parameters=files[2],
        end_moments=files[3],
        final_parameters=files[4],
        final_moments="cd" * 32,  # never fetched
        residual_before=None,
        residual_after="cd" * 32,
        symbols="cd" * 32,
        salt="cd" * 32,
    )


def publish(shell: Shell, key: PeerKey, body: Opening) -> None:
    """Put a signed opening into the node's history, as its own pool does."""
    ledger = shell.network.ledger.address
    digest = signing_digest(LOCAL_CHAIN_ID, ledger, RUN, 0, "contributor", body)
    message = Signed(LOCAL_CHAIN_ID, ledger, RUN, 0, "contributor", body, key.sign(digest))
    with MessageHistory.open(shell.home / HISTORY_FILE, RUN) as history:
        history.add(message)


@pytest.fixture
def accused(shell: Shell) -> tuple[Shell, ChainRun, int]:
    """The shell's owner is number 1, and somebody has accused its segment 2."""
    shell.type("stake deposit --amount 100 --yes")
    run, _ = court(shell.network)
    network = shell.network
    case = network.ledger.jury.accuse(
        network.person("accuser"), RUN, 0, ME, SEGMENT, network.person("finder").address
    ).case
    run.refresh()
    return shell, run, case


def test_what_is_accused_must_be_open_and_the_answer_says_what_is_missing(
    accused: tuple[Shell, ChainRun, int],
) -> None:
    shell, _, case = accused
    key, store = load_peer_key(shell.home / "peer.key"), BlobStore(shell.home / "blobs")
    opened = shell.block()
    answer = shell.type(f"dispute respond {case} --json")
    assert answer.code == 1
    assert answer.document["open"] is False
    assert answer.document["open_by"] == opened + 2 * JURY.vote_blocks // 3 - 1
    assert answer.document["at_stake_wei"] == str(MIN_STAKE)
    assert "start the node: `murmur node start --dir" in answer.err
    assert "100 tokens at stake" in answer.err

    write_status(shell.home / STATUS_FILE, {"run": RUN, "error": {"message": "the trainer died"}})
    running = shell.type(f"dispute respond {case}")
    assert running.code == 1
    assert "the trainer died" in running.err
    publish(shell, key, opening(store, SEGMENT + 1, case=99))  # another segment is no answer
    assert shell.type(f"dispute respond {case}").code == 1
    publish(
        shell, PeerKey(keccak(text="mallory")), opening(store, SEGMENT, case=98)
    )  # neither is another's word
    assert shell.type(f"dispute respond {case}").code == 1
    publish(shell, key, opening(store, SEGMENT))  # that of the round's draw is
    good = shell.type(f"dispute respond {case} --json")
    assert good.code == 0, good.err
    assert (good.document["opened"], good.document["missing"], good.document["open"]) == (True, [], True)
    network = shell.network
    network.ledger.rotate_peer(Sender(network.chain.w3, open_wallet(shell.home)), network.peer("later"))
    assert shell.type(f"dispute respond {case}").code == 0, "what an earlier key opened stays open"
    lost = store.put(bytes([3]))
    store.delete(lost)
    assert shell.type(f"dispute respond {case} --json").document["missing"] == [lost]
    store.put(bytes([3]))
    os.utime(shell.home / STATUS_FILE, (0, 0))
    down = shell.type(f"dispute respond {case} --json")
    assert (down.code, down.document["running"], down.document["opened"]) == (1, False, True)


def test_after_the_votes_nothing_is_asked_and_nobody_answers_for_others(
    accused: tuple[Shell, ChainRun, int], tmp_path: Path
) -> None:
    shell, run, case = accused
    stranger = Shell(shell.network, tmp_path / "bob", "")
    stranger.home.mkdir()
    assert stranger.type(f"dispute respond {case}").code == 3
    save_peer_key(stranger.home / "peer.key", shell.network.peer("alice"))
    other = stranger.type(f"dispute respond {case}")
    assert isinstance(other.error, UsageError)
    assert "is about number 1, and this directory is number 2" in other.error.message
    jurors = {one.number: shell.network.person(name) for one, name in _jurors(run)}
    vote(shell.network, run, case, jurors, CaseOutcome.FALSE)
    answer = shell.type(f"dispute respond {case}")
    assert answer.code == 0
    assert "the votes are over" in answer.err


def _jurors(run: ChainRun) -> list[tuple[Any, str]]:
    names = iter(("vera", "vito", "vic"))
    return [(one, next(names)) for one in run.operators() if one.role == "verifier"]


def test_an_accusation_alerts_its_owner_with_deadline_and_sum_at_stake(
    accused: tuple[Shell, ChainRun, int],
) -> None:
    shell, run, case = accused
    network, opened = shell.network, shell.block()
    expected = Alert(
        case=case,
        run=RUN,
        kind=CaseKind.ACCUSATION,
        round=0,
        segment=SEGMENT,
        stage=CaseStage.CALLED,
        second=False,
        last_block=opened + JURY.draw_blocks,
        open_by=opened + 2 * JURY.vote_blocks // 3 - 1,
        at_stake_wei=MIN_STAKE,
    )
    assert run_alerts(run, ME) == open_alerts(network.ledger, ME) == (expected,)
    assert run_alerts(run, 2) == open_alerts(network.ledger, 2) == ()
    assert open_alerts(network.ledger, 99) == ()
    line = describe_alert(expected.to_json())
    assert "segment 2 of round 0 is accused; 100 tokens at stake" in line
    assert f"open by block {expected.open_by}" in line
    assert f"murmur dispute respond {case}" in line
    assert shell.type("stake status --json").document["alerts"] == [expected.to_json()]
    assert f"ALERT          {line}" in shell.type("stake status").out

    shell.type("stake unbond --amount 40 --yes")  # what unbonds can still be lost
    run.refresh()
    assert unbonding_of(run.events, ME) == 40 * TOKEN
    assert [one.at_stake_wei for one in run_alerts(run, ME)] == [MIN_STAKE]
    jurors = {one.number: network.person(name) for one, name in _jurors(run)}
    vote(network, run, case, jurors, CaseOutcome.FALSE)
    run.refresh()
    (ruled,) = run_alerts(run, ME)
    assert (ruled.stage, ruled.open_by) == (CaseStage.RULED, None)
    assert f"murmur dispute show {case}" in describe_alert(ruled.to_json())
    half = alerts_about(
        run.every_case(), ME, height=run.height, terms=JURY, fault_bps=5000, slashable_wei=MIN_STAKE
    )
    assert [one.at_stake_wei for one in half] == [MIN_STAKE // 2]
    network.chain.mine(JURY.appeal_blocks + 1)
    network.ledger.jury.close(network.treasury, case)
    run.refresh()
    assert run_alerts(run, ME) == open_alerts(network.ledger, ME) == ()
    assert shell.type("stake status --json").document["alerts"] == []
    assert unbonding_of(run.events, ME) == 0
