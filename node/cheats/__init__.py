"""Dishonest contributors for demonstrations and tests: the same node with only its dishonest part replaced."""

from node.cheats.casting import honesty_of, steps_of
from node.cheats.kinds import Cheat, Fate, Kind

__all__ = ["Cheat", "Fate", "Kind", "honesty_of", "steps_of"]
