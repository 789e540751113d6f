"""A tiny run that a real trainer process works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from protocol.blobs import BlobStore
from protocol.manifest import RunManifest
from protocol.tensors import pack, parameter_layout
from tests.verification.testbed import tiny_manifest
from training.inner import prepare_process
from training.model import initial_parameters


@dataclass(frozen=True)
class Place:
    """Where a trainer works: a manifest with its shard, and a store with the initial parameters."""

    manifest: RunManifest
    manifest_path: Path
    data_dir: Path
    store: BlobStore

    def load(self) -> dict[str, object]:
        """Return the parameters of the trainer's `load`."""
        return {
            "manifest_path": str(self.manifest_path),
            "store": str(self.store.root),
            "data_dir": str(self.data_dir),
        }


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    letters = np.random.default_rng(3).integers(97, 123, 6000, dtype=np.uint8)
    (directory / "text.txt").write_bytes(letters.tobytes())
    return directory


@pytest.fixture(scope="session", autouse=True)
def _repeatable() -> None:
    prepare_process(1)


@pytest.fixture
def place(data_dir: Path, tmp_path: Path) -> Place:
    manifest = tiny_manifest(data_dir / "text.txt", data_dir)
    path = tmp_path / "manifest.json"
    path.write_bytes(manifest.to_bytes())
    store = BlobStore(tmp_path / "blobs")
    vector = initial_parameters(manifest.model, seed=1)
    assert store.put(pack(parameter_layout(manifest.model), vector)) == manifest.initial_parameters
    return Place(manifest, path, data_dir, store)
