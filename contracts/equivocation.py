"""Two signed messages that contradict each other, checked here before anybody pays for a transaction."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from protocol.errors import ConfigError, LedgerError, UsageError
from protocol.messages import MAX_MESSAGE_BYTES, Body, Commitment, RoundRecord, Signed, parse_message

if TYPE_CHECKING:
    from contracts.run import ChainRun

ALL_AT: Final = 3
"""From this equivocation on all stake is lost."""
BPS: Final = 10_000


class NothingToTake(LedgerError):
    """Report an equivocation that costs its author nothing, or nothing more."""


@dataclass(frozen=True)
class Contradiction:
    """Two statements of one key for one round."""

    signer: str
    round: int
    record: bool  # two records; else two commitments
    a: tuple[bytes, bytes]  # digest of the body, signature
    b: tuple[bytes, bytes]


def read_message(path: Path) -> Signed[Body]:
    """Read a signed message in wire form.

    Raises:
        ConfigError: the file cannot be read.
        Malformed: it is no message.
    """
    try:
        with path.open("rb") as file:
            return parse_message(file.read(MAX_MESSAGE_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def contradiction(
    a: Signed[Body], b: Signed[Body], *, chain_id: int, ledger: str, run: str, round_: int
) -> Contradiction:
    """Return what two messages prove against the key that signed both.

    Raises:
        UsageError: they prove nothing; the message says why.
    """
    kinds = {Commitment.kind, RoundRecord.kind}
    for name, one in (("--a", a), ("--b", b)):
        if one.body.kind not in kinds:
            raise UsageError(f"{name} is a {one.body.kind}: only commitments and records are punished")
        if (one.chain_id, one.ledger.lower(), one.run) != (chain_id, ledger.lower(), run):
            raise UsageError(f"{name} was signed for another chain, ledger or run")
        if one.round != round_:
            raise UsageError(f"{name} was signed for round {one.round}", hint=f"--round {one.round}")
    if a.body.kind != b.body.kind:
        raise UsageError(
            f"--a is a {a.body.kind} and --b is a {b.body.kind}: they do not contradict each other"
        )
    if a.author != b.author:
        raise UsageError(f"two keys signed them: {a.author} and {b.author}")
    if a.body.digest() == b.body.digest():
        raise UsageError("both say the same")
    said = [(one.body.digest(), one.signature) for one in (a, b)]
    return Contradiction(a.author, round_, a.body.kind == RoundRecord.kind, said[0], said[1])


def cost_of(chain: "ChainRun", signer: str, round_: int, *, record: bool) -> tuple[str, int]:
    """Return who answers for two statements of a key, and what they cost it in wei. Asks the ledger.

    Args:
        chain: the run, refreshed.
        record: they are records; else commitments.

    Raises:
        NothingToTake: nobody answers, it was punished before, or there is nothing left.
        LedgerError: the chain does not answer.
    """
    ledger, run = chain.ledger, chain.run
    info = ledger.run_info(run)
    if info is None:
        raise LedgerError(f"the ledger knows no run {run}")
    if record and signer == info.coordinator_key:
        if not info.bond_wei:
            raise NothingToTake("the coordinator's bond was taken or released: there is nothing left to take")
        return "the run's coordinator", info.bond_wei
    number = ledger.answers_for(signer)
    own = None if number is None else ledger.operator(number)
    if number is None or own is None:
        raise NothingToTake(f"{signer} is no registered key, or was rotated away too long ago")
    if not record and own.role.name != "CONTRIBUTOR":
        raise NothingToTake(f"number {number} is no contributor")
    said = [(one.round, one.number, one.record) for one in chain.equivocations()]
    if (round_, number, record) in said:
        raise NothingToTake(f"number {number} was punished for this round before")
    all_of_it = record or own.equivocations + 1 >= ALL_AT
    share = BPS if all_of_it else info.ladder.equivocation_bps
    cost = (own.stake_wei + own.unbonding_wei) * share // BPS
    if not cost:
        raise NothingToTake(f"number {number} has nothing left to take")
    return f"number {number}", cost
