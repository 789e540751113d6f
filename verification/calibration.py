"""The calibration file: what was measured on one machine, what follows for the tolerances, and who signed it.

Segments are counted, not comparisons: a segment is one sample, whose drift is the largest between any two of the
machines that replayed it. `upper_bound` turns counts into what they can rule out (the rule of three), because a count
of zero in a hundred proves nothing about one in a thousand.
"""

import math
from collections.abc import Set as AbstractSet
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from protocol.canonical import canonical_json, digest, parse_canonical_json, tagged_digest
from protocol.errors import ConfigError, Malformed, ProofRejected
from protocol.frozen import Address, Digest, Frozen, ProfileName
from protocol.keys import PeerKey, recover_address
from protocol.manifest import InnerConfig, NumericProfile, RunManifest
from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout
from verification.profile import Machine

MAX_CALIBRATION_BYTES: Final = 512 * 1024
_DOMAIN: Final = "murmur/calibration"  # what the key signs can be nothing else

HONEST_FACTOR: Final = 5.0  # tolerance over the largest honest drift
EXACT_FACTOR: Final = 10.0  # slash tolerance over the largest honest distance from the exact end
LEAST: Final = {"fp32": 1e-4, "bf16": 1e-3}
"""Smallest tolerance of an arithmetic, whatever was measured: emulated machines are fewer than real ones."""

Text = Annotated[str, Field(max_length=120, pattern=r"^[ -~]*$")]
Count = Annotated[int, Field(ge=0, le=10_000_000)]
Distance = Annotated[float, Field(ge=0, le=1e30)]


class Quantiles(Frozen):
    """Sum up the distances of some segments."""

    segments: Annotated[int, Field(ge=1, le=10_000_000)]
    q50: Distance
    q90: Distance
    q99: Distance
    max: Distance

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.q50 <= self.q90 <= self.q99 <= self.max:
            raise ValueError("quantiles do not rise")
        return self


class GroupDrift(Frozen):
    """Say how far one group of tensors drifts: the same tensor of every block, in parameters or one of the moments."""

    group: Text
    drift: Quantiles


class Trials(Frozen):
    """Count how often something happened."""

    count: Count
    tried: Annotated[int, Field(ge=1, le=10_000_000)]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.count > self.tried:
            raise ValueError("more happened than was tried")
        return self

    @property
    def upper_bound(self) -> float:
        """Return a bound that the true rate stays below with a confidence of 95 %.

        The rule of three (Hanley and Lippman-Hand, JAMA 1983) where nothing happened; otherwise the Wilson score
        interval's upper end (Wilson, JASA 1927), one-sided.
        """
        if self.count == 0:
            return min(1.0, 3.0 / self.tried)
        z, n, p = 1.6448536269514722, self.tried, self.count / self.tried
        centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(1.0, (centre + spread) / (1 + z * z / n))

    @property
    def lower_bound(self) -> float:
        """Return a bound that the true rate stays above with a confidence of 95 %."""
        return 1.0 - Trials(count=self.tried - self.count, tried=self.tried).upper_bound


class Honest(Frozen):
    """Say how far honest replays differ that start from moments of one kind.

    `fresh` are a newcomer's, `carried` those of peers that have trained before: their own, or published ones.
    """

    moments: Literal["carried", "fresh"]
    replayed_under: ProfileName
    drift: Quantiles  # of each segment's worst tensor
    groups: Annotated[tuple[GroupDrift, ...], Field(max_length=64)]
    rejected: Trials  # by the chosen tolerance


class Attack(Frozen):
    """Say how far a dishonest segment is, and how many were caught."""

    name: Text
    check: Text  # the first to catch it, or empty
    drawn: Annotated[int, Field(ge=1, le=10_000_000)]  # segments of units with it, honest ones among them
    distance: Quantiles | None  # None where no distance is compared
    least: Distance | None  # smallest distance of a dishonest segment
    caught: Trials  # of the dishonest segments

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.caught.tried > self.drawn:
            raise ValueError("more segments were dishonest than were drawn")
        return self


class Chosen(Frozen):
    """Name the tolerances that the measurement suggests."""

    tolerance: Annotated[float, Field(ge=0, lt=1)]
    fresh_tolerance: Annotated[float, Field(ge=0, lt=1)]
    slash_tolerance: Annotated[float, Field(ge=0, lt=10)]  # changes can be farther apart than they are long


class ProfileCalibration(Frozen):
    """Hold what was measured of one profile."""

    profile: NumericProfile  # as the run that was measured names it
    honest: Annotated[tuple[Honest, ...], Field(min_length=1, max_length=16)]
    exact: Quantiles | None  # of earlier peers' honest ends from the exact ones; None for the exact profile
    fresh_exact: Quantiles | None  # the same of newcomers
    attacks: Annotated[tuple[Attack, ...], Field(max_length=128)]
    chosen: Chosen


class MeasuredMachine(Frozen):
    """Name a machine that replayed, emulated by switches of the environment."""

    name: Text
    capability: Text
    differs: Count  # segments, over all profiles, whose end had other bits than on the calibrating machine


class Calibration(Frozen):
    """Hold a whole calibration."""

    version: Literal[1] = 1
    date: datetime
    machine: Machine
    machines: Annotated[tuple[MeasuredMachine, ...], Field(min_length=1, max_length=64)]
    model: Digest  # of what was measured, and how: see `measured_setting`
    segments: Annotated[int, Field(ge=1, le=10_000_000)]  # of each kind
    profiles: Annotated[tuple[ProfileCalibration, ...], Field(min_length=1, max_length=16)]

    def of(self, profile: str) -> ProfileCalibration | None:
        """Return what was measured of a profile."""
        return next((one for one in self.profiles if one.profile.name == profile), None)

    def digest(self) -> bytes:
        """Return the 32 bytes that are signed."""
        return bytes.fromhex(
            tagged_digest(_DOMAIN, self.version, digest(canonical_json(self.model_dump(mode="json"))))
        )


class SignedCalibration(Frozen):
    """Carry a calibration with the signature of the verifier that made it."""

    calibration: Calibration
    verifier: Address
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{130}$")]

    @classmethod
    def sign(cls, calibration: Calibration, key: PeerKey) -> Self:
        """Sign a calibration with a peer key."""
        signature = key.sign(calibration.digest()).hex()
        return cls(calibration=calibration, verifier=key.address, signature=signature)

    def check(self) -> None:
        """Check the signature.

        Raises:
            ProofRejected: somebody else signed, or something else was signed.
        """
        try:
            signer = recover_address(self.calibration.digest(), bytes.fromhex(self.signature))
        except Malformed as error:
            raise ProofRejected(f"calibration: {error.message}") from error
        if signer != self.verifier:
            raise ProofRejected(f"the calibration is signed by {signer}, not by {self.verifier}")

    def to_bytes(self) -> bytes:
        """Return the canonical file."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse a file and check its signature.

        Raises:
            Malformed: too long, not canonical JSON, or a field out of bounds.
            ProofRejected: the signature is not the verifier's.
        """
        value = parse_canonical_json(data, max_bytes=MAX_CALIBRATION_BYTES)
        try:
            found = cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))[:80]
            raise Malformed(f"calibration: {where}: {first['msg'][:80]}") from error
        if found.to_bytes() != data:
            raise Malformed("calibration does not spell every field canonically")
        found.check()
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of at most `MAX_CALIBRATION_BYTES`.

        Raises:
            ConfigError: it cannot be read.
            Malformed, ProofRejected: as `from_bytes`.
        """
        try:
            with path.open("rb") as file:
                return cls.from_bytes(file.read(MAX_CALIBRATION_BYTES + 1))
        except OSError as error:
            raise ConfigError(
                f"cannot read {path}: {error.strerror}",
                hint="`murmur verifier calibrate --out FILE` makes one",
            ) from error


def packaged_calibration(manifest: RunManifest) -> SignedCalibration:
    """Return the calibration that this release carries of a manifest's work, or else the default manifest's.

    Raises:
        ConfigError: this installation lacks them.
    """
    found = sorted(
        one.name for one in (files("verification") / "data").iterdir() if one.name.startswith("calibration")
    )
    if not found:
        raise ConfigError(
            "this installation carries no calibration",
            hint="`murmur verifier calibrate --out FILE` measures one; name it with --calibration FILE",
        )
    setting = measured_setting(manifest)
    signed = {
        name: SignedCalibration.from_bytes((files("verification") / "data" / name).read_bytes())
        for name in found
    }
    fitting = (one for one in signed.values() if one.calibration.model == setting)
    return next(fitting, signed.get("calibration.json", signed[found[0]]))


def choose(arithmetic: str, carried: float, fresh: float, exact: float, fresh_exact: float) -> Chosen:
    """Return the tolerances that follow from the largest honest distances.

    The slash tolerance is of carried moments: from zero moments it is wider by as much as the tolerance is
    (`NumericProfile.slash_bound`), and then too at least `EXACT_FACTOR` times the largest distance.

    Args:
        arithmetic: of the profile.
        carried, fresh: largest honest drift from carried and from zero moments.
        exact, fresh_exact: largest honest distance from the exact end, likewise.
    """
    if arithmetic == "exact":
        return Chosen(tolerance=0, fresh_tolerance=0, slash_tolerance=0)
    tolerance = max(LEAST[arithmetic], round_up(HONEST_FACTOR * carried))
    fresh_tolerance = max(tolerance, round_up(HONEST_FACTOR * fresh))
    narrowed = fresh_exact * tolerance / fresh_tolerance
    slash = max(round_up(EXACT_FACTOR * max(exact, narrowed)), round_up(2 * tolerance))
    return Chosen(
        tolerance=min(tolerance, 0.99),
        fresh_tolerance=min(fresh_tolerance, 0.99),
        slash_tolerance=min(slash, 9.9),
    )


def round_up(value: float) -> float:
    """Round up to two significant digits."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log10(value)) - 1
    mantissa = math.ceil(value / 10.0**exponent - 1e-9)
    return float(f"{mantissa}e{exponent}")


_MODEL_VARIANTS: Final = frozenset(("key_heads", "rotary_base", "norm_eps", "tied"))
_INNER_VARIANTS: Final = frozenset(("last_layers", "moments", "muon"))
_NO_MATTER: Final = {"slices"}
"""Fields of inner steps that no distance depends on."""


def measured_setting(manifest: RunManifest) -> str:
    """Return the digest of all that distances depend on: model, inner steps, segment length, and what a distance is."""
    setting = {
        "model": _measured(manifest.model, _MODEL_VARIANTS),
        "inner": _measured(manifest.inner, _INNER_VARIANTS),
        "segment_steps": manifest.verification.segment_steps,
        "distances": _distances_of_a_sample(manifest),
    }
    if manifest.rollouts is not None:
        names = ("environment", "sampling", "policy", "lag")
        said = manifest.rollouts.model_dump(mode="json")
        weighed = [
            {"component": one.component, "weight": one.weight}
            for one in manifest.rollouts.rewards
            if one.source == "verifiable"  # of the others nobody says anything while it is measured
        ]
        setting["rollouts"] = {**{name: said[name] for name in names}, "rewards": weighed}
    return digest(canonical_json(setting))


def _measured(config: ModelConfig | InnerConfig, variants: AbstractSet[str]) -> dict[str, Any]:
    """Return a configuration without the variants that it does not use: they compute nothing then."""
    plain = type(config)().model_dump(mode="json")
    found = config.model_dump(mode="json", exclude=_NO_MATTER)
    return {name: value for name, value in found.items() if name not in variants or value != plain[name]}


def _distances_of_a_sample(manifest: RunManifest) -> list[dict[str, str]]:
    """Measure two segments of made-up numbers, so that figures of one measure are not taken for those of another.

    The second changes so little that distances are relative to the measure's floors.
    """
    # Imported here: torch is heavy, and a signature is checked without it.
    from training.distance import segment_distances
    from training.inner import InnerState

    small = ModelConfig(vocab=16, width=16, layers=1, heads=1, feed_forward=16, context=8)
    plain = manifest.model_copy(update={"model": small, "inner": InnerConfig(muon=manifest.inner.muon)})
    places = np.arange(parameter_layout(small).size, dtype=np.int64)

    def made_up(factor: int, scales: tuple[float, float, float]) -> InnerState:
        parameters, exp_avg, exp_avg_sq = (
            ((places * factor * odd) % 997 / 997 * scale).astype(np.float32)
            for odd, scale in zip((3, 5, 7), scales, strict=True)
        )
        return InnerState(parameters, exp_avg, exp_avg_sq, steps=factor)

    found = []
    for scales in ((1e-1, 1e-3, 1e-6), (1e-7, 1e-9, 1e-15)):
        start, claimed, replayed = (made_up(factor, scales) for factor in (11, 13, 17))
        distances = segment_distances(plain, start, claimed, replayed)
        found.append({name: f"{distance:.6e}" for name, distance in distances.items()})
    return found
