"""Which units' states stay on disk until their draw is settled, and which are computed again if a draw asks for them.

On the same machine a unit's steps give the same bits again, so a state that was dropped costs, at most, the steps of
its unit. What they start from stays: the round's parameters, and the moments and residual carried in.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from node.events import Restore, Train
from node.unit import Unit
from protocol.manifest import RunManifest
from protocol.tensors import moment_layout, parameter_layout

STATE_CAP: Final = 4 << 30
"""Bytes of undrawn units' states that are kept unless the operator says otherwise."""


@dataclass(frozen=True)
class Served:
    """Name what was published in a round, and how long somebody may want it: to take one back, or to learn from."""

    blobs: frozenset[str]
    until: int  # block


def unit_bytes(manifest: RunManifest) -> int:
    """Return how many bytes the states of one unit take."""
    one = parameter_layout(manifest.model).file_bytes + moment_layout(manifest.model).file_bytes
    return (manifest.segments + 1) * one


def drop(
    pending: Collection[int], dropped: Collection[int], drawn: Collection[int], room: int
) -> frozenset[int]:
    """Return the rounds whose states are not kept.

    What was drawn stays. Of the others the newest go first: the draw of the oldest is the next to come.

    Args:
        pending: rounds whose draw is not settled.
        dropped: those whose states are gone already.
        drawn: those whose draw fell on us.
        room: so many units' states fit.
    """
    kept = sorted(set(pending) - set(dropped))
    free = [round_ for round_ in reversed(kept) if round_ not in drawn]
    return frozenset(dropped).intersection(pending) | frozenset(free[: max(0, len(kept) - room)])


def restore(
    units: Mapping[int, Unit], wanted: Collection[int], beacons: Mapping[int, str | None]
) -> Restore | None:
    """Return the job that computes the oldest wanted unit again, or None while there is none that can be.

    Args:
        wanted: rounds that were drawn and whose states are gone.
        beacons: assignment beacon by round.
    """
    for round_ in sorted(wanted):
        beacon, unit = beacons.get(round_), units[round_]
        if beacon is not None:
            start = unit.commitment.parameters
            before, tier = (unit.moments_before, unit.residual_before), unit.commitment.tier
            again = Train(
                round_, beacon, start, *before, unit.lessons, tier, unit.returned, unit.state_before
            )
            return Restore(round_, again, unit.work)
    return None
