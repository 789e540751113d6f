"""A chain and the model of its contracts, which do every call together and must agree on everything afterwards."""

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from functools import lru_cache
from typing import Any, cast

from eth_abi.abi import decode, encode
from eth_utils.abi import collapse_if_tuple, function_abi_to_4byte_selector
from eth_utils.crypto import keccak
from web3 import Web3
from web3.types import RPCEndpoint

from contracts.anvil import request
from contracts.artifacts import ContractName, artifact
from contracts.client import Ledger, domain_separator, peer_link_digest
from contracts.types import JuryTerms, Ladder, LedgerTerms
from protocol.keys import PeerKey
from protocol.manifest import LOCAL_CHAIN_ID
from tests.contracts.model import NOBODY, ZERO, Refused
from tests.contracts.model_court import Model

GAS = 8_000_000
COIN = 10**24
PANIC = bytes.fromhex("4e487b71")
MESSAGE = keccak(b"Message(bytes32 run,uint64 round,string role,string kind,bytes32 body)")
CALLS: dict[str, tuple[ContractName, str]] = {
    "approve": ("Token", "approve"),
    "move": ("Token", "transfer"),
    "register": ("Ledger", "register"),
    "rotate_peer": ("Ledger", "rotatePeer"),
    "deposit": ("Ledger", "deposit"),
    "unbond": ("Ledger", "unbond"),
    "cancel_unbond": ("Ledger", "cancelUnbond"),
    "withdraw": ("Ledger", "withdraw"),
    "create_run": ("Ledger", "createRun"),
    "fund": ("Ledger", "fund"),
    "open_run": ("Ledger", "openRun"),
    "finish_run": ("Ledger", "finishRun"),
    "release_run_bond": ("Ledger", "releaseRunBond"),
    "post_commitments": ("Ledger", "postCommitments"),
    "force_commitment": ("Ledger", "forceCommitment"),
    "anchor_record": ("Ledger", "anchorRecord"),
    "propose_rewards": ("Ledger", "proposeRewards"),
    "finalize_rewards": ("Ledger", "finalizeRewards"),
    "claim": ("Ledger", "claim"),
    "join": ("Jury", "join"),
    "resign": ("Jury", "resign"),
    "withdraw_slots": ("Jury", "withdraw"),
    "accuse": ("Jury", "accuse"),
    "contest": ("Jury", "contest"),
    "dispute_rewards": ("Jury", "disputeRewards"),
    "draw": ("Jury", "draw"),
    "commit_vote": ("Jury", "commitVote"),
    "reveal_vote": ("Jury", "revealVote"),
    "rule": ("Jury", "rule"),
    "appeal": ("Jury", "appeal"),
    "close": ("Jury", "close"),
    "prove_equivocation": ("Jury", "proveEquivocation"),
    "withdraw_credit": ("Jury", "withdrawCredit"),
}


def plain(value: Any) -> Any:
    """Return what a contract gave as tuples, with accounts in lower case."""
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value.lower() if isinstance(value, str) else value


class Codec:
    """Arguments, results and errors of the contracts as bytes."""

    def __init__(self) -> None:
        self._functions: dict[tuple[str, str], tuple[bytes, list[str], list[str]]] = {}
        self._errors: dict[bytes, tuple[str, list[str]]] = {PANIC: ("Panic", ["uint256"])}
        names: tuple[ContractName, ...] = ("Token", "Ledger", "Jury", "BlockBeacon")
        for contract in names:
            for entry in artifact(contract).abi:
                if entry["type"] not in ("function", "error"):
                    continue
                inputs = [collapse_if_tuple(cast(Any, item)) for item in entry["inputs"]]
                selector = function_abi_to_4byte_selector(cast(Any, {**entry, "type": "function"}))
                if entry["type"] == "error":
                    self._errors[selector] = (entry["name"], inputs)
                else:
                    outputs = [collapse_if_tuple(cast(Any, item)) for item in entry["outputs"]]
                    self._functions[contract, entry["name"]] = (selector, inputs, outputs)

    @lru_cache(maxsize=4096)  # noqa: B019
    def reading(self, contract: str, function: str, arguments: tuple[Any, ...]) -> str:
        return self.call(contract, function, arguments)

    def call(self, contract: str, function: str, arguments: Sequence[Any]) -> str:
        selector, inputs, _ = self._functions[contract, function]
        return "0x" + (selector + encode(inputs, list(arguments))).hex()

    def result(self, contract: str, function: str, data: str) -> Any:
        found = plain(decode(self._functions[contract, function][2], bytes.fromhex(data[2:])))
        return found[0] if len(found) == 1 else found

    def error(self, data: str) -> tuple[Any, ...]:
        raw = bytes.fromhex(data.removeprefix("0x"))
        if raw[:4] not in self._errors:
            return ("unknown error", data)
        name, inputs = self._errors[raw[:4]]
        return (name, *plain(decode(inputs, raw[4:])))


class Twin:
    """A ledger with its jury on a chain, and the model beside it.

    The chain makes a block only where it is told to. `counts` says how often each call passed, or why it was refused.
    """

    def __init__(self, w3: Web3, ledger: Ledger, terms: LedgerTerms, jury: JuryTerms, treasury: str) -> None:
        self.w3 = w3
        self.codec = Codec()
        self.domain = domain_separator(LOCAL_CHAIN_ID, ledger.address)
        self.addresses: dict[str, str] = {
            "Ledger": ledger.address.lower(),
            "Jury": ledger.jury.address.lower(),
            "Token": str(ledger.token.address).lower(),
        }
        request(w3, "evm_setAutomine", False)
        request(w3, "anvil_autoImpersonateAccount", True)
        supply = ledger.total_supply()
        height = int(w3.eth.block_number)
        self.model = Model(
            terms, jury, self.addresses["Ledger"], self.addresses["Jury"], block=height, supply=supply
        )
        self.model.balances[treasury.lower()] = supply
        self.counts: Counter[tuple[str, str]] = Counter()
        self.story: list[str] = []
        self._seen: dict[tuple[str, str, tuple[Any, ...]], tuple[str, Any]] = {}  # answers that were equal
        self._saved = ""
        self._model: Model | None = None

    # A state to come back to

    def save(self) -> None:
        self._saved = str(request(self.w3, "evm_snapshot"))
        self._model = copy.deepcopy(self.model)

    def restore(self) -> None:
        assert request(self.w3, "evm_revert", self._saved) is True
        assert self._model is not None
        self.model = copy.deepcopy(self._model)
        self._saved = str(request(self.w3, "evm_snapshot"))
        self.story = []

    # What the two do together

    def mine(self, blocks: int) -> None:
        if blocks > 0:
            request(self.w3, "anvil_mine", hex(blocks))
            self.model.block += blocks
            self.story.append(f"mine {blocks}")

    def reach(self, block: int) -> None:
        """Let time go by until the next call is done in this block, if it is not over."""
        self.mine(block - 1 - self.model.block)

    def equip(self, account: str) -> None:
        """Give an account coin for gas."""
        request(self.w3, "anvil_setBalance", account, hex(COIN))

    def approve(self, account: str) -> None:
        for spender in ("Ledger", "Jury"):
            assert self._send("approve", account, (self.addresses[spender], 2**256 - 1)) is None
            self.model.block += 1

    def do(self, call: str, sender: str, *arguments: Any, wire: Sequence[Any] | None = None) -> bool:
        """Do a call on both; returns whether it passed.

        Args:
            call: a method of the model, see `CALLS`.
            wire: what the contract is given, where that is not `arguments`.
        """
        trial = copy.deepcopy(self.model)
        trial.block += 1
        expected: tuple[Any, ...] | None = None
        try:
            getattr(trial, call)(sender, *arguments)
        except Refused as refused:
            expected = refused.what
            self.model.block += 1
        else:
            self.model = trial
        self.story.append(f"{self.model.block}: {call} by {sender[:8]} {arguments} -> {expected or 'passes'}")
        actual = self._send(call, sender, arguments if wire is None else wire)
        self.counts[call, expected[0] if expected else "passed"] += 1
        if actual != expected:
            raise AssertionError(self._telling(f"the contract: {actual}; the model: {expected}"))
        return expected is None

    def _send(self, call: str, sender: str, arguments: Sequence[Any]) -> tuple[Any, ...] | None:
        contract, function = CALLS[call]
        data = self.codec.call(contract, function, arguments)
        transaction = {"from": sender, "to": self.addresses[contract], "gas": hex(GAS), "data": data}
        tx = request(self.w3, "eth_sendTransaction", transaction)
        request(self.w3, "evm_mine")
        receipt = cast(dict[str, Any], request(self.w3, "eth_getTransactionReceipt", tx))
        if int(receipt["status"], 16) == 1:
            return None
        return self.codec.error(str(request(self.w3, "ots_getTransactionError", tx)))

    # Calls whose arguments the model sees in other words

    def register(
        self, wallet: str, role: int, peer: PeerKey, amount: int, *, by: PeerKey | None = None
    ) -> bool:
        """Register with a peer key; the link is signed `by` another key if one is given."""
        words = self._linked(wallet, peer, by or peer)
        valid = by is None or by == peer
        arguments = (role, peer.address.lower(), valid, amount)
        return self.do("register", wallet, *arguments, wire=(role, *words, amount))

    def rotate(self, wallet: str, peer: PeerKey, *, by: PeerKey | None = None) -> bool:
        words = self._linked(wallet, peer, by or peer)
        return self.do("rotate_peer", wallet, peer.address.lower(), by is None or by == peer, wire=words)

    def _linked(self, wallet: str, peer: PeerKey, by: PeerKey) -> tuple[bytes, int, bytes]:
        self.equip(peer.address)
        digest = peer_link_digest(LOCAL_CHAIN_ID, self.addresses["Ledger"], wallet, peer.public)
        return peer.public[:32], int.from_bytes(peer.public[32:], "big"), by.sign(digest)

    def create_run(self, wallet: str, run: bytes, key: str, ladder: Ladder, funding: int) -> bool:
        wire = (run, key, astuple(ladder), funding)
        return self.do("create_run", wallet, run, key, ladder, funding, wire=wire)

    def draw(self, sender: str, number: int) -> bool:
        case = self.model.cases.get(number)
        block = cast(dict[str, Any] | None, self._block(case.seed_round if case else 0))
        seed = bytes.fromhex(block["hash"][2:]) if block else ZERO
        return self.do("draw", sender, number, seed, wire=(number, b""))

    def _block(self, number: int) -> object:
        return request(self.w3, "eth_getBlockByNumber", hex(number), False)

    def equivocate(
        self,
        sender: str,
        run: bytes,
        round_: int,
        *,
        record: bool,
        bodies: tuple[bytes, bytes],
        keys: tuple[PeerKey | None, PeerKey | None],
        finder: str,
    ) -> bool:
        """Prove what two keys signed; None puts zeros in the place of a signature."""
        said = tuple(
            (body, self._said(run, round_, record, body, key)) for body, key in zip(bodies, keys, strict=True)
        )
        signers = tuple(key.address.lower() if key else NOBODY for key in keys)
        wire = (run, round_, record, *said, finder)
        return self.do("prove_equivocation", sender, run, round_, record, bodies, signers, finder, wire=wire)

    def _said(self, run: bytes, round_: int, record: bool, body: bytes, key: PeerKey | None) -> bytes:
        role, kind = (b"coordinator", b"record") if record else (b"contributor", b"commitment")
        types = ("bytes32", "bytes32", "uint64", "bytes32", "bytes32", "bytes32")
        message = keccak(encode(types, (MESSAGE, run, round_, keccak(role), keccak(kind), body)))
        return key.sign(keccak(b"\x19\x01" + self.domain + message)) if key else bytes(65)

    # What must be equal

    def compare(self) -> None:
        """Read everything that the contracts hold, and compare it with the model.

        Raises:
            AssertionError: something differs; says what, and what was done until then.
        """
        expected = dict(self._expected())
        calls = [
            (
                cast(RPCEndpoint, "eth_call"),
                [
                    {
                        "to": self.addresses[contract],
                        "data": self.codec.reading(contract, function, arguments),
                    },
                    "latest",
                ],
            )
            for contract, function, arguments in expected
        ]
        answers = cast(list[dict[str, Any]], self.w3.provider.make_batch_request(calls))
        assert len(answers) == len(expected)
        for (place, value), answer in zip(expected.items(), answers, strict=True):
            if self._seen.get(place) == (answer["result"], value):
                continue
            found = self.codec.result(place[0], place[1], answer["result"])
            if found != value:
                raise AssertionError(self._telling(f"{place}\n  contract {found}\n  model    {value}"))
            self._seen[place] = (answer["result"], value)
        model = self.model
        assert model.balances[model.ledger] == model.ledger_owes(), self._telling("the ledger's balance")
        assert model.balances[model.jury] == model.jury_owes(), self._telling("the jury's balance")
        assert sum(model.balances.values()) == model.supply, self._telling("the supply")

    def _expected(self) -> Iterable[tuple[tuple[str, str, tuple[Any, ...]], Any]]:
        m = self.model
        yield ("Token", "totalSupply", ()), m.supply
        for account, amount in m.balances.items():
            yield ("Token", "balanceOf", (account,)), amount
        yield from self._ledger_holds()
        yield ("Jury", "slotCount", ()), len(m.slots)
        for index, number in enumerate(m.slots):
            yield ("Jury", "slot", (index,)), number
        for number, one in m.jurors.items():
            words = (one.slots, one.serving, one.leaving_at, one.bonded, one.leaving)
            yield ("Jury", "juror", (number,)), words
        for account, amount in m.credit.items():
            yield ("Jury", "credit", (account,)), amount
        yield ("Jury", "caseCount", ()), len(m.cases)
        for unit in {case.subject[:3] for case in m.cases.values()}:
            yield ("Jury", "punished", unit), unit in m.punished
        for number, case in m.cases.items():
            yield ("Jury", "caseOf", case.subject), m.case_of.get(case.subject, 0)
            for second, seats in ((False, case.first_jury), (True, case.second_jury)):
                yield ("Jury", "seatsOf", (number, second)), tuple(astuple(seat) for seat in seats)
            words = (case.run, case.evidence, case.result, case.round, case.number, case.segment)
            words += (case.opened_at, case.seed_round, case.stage_at, case.slot_count, case.kind, case.stage)
            words += (case.outcome, case.first_outcome, case.second, case.committed, case.revealed)
            yield ("Jury", "caseInfo", (number,)), (*words, case.appellant, case.finder, case.caller)

    def _ledger_holds(self) -> Iterable[tuple[tuple[str, str, tuple[Any, ...]], Any]]:
        m = self.model
        yield ("Ledger", "operatorCount", ()), len(m.operators)
        for number, op in m.operators.items():
            words = (op.wallet, op.role, op.unbonding_at, op.peer, op.cases, op.equivocations)
            yield ("Ledger", "operator", (number,)), (*words, op.stake, op.unbonding)
            yield ("Ledger", "numberOf", (op.wallet,)), number
        for peer, number in m.number_of_peer.items():
            yield ("Ledger", "numberOfPeer", (peer,)), number
            yield ("Ledger", "answersFor", (peer,)), m.answers_for(peer)
        for run, one in m.runs.items():
            words = (one.coordinator, one.status, one.stand_in, tuple(asdict(one.ladder).values()), one.key)
            words += (one.opened_at,)
            words += (one.committed, one.anchored, one.epoch, one.active_at, one.funded, one.claimed)
            yield ("Ledger", "runInfo", (run,)), (*words, one.final_total, one.bond, one.final_root)
            yield ("Ledger", "rosterBlock", (run, 0)), one.opened_at
            pending = m.pending.get(run)
            held = (ZERO, 0, 0, NOBODY, 0, 0, 0)
            if pending:
                bits = sum(1 << ground for ground in pending.grounds)
                held = (pending.root, pending.total, pending.final_at, pending.proposer)  # type: ignore[assignment]
                held += (pending.open, bits, pending.proposed_at)
            yield ("Ledger", "pendingRewards", (run,)), held
        for (run, round_), times in m.rounds.items():
            words = (times.posted_at, times.anchored_at, times.count)
            yield ("Ledger", "roundInfo", (run, round_)), words
            yield ("Ledger", "rosterBlock", (run, round_ + 1)), times.anchored_at
        for (run, round_, number), commitment in m.forced.items():
            yield ("Ledger", "forced", (run, round_, number)), commitment
        for (run, account), amount in m.claimed.items():
            yield ("Ledger", "claimed", (run, account)), amount

    def _telling(self, what: str) -> str:
        return "\n".join(["ledger and model differ after:", *self.story, what])


def account_of(name: str) -> str:
    """Return the account of a person, in lower case."""
    return "0x" + keccak(text=name)[12:].hex()
