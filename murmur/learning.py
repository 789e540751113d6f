"""What a run of rollouts has to show: what its policy earns, and what became of the samples it learned from."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from murmur.summary import Course, Groups, Lag
from protocol.manifest import RunManifest
from protocol.published import max_published_bytes, published_sizes
from protocol.rollouts import rollouts_of
from verification.experience import experience
from verification.public import PublicRun


def course(policy: Mapping[str, Any], name: str) -> Course:
    """Return the course of one figure over the rounds, as the coordinator measured it on held-out tasks."""
    curve = [round(point[name], 4) for point in policy["curve"]]
    return Course(first=curve[0] if curve else None, last=curve[-1] if curve else None, curve=curve)


def groups_of(run: PublicRun, judged: Mapping[tuple[int, int], str]) -> Groups:
    """Count the groups of samples of all committed units by what became of them.

    Args:
        judged: what each judged unit is, by (round, number).
    """
    manifest = run.manifest
    each = rollouts_of(manifest).sampling.groups
    units = [(round_, unit) for round_ in run.rounds for unit in run.standing[round_].units if unit.counts]
    accepted = sum(
        unit.merged and judged.get((round_, unit.number)) not in ("void", "false") for round_, unit in units
    )
    drawn = sum(
        len(range(draw.segment, each, manifest.segments))
        for key, draw in run.draws.items()
        if run.verdicts.get(key)
    )
    return Groups(
        assigned=each * len(units),
        accepted=each * accepted,
        rejected=each * (len(units) - accepted),
        drawn=drawn,
    )


def lag_of(run: PublicRun) -> Lag:
    """Return how many rounds lay between sampling and learning, over the rounds that learned from anything."""
    manifest, records = run.manifest, run.standing

    def learns(round_: int) -> bool:
        found = experience(manifest, lambda one: records[one] if one < len(records) else None, round_)
        return found is not None and bool(found.learned)

    lag = rollouts_of(manifest).lag
    found = [lag for round_ in run.rounds if learns(round_)]
    return Lag(mean=fmean(found) if found else None, max=max(found, default=None))


def merged_sizes(run: PublicRun) -> Iterator[tuple[int, int, int]]:
    """Yield round, bytes of the update and bytes of the rollouts of every merged unit whose blob is at hand."""
    manifest: RunManifest = run.manifest
    for round_ in run.rounds:
        for unit in run.standing[round_].units:
            if not unit.merged or unit.blob is None:
                continue
            blob = run.find(unit.blob, max_published_bytes(manifest))
            if blob is not None:
                yield round_, *published_sizes(manifest, blob)
