"""A seeded simulation of verifiers who do and do not verify, under the very rules that draw, judge and pay.

Units are only names here, and a replay is the fingerprint that everybody gets who computes it; draws, turns, rulings
and pay are those of `verification`. Nothing waits and nothing is random but by the seed.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import typer

from protocol import options
from protocol.canonical import ZERO_DIGEST, tagged_digest
from protocol.errors import UsageError
from protocol.manifest import DatasetConfig, PayConfig, RunManifest
from protocol.messages import PASSED, PROVEN_FALSE, Commitment, RoundRecord, UnitRecord, Verdict
from verification.judge import Outcome
from verification.ruling import Ruling, in_turn, may_judge, rule, silent
from verification.sample import Draw, Standing, count_listed, draws
from verification.settle import SettledRound, earned_in_epoch

Strategy = Literal["honest", "lazy", "accuser", "sleeper", "ring"]
STRATEGIES: Final[dict[Strategy, str]] = {
    "honest": "replays, and says what it finds",
    "lazy": "replays nothing, invents a fingerprint, always says passed",
    "accuser": "replays nothing, always says proven false",
    "sleeper": "says nothing",
    "ring": "replays nothing, always says passed, under a fingerprint agreed on with the others of the ring",
}
VALUES: Final = 16
ROUNDING: Final = 1e-6  # by which honest fingerprints differ
FIRST_VERIFIER: Final = 100_001


@dataclass
class Account:
    """Say how one strategy fared, over all who follow it."""

    strategy: Strategy
    verifiers: int = 0
    owed: int = 0  # verdicts they were called for
    right: int = 0
    wrong: int = 0
    moot: int = 0
    silent: int = 0
    replays: int = 0
    earned: float = 0.0  # in pays of a verdict

    @property
    def per_verdict(self) -> float:
        """Return earnings for each verdict owed, in pays of a verdict."""
        return self.earned / self.owed if self.owed else 0.0

    def net(self, cost: float) -> float:
        """Return earnings less the cost of replays, for each verdict owed."""
        return (self.earned - cost * self.replays) / self.owed if self.owed else 0.0


@dataclass
class Simulation:
    """Say what a simulated run gave."""

    seed: int
    rounds: int
    contributors: int
    dishonest: float
    cost: float
    accounts: dict[Strategy, Account]
    units: Counter[str] = field(default_factory=Counter)  # "honest passed", "dishonest false" and so on

    def to_json(self) -> dict[str, object]:
        """Return the result as plain JSON data."""
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "contributors": self.contributors,
            "dishonest": self.dishonest,
            "cost": self.cost,
            "units": dict(sorted(self.units.items())),
            "verifiers": [
                {
                    "strategy": one.strategy,
                    "verifiers": one.verifiers,
                    "owed": one.owed,
                    "right": one.right,
                    "wrong": one.wrong,
                    "moot": one.moot,
                    "silent": one.silent,
                    "replays": one.replays,
                    "earned_per_verdict": round(one.per_verdict, 4),
                    "net_per_verdict": round(one.net(self.cost), 4),
                }
                for one in self.accounts.values()
            ],
        }


def simulated_manifest(rounds: int) -> RunManifest:
    """Return a manifest with the default sampling, deadlines and pay."""
    return RunManifest(
        name="simulated",
        chain_id=31337,
        ledger="0x" + "00" * 20,
        coordinator="0x" + "00" * 20,
        rounds=rounds,
        dataset=DatasetConfig(name="none", root=ZERO_DIGEST, tokens=100_000),
        pay=PayConfig(),
        initial_parameters=ZERO_DIGEST,
        program=ZERO_DIGEST,
    )


def run_simulation(
    strategies: Sequence[Strategy],
    *,
    rounds: int,
    contributors: int = 40,
    dishonest: float = 0.02,
    cost: float = 0.5,
    seed: int = 0,
) -> Simulation:
    """Let verifiers judge a run.

    Args:
        strategies: one a verifier.
        contributors: with a unit in every round.
        dishonest: share of their units that a replay proves false.
        cost: of a replay, in pays of a verdict.
    """
    manifest = simulated_manifest(rounds)
    judges = {FIRST_VERIFIER + index: one for index, one in enumerate(strategies)}
    found = Simulation(seed, rounds, contributors, dishonest, cost, {one: Account(one) for one in strategies})
    for one in strategies:
        found.accounts[one].verifiers += 1
    world = _World(manifest, judges, random.Random(seed), dishonest, found)
    standings: dict[int, Standing] = {}
    settled: list[SettledRound] = []
    for round_ in range(rounds):
        numbers = range(1, contributors + 1)
        units = tuple(
            UnitRecord(
                number=number,
                commitment=ZERO_DIGEST,
                merged=True,
                **vars(standings.get(number, Standing())),
            )
            for number in numbers
        )
        standings = count_listed(manifest, standings, numbers)
        beacon = tagged_digest("murmur/simulation", seed, round_)
        drawn = draws(manifest, ZERO_DIGEST, beacon, round_, units, judges)
        rulings = {draw.number: world.judge(round_, draw) for draw in drawn}
        record = RoundRecord(parameters=ZERO_DIGEST, units=units, judged=())
        outcomes: dict[int, Outcome] = {number: one.outcome for number, one in rulings.items()}
        right = [judge for one in rulings.values() for judge in one.right]
        wrong = tuple(judge for one in rulings.values() for judge in one.wrong)
        settled.append(SettledRound(round_, record, outcomes, right, wrong=wrong))
    for epoch in range(manifest.epochs):
        inside = [one for one in settled if manifest.epoch_of(one.round) == epoch]
        for number, earned in earned_in_epoch(manifest, inside).items():
            if number in judges:
                found.accounts[judges[number]].earned += earned / manifest.pay.verdict_wei
    return found


class _World:
    """Let the verifiers of one simulation speak in their turn."""

    def __init__(
        self,
        manifest: RunManifest,
        judges: dict[int, Strategy],
        source: random.Random,
        dishonest: float,
        found: Simulation,
    ) -> None:
        self._manifest = manifest
        self._judges = judges
        self._random = source
        self._dishonest = dishonest
        self._found = found
        names = ("parameters", "assignment", "moments_before", "moments_after")
        more = ("residual_before", "residual_after", "update")
        self._commitment = Commitment(
            number=1,
            profile=manifest.verification.profiles[0].name,
            segments=(ZERO_DIGEST,) * (manifest.segments + 1),
            **dict.fromkeys((*names, *more), "11" * 32),  # type: ignore[arg-type]
        )

    def judge(self, round_: int, draw: Draw) -> Ruling:
        """Let ranks speak as they are called until the unit is decided, and book what becomes of them."""
        is_false = self._random.random() < self._dishonest
        shown = tuple(self._random.gauss(0.0, 1.0) for _ in range(VALUES))
        ring = tuple(self._random.gauss(0.0, 1.0) for _ in range(VALUES))
        verdicts: dict[int, Verdict] = {}
        asked: set[int] = set()
        blocks, closes = 0, draw.closes_after(self._manifest)
        while True:
            closed = blocks > closes
            heard = in_turn(self._manifest, self._commitment, draw, verdicts, blocks)
            ruling = rule(self._manifest, self._commitment, draw, heard, closed=closed)
            if ruling is not None:
                break
            called = self._next(draw, heard, asked, blocks)
            if called is None:
                blocks = min(blocks + self._manifest.deadlines.verify, closes + 1)
                continue
            asked.add(called)
            verdict = self._verdict(called, draw, is_false, shown, ring)
            if verdict is not None:
                verdicts[called] = verdict
        self._book(draw, ruling, verdicts, asked)
        self._found.units[f"{'dishonest' if is_false else 'honest'} {ruling.outcome}"] += 1
        return ruling

    def _next(self, draw: Draw, heard: dict[int, Verdict], asked: set[int], blocks: int) -> int | None:
        for judge in draw.verifiers:
            if judge not in asked and may_judge(self._manifest, self._commitment, draw, judge, heard, blocks):
                return judge
        return None

    def _verdict(
        self, judge: int, draw: Draw, is_false: bool, shown: tuple[float, ...], ring: tuple[float, ...]
    ) -> Verdict | None:
        strategy = self._judges[judge]
        noise = self._random
        match strategy:
            case "sleeper":
                return None
            case "honest":
                self._found.accounts[strategy].replays += 1
                own = tuple(value + noise.gauss(0.0, ROUNDING) for value in shown)
                # In dispute all who compute it reach one exact reference.
                return _say(judge, draw, PROVEN_FALSE if is_false else PASSED, own, exact=is_false)
            case "lazy":
                return _say(judge, draw, PASSED, tuple(noise.gauss(0.0, 1.0) for _ in shown))
            case "accuser":
                return _say(judge, draw, PROVEN_FALSE, ())
            case "ring":
                return _say(judge, draw, PASSED, ring)

    def _book(self, draw: Draw, ruling: Ruling, verdicts: dict[int, Verdict], asked: set[int]) -> None:
        missing = silent(self._manifest, draw, ruling, verdicts)
        accounts, judges = self._found.accounts, self._judges
        for judge in asked:
            accounts[judges[judge]].owed += 1
        for judge in ruling.right:
            accounts[judges[judge]].right += 1
        for judge in ruling.wrong:
            accounts[judges[judge]].wrong += 1
        for judge in ruling.moot:
            accounts[judges[judge]].moot += 1
        for judge in missing:
            accounts[judges[judge]].silent += 1


def _say(
    judge: int, draw: Draw, outcome: Literal[1, 3], shown: tuple[float, ...], *, exact: bool = False
) -> Verdict:
    return Verdict(
        number=draw.number,
        verifier=judge,
        outcome=outcome,
        commitment=ZERO_DIGEST,
        opening=ZERO_DIGEST,
        segment=draw.segment,
        profile="cpu-fp32",
        reason="",
        distance=0.0,
        tensor="",
        exact=ZERO_DIGEST if exact else None,
        fingerprint=shown,
        replay_cpu_s=0.0,
    )


@dataclass(frozen=True)
class Collusion:
    """Price a ring of verifiers who say passed, under a fingerprint that they agree on, and replay nothing."""

    covered: float  # chance that the ring decides a drawn unit against every honest verifier
    ring: float  # share of its verdicts that is paid
    honest: float  # share of the honest ones' verdicts that is paid


def collusion(verifiers: int, ring: int) -> Collusion:
    """Return what a ring of so many can do where two judge and a third settles.

    It decides a unit when two of the first three ranks are its own. Shares are of the verdicts for which either side
    is called: a third is called only when the first two disagree.
    """
    honest = verifiers - ring

    def chance(*panel: bool) -> float:
        """Return the chance that the first ranks are of the ring (True) or not, in this order."""
        left, found = {True: ring, False: honest}, 1.0
        for place, member in enumerate(panel):
            found *= left[member] / max(1, verifiers - place)
            left[member] -= 1
        return max(0.0, found)

    both = chance(True, True)
    split_won = chance(True, False, True) + chance(False, True, True)
    split_lost = chance(True, False, False) + chance(False, True, False)
    neither = chance(False, False)
    ring_paid, ring_owed = 2 * (both + split_won), 2 * (both + split_won) + split_lost
    honest_paid = 2 * (neither + split_lost)
    honest_owed = honest_paid + split_won
    return Collusion(
        covered=both + split_won,
        ring=ring_paid / ring_owed if ring_owed else 0.0,
        honest=honest_paid / honest_owed if honest_owed else 0.0,
    )


def cast(counts: dict[Strategy, int], verifiers: int) -> tuple[Strategy, ...]:
    """Return a strategy for each verifier; who is not counted is honest.

    Raises:
        UsageError: more are counted than there are verifiers.
    """
    others = [strategy for strategy, count in counts.items() for _ in range(count)]
    if len(others) > verifiers:
        raise UsageError(
            f"{len(others)} dishonest verifiers among {verifiers}",
            hint="raise --verifiers, or lower the others",
        )
    honest: list[Strategy] = ["honest"] * (verifiers - len(others))
    return (*honest, *others)


def simulate(
    verifiers: Annotated[int, typer.Option(min=2, max=500, help="Verifiers, all together.")] = 12,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Fixes everything.")] = 0,
    lazy: Annotated[int, typer.Option(min=0, help="Say passed without replaying.")] = 1,
    accuser: Annotated[int, typer.Option(min=0, help="Always say proven false.")] = 1,
    sleeper: Annotated[int, typer.Option(min=0, help="Say nothing.")] = 1,
    ring: Annotated[int, typer.Option(min=0, help="Say passed under one agreed fingerprint.")] = 2,
    contributors: Annotated[int, typer.Option(min=1, max=100, help="With a unit in every round.")] = 40,
    dishonest: Annotated[
        float, typer.Option(min=0, max=1, help="Share of units that a replay proves false.")
    ] = 0.02,
    cost: Annotated[float, typer.Option(min=0, help="Of a replay, in pays of a verdict.")] = 0.5,
    as_json: options.Json = False,
) -> None:
    """Simulate verifiers who do and do not verify, under the rules that draw, judge and pay."""
    counts: dict[Strategy, int] = {"lazy": lazy, "accuser": accuser, "sleeper": sleeper, "ring": ring}
    found = run_simulation(
        cast(counts, verifiers),
        rounds=rounds,
        contributors=contributors,
        dishonest=dishonest,
        cost=cost,
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    for line in describe(found):
        typer.echo(line)


def describe(found: Simulation) -> Iterable[str]:
    """Yield the result as lines of text."""
    yield (
        f"{sum(one.verifiers for one in found.accounts.values())} verifiers, {found.rounds} rounds, "
        f"{sum(found.units.values())} units drawn, seed {found.seed}"
    )
    yield ", ".join(f"{count} {name}" for name, count in sorted(found.units.items()))
    yield f"{'strategy':10}{'who':>4}{'owed':>6}{'right':>7}{'wrong':>7}{'moot':>6}{'silent':>8}{'earned':>9}{'net':>9}"
    for one in found.accounts.values():
        yield (
            f"{one.strategy:10}{one.verifiers:4}{one.owed:6}{one.right:7}{one.wrong:7}{one.moot:6}{one.silent:8}"
            f"{one.per_verdict:9.3f}{one.net(found.cost):9.3f}"
        )
    yield (
        f"earned and net are for each verdict owed, in pays of a verdict; net of {found.cost:g} for a replay"
    )
