"""What a contributor's operator sets."""

from typing import Annotated

from pydantic import Field

from node.keeping import STATE_CAP
from protocol.daemon import PeerDaemonConfig
from protocol.errors import ConfigError
from protocol.frozen import ProfileName
from protocol.manifest import NumericProfile, RunManifest
from verification.cheats import AnyCheat

TRAINER_LOG_FILE = "trainer.log"


class NodeConfig(PeerDaemonConfig):
    """Set one contributor up for one run."""

    cheat: AnyCheat | None = None
    state_cap: Annotated[int, Field(ge=0, lt=2**53)] = STATE_CAP  # bytes of undrawn units' states
    profile: ProfileName | None = None  # None: the run's first on the device's class
    checkpoint_mib: Annotated[int, Field(ge=0, lt=2**33)] | None = (
        None  # cap on checkpoints; None: none is kept
    )

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
