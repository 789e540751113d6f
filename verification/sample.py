"""Who is drawn, at which segment, and who judges: a public function of a beacon newer than the record."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.beacon import SAMPLING, chosen, draw, seed
from protocol.manifest import RunManifest

_IS_DRAWN, _SEGMENT, _RANK = 0, 1, 2


@dataclass(frozen=True)
class Draw:
    """Ask for one segment of one unit; `verifiers` is every verifier, best rank first."""

    number: int
    segment: int
    verifiers: tuple[int, ...]

    def due(self, manifest: RunManifest, verifier: int, blocks: int, verdicts: int) -> bool:
        """Tell whether a verifier should judge now.

        The first ranks judge at once; a later rank steps in after each further deadline while verdicts are
        lacking.

        Args:
            verifier: its registration number.
            blocks: blocks since the sampling beacon.
            verdicts: how many others have judged.
        """
        needed = manifest.verification.verifiers
        if verifier not in self.verifiers or verdicts >= needed:
            return False
        rank = self.verifiers.index(verifier)
        return rank < needed or blocks >= (rank - needed + 1) * manifest.deadlines.verify

    def closes_after(self, manifest: RunManifest) -> int:
        """Return after how many blocks the unit is decided with whatever verdicts there are."""
        spare = max(0, len(self.verifiers) - manifest.verification.verifiers)
        return (2 + spare) * manifest.deadlines.verify


def draws(
    manifest: RunManifest,
    run: str,
    beacon: str,
    round_: int,
    committed: Iterable[int],
    verifiers: Iterable[int],
) -> tuple[Draw, ...]:
    """Return the drawn units of a round, by number.

    Args:
        run: the manifest's run id.
        beacon: hash of the block after the one that anchored the record, 64 hex digits.
        committed: registration numbers in the round's commitment list, revealed or not.
        verifiers: registration numbers of the verifiers staked when the record was anchored.
    """
    round_seed = seed(SAMPLING, beacon, run, round_)
    judges = sorted(verifiers)
    found = []
    for number in sorted(committed):
        if not chosen(round_seed, manifest.verification.draw_probability, _IS_DRAWN, number):
            continue
        segment = draw(round_seed, _SEGMENT, number) % manifest.segments
        ranked = sorted(judges, key=lambda judge: (draw(round_seed, _RANK, number, judge), judge))
        found.append(Draw(number, segment, tuple(ranked)))
    return tuple(found)
