"""What a coordinator's operator sets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from protocol.checkpoints import CHECKPOINTS_DIRECTORY, CHECKPOINTS_MIB
from protocol.daemon import DaemonConfig
from protocol.messages import Number

PUBLIC_DIRECTORY = "public"
CONTROL_DIRECTORY = "control"
STAND_IN_DIRECTORY = "stand-in"  # in the directory of an operator who stands in


class CoordinatorConfig(DaemonConfig):
    """Set the coordinator of one run up."""

    api_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free one
    database: str | None = None  # SQLAlchemy URL; None: the directory's own
    password_file: Path | None = None
    control: tuple[Number, ...] | None = None  # who is also trained alone; None: the first two of round 0
    operator: Path | None = None  # directory of who stands in: its key and its wallet
    heard: Path | None = None  # public folder whose messages a stand-in begins with
    tensorboard: Path | None = None  # where event files are written; None: none are
    checkpoint_mib: Annotated[int, Field(ge=0, lt=2**33)] = CHECKPOINTS_MIB  # cap on checkpoints, in MiB

    @property
    def home(self) -> Path:
        """Return where the key that signs and the wallet that sends lie."""
        return self.operator or self.directory

    @property
    def public(self) -> Path:
        """Return the folder that auditors read."""
        return self.directory / PUBLIC_DIRECTORY

    @property
    def checkpoints(self) -> Path:
        """Return where checkpoints are kept."""
        return self.directory / CHECKPOINTS_DIRECTORY
