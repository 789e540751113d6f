"""The joint update of a round: one file that contributors fetch in the place of everybody's updates.

It is an update container like any other (`protocol.update`), sparse whatever the updates are, with the manifest's
`merging.joint_k` entries of every chunk. What it says is compared by its symbols, since zstd's output differs
between versions; a record names the address of one encoding.
"""

from protocol.frozen import Digest, Frozen
from protocol.manifest import CodecConfig, RunManifest
from protocol.tensors import parameter_layout
from protocol.update import SparseSymbols, decode, max_update_bytes


class Returned(Frozen):
    """Name what a contributor's update of the round before was and what it became part of: the rest comes back."""

    update: Digest  # address of its blob
    joint: Digest  # address of the joint update

    @property
    def blobs(self) -> tuple[str, str]:
        """Return the addresses of both."""
        return self.update, self.joint


def joint_codec(manifest: RunManifest) -> CodecConfig:
    """Return how a round's joint update is written.

    Raises:
        ValueError: the run has none.
    """
    if not manifest.merging.joint_k:
        raise ValueError("contributors of this run fetch everybody's updates")
    return CodecConfig(kind="sparse", chunk=manifest.codec.chunk, k=manifest.merging.joint_k)


def max_joint_bytes(manifest: RunManifest) -> int:
    """Return the most bytes that a joint update of this run has; none where the run has no joint updates."""
    if not manifest.merging.joint_k:
        return 0
    return max_update_bytes(joint_codec(manifest), parameter_layout(manifest.model).size)


def read_joint(manifest: RunManifest, data: bytes) -> SparseSymbols:
    """Read a joint update.

    Raises:
        Malformed: it is none of this run.
    """
    found = decode(data, codec=joint_codec(manifest), size=parameter_layout(manifest.model).size)
    assert isinstance(found, SparseSymbols), "of a sparse codec"
    return found
