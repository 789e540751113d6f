"""A connection to an EVM chain over JSON-RPC, checked before it is used.

Calls are synchronous; networking processes make them in worker threads. Considered: web3's AsyncWeb3, which
is asyncio and does not run on trio.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import HTTPError, RequestException, Timeout
from web3 import HTTPProvider, Web3
from web3.exceptions import BlockNotFound, ContractLogicError, Web3Exception, Web3RPCError
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import BlockData, BlockIdentifier

from contracts.reverts import decode_revert
from protocol.errors import LedgerError

_START_HINT = "start the local chain with `murmur up`, or check the RPC URL"


@contextmanager
def ledger_errors() -> Iterator[None]:
    """Turn what web3 and HTTP raise into `LedgerError`; reverts become `LedgerRevert` by name."""
    try:
        yield
    except ContractLogicError as error:
        raise decode_revert(error) from error
    except Web3RPCError as error:
        hint = "the wallet needs coin for gas" if "insufficient funds" in error.message.lower() else ""
        raise LedgerError(f"the chain refused: {error.message}", hint=hint) from error
    except Web3Exception as error:
        raise LedgerError(f"the chain gave no usable answer: {error}") from error
    except Timeout as error:
        raise LedgerError("the chain did not answer in time", hint="check the RPC endpoint's load") from error
    except RequestsConnectionError as error:
        raise LedgerError("the chain is not there", hint=_START_HINT) from error
    except (RequestException, JSONDecodeError) as error:
        raise LedgerError(f"the RPC endpoint did not answer as one: {error}", hint=_START_HINT) from error


def connect(rpc_url: str, expect_chain_id: int | None = None, timeout_s: float = 10.0) -> Web3:
    """Connect to a chain and check its id; later calls retry lost connections a few times.

    Raises:
        LedgerError: nothing answers there, it is too slow, it is not an RPC endpoint, or it is another chain.
    """
    provider = HTTPProvider(
        rpc_url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None
    )
    w3 = Web3(provider)
    try:
        with ledger_errors():
            chain_id = w3.eth.chain_id
    except LedgerError as error:
        raise LedgerError(f"{rpc_url}: {error.message}", hint=error.hint) from error
    if expect_chain_id is not None and chain_id != expect_chain_id:
        raise LedgerError(
            f"{rpc_url} is chain {chain_id}, not {expect_chain_id}", hint="set the RPC URL of the run's chain"
        )
    provider.exception_retry_configuration = ExceptionRetryConfiguration(
        errors=(RequestsConnectionError, HTTPError, Timeout), retries=4, backoff_factor=0.1
    )
    return w3


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
