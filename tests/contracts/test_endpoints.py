"""Several endpoints of one chain: who fails, lags or lies is left out; where nobody can tell who lies, all stops."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from web3 import Web3

from contracts.anvil import request
from contracts.chain import connect, read_together
from contracts.client import Ledger
from contracts.endpoints import EndpointsProvider
from contracts.reverts import LedgerRevert
from contracts.sender import Sender
from murmur.ports import free_port
from protocol.errors import LedgerError
from protocol.networks import Network as Profile
from tests.contracts.conftest import LocalChain, Network
from tests.contracts.proxy import Proxy, proxy_of


@pytest.fixture
def proxies(chain: LocalChain) -> Iterator[tuple[Proxy, Proxy, Proxy]]:
    chain.mine(12)
    with ExitStack() as stack:
        a, b, c = (stack.enter_context(proxy_of(chain.url)) for _ in range(3))
        yield a, b, c


def over(*proxies: Proxy, check_s: float = 0.0, **settings: Any) -> tuple[Web3, EndpointsProvider]:
    provider = EndpointsProvider(
        [one.url for one in proxies], check_s=check_s, retry_s=0.0, lag_blocks=5, timeout_s=2.0, **settings
    )
    return Web3(provider), provider


def well(provider: EndpointsProvider) -> list[bool]:
    return [endpoint.admitted for endpoint in provider.endpoints]


def test_the_first_that_is_well_is_asked_and_another_takes_over(proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    a, b, _ = proxies
    w3, provider = over(a, b, check_s=60.0)
    height = w3.eth.block_number
    for fault in ({"status": 503}, {"busy": True}):
        a.asked.clear()
        b.asked.clear()
        assert w3.eth.get_block_transaction_count(height) >= 0
        assert (len(a.asked), b.asked) == (1, [])
        vars(a).update(fault)
        assert w3.eth.block_number == height
        assert "eth_blockNumber" in b.asked
        assert not well(provider)[0]
        vars(a).update({"status": None, "busy": False})
        provider.check()
        assert well(provider) == [True, True]


def test_an_endpoint_that_is_not_there_is_left_out_from_the_start(
    proxies: tuple[Proxy, Proxy, Proxy],
) -> None:
    w3 = connect(f"http://127.0.0.1:{free_port()}, {proxies[0].url}", 31337)
    assert w3.eth.block_number > 0


def test_when_none_is_well_each_is_named_with_its_reason_and_without_its_key(
    proxies: tuple[Proxy, Proxy, Proxy],
) -> None:
    a, b, _ = proxies
    a.status, b.chain_id = 500, 5
    with pytest.raises(LedgerError, match=r"HTTP status 500.*is chain 5, not 31337") as refused:
        connect(f"{a.url},{b.url}", 31337)
    assert "secret-key" not in refused.value.message + refused.value.hint


def test_a_single_endpoints_key_is_in_no_message(proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    a = proxies[0]
    a.status = 404
    with pytest.raises(LedgerError, match="HTTP status 404") as refused:
        connect(a.url)
    assert "secret-key" not in refused.value.message
    a.status = None
    with pytest.raises(LedgerError, match="is chain 31337, not 1") as refused:
        connect(a.url, 1)
    assert "secret-key" not in refused.value.message


def test_endpoints_of_different_chains_are_refused_where_nobody_said_which_is_meant(
    proxies: tuple[Proxy, Proxy, Proxy],
) -> None:
    a, b, _ = proxies
    b.chain_id = 5
    with pytest.raises(LedgerError, match="of different chains"):
        connect(f"{a.url},{b.url}")
    w3, provider = over(a, b, chain_id=31337)
    assert w3.eth.chain_id == 31337
    assert well(provider) == [True, False]


def test_a_lagging_endpoint_is_left_out_until_it_has_caught_up(proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    a, b, _ = proxies
    a.lag = 9
    w3, provider = over(a, b)
    assert w3.eth.block_number == w3.eth.get_block("latest")["number"]
    assert well(provider) == [False, True]
    assert "lags" in provider.endpoints[0].reason
    a.lag = 2
    provider.check()
    assert well(provider) == [True, True]


def test_one_that_boasts_of_blocks_nobody_else_has_puts_no_one_out(
    proxies: tuple[Proxy, Proxy, Proxy],
) -> None:
    proxies[0].boast = 10**6
    _, provider = over(*proxies)
    provider.check()
    assert well(provider)[1:] == [True, True]


def test_a_liar_is_out_voted_by_two(proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    proxies[0].lie = True
    w3, provider = over(*proxies)
    assert w3.to_hex(w3.eth.get_block(w3.eth.block_number - 4)["hash"]) != "0x" + "66" * 32
    assert well(provider) == [False, True, True]
    assert "out-voted" in provider.endpoints[0].reason


def test_two_that_contradict_each_other_stop_everything_until_they_agree(
    proxies: tuple[Proxy, Proxy, Proxy],
) -> None:
    a, b, _ = proxies
    b.lie = True
    w3, provider = over(a, b, check_s=60.0)
    for _ in range(2):
        with pytest.raises(LedgerError, match="contradict each other about block") as refused:
            _ = w3.eth.block_number
    assert "third" in refused.value.hint
    b.lie = False
    provider.check()
    assert w3.eth.block_number > 0


def test_other_code_at_the_ledgers_address_is_out_voted_or_said(
    network: Network, proxies: tuple[Proxy, Proxy, Proxy]
) -> None:
    a, b, c = proxies
    a.code = "0x" + "60" * 64
    w3, provider = over(a, b, c)
    Ledger(w3, network.ledger.address).verify()
    assert well(provider) == [False, True, True]
    w3, provider = over(a, b)
    with pytest.raises(LedgerError, match="contradict each other about the code"):
        Ledger(w3, network.ledger.address).verify()


def test_an_endpoint_that_comes_back_with_other_code_stays_out(
    network: Network, proxies: tuple[Proxy, Proxy, Proxy]
) -> None:
    a, b, _ = proxies
    w3, provider = over(a, b)
    Ledger(w3, network.ledger.address).verify()
    a.status = 500
    provider.check()
    a.status, a.code = None, "0x" + "60" * 64
    provider.check()
    assert well(provider) == [False, True]
    assert "other code" in provider.endpoints[0].reason


def test_a_transaction_is_told_to_every_endpoint(
    network: Network, proxies: tuple[Proxy, Proxy, Proxy]
) -> None:
    """All but one say that they know it already; it is mined once."""
    w3, _ = over(*proxies, check_s=60.0)
    sender = Sender(w3, network.person("alice").account)
    Ledger(w3, network.ledger.address).transfer(sender, "0x" + "5b" * 20, 3)
    assert network.ledger.balance_of("0x" + "5b" * 20) == 3
    assert [one.asked.count("eth_sendRawTransaction") for one in proxies] == [1, 1, 1]


def test_a_transaction_gets_through_while_two_of_three_are_away(
    network: Network, proxies: tuple[Proxy, Proxy, Proxy]
) -> None:
    a, b, _ = proxies
    w3, _ = over(*proxies, check_s=60.0)
    sender = Sender(w3, network.person("alice").account)
    ledger = Ledger(w3, network.ledger.address)
    ledger.transfer(sender, "0x" + "5c" * 20, 3)
    a.status = b.status = 502
    ledger.transfer(sender, "0x" + "5c" * 20, 3)
    assert network.ledger.balance_of("0x" + "5c" * 20) == 6


def test_several_reads_are_of_one_block(network: Network, proxies: tuple[Proxy, Proxy, Proxy]) -> None:
    number = network.register("alice")
    w3 = connect(Profile(rpc=tuple(one.url for one in proxies)))
    ledger = Ledger(w3, network.ledger.address)
    functions = ledger.contract.functions
    calls = [functions.operatorCount(), functions.operator(number), ledger.token.functions.totalSupply()]
    proxies[0].asked.clear()
    block, (count, operator, supply) = read_together(w3, calls)
    assert (block, count) == (w3.eth.block_number, number)
    assert operator[0] == network.person("alice").address
    assert proxies[0].asked.count("eth_call") == 3
    assert supply == ledger.total_supply()
    then = block
    network.register("bob")
    assert read_together(w3, calls, block=then)[1][0] == number
    with pytest.raises(LedgerRevert):
        read_together(w3, [functions.withdraw()])


def test_reads_that_a_reorganisation_parts_are_made_again(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block changes between the first and the last answer of a batch, as on an endpoint of many machines."""
    w3 = network.chain.w3
    network.register("alice")
    ask = w3.provider.make_batch_request
    forks = [True]

    def fork(batch: Any) -> Any:
        answers: Any = ask(batch)
        if forks:
            forks.pop()
            request(w3, "anvil_reorg", 1, [])
            answers[-1] = ask(batch)[-1]  # type: ignore[index]
        return answers

    monkeypatch.setattr(w3.provider, "make_batch_request", fork)
    monkeypatch.setattr(w3.provider, "_batch_request_func_cache", (None, None))
    _, (count,) = read_together(w3, [network.ledger.contract.functions.operatorCount()])
    assert count == 0
