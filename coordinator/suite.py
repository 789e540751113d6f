"""The attack suite as a plan needs it: what each way to cheat saves, and how surely a draw finds it, by calibration."""

from collections.abc import Iterator

from coordinator.economics import Attack, Honest, lazy_segments
from protocol.errors import ConfigError
from protocol.manifest import NumericProfile, RunManifest
from verification.calibration import Attack as Measured
from verification.calibration import Calibration, ProfileCalibration, Quantiles, measured_setting
from verification.cheats import Cheat, PolicyCheat, cheats_in

REFUSALS = frozenset((Cheat.REFUSE_OPENING, Cheat.LATE_OPENING))
UNPAID = frozenset((Cheat.WITHHOLD_REVEAL, Cheat.GARBAGE, Cheat.COPYCAT))
"""Never merged, so never paid: not revealed, not heard, or symbols that were shown before."""
INVENTED = frozenset((Cheat.PERTURBED_COPY, Cheat.RANDOM_UPDATE, Cheat.STALE_START, Cheat.ONE_FORGED_SEGMENT))
"""Their segments do not follow from their start at all: counted as honest steps on other text are."""
ONE_SEGMENT = frozenset((Cheat.ONE_FORGED_SEGMENT, Cheat.STALE_START))
"""Dishonest in one segment, and found by a draw of that one only."""
BITS = frozenset(
    (
        Cheat.DROPPED_RESIDUAL,
        Cheat.FORGED_RESIDUAL,
        Cheat.CARRIED_RESIDUAL,
        Cheat.FORGED_UPDATE,
        Cheat.FORGED_MOMENTS,
        Cheat.FORGED_BYTES,
    )
)
"""Found by hashes and symbols that differ, whichever segment is drawn. A residual that was forged once and carried on
is one in the unit that forges it."""


MEASURE = (
    "`murmur verifier calibrate --manifest MANIFEST --out FILE` measures it; take it by --calibration FILE"
)
MEASURE_POLICY = (
    "`murmur verifier calibrate --kind rollout --env NAME --out FILE` measures a preset, with --people if the run asks "
    "some; take it by --calibration FILE"
)
COARSE = frozenset((Cheat.BF16, Cheat.TF32))


def check_covers(manifest: RunManifest, calibration: Calibration) -> None:
    """Check that a calibration speaks of this manifest's work, of its profiles' arithmetic, and of their tolerances.

    Raises:
        ConfigError: another model, inner step or segment length was measured, another device, torch release,
            arithmetic or flags under the profile's name, not who judges it, or a tolerance is tighter than what
            follows from it. Wider ones reject no more honest work, and catch what is counted again.
    """
    if calibration.model != measured_setting(manifest):
        raise ConfigError(
            "the calibration is of another model, inner step or segment length than the manifest's, or took distances "
            "otherwise",
            hint=MEASURE if manifest.rollouts is None else MEASURE_POLICY,
        )
    for profile in manifest.verification.profiles:
        found = calibration.of(profile.name)
        if found is None:
            continue
        if _computes(profile) != _computes(found.profile):
            raise ConfigError(
                f"profile {profile.name} was calibrated as another than the manifest's: {_computes(found.profile)}",
                hint=MEASURE,
            )
        judges = {profile.name, *profile.judged_by} & {one.name for one in manifest.verification.profiles}
        unmeasured = sorted(judges - {one.replayed_under for one in found.honest})
        if unmeasured:
            raise ConfigError(
                f"profile {profile.name}: nobody measured its replays under {', '.join(unmeasured)}",
                hint="take that profile out of judged_by",
            )
        for name in ("tolerance", "fresh_tolerance", "slash_tolerance"):
            ours, theirs = getattr(profile, name), getattr(found.chosen, name)
            if ours < theirs:
                raise ConfigError(
                    f"profile {profile.name}: {name} is {ours:g} in the manifest, below the {theirs:g} calibrated",
                    hint="honest work is known to stay within the calibrated tolerances only: set those",
                )


def _computes(profile: NumericProfile) -> str:
    """Return what distances depend on: all of a profile but its tolerances and judges."""
    flags = ", ".join(sorted(profile.flags)) or "no flags"
    return f"{profile.arithmetic} on {profile.device}, torch {profile.torch}, {flags}"


def honest_figures(manifest: RunManifest, calibration: Calibration) -> dict[str, Honest]:
    """Return what was measured of honest work, by profile; a profile that was not is left out."""
    figures = {}
    for profile in manifest.verification.profiles:
        found = calibration.of(profile.name)
        if found is not None:
            figures[profile.name] = _honest(manifest, profile, found)
    return figures


def _honest(manifest: RunManifest, profile: NumericProfile, found: ProfileCalibration) -> Honest:
    """Return what was measured under one profile.

    Where moments are carried, segments from zero moments are a newcomer's first and have wider tolerances. Where they
    are not, such a segment is as likely drawn as any: every figure is then the worse of the two kinds.
    """
    if profile.arithmetic == "exact":
        # Equal bits are no sample: golden vectors hold on every instruction set or the program digest differs.
        return Honest(0, 10**9, 0, 10**9, 10**9, 0.0, 10**9, 0.0)
    carried, fresh = (
        [one.rejected for one in found.honest if one.moments == moments] for moments in ("carried", "fresh")
    )
    exact, exact_ratio = _from_exact(profile, found.exact, fresh=False)
    fresh_exact, fresh_exact_ratio = _from_exact(profile, found.fresh_exact, fresh=manifest.carries_moments)
    if not manifest.carries_moments:
        carried = fresh = [*carried, *fresh]
        exact = fresh_exact = min(exact, fresh_exact)
        exact_ratio = fresh_exact_ratio = max(exact_ratio, fresh_exact_ratio)
    return Honest(
        rejected=max((one.count for one in carried), default=0),
        tried=min((one.tried for one in carried), default=0),
        fresh_rejected=max((one.count for one in fresh), default=0),
        fresh_tried=min((one.tried for one in fresh), default=0),
        exact_tried=exact,
        exact_ratio=exact_ratio,
        fresh_exact_tried=fresh_exact,
        fresh_exact_ratio=fresh_exact_ratio,
    )


def _from_exact(profile: NumericProfile, distances: Quantiles | None, *, fresh: bool) -> tuple[int, float]:
    """Return how many ends were compared with exact ones, and the largest distance over the slash tolerance."""
    return (0, 1.0) if distances is None else (distances.segments, distances.max / profile.slash_bound(fresh))


def attack_figures(manifest: RunManifest, calibration: Calibration) -> dict[str, tuple[Attack, ...]]:
    """Return the whole suite, and laziness in every number of segments, by profile."""
    return {
        profile.name: tuple(_attacks(manifest, profile, calibration))
        for profile in manifest.verification.profiles
        if calibration.of(profile.name) is not None
    }


def _attacks(manifest: RunManifest, profile: NumericProfile, calibration: Calibration) -> Iterator[Attack]:
    found = calibration.of(profile.name)
    assert found is not None
    measured = {one.name: _counts(profile, found, one) for one in found.attacks}
    none = (0, 0, 0)
    invented = measured.get(Cheat.WRONG_DATA, none)
    exact = profile.arithmetic == "exact"  # every dishonest segment has other bits
    for cheat in cheats_in(manifest):
        if cheat in COARSE and profile.arithmetic == "bf16":
            continue  # computing as coarsely as the profile does is no cheat
        caught, proven, tried = invented if cheat in INVENTED else measured.get(cheat, none)
        # Calibration counts the segments that a cheat in some steps leaves honest; where bits decide, nothing does.
        alone = cheat in ONE_SEGMENT or (exact and cheat is Cheat.SKIP_TENTH)
        reach = 1 / manifest.segments if alone else 1.0
        saving = reach if cheat is Cheat.ONE_FORGED_SEGMENT else cheat.kind.saving
        if cheat in REFUSALS:
            yield Attack(cheat.value, cheat.kind.does, 1.0, "refusal")
        elif cheat in UNPAID:
            yield Attack(cheat.value, cheat.kind.does, 1.0, "unpaid")
        elif cheat is Cheat.EQUIVOCATE:
            yield Attack(cheat.value, cheat.kind.does, 0.0, "equivocation")
        else:
            bits = exact or cheat in BITS
            yield Attack(cheat.value, cheat.kind.does, saving, "measured", caught, proven, tried, reach, bits)
    for policy_cheat in PolicyCheat if manifest.rollouts is not None else ():
        if policy_cheat is PolicyCheat.FLATTERER and manifest.judge is None:
            continue  # there is nothing to lie about
        does = policy_cheat.kind.does
        if policy_cheat is PolicyCheat.REWARD_LIAR:
            yield Attack(policy_cheat.value, does, 1.0, "unpaid")
        else:
            # What is not the noise's choice has a regret far beyond any tolerance, as steps on other data are.
            saving, caught, proven, tried = policy_cheat.kind.saving, *invented
            yield Attack(policy_cheat.value, does, saving, "measured", caught, proven, tried, 1.0, False)
    yield from lazy_segments(manifest.segments, *invented, exact=exact)


def _counts(profile: NumericProfile, found: ProfileCalibration, attack: Measured) -> tuple[int, int, int]:
    """Return how many of the drawn segments are caught and how many proven, at least.

    The file keeps quantiles, so no more than a quantile vouches for is counted. Another honest machine is up to the
    honest drift nearer, and the exact reference up to its own distance from honest ends.
    """
    distance, least = attack.distance, attack.least or 0.0
    if distance is None:
        return (0, 0, attack.drawn)
    drift = max(one.drift.max for one in found.honest if one.moments == "carried")
    own = 0.0 if found.exact is None else found.exact.max
    caught = _beyond(distance, least, profile.tolerance + drift)
    proven = _beyond(distance, least, profile.slash_tolerance + own)
    # Where a cheat leaves some segments honest, those were drawn too, and caught nobody.
    return (caught, min(proven, caught), attack.drawn)


def _beyond(distance: Quantiles, least: float, bound: float) -> int:
    for value, share in ((least, 1.0), (distance.q50, 0.5), (distance.q90, 0.1), (distance.q99, 0.01)):
        if value > bound:
            return int(distance.segments * share)
    return 0
