"""`murmur verifier attacks --kind rollout`: which check catches which dishonest rollouts and judgments.

A cheat is *caught* when its unit does not merge, or when a draw that falls on its dishonest groups costs it at least
the unit's pay. Values are those of the segment that shows least of what a draw can fall on.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import BaseModel

from protocol.manifest import NumericProfile
from protocol.messages import PASSED, PROVEN_FALSE, REJECTED
from verification.rollout_cheats import JudgeCheat, RolloutCheat

if TYPE_CHECKING:
    from murmur.sampled_unit import RolloutTrial
    from verification.sampled import GroupsReport

Say = Callable[[str], None]

OUTCOMES = {PASSED: "passed", REJECTED: "void", PROVEN_FALSE: "proven false"}
INDISTINGUISHABLE = (RolloutCheat.INT8,)
"""What bfloat16 cannot tell from honest work, because it rounds as much itself."""


Cheat_contra = TypeVar("Cheat_contra", RolloutCheat, JudgeCheat, contravariant=True)
AnyRolloutCheat = RolloutCheat | JudgeCheat


class Laboratory(Protocol[Cheat_contra]):
    """Try units on the network's checks, honest ones and those of one family of cheats."""

    @property
    def profile(self) -> NumericProfile:
        """The units'."""

    def try_honest(self) -> "RolloutTrial":
        """Let the network check an honest unit."""

    def try_cheat(self, cheat: Cheat_contra) -> "RolloutTrial":
        """Let somebody cheat."""


class RolloutAttackResult(BaseModel):
    """Say what became of one way to cheat with rollouts or as a judge, or of honest ones."""

    name: str
    does: str
    profile: str
    caught: bool
    check: str  # "replay" before any draw, else what a draw finds first; "" if nothing does
    value: float | None = (
        None  # what that check measured, or the farthest value where nothing is out of tolerance
    )
    tolerance: float | None = None
    ratio: float | None = None
    exact_regret: float | None = None  # in exact arithmetic, once disputed
    outcome: str  # refused, when nobody merges it; else when a draw meets it: passed, void, proven false
    detection: float  # share of draws of its unit that catch it; 1 if it never merges
    reason: str = ""  # in the words of the check


class RolloutAttackReport(BaseModel):
    """Hold everything that one command measures."""

    profile: str
    attacks: list[RolloutAttackResult]
    honest: list[RolloutAttackResult]
    indistinguishable: list[
        RolloutAttackResult
    ]  # under profiles that round as much as the cheat does; not judged

    @property
    def holds(self) -> bool:
        """Tell whether every attack was caught and no honest unit."""
        return all(one.caught for one in self.attacks) and not any(one.caught for one in self.honest)


def measure_rollouts(cheats: Sequence[AnyRolloutCheat], *, honest: bool, say: Say) -> RolloutAttackReport:
    """Try each cheat under float32, and honest rollouts and judgments under every profile.

    Raises:
        ConfigError: the environment is not installed.
    """
    from murmur.judging_laboratory import JudgingLaboratory
    from murmur.rollout_laboratory import RolloutLaboratory
    from protocol.manifest import CPU_BF16, CPU_EXACT, CPU_FP32

    say("tuning a small policy")
    laboratory = RolloutLaboratory.open(CPU_FP32)
    attacks = measure_rollout_attacks(
        laboratory, [one for one in cheats if isinstance(one, RolloutCheat)], say
    )
    judges, asked = None, [one for one in cheats if isinstance(one, JudgeCheat)]
    if asked or honest:
        say("tuning a small judge")
        judges = JudgingLaboratory.open(laboratory)
        attacks += measure_rollout_attacks(judges, asked, say)
    report = RolloutAttackReport(profile=CPU_FP32.name, attacks=attacks, honest=[], indistinguishable=[])
    if judges is not None and honest:
        for profile in (CPU_FP32, CPU_BF16, CPU_EXACT):
            report.honest.append(measure_honest_rollouts(laboratory.under(profile), say))
            report.honest.append(measure_honest_judgments(judges.under(profile), say))
        rounded = laboratory.under(CPU_BF16)
        report.indistinguishable.extend(measure_rollout_attacks(rounded, INDISTINGUISHABLE, say))
    return report


def measure_rollout_attacks(
    laboratory: Laboratory[Cheat_contra], cheats: Iterable[Cheat_contra], say: Say = lambda line: None
) -> list[RolloutAttackResult]:
    """Try each cheat in a laboratory's run."""
    found = []
    for cheat in cheats:
        profile, trial = laboratory.profile.name, laboratory.try_cheat(cheat)
        result = _result(cheat.value, cheat.kind.does, profile, trial)
        say(f"{result.name} under {result.profile}: {result.check or 'not caught'}, {result.outcome}")
        found.append(result)
    return found


def measure_honest_rollouts(
    laboratory: Laboratory[RolloutCheat], say: Say = lambda line: None
) -> RolloutAttackResult:
    """Let the network check honest rollouts."""
    trial = laboratory.try_honest()
    return _honest("honest", "samples as the profile says", laboratory.profile.name, trial, say)


def measure_honest_judgments(
    laboratory: Laboratory[JudgeCheat], say: Say = lambda line: None
) -> RolloutAttackResult:
    """Let the network check honest judgments."""
    trial = laboratory.try_honest()
    return _honest("honest judge", "answers as the profile says", laboratory.profile.name, trial, say)


def _honest(name: str, does: str, profile: str, trial: "RolloutTrial", say: Say) -> RolloutAttackResult:
    result = _result(name, does, profile, trial)
    say(f"{name} under {profile}: {result.outcome}")
    return result


def _result(name: str, does: str, profile: str, trial: "RolloutTrial") -> RolloutAttackResult:
    if trial.refused:
        return RolloutAttackResult(
            name=name,
            does=does,
            profile=profile,
            caught=True,
            check="replay",
            outcome="refused",
            detection=1.0,
            reason=trial.refused,
        )
    reports = list(trial.drawn.values())
    caught = [one for one in reports if one.outcome != PASSED]
    # Of those caught the mildest; where none is, the farthest of what passed.
    shown = min(caught, key=_visibility) if caught else max(reports, key=_visibility)
    value = shown.measured.failed or max(shown.measured.values, key=lambda one: one.ratio)
    return RolloutAttackResult(
        name=name,
        does=does,
        profile=profile,
        caught=bool(caught),
        check=value.check if caught else "",
        value=value.value,
        tolerance=value.bound,
        ratio=value.ratio,
        exact_regret=None if shown.exact is None else shown.exact.regret,
        outcome=OUTCOMES[shown.outcome],
        detection=len(caught) / len(reports),
        reason=shown.reason,
    )


def _visibility(report: "GroupsReport") -> tuple[int, float]:
    return report.outcome, report.measured.ratio


def rollout_markdown(report: RolloutAttackReport) -> str:
    """Write a report as Markdown tables."""
    head = "| caught | by | when drawn | value | tolerance | ratio | exact regret | draws that catch it |"
    lines = [f"| attack {head}", "|---|---|---|---|---|---|---|---|---|"]
    lines += [_row(one, one.name, wanted=True) for one in report.attacks]
    if report.honest:
        lines += ["", f"| honest under {head}", "|---|---|---|---|---|---|---|---|---|"]
        lines += [_row(one, f"{one.profile}, {one.does}", wanted=False) for one in report.honest]
    lines += ["", f"Attacks are on units of profile `{report.profile}`."]
    for one in report.indistinguishable:
        said = "was caught this time" if one.caught else f"passes, at {_figure(one.ratio)} of the tolerance"
        lines.append(
            f"Under `{one.profile}` {one.name} {said}: bfloat16 rounds as much itself. Who minds pins a profile of "
            "float32 or exact arithmetic."
        )
    return "\n".join(lines)


def _row(one: RolloutAttackResult, name: str, *, wanted: bool) -> str:
    caught = "yes" if one.caught else "no"
    figures = [_figure(value) for value in (one.value, one.tolerance, one.ratio, one.exact_regret)]
    draws = "" if one.outcome == "refused" else f"{one.detection:.0%}"
    word = caught if one.caught is wanted else f"**{caught}**"
    return f"| `{name}` | {word} | {one.check} | {one.outcome} | {' | '.join(figures)} | {draws} |"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def rollout_lines(report: RolloutAttackReport) -> list[str]:
    """Return a report for people, a line a result."""
    lines = []
    for one in (*report.attacks, *report.honest, *report.indistinguishable):
        ratio = "" if one.ratio is None else f"{one.ratio:.3g} times the tolerance"
        word = one.check if one.caught else "not caught"
        lines.append(f"{one.name:20} {one.profile:10} {word:16} {one.outcome:13} {ratio}".rstrip())
    return lines
