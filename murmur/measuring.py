"""Measure a calibration: replay the reference run's segments on emulated machines, honestly and not, and compare."""

import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from murmur.machines import BASE, MACHINES, Fleet, Machine, open_fleet
from murmur.reference import Case, Reference, reference_manifest
from node.unit import Files
from protocol.blobs import BlobStore
from protocol.errors import ConfigError
from protocol.manifest import CPU_EXACT, NumericProfile, RunManifest
from protocol.tensors import Floats, moment_layout, parameter_layout
from training.distance import segment_distances
from training.inner import InnerState, prepare_process
from verification.calibration import (
    Attack,
    Calibration,
    GroupDrift,
    Honest,
    MeasuredMachine,
    ProfileCalibration,
    Quantiles,
    Trials,
    choose,
    measured_setting,
)
from verification.cheats import Cheat
from verification.profile import this_machine

STEP_CHEATS = (
    Cheat.SKIP_STEPS,
    Cheat.SKIP_TENTH,
    Cheat.HALF_STEPS,
    Cheat.SMALL_BATCH,
    Cheat.WRONG_DATA,
    Cheat.OTHER_SEED,
    Cheat.POISON,
    Cheat.REUSE_GRADIENTS,
    Cheat.FROZEN_LAYERS,
    Cheat.LR_90,
    Cheat.LR_99,
    Cheat.NO_WEIGHT_DECAY,
    Cheat.BF16,
    Cheat.TF32,
    Cheat.NUDGE,
    Cheat.HIDDEN_MOMENTS,
)
"""Those whose every segment is dishonest by itself, so that any segment of the reference run can be one."""

COARSE = frozenset((Cheat.BF16, Cheat.TF32))  # are no cheats where the profile computes in bfloat16
CALIBRATED = tuple(one for one in MACHINES if one.name not in ("two threads", "SSE4.1"))
"""Machines that replay: those whose switches change bits, the two that only repeat another's left out."""
OTHER = MACHINES[-1].name
"""The machine that differs most from this one: exact ends are compared between the two (`EXACT_TWICE`)."""
EVERY = {"fp32": 1, "bf16": 8, "exact": 2}
"""Units of the reference run to one that an arithmetic replays: what is slow is measured on fewer segments."""
EXACT_TWICE = 8  # units to one that is replayed in exact arithmetic on two machines
ATTACKED = 4  # units to one whose segments are made dishonest too

Ends = Mapping[str, tuple[Files, ...]]  # by machine
Say = Callable[[int, int], None]  # chunks done, chunks in all


@dataclass
class Samples:
    """Collect the distances of segments: the worst tensor's, and the worst of each group of tensors."""

    worst: list[float] = field(default_factory=list)
    groups: dict[str, list[float]] = field(default_factory=dict)

    def add(self, compared: Iterable[Mapping[str, float]]) -> None:
        """Take in one segment, compared between any number of pairs of ends."""
        largest: dict[str, float] = {}
        for distances in compared:
            for name, distance in distances.items():
                group = re.sub(r"blocks\.\d+\.", "blocks.", name)
                largest[group] = max(largest.get(group, 0.0), distance)
        self.worst.append(max(largest.values(), default=0.0))
        for group, distance in largest.items():
            # Segments that were identical on all machines have said nothing about any group.
            self.groups.setdefault(group, [0.0] * (len(self.worst) - 1)).append(distance)
        for distances_so_far in self.groups.values():
            distances_so_far += [0.0] * (len(self.worst) - len(distances_so_far))


def quantiles(distances: Sequence[float]) -> Quantiles:
    """Sum distances up, to three significant digits, rounded up."""
    values = np.array(distances)
    q50, q90, q99 = (_three(float(np.quantile(values, q))) for q in (0.5, 0.9, 0.99))
    return Quantiles(segments=len(distances), q50=q50, q90=q90, q99=q99, max=_three(float(values.max())))


def _three(value: float) -> float:
    """Round up to three significant digits."""
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.3g}")


class Measurement:
    """Hold what has been measured so far.

    Args:
        profiles: to calibrate; the exact one is replayed anyhow, as the reference of the others.
    """

    def __init__(self, manifest: RunManifest, store: BlobStore, profiles: Sequence[NumericProfile]) -> None:
        self._manifest, self._store, self._profiles = manifest, store, profiles
        self._honest: dict[tuple[str, str, bool], Samples] = {}  # (unit, replay, fresh)
        self._exact: dict[tuple[str, bool], list[float]] = {}  # (profile, fresh)
        self._attacks: dict[tuple[str, Cheat], list[float]] = {}
        self._attacked: Counter[tuple[str, Cheat]] = Counter()  # segments, those that a cheat left honest too
        self._differs: Counter[str] = Counter()

    async def take(self, fleet: Fleet, chunk: Sequence[Case], index: int, *, attacks: bool) -> None:
        """Replay one unit's chunk everywhere and compare.

        Args:
            index: of the chunk, which decides what is replayed (`EVERY`, `ATTACKED`).

        Raises:
            OwnFault: a machine failed.
        """
        ends: dict[str, Ends] = {}
        for profile in {one.name: one for one in (*self._profiles, CPU_EXACT)}.values():
            if index % EVERY[profile.arithmetic] == 0:
                names = None
                if profile.arithmetic == "exact":
                    names = (BASE.name, OTHER) if index % EXACT_TWICE == 0 else (BASE.name,)
                ends[profile.name] = await fleet.replay([one.under(profile.name) for one in chunk], names)
        for place, case in enumerate(chunk):
            self._compare(
                case, {name: {m: e[place] for m, e in found.items()} for name, found in ends.items()}
            )
        carried = [(place, case) for place, case in enumerate(chunk) if not case.fresh]
        if attacks and index % ATTACKED == 0:
            await self._attack(fleet, carried, ends)

    async def _attack(
        self, fleet: Fleet, carried: Sequence[tuple[int, Case]], ends: Mapping[str, Ends]
    ) -> None:
        for profile, cheat in product((one for one in self._profiles if one.name in ends), STEP_CHEATS):
            if profile.arithmetic == "exact" or (profile.arithmetic == "bf16" and cheat in COARSE):
                continue
            replays = [case.under(profile.name, cheat.value) for _, case in carried]
            found = (await fleet.replay(replays, (BASE.name,)))[BASE.name]
            self._attacked[profile.name, cheat] += len(found)
            for (place, case), end in zip(carried, found, strict=True):
                honest = ends[profile.name][BASE.name][place]
                if end != honest:  # one step in ten is not in every segment
                    distances = self._distances(case, end, honest)
                    self._attacks.setdefault((profile.name, cheat), []).append(max(distances.values()))

    def _compare(self, case: Case, ends: Mapping[str, Mapping[str, Files]]) -> None:
        """Compare all honest ends of one segment."""
        for profile in self._profiles:
            if profile.name not in ends:
                continue
            mine = ends[profile.name]
            for name, end in mine.items():
                self._differs[name] += end != mine[BASE.name]
            for judge in (one for one in self._judges(profile) if one.name in ends):
                pairs: Iterable[tuple[Files, Files]] = combinations(set(mine.values()), 2)
                if judge.name == profile.name and len(mine) == 1:
                    continue  # nothing was compared
                if judge.name != profile.name:
                    pairs = product(set(mine.values()), set(ends[judge.name].values()))
                samples = self._honest.setdefault((profile.name, judge.name, case.fresh), Samples())
                samples.add(self._distances(case, claimed, replayed) for claimed, replayed in pairs)
            if profile.arithmetic != "exact" and CPU_EXACT.name in ends:
                exact = set(ends[CPU_EXACT.name].values())
                farthest = max(
                    max(self._distances(case, claimed, reference).values())
                    for claimed, reference in product(set(mine.values()), exact)
                )
                self._exact.setdefault((profile.name, case.fresh), []).append(farthest)

    def _judges(self, profile: NumericProfile) -> list[NumericProfile]:
        return [one for one in self._profiles if one.name in (profile.name, *profile.judged_by)]

    def _distances(self, case: Case, claimed: Files, replayed: Files) -> dict[str, float]:
        states = (self._state(files) for files in (case.start, claimed, replayed))
        return segment_distances(self._manifest, *states)

    def _state(self, files: Files) -> InnerState:
        model = self._manifest.model
        return InnerState.from_files(
            model,
            self._store.get(files.parameters, max_size=parameter_layout(model).file_bytes),
            self._store.get(files.moments, max_size=moment_layout(model).file_bytes),
        )

    def profile(self, profile: NumericProfile) -> ProfileCalibration:
        """Return what was found of a profile."""

        def largest(*, fresh: bool) -> float:
            found = (
                s.worst for (name, _, f), s in self._honest.items() if (name, f) == (profile.name, fresh)
            )
            return max(map(max, found), default=0.0)

        exact, fresh_exact = (
            quantiles(found) if (found := self._exact.get((profile.name, fresh))) else None
            for fresh in (False, True)
        )
        chosen = choose(
            profile.arithmetic,
            largest(fresh=False),
            largest(fresh=True),
            0.0 if exact is None else exact.max,
            0.0 if fresh_exact is None else fresh_exact.max,
        )
        honest = []
        for (name, judge, fresh), samples in self._honest.items():
            if name != profile.name:
                continue
            bound = chosen.fresh_tolerance if fresh else chosen.tolerance
            rejected = sum(distance > bound for distance in samples.worst)
            groups = [
                GroupDrift(group=g, drift=quantiles(found)) for g, found in sorted(samples.groups.items())
            ]
            honest.append(
                Honest(
                    moments="fresh" if fresh else "carried",
                    replayed_under=judge,
                    drift=quantiles(samples.worst),
                    groups=tuple(groups),
                    rejected=Trials(count=rejected, tried=len(samples.worst)),
                )
            )
        attacks = [
            Attack(
                name=cheat.value,
                check="replay",
                drawn=self._attacked[name, cheat],
                distance=quantiles(found),
                least=float(f"{min(found):.3g}"),
                caught=Trials(count=sum(one > chosen.tolerance for one in found), tried=len(found)),
            )
            for (name, cheat), found in self._attacks.items()
            if name == profile.name
        ]
        return ProfileCalibration(
            profile=profile,
            honest=tuple(honest),
            exact=exact,
            fresh_exact=fresh_exact,
            attacks=tuple(attacks),
            chosen=chosen,
        )

    def machines(self, fleet: Fleet) -> tuple[MeasuredMachine, ...]:
        """Return the machines that replayed."""
        return tuple(
            MeasuredMachine(name=name, capability=facts.capability, differs=self._differs[name])
            for name, facts in sorted(fleet.facts.items())
        )


async def measure(
    profiles: Sequence[NumericProfile],
    segments: int,
    *,
    date: datetime,
    machines: Sequence[Machine] = CALIBRATED,
    attacks: bool = True,
    say: Say = lambda done, of: None,
    start: Floats | None = None,
    **fields: Any,
) -> Calibration:
    """Measure profiles on this machine.

    Args:
        profiles: of the CPU, under their names; their torch release is taken to be this machine's.
        segments: of carried moments, and as many first segments of newcomers, in the fastest arithmetic (`EVERY`).
        date: of the measurement.
        attacks: replay dishonest segments too.
        start: float32[P], the first parameters; None draws them.
        fields: of the reference run's manifest, instead of the defaults.

    Raises:
        OwnFault: a machine failed.
        ConfigError: there is no scratch space, the corpus is damaged, or a profile has the name of the reference.
    """
    prepare_process(1)
    machine = this_machine("cpu")
    measured = [one.model_copy(update={"torch": machine.torch}) for one in profiles]
    exact = CPU_EXACT.model_copy(update={"torch": machine.torch})
    if any(one.name == exact.name and one.arithmetic != "exact" for one in measured):
        raise ConfigError(f"{exact.name} names the exact reference", hint="call the profile otherwise")
    listed = {one.name: one for one in (*measured, exact)}
    with tempfile.TemporaryDirectory(prefix="murmur-calibrate-") as name:
        directory = Path(name)
        manifest, shard = reference_manifest(directory, list(listed.values()), start=start, **fields)
        file = directory / "manifest.json"
        file.write_bytes(manifest.to_bytes())
        store = BlobStore(directory / "store")
        found = Measurement(manifest, store, measured)
        reference = Reference(manifest, shard, store, start=start)
        total = -(-segments // manifest.segments)
        async with open_fleet(
            machines, manifest=file, store=store.root, shards=directory, logs=directory
        ) as fleet:
            for done, chunk in enumerate(reference.chunks(segments)):
                say(done, total)
                await found.take(fleet, chunk, done, attacks=attacks)
                for path in list(store.root.glob("[0-9a-f][0-9a-f]/*")):
                    store.delete(path.name)
            say(total, total)
            return Calibration(
                date=date,
                machine=machine,
                machines=found.machines(fleet),
                model=measured_setting(manifest),
                segments=segments,
                profiles=tuple(found.profile(one) for one in measured),
            )
