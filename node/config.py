"""What a contributor's operator sets."""

from node.cheats.kinds import Cheat
from protocol.daemon import PeerDaemonConfig

TRAINER_LOG_FILE = "trainer.log"


class NodeConfig(PeerDaemonConfig):
    """Set one contributor up for one run."""

    cheat: Cheat | None = None
