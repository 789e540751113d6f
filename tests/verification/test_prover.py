"""What a daemon does with two statements of one key for one round, on a real ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from typer.testing import CliRunner

from contracts.dispute_cli import dispute_app
from contracts.equivocation import Contradiction
from contracts.run import ChainRun
from protocol.keys import PeerKey
from protocol.manifest import LOCAL_CHAIN_ID
from protocol.messages import Body, Commitment, Reveal, RoundRecord, Signed, signing_digest
from protocol.pool import MessagePool
from tests.contracts.conftest import MIN_STAKE, RUN, TERMS, TOKEN, Network, chain, deployed, network
from verification.prover import EVIDENCE_DIRECTORY, Prover

__all__ = ["chain", "deployed", "network"]

ALICE = 1


@dataclass
class Heard:
    """Pairs that a pool would hold."""

    equivocations: list[tuple[Signed[Body], Signed[Body]]] = field(default_factory=list)


class Stand:
    """A daemon's wallet that proves what it hears in a run with one anchored round of alice."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.directory = directory
        network.register("alice")
        network.open_run()
        network.play_round(0)
        self.chain = ChainRun(network.ledger, RUN)
        self.heard = Heard()
        self.prover = self.start()

    def start(self, own: str = "", wait: int = 0) -> Prover:
        self.chain.refresh()

        def patience(proof: Contradiction) -> int:
            return wait

        self.heard.equivocations.clear()  # a pool begins empty
        finder, sender = self.network.person("finder"), self.network.person("daemon")
        return Prover(self.chain, sender, finder.address, self.directory, own=own, patience=patience)

    def say(self, key: PeerKey, body: Body, round_: int = 0) -> Signed[Body]:
        ledger, role = self.network.ledger.address, body.roles[0]
        signature = key.sign(signing_digest(LOCAL_CHAIN_ID, ledger, RUN, round_, role, body))
        return Signed(LOCAL_CHAIN_ID, ledger, RUN, round_, role, body, signature)

    def commitments(self, name: str, round_: int = 0) -> tuple[Signed[Body], Signed[Body]]:
        key = self.network.peer(name)
        return self.say(key, commitment("aa"), round_), self.say(key, commitment("bb"), round_)

    def records(self, name: str) -> tuple[Signed[Body], Signed[Body]]:
        key = self.network.peer(name)
        bodies = (RoundRecord(parameters=one * 32, units=(), judged=()) for one in ("ab", "cd"))
        first, second = (self.say(key, body) for body in bodies)
        return first, second

    async def look(self) -> None:
        """Let the daemon look once, and finish what it began."""
        self.chain.refresh()
        async with trio.open_nursery() as nursery:
            self.prover.look(cast("MessagePool", self.heard), nursery)
        self.chain.refresh()

    @property
    def credit(self) -> int:
        return self.network.ledger.jury.credit(self.network.person("finder").address)

    @property
    def sent(self) -> int:
        wallet = self.network.person("daemon").address
        return int(self.network.chain.w3.eth.get_transaction_count(wallet))


def commitment(update: str) -> Commitment:
    same = "ab" * 32
    return Commitment(
        number=ALICE,
        profile="cpu-fp32",
        parameters=same,
        assignment=same,
        moments_before=same,
        moments_after=same,
        residual_before=same,
        residual_after=same,
        segments=(same, same),
        update=update * 32,
    )


@pytest.fixture
def stand(network: Network, tmp_path: Path) -> Stand:
    return Stand(network, tmp_path / "daemon")


async def test_two_commitments_are_proven_once_and_pay_the_finder(stand: Stand) -> None:
    stand.heard.equivocations.append(stand.commitments("alice"))
    await stand.look()
    operator = stand.network.ledger.operator(ALICE)
    assert operator is not None
    assert (operator.stake_wei, operator.equivocations) == (MIN_STAKE * 9 // 10, 1)
    assert (stand.credit, stand.sent) == (3 * TOKEN, 1)
    first, _ = stand.commitments("alice")
    stand.heard.equivocations.append((first, stand.say(stand.network.peer("alice"), commitment("cc"))))
    for _ in range(2):
        await stand.look()
    stand.prover = stand.start()
    await stand.look()
    assert (stand.credit, stand.sent) == (3 * TOKEN, 1)
    assert [one["state"] for one in stand.prover.status()] == ["proven"]


async def test_two_records_cost_the_coordinator_its_bond(stand: Stand) -> None:
    stand.heard.equivocations.append(stand.records("coordinator"))
    await stand.look()
    info = stand.network.ledger.run_info(RUN)
    assert info is not None
    assert info.bond_wei == 0
    assert stand.credit == TERMS.run_bond * 3 // 10


async def test_evidence_outlives_a_kill_and_serves_the_command_as_well(stand: Stand, tmp_path: Path) -> None:
    stand.prover = stand.start(wait=1000)
    stand.heard.equivocations.append(stand.commitments("alice"))
    await stand.look()
    assert (stand.credit, stand.sent) == (0, 0), "others have time first"
    (shown,) = stand.prover.status()
    assert shown["state"] == "to be proven"
    stand.prover = stand.start()
    await stand.look()
    assert stand.credit == 3 * TOKEN
    again = CliRunner().invoke(
        dispute_app,
        [
            *("equivocation", RUN, "--round", "0", "--dir", str(tmp_path), "--dry-run"),
            *("--a", shown["files"][0], "--b", shown["files"][1]),
            *("--owner", stand.network.person("finder").address),
            *("--rpc", stand.network.chain.url, "--ledger", stand.network.ledger.address),
        ],
    )
    assert "punished for this round before" in str(again.exception)


async def test_only_what_the_ledger_punishes_is_sent(stand: Stand) -> None:
    alice, bob = stand.network.peer("alice"), stand.network.peer("bob")
    same = "ab" * 32
    reveals = [
        Reveal(
            number=ALICE,
            commitment=same,
            symbols=one * 32,
            salt=same,
            blob=same,
            blob_bytes=10,
            train_cpu_s=0.0,
        )
        for one in ("aa", "bb")
    ]
    first, _ = stand.commitments("alice")
    stand.heard.equivocations += [
        (stand.say(alice, reveals[0]), stand.say(alice, reveals[1])),  # costs nothing
        (first, first),  # says the same
        (first, stand.say(bob, commitment("bb"))),  # another key of the number
        (first, stand.say(alice, commitment("bb"), 1)),  # another round
        stand.commitments("bob"),  # nobody's key
    ]
    for _ in range(2):
        await stand.look()
    assert (stand.sent, stand.credit) == (0, 0)
    (shown,) = stand.prover.status()
    assert "no registered key" in shown["state"]


async def test_what_others_prove_first_is_left_to_them(stand: Stand) -> None:
    stand.prover = stand.start(wait=3)
    first, second = stand.commitments("alice")
    stand.heard.equivocations.append((first, second))
    await stand.look()
    said = [(one.body.digest(), one.signature) for one in (first, second)]
    other = stand.network.person("other")
    stand.network.ledger.jury.prove_equivocation(other, RUN, 0, *said, other.address, record=False)
    stand.network.chain.mine(5)
    await stand.look()
    assert stand.sent == 0
    assert [one["state"] for one in stand.prover.status()] == ["proven"]


async def test_nobody_accuses_itself_and_evidence_is_bounded(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verification.prover.MAX_EVIDENCE", 1)
    stand.prover = stand.start(own=stand.network.peer("coordinator").address)
    stand.heard.equivocations += [
        stand.records("coordinator"),
        stand.commitments("alice"),
        stand.commitments("alice", 1),
    ]
    await stand.look()
    assert len(stand.prover.status()) == 1
    assert stand.prover.status()[0]["signer"] == stand.network.peer("alice").address
    assert len(list((stand.directory / EVIDENCE_DIRECTORY).iterdir())) == 2
    for path in (stand.directory / EVIDENCE_DIRECTORY).glob("*-b.json"):
        path.write_bytes(b"{")
    stand.prover = stand.start()
    assert stand.prover.status() == [], "a kill between two files leaves no evidence"

    later = stand.network.peer("alice later")
    stand.network.ledger.rotate_peer(stand.network.person("alice"), later)
    stand.prover = stand.start(own=later.address)
    stand.heard.equivocations.append(stand.commitments("alice"))
    await stand.look()
    assert stand.prover.status() == [], "nor does it accuse its number's earlier key"
