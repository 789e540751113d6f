"""What a contributor's operator sets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from node.keeping import STATE_CAP
from protocol.daemon import PeerDaemonConfig
from protocol.errors import ConfigError
from protocol.frozen import ProfileName
from protocol.manifest import NumericProfile, RunManifest
from verification.cheats import AnyCheat

TRAINER_LOG_FILE = "trainer.log"
PEAK_FILE = "peak.json"


class NodeConfig(PeerDaemonConfig):
    """Set one contributor up for one run."""

    cheat: AnyCheat | None = None
    state_cap: Annotated[int, Field(ge=0, lt=2**53)] = STATE_CAP  # bytes of undrawn units' states
    tier: Annotated[int, Field(ge=0, le=7)] | None = (
        None  # None: the largest that the machine finishes in time
    )
    cpu_share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the time, in which the trainer computes
    profile: ProfileName | None = None  # None: the run's first on the device's class
    peak_tflops: Annotated[float, Field(gt=0, le=1e6)] | None = None  # of the device; None: measured once
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = (
        None  # on loopback; 0: any free one; None: no metrics
    )
    tensorboard: Path | None = None  # where event files are written; None: none are
    checkpoint_mib: Annotated[int, Field(ge=0, lt=2**33)] | None = (
        None  # cap on checkpoints; None: none is kept
    )

    def tier_in(self, manifest: RunManifest) -> int | None:
        """Return the tier that is asked for.

        Raises:
            ConfigError: the run does not have it.
        """
        if self.tier is not None and self.tier > manifest.smallest_tier:
            raise ConfigError(
                f"the run has no tier {self.tier}, only 0 to {manifest.smallest_tier}",
                hint="leave --tier out, and the largest that this machine finishes in time is chosen",
            )
        return self.tier

    def profile_in(self, manifest: RunManifest) -> NumericProfile:
        """Return the numeric profile that units are computed and committed under.

        Raises:
            ConfigError: the run has none for the device, or not the one asked for.
        """
        profiles = manifest.verification.profiles
        kind = self.device.partition(":")[0]
        fitting = [one for one in profiles if one.device == kind and self.profile in (None, one.name)]
        if fitting:
            return fitting[0]
        listed = ", ".join(f"{one.name} on {one.device}" for one in profiles)
        raise ConfigError(
            f"the run has no profile {self.profile or ''}".rstrip()
            + f" for device {self.device}: it has {listed}",
            hint="choose another --profile or --device",
        )
