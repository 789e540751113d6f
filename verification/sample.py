"""Who is drawn, at which segment, and who judges: a public function of a beacon newer than the record."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from protocol.beacon import SAMPLING, chosen, draw, seed
from protocol.manifest import RunManifest
from protocol.messages import Judgement, UnitRecord

_IS_DRAWN, _SEGMENT, _RANK = 0, 1, 2


@dataclass(frozen=True)
class Standing:
    """Say what a number's chance to be drawn follows from, as a record writes it into each unit."""

    earlier: int = 0  # units before, listed or forced in, counted up to schedule.fresh_units
    suspect: int = 0  # units left under suspicion


NEWCOMER = Standing()


def doubt(
    manifest: RunManifest, standings: Mapping[int, Standing], judged: Iterable[Judgement]
) -> dict[int, Standing]:
    """Return the standings after a record's judgements, which hold for its own units already."""
    found = dict(standings)
    for one in judged:
        if one.outcome in ("void", "false"):
            units = manifest.verification.schedule.suspicion_units
            found[one.number] = replace(found.get(one.number, NEWCOMER), suspect=units)
    return found


def count_listed(
    manifest: RunManifest, standings: Mapping[int, Standing], numbers: Iterable[int]
) -> dict[int, Standing]:
    """Return the standings after a round with a unit of each of these numbers."""
    found = dict(standings)
    for number in numbers:
        before = found.get(number, NEWCOMER)
        earlier = min(before.earlier + 1, manifest.verification.schedule.fresh_units)
        found[number] = Standing(earlier, max(0, before.suspect - 1))
    return found


@dataclass(frozen=True)
class Draw:
    """Ask for one segment of one unit; `verifiers` is every verifier, best rank first."""

    number: int
    segment: int
    verifiers: tuple[int, ...]

    def due(
        self,
        manifest: RunManifest,
        verifier: int,
        blocks: int,
        verdicts: int,
        inconclusive: Collection[int] = (),
        further: int = 0,
    ) -> bool:
        """Tell whether a verifier should judge now.

        The first ranks judge at once; a later rank steps in after each further deadline while verdicts are
        lacking, and at once for each earlier rank that found nothing to say.

        Args:
            verifier: its registration number.
            blocks: blocks since the sampling beacon.
            verdicts: how many others have judged.
            inconclusive: verifiers whose verdict is inconclusive.
            further: how many more are called at once because earlier ones disagree.
        """
        needed = manifest.verification.verifiers
        if verifier not in self.verifiers or verdicts >= needed:
            return False
        earlier = self.verifiers[: self.verifiers.index(verifier)]
        rank = sum(judge not in inconclusive for judge in earlier) - further
        return rank < needed or blocks >= (rank - needed + 1) * manifest.deadlines.verify

    def closes_after(self, manifest: RunManifest) -> int:
        """Return after how many blocks the unit is decided with whatever verdicts there are."""
        spare = max(0, len(self.verifiers) - manifest.verification.verifiers)
        return (2 + spare) * manifest.deadlines.verify


def chance(manifest: RunManifest, unit: UnitRecord) -> float:
    """Return how likely a record's unit is drawn."""
    if unit.merged and not unit.weight:
        return 1.0  # its update does harm: was it honest work?
    return manifest.verification.schedule.probability(unit.earlier, unit.suspect)


def draws(
    manifest: RunManifest,
    run: str,
    beacon: str,
    round_: int,
    units: Iterable[UnitRecord],
    verifiers: Iterable[int],
) -> tuple[Draw, ...]:
    """Return the drawn units of a round, by number.

    Args:
        run: the manifest's run id.
        beacon: hash of the block after the one that anchored the record, 64 hex digits.
        units: of what is in force of the anchored record, revealed or not.
        verifiers: registration numbers of the verifiers staked when the record was anchored.
    """
    round_seed = seed(SAMPLING, beacon, run, round_)
    judges = sorted(verifiers)
    found = []
    for unit in sorted(units, key=lambda unit: unit.number):
        number = unit.number
        if not chosen(round_seed, chance(manifest, unit), _IS_DRAWN, number):
            continue
        segment = draw(round_seed, _SEGMENT, number) % manifest.at(unit.tier).segments
        ranked = sorted(judges, key=lambda judge: (draw(round_seed, _RANK, number, judge), judge))
        found.append(Draw(number, segment, tuple(ranked)))
    return tuple(found)
