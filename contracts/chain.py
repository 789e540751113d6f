"""A connection to an EVM chain over JSON-RPC, checked before it is used.

Calls are synchronous; networking processes make them in worker threads. Considered: web3's AsyncWeb3, which
is asyncio and does not run on trio.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import HTTPError, RequestException, Timeout
from web3 import HTTPProvider, Web3
from web3.contract.contract import ContractFunction
from web3.exceptions import BlockNotFound, ContractLogicError, Web3Exception, Web3RPCError
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import BlockData, BlockIdentifier, RPCEndpoint

from contracts.endpoints import EndpointsProvider
from contracts.reverts import decode_revert
from protocol.errors import LedgerError
from protocol.networks import Network, endpoint_name

_START_HINT = "start the local chain with `murmur up`, or check the RPC URL"


def refusal(error: Web3RPCError) -> str:
    """Return what a node said when it refused a request."""
    answer = error.rpc_response or {}
    told = answer.get("error")
    return str(told["message"]) if isinstance(told, dict) and "message" in told else error.message


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn what web3 and HTTP raise into `LedgerError`; reverts become `LedgerRevert` by name."""
    try:
        yield
    except ContractLogicError as error:
        raise decode_revert(error) from error
    except Web3RPCError as error:
        said = refusal(error)
        hint = "the wallet needs coin for gas" if "insufficient funds" in said.lower() else ""
        raise LedgerError(f"the chain refused: {said}", hint=hint) from error
    except Web3Exception as error:
        raise LedgerError(f"the chain gave no usable answer: {error}") from error
    except Timeout as error:
        raise LedgerError("the chain did not answer in time", hint="check the RPC endpoint's load") from error
    except RequestsConnectionError as error:
        raise LedgerError("the chain is not there", hint=_START_HINT) from error
    except HTTPError as error:  # its text has the whole URL, which may hold a key
        status = getattr(error.response, "status_code", "an error")
        raise LedgerError(f"the RPC endpoint answered with HTTP status {status}", hint=_START_HINT) from error
    except (RequestException, JSONDecodeError) as error:
        raise LedgerError(
            f"the RPC endpoint did not answer as one ({type(error).__name__})", hint=_START_HINT
        ) from error


class Chain(Web3):
    """A connection, and what is known of the network behind it."""

    network: Network


def connect(network: Network | str, expect_chain_id: int | None = None, timeout_s: float = 10.0) -> Chain:
    """Connect to a chain and check its id; later calls outlive lost connections and, if there are several, endpoints.

    Args:
        network: a profile, or the URLs of one chain's endpoints, parted by commas.
        expect_chain_id: what it must be, besides what the profile says.
        timeout_s: for each request.

    Raises:
        LedgerError: nothing answers there, it is too slow, it is not an RPC endpoint, it is another chain, or the
            endpoints contradict each other.
    """
    network = Network.of(network) if isinstance(network, str) else network
    named = f"network {network.name}" if network.name else str(network)
    if not network.rpc:
        raise LedgerError("there is no RPC URL", hint="--rpc URL, or --network NAME")
    wanted = {one for one in (expect_chain_id, network.chain_id) if one is not None}
    if len(wanted) > 1:
        raise LedgerError(
            f"{named} is chain {network.chain_id}, not {expect_chain_id}",
            hint="use the network of the run's chain",
        )
    expected = next(iter(wanted), None)
    if len(network.rpc) == 1:
        w3, chain_id = _connect_one(network.rpc[0], expected, timeout_s)
    else:
        provider = EndpointsProvider(
            network.rpc, chain_id=expected, timeout_s=timeout_s, lag_blocks=network.lag_blocks
        )
        w3 = Chain(provider)
        with ledger_errors():
            chain_id = int(w3.eth.chain_id)
    w3.network = network.model_copy(update={"chain_id": chain_id})
    return w3


def _connect_one(url: str, expected: int | None, timeout_s: float) -> tuple[Chain, int]:
    provider = HTTPProvider(
        url,
        request_kwargs={"timeout": timeout_s},
        exception_retry_configuration=None,
        # web3 asks for the chain id with every call; what is signed carries it, so once is enough.
        cache_allowed_requests=True,
        cacheable_requests={RPCEndpoint("eth_chainId")},
    )
    w3 = Chain(provider)
    try:
        with ledger_errors():
            chain_id = int(w3.eth.chain_id)
    except LedgerError as error:
        raise LedgerError(f"{endpoint_name(url)}: {error.message}", hint=error.hint) from error
    if expected is not None and chain_id != expected:
        raise LedgerError(
            f"{endpoint_name(url)} is chain {chain_id}, not {expected}",
            hint="set the RPC URL of the run's chain",
        )
    provider.exception_retry_configuration = ExceptionRetryConfiguration(
        errors=(RequestsConnectionError, HTTPError, Timeout), retries=4, backoff_factor=0.1
    )
    return w3, chain_id


def network_of(w3: Web3) -> Network:
    """Return what is known of a connection's network; of one that `connect` did not make, nothing."""
    return w3.network if isinstance(w3, Chain) else Network()


def get_block(w3: Web3, block: BlockIdentifier) -> BlockData | None:
    """Return a block, or None while the chain does not have it.

    Raises:
        LedgerError: the chain does not answer.
    """
    with ledger_errors():
        try:
            return w3.eth.get_block(block)
        except BlockNotFound:
            return None


def block_number(w3: Web3) -> int:
    """Return the number of the newest block.

    Raises:
        LedgerError: the chain does not answer.
    """
    with ledger_errors():
        return int(w3.eth.block_number)


def block_hash(w3: Web3, number: int) -> bytes | None:
    """Return the hash of a block, or None while the chain does not have it.

    Raises:
        LedgerError: the chain does not answer.
    """
    block = get_block(w3, number)
    return None if block is None else bytes(block["hash"])


def final_height(w3: Web3, head: int | None = None) -> int:
    """Return the newest block that is final by the network's rule; 0 before there is one.

    Args:
        head: the newest block, if it is known; spares a request where finality is a number of blocks.

    Raises:
        LedgerError: the chain does not answer, or does not know the tag.
    """
    finality = network_of(w3).final_after
    if isinstance(finality, int):
        return max((block_number(w3) if head is None else head) - finality, 0)
    block = get_block(w3, finality)
    return 0 if block is None else int(block["number"])


READ_ATTEMPTS = 3


def read_together(
    w3: Web3, calls: Sequence[ContractFunction], *, block: int | None = None
) -> tuple[int, list[Any]]:
    """Return a block's number and what several calls give in exactly this block, in one batch of requests.

    The batch begins and ends with the block's hash, so that no reorganisation can mix two states.

    Args:
        block: its number; None: the newest.

    Raises:
        LedgerRevert: a call reverts.
        LedgerError: the chain does not answer, or keeps changing that block.
    """
    for _ in range(READ_ATTEMPTS):
        number = block_number(w3) if block is None else block
        with ledger_errors(), w3.batch_requests() as batch:
            batch.add(w3.eth.get_block(number))
            for call in calls:
                batch.add(call.call(block_identifier=number))
            batch.add(w3.eth.get_block(number))
            answers: list[Any] = list(batch.execute())
        first, *values, last = answers
        if first["hash"] == last["hash"]:
            return number, values
    raise LedgerError("the chain changes while it is read", hint="try again")
