"""What a machine computes, and whose work it may therefore judge: anything else is inconclusive, never a guess.

A tolerance holds between replays that a calibration has compared. A verifier so judges units of a profile that it
computes itself, or of one that names the verifier's in `judged_by`; another torch release, another device or other
flags leave it without a say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from protocol.errors import ConfigError
from protocol.frozen import Frozen
from protocol.manifest import NumericProfile, RunManifest

Name = Annotated[str, Field(max_length=64, pattern=r"^[ -~]*$")]


class Machine(Frozen):
    """Say what a process that computes really is: `this_machine` asks it."""

    device: Literal["cpu", "cuda"]
    torch: Name  # release, without the build's suffix
    capability: Name  # instruction set that ATen's kernels use, or the name of the CUDA device
    arithmetics: tuple[Literal["fp32", "bf16", "exact"], ...]
    flags: tuple[Name, ...]

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.device} ({self.capability}), torch {self.torch}, {', '.join(self.flags) or 'no flags'}"


def this_machine(device: str) -> Machine:
    """Return what this process computes on a torch device, once `training.inner.prepare_process` has set it up.

    Raises:
        ConfigError: the device is neither a CPU nor CUDA, or is not there.
    """
    import torch

    kind = torch.device(device).type if device else ""
    if kind == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
    elif kind == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_name(device)[:64]
    else:
        raise ConfigError(f"device {device} cannot be used", hint="choose --device cpu")
    plain = torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    flags = {"deterministic": torch.are_deterministic_algorithms_enabled(), "no-tf32": plain}
    return Machine(
        device="cpu" if kind == "cpu" else "cuda",
        torch=torch.__version__.split("+")[0],
        capability=capability,
        arithmetics=("fp32", "bf16", "exact") if kind == "cpu" else ("fp32", "bf16"),
        flags=tuple(name for name, set_ in flags.items() if set_),
    )


def obstacle(machine: Machine, profile: NumericProfile) -> str:
    """Return why a machine does not compute under a profile, or an empty string."""
    if machine.device != profile.device:
        return f"{profile.name} wants device {profile.device}, this is {machine.device}"
    if machine.torch != profile.torch:
        return f"{profile.name} was calibrated with torch {profile.torch}, this is {machine.torch}"
    if profile.arithmetic not in machine.arithmetics:
        return f"{profile.name} wants {profile.arithmetic} arithmetic, which {machine.device} does not offer"
    missing = sorted(set(profile.flags) - set(machine.flags))
    return f"{profile.name} wants {', '.join(missing)}, which is not set here" if missing else ""


def computable(manifest: RunManifest, machine: Machine) -> tuple[NumericProfile, ...]:
    """Return the run's profiles that a machine computes under, in the manifest's order."""
    return tuple(one for one in manifest.verification.profiles if not obstacle(machine, one))


def own_profile(manifest: RunManifest, machine: Machine, wanted: str | None = None) -> NumericProfile:
    """Return the profile that a contributor on this machine computes under: the first that fits, or `wanted`.

    Raises:
        ConfigError: none fits, or `wanted` does not; the message says why.
    """
    listed = manifest.verification.profiles
    if wanted is not None and manifest.verification.profile(wanted) is None:
        names = ", ".join(profile.name for profile in listed)
        raise ConfigError(f"the run has no profile {wanted}", hint=f"--profile one of {names}")
    asked = [one for one in listed if wanted in (None, one.name)]
    reasons = [obstacle(machine, one) for one in asked]
    for profile, reason in zip(asked, reasons, strict=True):
        if not reason:
            return profile
    raise ConfigError(
        f"this machine computes under no profile of the run: {'; '.join(reasons)}",
        hint="install the torch release of the profile, or choose another --device",
    )


@dataclass(frozen=True)
class Pair:
    """Say under which of its own profiles a machine replays units of another, if under any."""

    unit: NumericProfile
    replay: NumericProfile | None
    reason: str = ""  # why not

    def to_json(self) -> dict[str, str | None]:
        """Return plain JSON data."""
        return {
            "unit": self.unit.name,
            "replay": None if self.replay is None else self.replay.name,
            "reason": self.reason,
        }


def judging_pair(manifest: RunManifest, machine: Machine, unit: NumericProfile) -> Pair:
    """Say how a machine judges units of a profile: under the same one if it can, else under one that may judge it."""
    judges = [unit, *filter(None, map(manifest.verification.profile, unit.judged_by))]
    for profile in judges:
        if not obstacle(machine, profile):
            return Pair(unit, profile)
    return Pair(unit, None, "; ".join(obstacle(machine, profile) for profile in judges))


def judging_pairs(manifest: RunManifest, machine: Machine) -> tuple[Pair, ...]:
    """Say it for every profile of the run."""
    return tuple(judging_pair(manifest, machine, unit) for unit in manifest.verification.profiles)


def describe(pairs: Sequence[Pair]) -> str:
    """Return one line that names the pairs which can be judged, for logs."""
    told = [f"{one.unit.name} by {one.replay.name}" for one in pairs if one.replay is not None]
    return ", ".join(told) or "none"
