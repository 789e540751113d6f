"""Which revealed updates a round merges."""

from collections.abc import Mapping

from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.messages import Commitment, Reveal, Signed
from protocol.state import update_root
from protocol.update import decode, max_update_bytes, symbols_digest


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


def check_update(
    manifest: RunManifest, size: int, reveal: Reveal, blob: bytes, *, address: str | None = None
) -> None:
    """Check that bytes are an encoding of the revealed update, and as long as revealed if it is the revealed one.

    Args:
        size: number of parameters.
        address: content address of the bytes; None: the revealed one.

    Raises:
        Malformed: another length, not well formed, or other symbols.
    """
    if address in (None, reveal.blob) and len(blob) != reveal.blob_bytes:
        raise Malformed("update of another length than revealed")
    if len(blob) > max_update_bytes(manifest.codec, size):
        raise Malformed("update container too large")
    if symbols_digest(decode(blob, codec=manifest.codec, size=size)) != reveal.symbols:
        raise Malformed("update bytes hold other symbols than revealed")


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
