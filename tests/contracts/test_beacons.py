"""A drand round belongs to an anchoring block by the block's time alone; no other round, signer or block will do."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.anvil import request
from contracts.run import ChainRun
from contracts.sender import Sender
from protocol.beacon_config import BlockBeacon
from protocol.beacons import DrandClient, KeptSignatures, SignatureFiles
from protocol.chain import OPENING_ROUND
from protocol.drand import DrandChain, verify_beacon
from protocol.errors import LedgerError, Malformed, NetworkError
from tests.contracts.conftest import RUN, Network
from tests.protocol.drand_network import LocalDrand

MARGIN_S = 5


class Known:
    """Find the signatures of rounds up to a last one."""

    def __init__(self, drand: LocalDrand, last: int = 2**40) -> None:
        self.drand = drand
        self.last = last
        self.asked: list[int] = []
        self.lie = ""

    def find(self, chain: DrandChain, round_: int) -> str | None:
        assert chain == self.drand.chain
        self.asked.append(round_)
        if self.lie:
            return self.lie
        return self.drand.signature(round_) if round_ <= self.last else None


def time_of(network: Network, block: int | None) -> int:
    assert block is not None
    return int(network.chain.w3.eth.get_block(block)["timestamp"])


def opened(network: Network, source: object, margin_s: int = MARGIN_S) -> ChainRun:
    network.register("alice")
    network.open_run()
    view = ChainRun(network.ledger, RUN, start_block=network.ledger.deployed_block or 1)
    view.follow_beacon(LocalDrand().beacon(margin_s), source)  # type: ignore[arg-type]
    return view


def test_the_first_round_a_margin_after_the_anchor_is_the_beacon(network: Network) -> None:
    drand = LocalDrand(period=3)
    network.register("alice")
    network.open_run()
    view = ChainRun(network.ledger, RUN, start_block=network.ledger.deployed_block or 1)
    view.follow_beacon(drand.beacon(MARGIN_S), Known(drand))
    network.play_round(0)
    view.refresh()
    for round_, beacon in ((OPENING_ROUND, view.assignment_beacon(0)), (0, view.sampling_beacon(0))):
        number = view.drand_round(round_)
        assert number is not None
        earliest = time_of(network, view.anchor(round_)) + MARGIN_S
        assert drand.chain.time_of(number) >= earliest > drand.chain.time_of(number - 1)
        assert beacon == verify_beacon(drand.chain.public_key, number, drand.signature(number))
    assert view.sampling_beacon(0) == view.assignment_beacon(1)
    assert view.sampling_beacon(1) is None
    assert view.drand_round(1) is None


def test_a_beacon_comes_when_its_round_is_signed_and_never_changes(network: Network) -> None:
    source = Known(LocalDrand(), last=0)
    view = opened(network, source)
    view.refresh()
    assert view.assignment_beacon(0) is None
    round_ = view.drand_round(OPENING_ROUND)
    assert round_ is not None
    source.last = round_
    network.chain.mine(3)
    view.refresh()
    found = view.assignment_beacon(0)
    assert found is not None
    asked = len(source.asked)
    network.chain.mine(3)
    view.refresh()
    assert (view.assignment_beacon(0), len(source.asked)) == (found, asked)


@pytest.mark.parametrize("lie", ["another round", "another signer", "nonsense"])
def test_a_source_cannot_choose_the_beacon(network: Network, lie: str) -> None:
    drand = LocalDrand()
    source = Known(drand)
    view = opened(network, source)
    view.refresh()
    round_ = view.drand_round(OPENING_ROUND)
    assert round_ is not None
    view.follow_beacon(drand.beacon(MARGIN_S), source)
    other = LocalDrand(secret=666)
    source.lie = {
        "another round": drand.signature(round_ + 1),
        "another signer": other.signature(round_),
        "nonsense": "00" * 48,
    }[lie]
    with pytest.raises(Malformed, match="drand signature"):
        view.refresh()
    assert view.assignment_beacon(0) is None


def test_a_due_round_that_nobody_has_is_told_and_the_chain_is_seen_all_the_same(
    network: Network, tmp_path: Path
) -> None:
    drand = LocalDrand()
    with drand.serve() as endpoint:
        client = DrandClient([endpoint], clock=lambda: 2.0**33)
        view = opened(network, KeptSignatures(SignatureFiles(tmp_path), client))
        network.play_round(0)
        view.refresh()
        first = view.assignment_beacon(0), view.sampling_beacon(0)
        assert None not in first
    request(network.chain.w3, "evm_increaseTime", 100)
    network.play_round(1)
    with pytest.raises(LedgerError, match="no drand endpoint gave round"):
        view.refresh()
    assert view.anchor(1) == view.height
    assert (view.assignment_beacon(0), view.sampling_beacon(0), view.sampling_beacon(1)) == (*first, None)


def test_few_rounds_are_looked_for_at_once_and_the_newest_first(network: Network) -> None:
    source = Known(LocalDrand())
    view = opened(network, source)
    for round_ in range(3):
        request(network.chain.w3, "evm_increaseTime", 50)
        network.play_round(round_)
    view.follow_beacon(LocalDrand().beacon(MARGIN_S), source, at_once=2)
    view.refresh()
    assert [view.sampling_beacon(round_) is None for round_ in (-1, 0, 1, 2)] == [True, True, False, False]
    assert len(source.asked) == 2
    view.refresh()
    assert None not in [view.sampling_beacon(round_) for round_ in (-1, 0, 1, 2)]


def test_a_reorganised_anchor_takes_its_time_from_the_new_block(network: Network) -> None:
    source = Known(LocalDrand())
    view = opened(network, source)
    network.play_round(0)
    view.refresh()
    before = view.sampling_beacon(0), view.drand_round(0)
    w3 = network.chain.w3
    request(w3, "anvil_reorg", 1, [])  # the record never happened
    request(w3, "evm_increaseTime", 500)
    sender = Sender(w3, network.person("coordinator").account)
    network.ledger.anchor_record(sender, RUN, 0, bytes([2]) * 32)
    view.refresh()
    after = view.sampling_beacon(0), view.drand_round(0)
    assert None not in (*before, *after)
    assert (after[1] or 0) > (before[1] or 0) + 400
    assert after[0] != before[0]


def test_there_is_no_beacon_before_the_manifest_is_known_and_none_without_a_source(network: Network) -> None:
    network.open_run()
    view = ChainRun(network.ledger, RUN, start_block=network.ledger.deployed_block or 1)
    network.chain.mine(2)
    view.refresh()
    assert view.assignment_beacon(0) is None
    with pytest.raises(LedgerError, match="no source of signatures"):
        view.follow_beacon(LocalDrand().beacon(), None)
    view.follow_beacon(BlockBeacon(), None)
    view.refresh()
    assert view.assignment_beacon(0) is not None
    assert view.drand_round(OPENING_ROUND) is None


def test_a_network_error_is_the_chains_to_its_reader(network: Network) -> None:
    class Silent:
        def find(self, chain: DrandChain, round_: int) -> str | None:
            raise NetworkError("nobody is there")

    view = opened(network, Silent())
    with pytest.raises(LedgerError, match="nobody is there"):
        view.refresh()
