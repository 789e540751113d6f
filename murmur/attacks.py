"""`murmur verifier attacks`: which check catches which dishonest contributor, how far beyond the tolerance, and that
no honest one is caught on other kernels.

A cheat is *caught* when a draw that falls on its dishonest work costs it at least the unit's pay. Distances are those
of its least visible dishonest segment: one whose end differs from the honest replay's on this same machine, where an
honest end is the same to the last bit.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from coordinator.choices import Choices, InnerSteps, Moments
from murmur.rollout_attacks import measure_rollouts, rollout_lines, rollout_markdown
from protocol import options
from protocol.errors import UsageError
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from verification.cheats import Cheat, cheats_in
from verification.rollout_cheats import JudgeCheat, RolloutCheat

if TYPE_CHECKING:
    from murmur.laboratory import Finding, Laboratory, Trial
    from murmur.machines import Machine
    from node.unit import Unit

Say = Callable[[str], None]
Chosen = TypeVar("Chosen", bound=Cheat | RolloutCheat | JudgeCheat)


class UnitPart(StrEnum):
    """Name what of a unit is dishonest."""

    TRAINING = "training"
    ROLLOUT = "rollout"


OUTCOMES = {PASSED: "passed", REJECTED: "void", PROVEN_FALSE: "proven false"}
REPLAY_DEADLINE_S = 600.0


class AttackResult(BaseModel):
    """Say what became of one way to cheat."""

    name: str
    does: str
    caught: bool
    check: str  # the first that catches it, in the order in which a network meets them; "" if none does
    distance: float | None = None  # of the least visible dishonest segment, in its worst tensor
    tolerance: float | None = None  # of that segment
    ratio: float | None = None  # distance over tolerance
    tensor: str = ""
    exact_distance: float | None = None  # of the same segment from exact arithmetic, once it is disputed
    outcome: (
        str  # when a draw meets it: passed, void, proven false; or refused, when nothing of it is ever drawn
    )
    paid_undrawn: bool  # its unit merges and is paid when no draw falls on it
    detection: float  # share of draws of its unit that catch it; 1 if there is no unit to draw
    saving: float  # of a unit's honest compute, at most
    gain: str = ""  # what it could gain at most where the tolerance does not see it
    reason: str = ""  # in the words of the check


class HonestResult(BaseModel):
    """Say how far honest work replays on other kernels."""

    name: str
    distance: float  # largest over segments
    tolerance: float
    ratio: float
    segments: int
    rejected: bool


class AttackReport(BaseModel):
    """Hold everything that one command measures."""

    profile: str
    tolerance: float
    fresh_tolerance: float
    slash_tolerance: float
    slack: float  # what shifts of parameters within the tolerance add up to: tolerance times path factor
    attacks: list[AttackResult]
    honest: list[HonestResult]

    @property
    def holds(self) -> bool:
        """Tell whether every attack was caught and no honest run rejected."""
        return all(one.caught for one in self.attacks) and not any(one.rejected for one in self.honest)


def measure_attacks(
    laboratory: "Laboratory", cheats: Iterable[Cheat] | None = None, say: Say = lambda line: None
) -> list[AttackResult]:
    """Try each cheat in the laboratory's run, in the round after its honest ones.

    Args:
        cheats: None takes all that the run leaves something to do.
    """
    slack = slack_of(laboratory)
    found = []
    for cheat in cheats_in(laboratory.manifest) if cheats is None else cheats:
        result = _result(cheat, laboratory.try_cheat(cheat), slack)
        say(f"{result.name}: {result.check or 'not caught'}, {result.outcome}")
        found.append(result)
    return found


def slack_of(laboratory: "Laboratory") -> float:
    """Return what shifts of parameters within the tolerance add up to at most, as a share of an update.

    What training makes of shifted moments afterwards comes on top, and is not bounded by it.
    """
    return laboratory.profile.tolerance * laboratory.path_factor(laboratory.honest_unit())


def measure_honest(
    laboratory: "Laboratory", machines: "Sequence[Machine] | None" = None, say: Say = lambda line: None
) -> list[HonestResult]:
    """Replay honest units with the verifier's own replay process under other kernels.

    One unit carries moments, one is a newcomer's; of the latter only the first segment starts from zero moments. Where
    the run's moments are public neither is told apart.

    Args:
        machines: None takes every one that can be emulated.

    Raises:
        OwnFault: a replay process died or failed.
    """
    import trio

    from murmur.laboratory import EMULATED
    from murmur.machines import AT_ONCE

    units = [laboratory.honest_unit(), laboratory.newcomer_unit()]
    chosen = tuple(EMULATED if machines is None else machines)
    found: dict[str, list[HonestResult]] = {}

    async def replay_everywhere() -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def replay(machine: "Machine") -> None:
            async with limiter:
                found[machine.name] = await _replay_on(laboratory, machine, units)
            worst = max(one.ratio for one in found[machine.name])
            say(f"honest on {machine.name}: {worst:.2f} of the tolerance")

        async with trio.open_nursery() as nursery:
            for machine in chosen:
                nursery.start_soon(replay, machine)

    trio.run(replay_everywhere)
    return [one for machine in chosen for one in found[machine.name]]


def _result(cheat: Cheat, trial: "Trial", slack: float) -> AttackResult:
    kind = cheat.kind
    common: dict[str, Any] = {"name": cheat.value, "does": kind.does, "saving": kind.saving}
    public = trial.public[0] if trial.public else None
    unpaid = any(one.check in ("commitment", "reveal", "merge") for one in trial.public)
    if trial.unit is None:
        assert public is not None, "somebody who commits nothing at least says something"
        return AttackResult(
            **common,
            caught=True,
            check=public.check,
            outcome="refused",
            paid_undrawn=False,
            detection=1.0,
            reason=public.reason,
        )
    faults = [one for one in trial.drawn.values() if one.outcome != PASSED]
    dishonest = [one for one in trial.drawn.values() if one.outcome != PASSED or _differs(one)]
    mildest = min(dishonest, key=_visibility, default=None)
    first = public or (mildest if mildest in faults else None)
    result = AttackResult(
        **common,
        caught=public is not None or (mildest is not None and mildest in faults),
        check="" if first is None else first.check,
        outcome=OUTCOMES[PASSED if mildest is None else mildest.outcome],
        paid_undrawn=not unpaid,
        detection=len(faults) / len(trial.drawn),
        reason="" if first is None else first.reason,
    )
    if mildest is not None and mildest.report is not None and mildest.tolerance is not None:
        result.distance, result.tolerance = mildest.report.distance, mildest.tolerance
        result.ratio, result.tensor = _ratio(mildest), mildest.report.tensor
        result.exact_distance = mildest.report.exact_distance if mildest.report.exact else None
    if not result.caught and mildest is None:
        result.gain = "nothing: to the last bit what honest work is under this profile"
    elif not result.caught:
        result.gain = f"shifts its parameters by at most {slack:.2g} of its update"
        if kind.saving:
            result.gain += f", saves at most {kind.saving:.0%} of the compute"
    return result


def _differs(finding: "Finding") -> bool:
    return finding.report is not None and finding.report.distance > 0


def _ratio(finding: "Finding") -> float:
    """Return distance over tolerance; where the tolerance is zero, any difference is beyond all measure."""
    assert finding.report is not None
    assert finding.tolerance is not None
    return finding.report.distance / finding.tolerance if finding.tolerance else float("inf")


def _visibility(finding: "Finding") -> tuple[int, float]:
    return (0, _ratio(finding)) if finding.report is not None else (1, 0.0)


async def _replay_on(
    laboratory: "Laboratory", machine: "Machine", units: "Sequence[Unit]"
) -> list[HonestResult]:
    from protocol.worker import Worker
    from training.workbench import DeviceLoadRequest
    from verification.judge import is_fresh
    from verification.request import ReplayAnswer, ReplayRequest

    log = laboratory.directory / "replayer.log"
    asked = DeviceLoadRequest(
        manifest_path=laboratory.directory / "manifest.json",
        store=laboratory.store.root,
        data_dir=laboratory.directory,
        threads=machine.threads,
    )
    found: dict[bool, list[tuple[float, int]]] = {False: [], True: []}

    argv = [sys.executable, "-m", "verification.replayer"]
    async with Worker(argv, log_path=log, env=machine.environment()) as worker:
        await worker.call("load", asked.params(), deadline_s=REPLAY_DEADLINE_S)
        for unit in units:
            for segment in range(laboratory.manifest.segments):
                request = ReplayRequest.of(*laboratory.drawn(unit, segment)).model_dump(mode="json")
                answer = await worker.call("compare", request, deadline_s=REPLAY_DEADLINE_S)
                report = ReplayAnswer.model_validate(answer).report()
                found[is_fresh(laboratory.manifest, unit.commitment, segment)].append(
                    (report.distance, report.outcome)
                )
    results = []
    for fresh, reports in found.items():
        if not reports:
            continue
        distance, bound = max(distance for distance, _ in reports), laboratory.profile.bound(fresh)
        results.append(
            HonestResult(
                name=f"{machine.name}, newcomer" if fresh else machine.name,
                distance=distance,
                tolerance=bound,
                ratio=distance / bound if bound else float(distance > 0),
                segments=len(reports),
                rejected=any(outcome != PASSED for _, outcome in reports),
            )
        )
    return results


def measure(
    cheats: Sequence[Cheat] | None, *, honest: bool, say: Say, choices: Choices = Choices()
) -> AttackReport:
    """Measure attacks (None: all), and honest work beside them, in a laboratory with the default model."""
    from murmur.laboratory import Laboratory, laboratory_manifest

    with tempfile.TemporaryDirectory(prefix="murmur-attacks-") as name:
        directory = Path(name)
        say("living through a few honest rounds")
        laboratory = Laboratory.open(directory, laboratory_manifest(directory, **choices.fields()))
        profile = laboratory.profile
        return AttackReport(
            profile=profile.name,
            tolerance=profile.tolerance,
            fresh_tolerance=profile.fresh_tolerance,
            slash_tolerance=profile.slash_tolerance,
            slack=slack_of(laboratory),
            attacks=measure_attacks(laboratory, cheats, say),
            honest=measure_honest(laboratory, say=say) if honest else [],
        )


def markdown(report: AttackReport) -> str:
    """Write a report as Markdown tables."""
    lines = [
        "| attack | caught | by | when drawn | distance | tolerance | ratio | from exact | draws that catch it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in report.attacks:
        values = (one.distance, one.tolerance, one.ratio, one.exact_distance)
        figures = [_figure(value) for value in values]
        caught = "yes" if one.caught else f"**no**: {one.gain}"
        found = f"{caught} | {one.check} | {one.outcome}"
        draws = "" if one.outcome == "refused" else f"{one.detection:.0%}"
        lines.append(f"| `{one.name}` | {found} | {' | '.join(figures)} | {draws} |")
    if report.honest:
        lines += [
            "",
            "| honest on | segments | distance | tolerance | ratio | rejected |",
            "|---|---|---|---|---|---|",
        ]
    for row in report.honest:
        figures = [_figure(value) for value in (row.distance, row.tolerance, row.ratio)]
        rejected = "**yes**" if row.rejected else "no"
        lines.append(f"| {row.name} | {row.segments} | {' | '.join(figures)} | {rejected} |")
    lines += [
        "",
        f"Profile `{report.profile}`: proven false beyond {report.slash_tolerance:g}; "
        f"shifts of parameters within the tolerance add up to at most {report.slack:.2g} of an update.",
    ]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def attacks(
    only: Annotated[
        list[str] | None, typer.Option(help="Measure this attack, without honest work. Repeatable.")
    ] = None,
    kind: Annotated[
        UnitPart, typer.Option(help="What is dishonest: training, or rollouts and judgments of an RL run.")
    ] = (UnitPart.TRAINING),
    moments: Moments = None,
    optimizer: InnerSteps = None,
    report: Annotated[bool, typer.Option("--report", help="Print Markdown tables.")] = False,
    as_json: options.Json = False,
) -> None:
    """Try every way to cheat on the real checks: exit 0 only if each is caught and no honest work is."""
    if report and as_json:
        raise UsageError("--report and --json exclude each other", hint="give one of them")
    if kind is UnitPart.ROLLOUT:
        _rollouts(only or [], report=report, as_json=as_json)
        return
    choices = Choices(moments=moments, optimizer=optimizer)
    choices.check(cheats=only or [])
    cheats = _chosen(tuple(Cheat), only or [])
    found = measure(
        cheats or None, honest=not cheats, say=lambda line: typer.echo(line, err=True), choices=choices
    )
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json")))
    elif report:
        typer.echo(markdown(found))
    else:
        _show(found)
    if not found.holds:
        raise typer.Exit(1)


def _rollouts(only: Sequence[str], *, report: bool, as_json: bool) -> None:
    every = (*RolloutCheat, *JudgeCheat)
    cheats = _chosen(every, only)
    found = measure_rollouts(cheats or every, honest=not cheats, say=lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json")))
    else:
        typer.echo(rollout_markdown(found) if report else "\n".join(rollout_lines(found)))
    if not found.holds:
        raise typer.Exit(1)


def _chosen(cheats: Sequence[Chosen], names: Sequence[str]) -> tuple[Chosen, ...]:
    known = {cheat.value: cheat for cheat in cheats}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no attack is called {unknown[0]!r}", hint=f"--only {', '.join(known)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def _show(report: AttackReport) -> None:
    for one in report.attacks:
        ratio = "" if one.ratio is None else f"{one.ratio:.3g} times the tolerance"
        check = one.check if one.caught else f"NOT CAUGHT: {one.gain}"
        typer.echo(f"{one.name:20} {check:10} {one.outcome:13} {ratio}")
    for row in report.honest:
        word = "REJECTED" if row.rejected else "passed"
        typer.echo(f"{'honest':20} {word:10} {row.name}: {row.ratio:.2g} of the tolerance")
    typer.echo(f"what the tolerance leaves to shifts of parameters: {report.slack:.2g} of an update")
