"""When a peer that is behind goes on from what it holds, and when it takes the newest parameters instead.

Going on means to fetch the updates of every round missed, or the joint one of each, and to aggregate them. They are
small, so it is often cheaper in bytes than the parameter file, and needs no donor of parameters. Beyond some rounds it
is not tried: messages and updates of old rounds are held by fewer and fewer peers.
"""

from typing import Protocol

from node.events import Fetch, Job
from node.facts import Facts
from protocol.joint import max_joint_bytes
from protocol.manifest import RunManifest
from protocol.published import max_published_bytes
from training.outer import outer_layout

ALWAYS_ROUNDS = 2  # so far behind is everybody now and then
MOST_ROUNDS = 8  # as far back as anti-entropy compares what every peer holds (`protocol.peer.SYNC_ROUNDS`)


def replayable_rounds(manifest: RunManifest, units: int) -> int:
    """Return how many rounds are aggregated rather than skipped, by bytes at their bounds.

    Args:
        units: that a round merges.
    """
    each = max_joint_bytes(manifest) or units * max_published_bytes(manifest)
    cheaper = outer_layout(manifest).file_bytes // max(1, each)
    return max(ALWAYS_ROUNDS, min(MOST_ROUNDS, cheaper))


class Standing(Protocol):
    """Say where a peer stands, as its machine's state does."""

    @property
    def manifest(self) -> RunManifest:
        """Return the run."""

    @property
    def facts(self) -> Facts:
        """Return the last look at the world."""

    @property
    def round(self) -> int:
        """Return the round that the peer is in."""

    @property
    def held(self) -> bool:
        """Tell whether it has the round's parameters."""

    @property
    def job(self) -> Job | None:
        """Return what it is doing."""


def is_far_behind(peer: Standing) -> bool:
    """Tell whether a peer should take the newest record's parameters.

    Parameters that are being fetched count as held: what has come of them is not thrown away because another round
    passed meanwhile, or a slow link would never catch up.
    """
    newest = peer.facts.newest
    if newest is None:
        return False
    facts = peer.facts.of(newest)
    record = facts.confirmed
    units = len(facts.roster) if record is None else sum(one.merged for one in record.units)
    based = peer.held or isinstance(peer.job, Fetch)
    allowed = replayable_rounds(peer.manifest, units) if based else ALWAYS_ROUNDS
    return newest - peer.round > allowed
