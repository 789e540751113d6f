from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protocol.manifest import RunManifest
from tests.verification.anybody import Anybody
from tests.verification.testbed import Testbed, tiny_manifest
from verification.anchor import ChainAnchor
from verification.blobs import find_blob
from verification.bundle import export_bundle
from verification.facts import ChainFacts, chain_facts

HONEST, CHEAT = (1, 1), (0, 2)  # (round, number) of two units of the played run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = np.random.default_rng(7).integers(97, 123, 6000, dtype=np.uint8)
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_bytes(words.tobytes())
    return path


@pytest.fixture(scope="session")
def manifest(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunManifest:
    return tiny_manifest(corpus, tmp_path_factory.mktemp("shard"))


@pytest.fixture
def make_bed(corpus: Path, tmp_path: Path) -> Callable[..., Testbed]:
    def make(contributors: int = 3, verifiers: int = 3, **changes: object) -> Testbed:
        manifest = tiny_manifest(corpus, tmp_path / "data", **changes)
        return Testbed(tmp_path, manifest, contributors, verifiers)

    return make


@pytest.fixture
def bed(make_bed: Callable[..., Testbed]) -> Testbed:
    found = make_bed()
    found.chain.height += 1
    return found


@pytest.fixture(scope="session")
def played(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Testbed:
    """Return a whole run with one cheater, number 2 in round 0, in which somebody accuses number 3 of round 1.

    Tests copy it before they change anything.
    """
    directory = tmp_path_factory.mktemp("played")
    from tests.verification.mischief import other_rate

    cheat = other_rate(0, 0.5) | other_rate(1, 0.5) | other_rate(2, 0.5)
    found = Testbed(directory, tiny_manifest(corpus, directory / "data"))
    found.accused[1] = [(3, 0)]
    found.play_run({(0, 2): cheat})
    return found


@pytest.fixture
def folder(played: Testbed, tmp_path: Path) -> Path:
    """Return a copy of the played run's public folder that a test may spoil."""
    target = tmp_path / "public"
    shutil.copytree(played.archive.root, target)
    return target


@pytest.fixture(scope="session")
def facts(played: Testbed) -> ChainFacts:
    """Return what the chain says of the played run."""
    return chain_facts(played.chain, played.manifest)


@pytest.fixture(scope="session")
def anchor(facts: ChainFacts) -> ChainAnchor:
    return ChainAnchor(facts, "the simulated chain")


@pytest.fixture(scope="session")
def bundles(
    played: Testbed, facts: ChainFacts, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, int], Path]:
    """Return a bundle of an honest unit and one of a cheat."""
    find = find_blob([played.archive.blobs, played.states.root])
    found = {}
    for round_, number in (HONEST, CHEAT):
        out = tmp_path_factory.mktemp("bundles") / f"{round_}-{number}.murmur"
        draw = export_bundle(played.archive, facts, find, round_, number, out)
        assert draw.number == number
        found[round_, number] = out
    return found


@pytest.fixture
def anybody(played: Testbed) -> Anybody:
    """Return somebody with all messages of the played run."""
    messages = [one for dossier in played.dossiers.values() for one in dossier.messages()]
    return Anybody(played, copy.deepcopy(played.chain), [*messages, *played.settlement.messages()])
