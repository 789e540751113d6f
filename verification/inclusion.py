"""Which commitments are the units of a round: those that its list names, and those forced in on chain.

A contributor that the list leaves out puts the id of its commitment on chain itself, within `FORCE_BLOCKS` of the
list's root; no record is anchored before. So list and chain say together which units a record must name:

* those of the list, by number;
* then what numbers of the round's roster forced in that the list does not name, as the chain took it.

Of a number that is both listed and forced, the listed commitment is the unit. (Two that differ are an equivocation.)
This order is the record's, and of equal updates the first merges: who forces has seen what others reveal, so whatever
is forced comes after everything listed. What is forced beyond `MAX_LISTED` units in all, or beyond the first
`MAX_FORCED` beside a longer list, is none, so that a record stays a single message: on a roster of more than
`MAX_LISTED`, so many numbers of one owner can take all the room.

The chain takes any 32 bytes. A forced unit whose commitment nobody told until the record, or whose commitment breaks a
public rule (`verification.commit.check_commitment`), is in the record too, but does not count: it does not merge, is
not drawn, earns nothing and hands nothing on. Nobody waits for one that is not told when the window closes. Forcing
gains no time but the window's own: reveals close for all at once, and every draw is later than the window.
"""

from collections.abc import Iterable
from typing import Final

from protocol.chain import ChainView
from protocol.messages import MAX_UNITS, CommitmentEntry, CommitmentList

MAX_LISTED: Final = 100
"""Units in a round, so that its record stays a single message."""

MAX_FORCED: Final = 16
"""How many forced units a record has room for, however many are listed."""


def forced_entries(chain: ChainView, round_: int) -> tuple[CommitmentEntry, ...]:
    """Return what numbers of a round's roster forced into it so far, first forced first."""
    found = chain.forced(round_)
    roster = {one.number for one in chain.roster(round_)} if found else set()
    entries = (CommitmentEntry(number=number, commitment=id_) for number, id_ in found.items())
    return tuple(entry for entry in entries if entry.number in roster)[:MAX_UNITS]


def counted_entries(listed: CommitmentList, forced: Iterable[CommitmentEntry]) -> tuple[CommitmentEntry, ...]:
    """Return what a round's record must name, in its order.

    Args:
        listed: the list whose root is on chain.
        forced: what `forced_entries` gives.
    """
    numbers = {entry.number for entry in listed.entries}
    room = max(MAX_FORCED, MAX_LISTED - len(numbers))
    added = [entry for entry in forced if entry.number not in numbers]
    return (*sorted(listed.entries, key=lambda entry: entry.number), *added[:room])


def last_force_block(chain: ChainView, round_: int) -> int | None:
    """Return the last block in which a commitment can be forced into a round; None before its root is on chain."""
    posted = chain.commitments(round_)
    return None if posted is None else posted.block + chain.force_blocks


def is_final(chain: ChainView, round_: int, listed: CommitmentList) -> bool:
    """Tell whether nothing that counts can be forced into a round any more.

    Where everybody on the roster is listed that is so from the first, and the window costs no time but the anchor's.
    """
    last = last_force_block(chain, round_)
    return last is not None and (
        chain.height >= last or is_full(listed, (o.number for o in chain.roster(round_)))
    )


def is_full(listed: CommitmentList, roster: Iterable[int]) -> bool:
    """Tell whether a list leaves nobody on the roster out."""
    return set(roster) <= {entry.number for entry in listed.entries}
