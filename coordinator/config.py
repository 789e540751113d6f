"""What a coordinator's operator sets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from protocol.manifest import Digest, Frozen
from protocol.messages import Number

PEER_KEY_FILE = "peer.key"
MANIFEST_FILE = "manifest.json"
STATUS_FILE = "status.json"
PUBLIC_DIRECTORY = "public"
CONTROL_DIRECTORY = "control"


class CoordinatorConfig(Frozen):
    """Set the coordinator of one run up."""

    directory: Path
    run: Digest
    rpc: str
    listen: str = "/ip4/127.0.0.1/tcp/0"
    bootstrap: tuple[str, ...] = ()
    api_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: any free one
    database: str | None = None  # SQLAlchemy URL; None: the directory's own
    password_file: Path | None = None
    data: Path | None = None  # text to make the token shard of; None: the packaged one
    data_dir: Path | None = None  # token shards; None: <directory>/data
    threads: Annotated[int, Field(ge=1, le=1024)] = 1  # of the evaluator
    control: tuple[Number, ...] | None = None  # who is also trained alone; None: the first two of round 0

    @property
    def public(self) -> Path:
        """Return the folder that auditors read."""
        return self.directory / PUBLIC_DIRECTORY

    @property
    def shards(self) -> Path:
        """Return where token shards lie."""
        return self.data_dir or self.directory / "data"
