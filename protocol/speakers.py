"""Which key speaks for a registration number: an owner can give its number another hot key (`murmur keys rotate`).

The number stays, its keys follow one another on chain, and every statement is about a round. So the rule is by round:

* The **roster block** of a round is the one whose stakes make its roster: the anchor of the record before for its
  contributors (the block that opened the run for round 0), the anchor of its own record for its verifiers.
* About a round a number signs with the key that it had at the roster block, or with any that was linked later. A key
  that was replaced in the roster block or before says nothing that counts about the round.
* A commitment is signed with the roster block's key alone. So whoever changes keys in the middle of a round cannot
  commit to it twice under two keys, which no contract could punish; who has not committed yet sits the round out.
* `ready` is about no round: any key of the number signs it, and that of a later key stands.

Who reads old messages long after applies the same rule to the same blocks, so a late joiner accepts what was accepted
when it was said. A later key may open, reveal and judge what an earlier one committed to: their owner is the same.
What a replaced key signs about rounds that began before still counts, and so does the stake behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.chain import ChainView, LinkedKey
from protocol.errors import Malformed, Premature
from protocol.messages import Body, Commitment, Preference, Ready, Seal, Signed, Verdict


@dataclass(frozen=True)
class Speaker:
    """Say with which keys a number signs about a round."""

    role: str  # "contributor" or "verifier"
    keys: tuple[str, ...]  # addresses: the roster block's, then later ones; none before that block is known


def speaker_of(chain: ChainView, number: int, round_: int | None) -> Speaker | None:
    """Return who speaks for a number about a round, or about none; None if the chain knows no such number."""
    operator = chain.operator(number)
    if operator is None:
        return None
    keys = chain.keys(number)
    if round_ is None:
        return Speaker(operator.role, tuple(one.peer for one in keys))
    block = chain.anchor(round_ if operator.role == "verifier" else round_ - 1)
    return Speaker(operator.role, () if block is None else keys_since(keys, block))


def keys_since(keys: Sequence[LinkedKey], block: int) -> tuple[str, ...]:
    """Return the address of the key at a block, and those of later ones.

    Args:
        keys: of one number, oldest first.
    """
    then = [one.peer for one in keys if one.block <= block]
    return (*then[-1:], *(one.peer for one in keys if one.block > block))


def later_keys(chain: ChainView, number: int, round_: int) -> tuple[str, ...]:
    """Return the keys that may open a unit of a round beside the one that committed to it."""
    speaker = speaker_of(chain, number, round_)
    return () if speaker is None else speaker.keys[1:]


def number_of(body: Body) -> int:
    """Return the registration number that a statement of a peer is signed for."""
    return body.verifier if isinstance(body, Verdict | Seal) else int(getattr(body, "number", 0))


def speaker_name(message: Signed[Body]) -> str:
    """Return who says it, in a word or two."""
    body = message.body
    return f"person {body.person}" if isinstance(body, Preference) else f"number {number_of(body)}"


def round_of(message: Signed[Body]) -> int | None:
    """Return the round that a statement is about."""
    return None if isinstance(message.body, Ready) else message.round


def check_signer(message: Signed[Body], speaker: Speaker | None) -> None:
    """Make sure that a peer's statement is signed with a key that speaks for its number.

    Args:
        speaker: of the statement's number and round.

    Raises:
        Premature: the chain does not know the number, or not yet who speaks for it about the round.
        Malformed: another key signed, or the number has another role.
    """
    number = number_of(message.body)
    if speaker is None:
        raise Premature(f"number {number} is not registered")
    if speaker.role != message.role:
        raise Malformed(f"not signed by the key of number {number} as {message.role}")
    if not speaker.keys:
        raise Premature(f"the roster of round {message.round} is not known yet")
    allowed = speaker.keys[:1] if isinstance(message.body, Commitment) else speaker.keys
    if message.author not in allowed:
        raise Malformed(
            f"not signed by the key of number {number} as {message.role}: {message.author} does not speak for it "
            f"in a {message.body.kind} about round {message.round}"
        )


def first_round(chain: ChainView, number: int, peer: str) -> int:
    """Return the first round whose roster names a contributor's key; 0 for the key that it registered with."""
    keys = chain.keys(number)
    linked = next((one.block for one in keys[1:] if one.peer == peer), None)
    round_ = 0
    while linked is not None and (block := chain.anchor(round_ - 1)) is not None and block < linked:
        round_ += 1
    return round_
