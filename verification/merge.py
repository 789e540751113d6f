"""Which revealed updates a round merges."""

from collections.abc import Mapping

from protocol.errors import Malformed, OwnFault
from protocol.manifest import RunManifest
from protocol.messages import Commitment, Reveal, Signed
from protocol.published import read_published
from protocol.state import update_root
from training.judging import Docket
from training.second_moments import check_slice
from verification.rollouts import check_judgments, check_rollouts


def check_reveal(commitment: Signed[Commitment], reveal: Reveal, max_bytes: int) -> None:
    """Check a reveal against the commitment it opens.

    Raises:
        Malformed: it names another commitment, its salt and symbols do not open it, or its blob is too large.
    """
    body = commitment.body
    if reveal.commitment != commitment.id:
        raise Malformed("reveal of another commitment")
    if update_root(commitment.run, commitment.round, body.number, reveal.symbols, reveal.salt) != body.update:
        raise Malformed("reveal does not open the committed update")
    if reveal.blob_bytes > max_bytes:
        raise Malformed(f"update of {reveal.blob_bytes} bytes exceeds {max_bytes}")


def check_published(
    manifest: RunManifest,
    beacon: str,
    round_: int,
    reveal: Reveal,
    blob: bytes,
    docket: Docket | None = None,
    *,
    address: str | None = None,
) -> None:
    """Check that bytes are an encoding of what was revealed, and all that is public of rollouts in it.

    Every environment is played again: what it says, when samples end, and every reward that a replay gives.

    Args:
        beacon: assignment beacon of the round, 64 hex digits.
        docket: what the round's units judge, where the run has a judge.
        address: content address of the bytes; None: the revealed one.

    Raises:
        Malformed: another length than revealed, not well formed, other symbols, another slice of second moments
            than was drawn, or rollouts that are not the environment's.
    """
    if address in (None, reveal.blob) and len(blob) != reveal.blob_bytes:
        raise Malformed("update of another length than revealed")
    found = read_published(manifest, blob)
    if found.identity != reveal.symbols:
        raise Malformed("update bytes hold other symbols than revealed")
    check_slice(manifest, found.symbols, beacon, round_, reveal.number)
    if manifest.rollouts is not None:
        try:
            check_rollouts(manifest, beacon, round_, reveal.number, found.groups)
            if manifest.judge is not None:
                assert docket is not None, "whoever merges knows what is to be judged"
                check_judgments(docket, reveal.number, found.judgments)
        except OwnFault as error:  # the environment fails on it, for everybody
            raise Malformed(f"rollouts that cannot be played: {error.message}") from error


def copied_from(symbols: str, number: int, earlier: Mapping[str, tuple[int, int]]) -> str:
    """Return why an update does not merge because the same symbols were shown before, or an empty string.

    Args:
        earlier: symbols digest to the (round, number) that showed it first, over all records so far and the
            lower numbers of this round.
    """
    if symbols not in earlier:
        return ""
    round_, original = earlier[symbols]
    return (
        f"same symbols as number {original} in round {round_}"
        if original != number
        else "own symbols repeated"
    )
