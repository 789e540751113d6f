"""The points at which a verifier could cheat, each with what an honest one does there.

Honest code calls these hooks and knows of nothing else; `verification.liars` overrides them.
"""

from typing import Protocol

from protocol.messages import Opening, Signed
from verification.unit import DrawnUnit, ReplayReport

Begun = tuple[tuple[float, ...], ReplayReport | None]
"""A fingerprint to seal, or a report that needs neither seal nor end."""


class Bench(Protocol):
    """Offer what a verifier works with (`verification.bench.ReplayBench`)."""

    async def bring(self, unit: DrawnUnit, opening: Opening, *, late: bool) -> None:
        """Fetch the files of a replay."""

    async def begin(self, unit: DrawnUnit, opening: Signed[Opening]) -> Begun:
        """Replay a unit from its start."""

    async def compare(self, unit: DrawnUnit, opening: Signed[Opening]) -> ReplayReport:
        """Compare the replay with the end."""


class Honesty:
    """Replay, seal what came out, and say what the comparison gives."""

    async def begin(self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening]) -> Begun:
        """Return what there is to seal before the end is served."""
        await bench.bring(unit, opening.body, late=False)
        return await bench.begin(unit, opening)

    async def compare(
        self, bench: Bench, unit: DrawnUnit, opening: Signed[Opening], fingerprint: tuple[float, ...]
    ) -> ReplayReport:
        """Return what there is to say once the end is served.

        Args:
            fingerprint: that was sealed.
        """
        await bench.bring(unit, opening.body, late=False)
        await bench.bring(unit, opening.body, late=True)
        return await bench.compare(unit, opening)
