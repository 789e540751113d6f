"""What a node's hot key sends where the coordinator leaves it out, on a real ledger, and what its owner hears."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from eth_account import Account

from contracts.anvil import set_coin
from contracts.reverts import LedgerRevert
from contracts.run import ChainRun
from contracts.types import Receipt
from node.events import Force
from node.inclusion import Forcer, Inclusion, Purse
from protocol.errors import LedgerError
from tests.contracts.conftest import FORCE_BLOCKS, RUN, Network, chain, deployed, network
from tests.node.world import World

__all__ = ["chain", "deployed", "network"]  # fixtures

OURS = "07" * 32
COIN = 10**18


@pytest.fixture
def inclusion(network: Network, tmp_path: Path) -> Inclusion:
    """Return the hot key of a registered contributor whose run has just posted a root without it."""
    network.register("alice")
    coordinator = network.open_run()
    network.ledger.post_commitments(coordinator, RUN, 0, bytes([1]) * 32, 1)
    return Inclusion.open(ChainRun(network.ledger, RUN), network.peer("alice"), tmp_path)


def hot_key(network: Network) -> str:
    return str(Account.from_key(network.peer("alice").secret).address)


def pay(network: Network) -> None:
    set_coin(network.chain.w3, hot_key(network), COIN)


def test_the_hot_key_forces_a_commitment_in_once(network: Network, inclusion: Inclusion) -> None:
    pay(network)
    assert inclusion.purse().warning is None
    receipt = inclusion.force(0, OURS)
    assert receipt is not None
    assert network.ledger.forced(RUN, 0, 1) == bytes.fromhex(OURS)
    assert inclusion.force(0, "08" * 32) is None, "it is there already"
    inclusion.close()


def test_a_restarted_node_sends_nothing_twice(network: Network, inclusion: Inclusion, tmp_path: Path) -> None:
    pay(network)
    assert inclusion.force(0, OURS) is not None
    inclusion.close()
    again = Inclusion.open(ChainRun(network.ledger, RUN), network.peer("alice"), tmp_path)
    assert again.force(0, OURS) is None
    assert network.chain.w3.eth.get_transaction_count(hot_key(network)) == 1  # type: ignore[arg-type]
    again.close()


def test_a_hot_key_without_coin_says_how_much_it_lacks(network: Network, inclusion: Inclusion) -> None:
    purse = inclusion.purse()
    assert purse.coin_wei == 0 < purse.needed_wei
    assert purse.warning is not None
    assert f"send it {purse.needed_wei} wei or more" in purse.warning
    with pytest.raises(LedgerError):
        inclusion.force(0, OURS)
    pay(network)
    assert inclusion.force(0, OURS) is not None
    inclusion.close()


def test_after_the_window_the_ledger_takes_nothing(network: Network, inclusion: Inclusion) -> None:
    pay(network)
    network.chain.mine(FORCE_BLOCKS + 1)
    with pytest.raises(LedgerRevert, match="WindowClosed"):
        inclusion.force(0, OURS)
    inclusion.close()


class Ledgerless:
    """Fail so often, and then succeed."""

    def __init__(self, world: World, *failures: LedgerError, coin: int = 0) -> None:
        self.world = world
        self.failures = [*failures]
        self.coin = coin
        self.tried = 0
        self.looks = trio.Semaphore(0)

    def purse(self) -> Purse:
        trio.from_thread.run_sync(self.looks.release)
        return Purse("0xAB", self.coin, 5)

    def force(self, round_: int, commitment: str) -> Receipt | None:
        self.tried += 1
        if self.failures:
            raise self.failures.pop(0)
        self.world.chain.forcings[round_] = {1: commitment}
        return None

    def close(self) -> None:
        return None


def effect(world: World) -> Force:
    return Force(0, OURS, world.chain.height + 3)


def in_no_time(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test whose clock jumps to the next deadline once nothing else happens."""
    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0.1))


def test_a_failure_is_tried_again_and_forgotten() -> None:
    world = World()
    ledger = Ledgerless(world, LedgerError("no answer"), LedgerError("no coin"))
    forcer = Forcer(ledger, world.chain, 1)

    async def twice() -> None:
        await forcer.force(effect(world))
        assert (ledger.tried, forcer.warnings) == (3, [])
        await forcer.force(effect(world))

    in_no_time(twice)
    assert ledger.tried == 3, "the chain shows it"


async def test_a_refusal_is_final_and_told() -> None:
    world = World()
    ledger = Ledgerless(world, LedgerRevert("WindowClosed", {"last": 5}))
    forcer = Forcer(ledger, world.chain, 1)
    await forcer.force(effect(world))
    assert ledger.tried == 1
    (warning,) = forcer.warnings
    assert "round 0: our commitment is not forced in" in warning
    assert "WindowClosed" in warning


async def test_a_closed_window_is_not_tried() -> None:
    world = World()
    ledger = Ledgerless(world)
    await Forcer(ledger, world.chain, 1).force(Force(0, OURS, world.chain.height))
    assert ledger.tried == 0


def test_a_poor_hot_key_is_on_show_and_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    ledger = Ledgerless(world, coin=4)
    forcer = Forcer(ledger, world.chain, 1)

    async def look(times: int) -> None:
        for _ in range(times):
            await ledger.looks.acquire()

    async def watch() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forcer.watch)
            await look(3)
            assert len(forcer.warnings) == 1
            ledger.coin = 5
            await look(3)  # one may have been under way, and the last is not done with
            assert forcer.warnings == []
            nursery.cancel_scope.cancel()

    with caplog.at_level(logging.WARNING):
        in_no_time(watch)
    assert len([one for one in caplog.messages if "the hot key 0xAB holds 4 wei" in one]) == 1
