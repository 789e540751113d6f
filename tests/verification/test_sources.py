"""What is found in a run's directory."""

from __future__ import annotations

from pathlib import Path

from protocol.blobs import BlobStore
from protocol.canonical import digest
from protocol.checkpoints import Checkpoints
from tests.coordinator.conftest import make_manifest
from verification.archive import Archive
from verification.sources import Sources


def test_parameters_of_settled_rounds_are_found_among_the_checkpoints(tmp_path: Path) -> None:
    place = tmp_path / "coordinator"
    Archive(place / "public").write_manifest(make_manifest())
    store, checkpoints = BlobStore(place / "public" / "blobs"), Checkpoints(place / "checkpoints")
    root = store.put(b"parameters")
    checkpoints.add(3, root, store.path(root))
    for directory in (tmp_path, place):
        assert Sources.of(directory).find(root, 100) == b"parameters"
    store.delete(root)
    for directory in (tmp_path, place):
        find = Sources.of(directory).find
        assert find(root, 100) == b"parameters"
        assert find(root, 9) is None
        assert find(digest(b"another"), 100) is None
    checkpoints.path(checkpoints.kept()[0]).write_bytes(b"parameterz")
    assert Sources.of(tmp_path).find(root, 100) is None
