"""Two signed messages that contradict each other, checked here before anybody pays for a transaction."""

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError, UsageError
from protocol.messages import MAX_MESSAGE_BYTES, Body, Commitment, RoundRecord, Signed, parse_message


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
