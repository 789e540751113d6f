"""Several RPC endpoints of one chain as one web3 provider: the first that is well is asked, all are told.

An endpoint is left out for a while when it fails, is of another chain, has other code at an address that was looked
at, lags behind, or was out-voted on the hash of a block that all of them should have. Two that contradict each other
without a majority stop everything: nobody here can know which of them lies. What is compared are identities (chain,
code, block hashes), not every answer: an endpoint that tells the truth about those and lies in a call is believed.
"""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from json import JSONDecodeError
from time import monotonic
from typing import Any, TypeVar

from eth_utils.crypto import keccak
from requests.exceptions import RequestException
from web3 import HTTPProvider
from web3.providers import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from protocol.errors import LedgerError
from protocol.networks import endpoint_name

log = logging.getLogger(__name__)

# What nodes say of a transaction that they have: geth and its kin, anvil, Nethermind, Besu.
ALREADY_KNOWN = (
    "already known",
    "already imported",
    "already in mempool",
    "alreadyknown",
    "known transaction",
)

CHECK_S = 30.0
RETRY_S = 10.0
FORK_BLOCKS = 3  # honest endpoints may differ for a moment in the newest blocks
DELEGATION_BYTES = 23  # an account that delegates by EIP-7702 may change that; a contract never changes

_FAILURES = (RequestException, JSONDecodeError, OSError)
_BUSY, _UNKNOWN_METHOD, _INTERNAL = -32005, -32601, -32603
_HASH = re.compile(r"0x[0-9a-f]{64}")

Result = TypeVar("Result")


class _Unusable(Exception):
    """Say why an endpoint is left out."""


@dataclass(eq=False)
class Endpoint:
    """One RPC endpoint and what is known of it."""

    url: str
    provider: HTTPProvider
    admitted: bool = False  # chain id and code were found right, and it is not left out
    reason: str = ""  # why it is left out
    retry_at: float = 0.0  # monotonic seconds
    head: int = 0

    @property
    def name(self) -> str:
        """Return what may be shown of its URL."""
        return endpoint_name(self.url)

    def ask(self, method: str, *params: Any) -> Any:
        """Return the result of a call.

        Raises:
            _Unusable: it does not answer, or with an error.
        """
        try:
            answer: Any = self.provider.make_request(RPCEndpoint(method), list(params))
        except _FAILURES as error:
            raise _Unusable(_trouble(error)) from error
        if not isinstance(answer, dict) or "result" not in answer:
            raise _Unusable(f"gives no result to {method}")
        return answer["result"]

    def number(self, method: str) -> int:
        """Return the result of a call that gives a number."""
        result = self.ask(method)
        if not isinstance(result, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", result):
            raise _Unusable(f"gives no number to {method}")
        return int(result, 16)


class EndpointsProvider(JSONBaseProvider):
    """Ask the endpoints of one chain in turn. Safe to use from several threads."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        chain_id: int | None = None,
        timeout_s: float = 10.0,
        lag_blocks: int = 20,
        check_s: float = CHECK_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """Start before any was asked.

        Args:
            urls: in the order of preference.
            chain_id: what they must be; None: what all that answer agree on.
            timeout_s: for each request.
            lag_blocks: an endpoint this much behind the best is left out.
            check_s: time between two comparisons of the endpoints, made when something is asked.
            retry_s: after this long an endpoint that was left out is looked at again.
        """
        super().__init__()
        self.endpoints = tuple(
            Endpoint(
                url,
                HTTPProvider(url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None),
            )
            for url in urls
        )
        self._chain_id = chain_id
        self._lag_blocks = lag_blocks
        self._check_s = check_s
        self._retry_s = retry_s
        self._codes: dict[str, str] = {}  # address -> hash of its code, which no endpoint may contradict
        self._quarrel: LedgerError | None = None
        self._next_check = 0.0  # monotonic seconds
        self._lock = threading.RLock()
        self._threads = ThreadPoolExecutor(len(self.endpoints), thread_name_prefix="rpc")

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Return the answer of the first endpoint that is well; a raw transaction goes to all that are.

        Raises:
            LedgerError: none is well, or they contradict each other.
        """
        if method == "eth_sendRawTransaction":
            return self._broadcast(method, params)
        answer = self._first(lambda endpoint: self._answer(endpoint, method, params))
        if method == "eth_getCode" and self._pin(params, answer):
            return self.make_request(method, params)
        return answer

    def make_batch_request(
        self, batch_requests: list[tuple[RPCEndpoint, Any]]
    ) -> list[RPCResponse] | RPCResponse:
        """Return the answers of one endpoint to several requests.

        Raises:
            LedgerError: none is well, or they contradict each other.
        """
        return self._first(lambda endpoint: endpoint.provider.make_batch_request(batch_requests))

    def check(self) -> None:
        """Look at every endpoint now.

        Raises:
            LedgerError: none is well, or they contradict each other.
        """
        with self._lock:
            self._inspect(self.endpoints)
            self._next_check = monotonic() + (self._check_s if self._quarrel is None else self._retry_s)
            if self._quarrel is not None:
                raise self._quarrel
            if not any(endpoint.admitted for endpoint in self.endpoints):
                raise LedgerError(self._reasons(), hint="check the RPC URLs: `murmur network show`")

    def _first(self, ask: Callable[[Endpoint], Result]) -> Result:
        for attempt in range(2):
            for endpoint in self._well(force=attempt > 0):
                try:
                    return ask(endpoint)
                except _FAILURES as error:
                    self._leave_out(endpoint, _trouble(error))
                except _Unusable as error:
                    self._leave_out(endpoint, str(error))
        raise LedgerError(self._reasons(), hint="check the RPC URLs: `murmur network show`")

    def _answer(self, endpoint: Endpoint, method: RPCEndpoint, params: Any) -> RPCResponse:
        told: Any = endpoint.provider.make_request(method, params)
        if not isinstance(told, dict):
            raise _Unusable("does not speak JSON-RPC")
        answer: RPCResponse = told  # type: ignore[assignment]
        error = answer.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if code in (_BUSY, _INTERNAL) and sum(one.admitted for one in self.endpoints) > 1:
            raise _Unusable(f"answers {str(error)[:200]}")
        return answer

    def _broadcast(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Tell all; the best news counts, and one that may have heard outweighs those that refuse."""
        answers: list[RPCResponse] = []
        doubt: LedgerError | None = None

        def tell(endpoint: Endpoint) -> tuple[Endpoint, RPCResponse | str]:
            try:
                return endpoint, endpoint.provider.make_request(method, params)
            except _FAILURES as error:
                return endpoint, _trouble(error)

        for endpoint, answer in self._threads.map(tell, self._well()):
            if isinstance(answer, str):
                self._leave_out(endpoint, answer)
                doubt = LedgerError(f"{endpoint.name} did not say whether it took the transaction")
            else:
                answers.append(answer)
        for answer in answers:
            if "error" not in answer:
                return answer
        for answer in answers:
            if any(words in str(answer["error"]).lower() for words in ALREADY_KNOWN):
                return answer
        if doubt is not None:
            raise doubt
        if not answers:
            raise LedgerError(self._reasons(), hint="check the RPC URLs: `murmur network show`")
        return answers[0]

    def _well(self, *, force: bool = False) -> list[Endpoint]:
        with self._lock:
            now = monotonic()
            if force or now >= self._next_check or not any(one.admitted for one in self.endpoints):
                self.check()
            elif self._quarrel is not None:
                raise self._quarrel
            else:
                due = [one for one in self.endpoints if not one.admitted and now >= one.retry_at]
                if due:
                    self._inspect([one for one in self.endpoints if one.admitted or one in due])
                    if self._quarrel is not None:
                        raise self._quarrel
            return [endpoint for endpoint in self.endpoints if endpoint.admitted]

    def _inspect(self, chosen: Iterable[Endpoint]) -> None:
        """Decide which of the chosen are well."""
        self._quarrel = None
        found = self._ask_each(chosen, self._introduce)
        if self._chain_id is None and found:
            ids = {chain_id for chain_id, _ in found.values()}
            if len(ids) > 1:
                told = ", ".join(f"{one.name} is chain {chain_id}" for one, (chain_id, _) in found.items())
                self._quarrel = LedgerError(
                    f"the endpoints are of different chains: {told}", hint="name one chain's with --rpc"
                )
                return
            (self._chain_id,) = ids
        for endpoint, (chain_id, head) in tuple(found.items()):
            endpoint.head = head
            if chain_id != self._chain_id:
                self._leave_out(endpoint, f"is chain {chain_id}, not {self._chain_id}")
                del found[endpoint]
        heads = sorted((endpoint.head for endpoint in found), reverse=True)
        # With three or more, one that boasts of blocks nobody else has puts no one else out.
        best = (heads[1] if len(heads) > 2 else heads[0]) if heads else 0
        fresh = []
        for endpoint in found:
            if endpoint.head < best - self._lag_blocks:
                self._leave_out(endpoint, f"lags: its block {endpoint.head} against {best}")
            else:
                fresh.append(endpoint)
        self._compare(fresh, min((one.head for one in fresh), default=0) - FORK_BLOCKS)

    def _introduce(self, endpoint: Endpoint) -> tuple[int, int]:
        """Return chain id and newest block; codes that are known must be there."""
        chain_id, head = endpoint.number("eth_chainId"), endpoint.number("eth_blockNumber")
        for address, expected in self._codes.items():
            if (
                not endpoint.admitted
                and _code_hash(endpoint.ask("eth_getCode", address, "latest")) != expected
            ):
                raise _Unusable(f"has other code at {address}")
        return chain_id, head

    def _compare(self, endpoints: Sequence[Endpoint], height: int) -> None:
        """Admit those that agree on the hash of a block."""
        if len(endpoints) < 2 or height < 1:
            for endpoint in endpoints:
                self._admit(endpoint)
            return

        def hash_of(endpoint: Endpoint) -> str:
            block = endpoint.ask("eth_getBlockByNumber", hex(height), False)
            value = block.get("hash") if isinstance(block, Mapping) else None
            if not isinstance(value, str) or not _HASH.fullmatch(value):
                raise _Unusable(f"has no block {height}")
            return value

        self._vote(self._ask_each(endpoints, hash_of), f"block {height}")

    def _vote(self, votes: Mapping[Endpoint, str], about: str) -> None:
        """Leave the minority out; without a majority there is a quarrel."""
        ballots = list(votes.values())
        winner = max(set(ballots), key=ballots.count, default="")
        if 2 * ballots.count(winner) <= len(ballots):
            told = ", ".join(f"{one.name} says {value[:18]}…" for one, value in votes.items())
            self._quarrel = LedgerError(
                f"the endpoints contradict each other about {about}: {told}",
                hint="leave out the one that is wrong, or name a third with --rpc",
            )
            return
        for endpoint, value in votes.items():
            if value == winner:
                self._admit(endpoint)
            else:
                self._leave_out(endpoint, f"was out-voted about {about}: it says {value[:18]}…")

    def _pin(self, params: Any, answer: RPCResponse) -> bool:
        """Make all endpoints agree on a contract's code; tell whether the one that answered was out-voted."""
        address, result = params[0], answer.get("result")
        code = _code_hash(result)
        if address in self._codes or not isinstance(result, str) or len(result) <= 2 + 2 * DELEGATION_BYTES:
            return False
        with self._lock:
            well = [endpoint for endpoint in self.endpoints if endpoint.admitted]
            found = self._ask_each(well, lambda one: one.ask("eth_getCode", address, "latest"))
            votes = {}
            for endpoint, theirs in found.items():
                if theirs == "0x":
                    self._leave_out(endpoint, f"has no code at {address} yet")
                else:
                    votes[endpoint] = _code_hash(theirs)
            self._vote(votes, f"the code at {address}")
            if self._quarrel is not None:
                raise self._quarrel
            agreed = {votes[endpoint] for endpoint in votes if endpoint.admitted}
            if not agreed:
                return False
            (self._codes[address],) = agreed
            return code not in agreed

    def _ask_each(
        self, endpoints: Iterable[Endpoint], ask: Callable[[Endpoint], Result]
    ) -> dict[Endpoint, Result]:
        """Return the answers of those that give one; the others are left out."""

        def attempt(endpoint: Endpoint) -> tuple[Endpoint, Result | _Unusable]:
            try:
                return endpoint, ask(endpoint)
            except _Unusable as error:
                return endpoint, error

        found: dict[Endpoint, Result] = {}
        for endpoint, answer in self._threads.map(attempt, tuple(endpoints)):
            if isinstance(answer, _Unusable):
                self._leave_out(endpoint, str(answer))
            else:
                found[endpoint] = answer
        return found

    def _admit(self, endpoint: Endpoint) -> None:
        if not endpoint.admitted and endpoint.reason:
            log.info("RPC endpoint %s is well again", endpoint.name)
        endpoint.admitted, endpoint.reason = True, ""

    def _leave_out(self, endpoint: Endpoint, reason: str) -> None:
        with self._lock:
            if endpoint.reason != reason:
                log.warning("RPC endpoint %s is left out: %s", endpoint.name, reason)
            endpoint.admitted, endpoint.reason = False, reason
            endpoint.retry_at = monotonic() + self._retry_s

    def _reasons(self) -> str:
        told = "; ".join(f"{one.name} {one.reason}" for one in self.endpoints if one.reason)
        return f"no RPC endpoint is well: {told}"


def _trouble(error: Exception) -> str:
    """Return why a request failed, without the URL that the error's own text has."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return (
        f"does not answer ({type(error).__name__})"
        if status is None
        else f"answers with HTTP status {status}"
    )


def _code_hash(result: Any) -> str:
    """Return the hash of what `eth_getCode` gave; of nonsense, nothing that a code has."""
    if not isinstance(result, str) or not re.fullmatch(r"0x(?:[0-9a-fA-F]{2}){0,65536}", result):
        return ""
    return keccak(hexstr=result).hex()
