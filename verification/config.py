"""What a verifier's operator sets."""

from typing import Annotated

from pydantic import Field

from protocol.daemon import PeerDaemonConfig
from verification.liars import VerifierCheat

REPLAYER_LOG_FILE = "replayer.log"


class VerifierConfig(PeerDaemonConfig):
    """Set one verifier up for one run."""

    cheat: VerifierCheat | None = None  # for demonstrations
    evidence_units: Annotated[int, Field(ge=0, le=100_000)] = 64  # judged units whose opened files are kept
    dispute_rewards: bool = False  # dispute a wrong reward root with the hot key's tokens
