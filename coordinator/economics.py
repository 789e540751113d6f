"""What honesty and each attack earn under a manifest, with 95 % bounds of what was measured: does any attack pay?

Everything is in shares of a unit's pay R = 1, for one unit and over honest work. The formulas are those of PoSP
(arXiv 2405.00295) and of the notes' section on deterrence, taken at the edge that suits the attacker: it is drawn
with the lowest probability p, has nothing unvested, and has a share r of verifiers and of jurors on its side. Whom the
verifiers convict is asked of their rule itself (`coordinator.odds`); stake is lost where a jury agrees.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from coordinator.bounds import lower_bound, upper_bound
from coordinator.odds import convictions, majority, refuser_value
from protocol.manifest import RunManifest
from protocol.messages import PROVEN_FALSE, REJECTED

Kind = Literal["measured", "refusal", "unpaid", "equivocation"]

COLLUSION = 1 / 3
MAX_FALSE_LOSS = 0.001  # of an honest operator's pay
TAIL_INDEX = 2.0
"""How fast rare distances thin out beyond the largest that was measured: a tail of Pareto's with finite mean square at
the edge. Counts alone can exclude no false proof rarer than one in their number."""

HORIZON = 40  # units of an epoch that the plan of a refuser looks at; a longer epoch only puts more at stake
FINDER_SHARE = 0.3  # of a slash, to who found the fault: the offender itself, under a second identity
JURY_SHARE = 0.2  # of a slash, to the seats that won


@dataclass(frozen=True)
class Terms:
    """Say what a plan assumes beside the manifest."""

    stake_wei: int
    unbonding_blocks: int
    cost: float = 0.4  # of an honest unit, as a share of its pay
    verifiers: int = 2  # staked
    collusion: float = COLLUSION  # share of verifiers and of jurors who pass whatever the attacker does
    slash_share: float = FINDER_SHARE  # of a slash that the offender gets back under a second identity
    case_blocks: int = 566  # longest time of a case before the jury, with its appeal
    dispute_blocks: int = 4  # of a reward root
    seats: int = 3  # of a first jury; a second has three times as many
    case_bond_wei: int = 10 * 10**18  # of an accusation; an appeal puts up three times as much
    accused: float = 0.05
    """Share of the units found unopened that somebody takes before the jury: all where the coordinator runs
    this program, but nobody can make it do so."""
    outage: float = 1e-4
    """Chance that an honest peer that is drawn stays away from the draw to the end of a jury's time to open."""

    @property
    def returned(self) -> float:
        """Return the share of a slashed stake that comes back to an offender with jurors on its side."""
        return min(1.0, self.slash_share + self.collusion * JURY_SHARE)

    @property
    def agreeing(self) -> float:
        """Return the chance that honest jurors carry a second jury, which either side can call."""
        return majority(3 * self.seats, 1 - self.collusion)


@dataclass(frozen=True)
class Attack:
    """Describe an attack by what it saves and what was measured of it."""

    name: str
    does: str
    saving: float  # of an honest unit's cost
    kind: Kind = "measured"
    caught: int = 0  # of the drawn segments
    proven: int = 0  # of those: beyond doubt, so that it slashes; the others are void
    tried: int = 0  # segments that were drawn for the measurement; none: nothing is known
    reach: float = 1.0  # chance that a draw falls on a segment like those
    exact: bool = False  # found by comparing bits, whichever segment is drawn


@dataclass(frozen=True)
class Honest:
    """Say how often honest segments were rejected, and how far they were from being proven false."""

    rejected: int
    tried: int
    fresh_rejected: int  # of segments that start from zero moments
    fresh_tried: int
    exact_tried: int  # compared with the exact reference
    exact_ratio: float  # largest distance from it, over the slash tolerance
    fresh_exact_tried: int  # the same of segments that start from zero moments
    fresh_exact_ratio: float


@dataclass(frozen=True)
class Line:
    """Give the result of one strategy."""

    name: str
    profit: float  # over honesty, in units of pay; of a unit, or of an epoch for who refuses
    pays: bool
    why: str  # the arithmetic


@dataclass(frozen=True)
class Plan:
    """Say whether a manifest holds."""

    honest_profit: float
    false_loss: float  # share of pay
    lines: tuple[Line, ...]
    reasons: tuple[str, ...]  # why the manifest is refused; empty if it holds
    steps: tuple[str, ...]  # of the arithmetic that all lines share

    @property
    def holds(self) -> bool:
        """Tell whether no attack pays and honesty is safe."""
        return not self.reasons


def window(manifest: RunManifest, terms: Terms) -> int:
    """Return how many blocks may pass from a peer's last roster to the slash for a unit of that round.

    A case may be opened until the run's window closes, and then takes its time; a reward root may be disputed after.
    """
    return round_blocks(manifest) + manifest.penalties.window + terms.case_blocks + terms.dispute_blocks


def round_blocks(manifest: RunManifest) -> int:
    """Return the most blocks that a round takes from its roster to its beacon."""
    deadlines = manifest.deadlines
    return 3 + deadlines.commit + deadlines.reveal + deadlines.record


def probabilities(manifest: RunManifest) -> tuple[float, float]:
    """Return the lowest and the highest probability at which a peer without a doubt is drawn."""
    schedule = manifest.verification.schedule
    calm = [schedule.floor_probability]
    if schedule.fresh_units:
        calm.append(schedule.fresh_probability)
    if schedule.fresh_units >= manifest.rounds:
        calm = [schedule.fresh_probability]
    return min(calm), max(calm)


def plan(
    manifest: RunManifest, terms: Terms, honest: Mapping[str, Honest], attacks: Mapping[str, Sequence[Attack]]
) -> Plan:
    """Compute honesty, every attack, and whether the manifest holds.

    Args:
        honest: by profile.
        attacks: by profile.
    """
    low, high = probabilities(manifest)
    needed = window(manifest, terms)
    kept = terms.unbonding_blocks >= needed
    stake = terms.stake_wei / manifest.pay.unit_wei if manifest.pay.unit_wei and kept else 0.0
    fault = stake * manifest.penalties.fault_percent / 100
    net = fault * (1 - terms.returned)
    steps = [
        f"a unit costs c = {terms.cost:g} of its pay R = 1; honest profit {1 - terms.cost:g} a unit",
        f"drawn with p = {low:g} at least and {high:g} at most, one of {manifest.segments} segments",
        f"stake S = {stake:g} R"
        + (
            ""
            if kept
            else f": 0, because unbonding takes {terms.unbonding_blocks} blocks and a slash up to {needed}"
        )
        + f", of which a fault costs {manifest.penalties.fault_percent} % and {terms.returned:.3g} of that comes back "
        f"(finder {terms.slash_share:g}, colluding jurors {terms.collusion:.3g} of {JURY_SHARE:g}): {net:.3g}",
        f"until a slash may pass {needed} blocks: a round {round_blocks(manifest)}, the window for cases "
        f"{manifest.penalties.window}, a case {terms.case_blocks}, a dispute {terms.dispute_blocks}",
        f"with {terms.collusion:.3g} of the jurors colluding a second jury of {3 * terms.seats} is right with "
        f"{terms.agreeing:.3f}; whoever a first one wrongs is taken to appeal",
    ]
    reasons = []
    if not kept:
        reasons.append(
            f"stake is free before it can be slashed: unbonding takes {terms.unbonding_blocks} blocks, "
            f"a slash up to {needed}"
        )
    if terms.cost >= 1:
        reasons.append(f"honest work does not pay: a unit costs {terms.cost:g} of what it earns")
    lines: list[Line] = []
    worst = 0.0
    for profile in manifest.verification.profiles:
        if profile.name not in honest:
            reasons.append(f"profile {profile.name} is not calibrated: nothing bounds its false rejections")
            continue
        loss, step = false_loss(manifest, honest[profile.name], fault, terms.accused * terms.outage)
        steps.append(f"{profile.name}: {step}")
        worst = max(worst, loss)
        if loss > MAX_FALSE_LOSS:
            reasons.append(
                f"{profile.name}: false rejections and outages may cost an honest operator {loss:.3%} of its pay, "
                f"more than {MAX_FALSE_LOSS:.1%}; calibrate with more segments, or draw less"
            )
        lines += [
            _line(manifest, terms, attack, profile.name, low, net) for attack in attacks.get(profile.name, ())
        ]
    if lines:
        lines.append(_framing_line(manifest, terms, fault))
    reasons += [f"{line.name} pays {line.profit:+.4f} R: {line.why}" for line in lines if line.pays]
    return Plan(1 - terms.cost, worst, tuple(lines), tuple(reasons), tuple(steps))


def of_tier(manifest: RunManifest, tier: int) -> RunManifest:
    """Return the run as who stays in a tier has it: R is the pay of that tier's unit, of its steps and batch."""
    pay = manifest.pay.model_copy(update={"unit_wei": manifest.unit_pay(tier)})
    return manifest.at(tier).model_copy(update={"pay": pay})


def of_all_tiers(manifest: RunManifest, plans: Sequence[Plan]) -> Plan:
    """Return the plan of a run from those of its tiers, the full one first: it holds if all do."""
    if not manifest.tiers:
        return plans[0]
    full, *_ = samples = manifest.tier_samples
    steps = [
        (f"R is {own / full:.3g} of the full unit's pay", *plan.steps)
        for own, plan in zip(samples, plans, strict=True)
    ]
    taken = "that a unit of a lower tier costs the same share of its pay, and drifts as the full one, was not measured"
    return Plan(
        min(plan.honest_profit for plan in plans),
        max(plan.false_loss for plan in plans),
        tuple(
            replace(line, name=f"tier {tier}, {line.name}")
            for tier, plan in enumerate(plans)
            for line in plan.lines
        ),
        _said_once([plan.reasons for plan in plans]),
        (*_said_once(steps), taken),
    )


def _said_once(told: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return what all tiers say, and then what each says beside."""
    shared = [one for one in told[0] if all(one in other for other in told)]
    beside = (f"tier {tier}: {one}" for tier, mine in enumerate(told) for one in mine if one not in shared)
    return (*shared, *beside)


def false_loss(
    manifest: RunManifest, honest: Honest, stake: float, refused: float = 0.0
) -> tuple[float, str]:
    """Return the share of its pay that honest work may lose to false rejections and outages, and the arithmetic.

    A segment's sample is the largest drift between any two machines that replayed it, so its bound holds for all
    verifiers of a unit together. The average is over a peer's units of the whole run.

    Args:
        stake: that a fault costs.
        refused: chance that a drawn unit is taken before the jury as refused, and not opened there for an outage.
    """
    schedule, rounds = manifest.verification.schedule, manifest.rounds
    fresh = min(schedule.fresh_units, rounds)
    p = (fresh * schedule.fresh_probability + (rounds - fresh) * schedule.floor_probability) / rounds
    rate = upper_bound(honest.rejected, honest.tried)
    first = upper_bound(honest.fresh_rejected, honest.fresh_tried)
    false = min(rate, _false_rate(honest.exact_tried, honest.exact_ratio))
    first_false = min(first, _false_rate(honest.fresh_exact_tried, honest.fresh_exact_ratio))
    segments = manifest.segments * rounds
    rate += max(0.0, first - rate) / segments  # only the first segment of the first unit starts from zero
    false += max(0.0, first_false - false) / segments
    # Pay is forfeited as of the epoch of the unit, and again as of that in which the jury rules.
    unvested = min(rounds, 2 * (manifest.pay.vest_epochs + 1) * manifest.pay.epoch_rounds)
    loss = p * (rate + (false + refused) * (stake + unvested))
    step = (
        f"honest segments rejected {honest.rejected} of {honest.tried}, at most {rate:.3g}; proven false at most "
        f"{false:.2g} (none of {honest.exact_tried}, the largest at {honest.exact_ratio:.2g} of the slash tolerance; "
        f"from zero moments none of {honest.fresh_exact_tried}, the largest at {honest.fresh_exact_ratio:.2g}; "
        f"tail index {TAIL_INDEX:g}); out and accused {refused:.2g}; loss p({rate:.3g} + "
        f"({false:.2g} + {refused:.2g}) x (S + {unvested} R unvested at most)) = {loss:.4%} at p = {p:.3g}"
    )
    return loss, step


def _false_rate(tried: int, ratio: float) -> float:
    """Return a bound on how often honest segments are proven false, of which none was among so many."""
    return upper_bound(0, tried) * math.pow(min(1.0, ratio), TAIL_INDEX)


def _line(manifest: RunManifest, terms: Terms, attack: Attack, profile: str, p: float, net: float) -> Line:
    name = f"{profile}: {attack.name}"
    gain = attack.saving * terms.cost
    if attack.kind == "unpaid":
        return _made(name, gain - 1, f"saves {gain:.3g}, and a unit that never merges is never paid: -1")
    if attack.kind == "equivocation":
        percent = manifest.penalties.equivocation_percent
        lost = net / (1 - terms.returned) * (1 - terms.slash_share) if terms.returned < 1 else 0.0
        lost *= percent / manifest.penalties.fault_percent
        why = f"saves nothing; two signatures prove it, without a draw: {percent} % of the stake, all from the third"
        return _made(name, -lost, why)
    if attack.kind == "refusal":
        return _refusal_line(manifest, terms, name, p, net)
    proven = attack.reach * (1.0 if attack.exact else lower_bound(attack.proven, attack.tried))
    caught = attack.reach * (1.0 if attack.exact else lower_bound(attack.caught, attack.tried))
    doubted = max(0.0, caught - proven)
    ends = convictions(manifest, terms.verifiers, terms.collusion, PROVEN_FALSE)
    false, void = ends.get("false", 0.0), ends.get("void", 0.0)
    unpaid = convictions(manifest, terms.verifiers, terms.collusion, REJECTED).get("void", 0.0)
    false *= terms.agreeing
    profit = gain - p * (proven * (false * (net + 1) + void) + doubted * unpaid)
    seen = (
        "found by comparing bits in every draw"
        if attack.exact
        else f"of {attack.tried} drawn segments {attack.proven} proven, {attack.caught} caught"
    )
    why = (
        f"saves {gain:.3g}; {seen}"
        f"{f' of the {attack.reach:.3g} it touches' if attack.reach < 1 else ''}: "
        f"proven {proven:.3g}, void {doubted:.3g} at least; with r = {terms.collusion:.2f} the proven are slashed "
        f"by a jury with {false:.3f}, void with {void:.3f}; "
        f"{gain:.3g} - {p:g} x ({proven:.3g} x ({false:.3f} x {net + 1:.3g} + "
        f"{void:.3f}) + {doubted:.3g} x {unpaid:.3f}) = {profit:+.4f}"
    )
    return _made(name, profit, why)


def _refusal_line(manifest: RunManifest, terms: Terms, name: str, p: float, net: float) -> Line:
    ends = convictions(manifest, terms.verifiers, terms.collusion, REJECTED, opened=False)
    found, void = p * ends.get("refused", 0.0), p * ends.get("void", 0.0)
    slashed = found * terms.accused * terms.agreeing
    forfeit = found - slashed
    share = manifest.pay.refusal_percent / 100
    # A stake that is free again before the epoch ends can go on under another number.
    locked = terms.unbonding_blocks // round_blocks(manifest)
    epoch = manifest.pay.epoch_rounds
    last = manifest.rounds % epoch or epoch  # the last epoch may be short, and then has less to lose
    units = min(epoch, last, max(1, locked), HORIZON)
    honest = units * max(0.0, 1 - terms.cost)
    value = refuser_value(units, terms.cost, forfeit, void, share, slashed, net)
    why = (
        f"a unit without work is found unopened with {p:g} x {ends.get('refused', 0.0):.3f} = {found:.3g}, which "
        f"forfeits {share:.0%} of the epoch's pay; {terms.accused:.0%} of those are accused, and {slashed:.3g} cost "
        f"stake ({net:.3g} R) and all unvested pay; merely void with {void:.3g}; the best mix over {units} units "
        f"brings {value:.4g}, honesty {honest:.4g}"
    )
    return _made(name, value - honest, why)


def _framing_line(manifest: RunManifest, terms: Terms, fault: float) -> Line:
    """Return what colluding jurors earn who accuse an honest unit, where the owner appeals a wrong ruling."""
    bond = terms.case_bond_wei / manifest.pay.unit_wei if manifest.pay.unit_wei else 0.0
    prize = fault * min(1.0, terms.slash_share + JURY_SHARE)
    first, second = majority(terms.seats, terms.collusion), 1 - terms.agreeing
    upheld = second * prize - (1 - second) * bond
    appealed = second * prize - (1 - second) * 4 * bond
    profit = first * upheld + (1 - first) * max(-bond, appealed)
    why = (
        f"a bond of {bond:g} R against {prize:.3g} R of the stake; with r = {terms.collusion:.2f} of the jurors the "
        f"first jury of {terms.seats} is theirs with {first:.3f}, the second with {second:.3f}"
    )
    return _made("accuse an honest unit", profit, why)


def _made(name: str, profit: float, why: str) -> Line:
    return Line(name, profit, profit > 1e-9, why)


def lazy_segments(
    segments: int, caught: int, proven: int, tried: int, *, exact: bool = False
) -> Iterable[Attack]:
    """Yield laziness in every number of a unit's segments; a draw finds it if it falls on one of them.

    Args:
        caught, proven, tried: of wholly invented segments.
        exact: bits are compared.
    """
    for lazy in range(1, segments + 1):
        share = lazy / segments
        yield Attack(
            f"lazy in {lazy} of {segments} segments",
            "invents them",
            share,
            caught=caught,
            proven=proven,
            tried=tried,
            reach=share,
            exact=exact,
        )
