"""Equivocations that a daemon hears, proven on the ledger: two commitments, or two records, of one key for one round.

The evidence is written down first, as two files in the form that `murmur dispute equivocation` takes: gossip refuses
the second statement, so that nobody may ever hear it again. Whoever proves it first is paid, once; what the ledger
would refuse is not sent. Of several daemons that heard it most wait a while, so that not all pay for gas.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

from contracts.equivocation import Contradiction, NothingToTake, contradiction, cost_of, read_message
from contracts.reverts import LedgerRevert
from contracts.run import ChainRun
from contracts.sender import Sender
from protocol.errors import LedgerError, MurmurError, UsageError
from protocol.messages import Body, Signed
from protocol.pool import MessagePool

log = logging.getLogger(__name__)

EVIDENCE_DIRECTORY: Final = "evidence"
MAX_EVIDENCE: Final = 128
"""Pairs that a directory holds; each one proven costs its author stake."""
RETRY_BLOCKS: Final = 20

Key = tuple[int, bool, str]
"""Name what is proven: (round, whether records, signer)."""


@dataclass
class Evidence:
    """Two statements of one key, and what became of them."""

    proof: Contradiction
    found_at: int  # height
    tried_at: int | None = None
    over: str = ""  # why nothing is left to do

    @property
    def key(self) -> Key:
        """Return (round, whether records, signer)."""
        return self.proof.round, self.proof.record, self.proof.signer


class Prover:
    """Prove the equivocations that one daemon hears in one run."""

    def __init__(
        self,
        chain: ChainRun,
        sender: Sender,
        finder: str,
        directory: Path,
        *,
        own: str,
        patience: Callable[[Contradiction], int] = lambda proof: 0,
    ) -> None:
        """Take up the evidence that is on disk.

        Args:
            finder: account that is paid.
            directory: the daemon's.
            own: address of the key that we sign with ourselves; nobody accuses itself.
            patience: how many blocks others have first.
        """
        self._chain = chain
        self._sender = sender
        self._finder = finder
        self._directory = directory / EVIDENCE_DIRECTORY
        self._own = own
        self._patience = patience
        self._found: dict[Key, Evidence] = {}
        self._seen = 0  # pairs of the pool that were looked at
        self._busy = False
        self._read()

    def look(self, pool: MessagePool, nursery: trio.Nursery) -> None:
        """Keep what the pool has heard, and begin what is due; call it whenever chain or messages have moved."""
        for a, b in pool.equivocations[self._seen :]:
            self._keep(a, b)
        self._seen = len(pool.equivocations)
        due = self._due()
        if due is not None and not self._busy:
            self._busy = True
            nursery.start_soon(self._prove, due)

    def _due(self) -> Evidence | None:
        proven = self._proven()
        for one in self._found.values():
            begins = one.found_at + self._patience(one.proof)
            begins = begins if one.tried_at is None else max(begins, one.tried_at + RETRY_BLOCKS)
            if not one.over and one.key not in proven and self._chain.height >= begins:
                return one
        return None

    def _proven(self) -> set[Key]:
        """Return what stands on chain, whoever proved it."""
        return {(one.round, one.record, one.signer) for one in self._chain.equivocations()}

    async def _prove(self, one: Evidence) -> None:
        one.tried_at = self._chain.height
        kind = "records" if one.proof.record else "commitments"
        what = f"two {kind} by {one.proof.signer} for round {one.proof.round}"
        try:
            cost = await trio.to_thread.run_sync(self._send, one.proof, abandon_on_cancel=True)
        except (LedgerRevert, NothingToTake) as error:
            one.over = error.message
            log.warning("%s are not punished: %s", what, error)
        except LedgerError as error:
            log.warning("%s are not proven yet: %s", what, error)
        else:
            one.over = "proven"
            log.warning("%s are proven, which costs %d wei", what, cost)
        finally:
            self._busy = False

    def _send(self, proof: Contradiction) -> int:
        """Send a proof; return what it costs its author in wei. Blocks; raises `LedgerError`."""
        kind = "records" if proof.record else "commitments"
        _, cost = cost_of(self._chain, proof.signer, proof.round, record=proof.record)
        with self._sender.intent(f"{self._chain.run} two {kind} {proof.round} {proof.signer}"):
            receipt = self._chain.ledger.jury.prove_equivocation(
                self._sender,
                self._chain.run,
                proof.round,
                proof.a,
                proof.b,
                self._finder,
                record=proof.record,
            )
        self._sender.acknowledge(receipt)
        return cost

    # evidence

    def _keep(self, a: Signed[Body], b: Signed[Body]) -> None:
        """Write a pair down that the ledger punishes."""
        one = self._evidence(a, b)
        if one is None or one.key in self._found:
            return
        if len(self._found) >= MAX_EVIDENCE:
            log.error("%s is full: an equivocation by %s is not kept", self._directory, one.proof.signer)
            return
        self._found[one.key] = one
        log.warning("%s signed two %ss for round %d", a.author, a.body.kind, a.round)
        for path, message in zip(self._paths(one.proof), (a, b), strict=True):
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.write_bytes(message.wire)
            except OSError as error:
                log.error("the evidence %s is not kept: %s", path, error)

    def _evidence(self, a: Signed[Body], b: Signed[Body]) -> Evidence | None:
        ledger = self._chain.ledger
        try:
            proof = contradiction(
                a, b, chain_id=ledger.chain_id, ledger=ledger.address, run=self._chain.run, round_=a.round
            )
        except UsageError:
            return None
        return None if self._is_own(proof.signer) else Evidence(proof, self._chain.height)

    def _is_own(self, signer: str) -> bool:
        """Tell whether a key is ours, or another that our number has or had."""
        linked = ({key.peer for key in self._chain.keys(one.number)} for one in self._chain.operators())
        return signer == self._own or any({signer, self._own} <= keys for keys in linked)

    def _paths(self, proof: Contradiction) -> tuple[Path, Path]:
        kind = "record" if proof.record else "commitment"
        name = f"{proof.round:06d}-{kind}-{proof.signer.lower()}"
        return self._directory / f"{name}-a.json", self._directory / f"{name}-b.json"

    def _read(self) -> None:
        for path in sorted(self._directory.glob("*-a.json"))[:MAX_EVIDENCE]:
            other = path.with_name(path.name.removesuffix("-a.json") + "-b.json")
            try:
                one = self._evidence(read_message(path), read_message(other))
            except MurmurError as error:  # a kill between the two, or another program's file
                log.warning("%s is no evidence: %s", path, error)
                continue
            if one is not None:
                self._found[one.key] = one

    def status(self) -> list[dict[str, Any]]:
        """Return what the status file shows, as plain JSON data."""
        proven = self._proven()
        return [
            {
                "round": one.proof.round,
                "kind": "record" if one.proof.record else "commitment",
                "signer": one.proof.signer,
                "files": [str(path) for path in self._paths(one.proof)],
                "state": "proven" if one.key in proven else one.over or "to be proven",
            }
            for _, one in sorted(self._found.items())
        ]
