"""Which tier a contributor declares: the largest unit that its machine finishes in time."""

from collections.abc import Callable
from typing import Final

from protocol.manifest import RunManifest
from verification.commit import Carried, may_change_tier

MARGIN: Final = 0.5
"""Share of the time to commit that a unit may take: other work, slow blocks and the transfer of blobs need some."""


def next_tier(manifest: RunManifest, round_: int, carried: Carried, wish: int | None) -> int:
    """Return the tier that a unit declares for the next round: the wish where it may change.

    Args:
        carried: what the unit started with.
        wish: the tier that is wanted; None: as it is.
    """
    own = carried.tier_of(manifest)
    return own if wish is None or not may_change_tier(manifest, round_, carried) else wish


def fitting_tier(manifest: RunManifest, tier: int, unit_s: float, window_s: float) -> int:
    """Return the largest tier whose unit fits the time to commit, the smallest where none does.

    Args:
        tier: of a unit that took `unit_s` seconds from its beginning to its commitment.
        window_s: seconds from the beacon until commitments close.
    """
    a_sample = unit_s / manifest.tier_samples[tier]
    for candidate, samples in enumerate(manifest.tier_samples):
        if samples * a_sample <= MARGIN * window_s:
            return candidate
    return manifest.smallest_tier


class Pace:
    """Measure how long units and blocks take, and wish for the tier that follows.

    Args:
        fixed: the tier that its owner asks for; None: by what is measured.
        clock: seconds on a monotonic clock.
        height: of the chain.
    """

    def __init__(
        self,
        manifest: RunManifest,
        fixed: int | None,
        clock: Callable[[], float],
        height: Callable[[], int],
    ) -> None:
        self._manifest, self._fixed, self._clock, self._height = manifest, fixed, clock, height
        self._since = clock(), height()

    def wish(self, tier: int, began: float) -> int | None:
        """Return the tier to declare after a unit of a tier whose work began at a time; None: nothing is known yet."""
        if not self._manifest.tiers:
            return None
        if self._fixed is not None:
            return self._fixed
        (time, height), now = self._since, self._clock()
        blocks = self._height() - height
        if blocks < 1:
            return None
        window_s = self._manifest.deadlines.commit * (now - time) / blocks
        return fitting_tier(self._manifest, tier, now - began, window_s)
