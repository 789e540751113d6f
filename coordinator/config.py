"""What a coordinator's operator sets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from protocol.daemon import DaemonConfig
from protocol.messages import Number

PUBLIC_DIRECTORY = "public"
CONTROL_DIRECTORY = "control"


class CoordinatorConfig(DaemonConfig):
    """Set the coordinator of one run up."""

    api_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free one
    database: str | None = None  # SQLAlchemy URL; None: the directory's own
    password_file: Path | None = None
    control: tuple[Number, ...] | None = None  # who is also trained alone; None: the first two of round 0

    @property
    def public(self) -> Path:
        """Return the folder that auditors read."""
        return self.directory / PUBLIC_DIRECTORY
