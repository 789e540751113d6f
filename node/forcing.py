"""When a contributor puts its commitment on chain itself: a pure decision from the facts of a round."""

from node.events import Force
from node.facts import RoundFacts

FORCED = "forced"  # said of a round once its commitment is to be forced in


def forcing_due(facts: RoundFacts, height: int, round_: int, number: int, commitment: str) -> Force | None:
    """Return what to force in now, or None.

    A commitment is made before the list's root is on chain. It is forced in where the list leaves its number out; where
    the list is kept from us, as late as can be done safely, since it may well name us. A number of which the list names
    another commitment, or which is there already, is left alone, and so is one that a full record has no room for.

    Args:
        height: the newest block.
        commitment: id of the commitment that we made for the round.
    """
    if facts.posted is None or facts.force_by is None or height >= facts.force_by:
        return None  # the next block is the first that can hold a transaction
    if facts.listed is None:
        window = facts.force_by - facts.posted.block
        if height < facts.force_by - max(1, window // 4):
            return None
    elif not facts.is_left_out(number):
        return None
    if any(entry.number == number for entry in facts.forced) or not facts.makes_unit(number, commitment):
        return None
    return Force(round_, commitment, facts.force_by)
