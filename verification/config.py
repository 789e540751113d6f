"""What a verifier's operator sets."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from protocol.manifest import Address, Digest, Frozen

PEER_KEY_FILE = "peer.key"
JOURNAL_FILE = "journal.sqlite"
MANIFEST_FILE = "manifest.json"
STATUS_FILE = "status.json"
REPLAYER_LOG_FILE = "replayer.log"


class VerifierConfig(Frozen):
    """Set one verifier up for one run."""

    directory: Path
    run: Digest
    rpc: str
    ledger: Address
    bootstrap: tuple[str, ...] = ()
    listen: str = "/ip4/127.0.0.1/tcp/0"
    data: Path | None = None  # text to make the token shard of; None: the packaged one
    data_dir: Path | None = None  # token shards; None: <directory>/data
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    evidence_units: Annotated[int, Field(ge=0, le=100_000)] = 64  # judged units whose opened files are kept

    @property
    def shards(self) -> Path:
        """Return where token shards lie."""
        return self.data_dir or self.directory / "data"
