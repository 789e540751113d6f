"""Nothing that a stranger sends ends in anything but a refusal with its reason, or costs memory beyond its size."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol import rollouts
from protocol.canonical import canonical_json, parse_canonical_json
from protocol.errors import Malformed
from tests.fuzz.targets import (
    ALLOWED,
    MANIFEST,
    SHAPE,
    TARGETS,
    dossier,
    groups,
    messages,
    model_file,
    settlement,
)
from tests.verification.conftest import bundles, corpus, facts, played
from tests.verification.testbed import Testbed
from verification.anchor import AnchorFile
from verification.facts import ChainFacts
from verification.tarball import pack_folder

__all__ = ["bundles", "corpus", "facts", "played"]  # fixtures

Edit = tuple[int, int, bytes]
EDITS = st.lists(
    st.tuples(st.integers(min_value=0), st.integers(0, 64), st.binary(max_size=64)), min_size=1, max_size=4
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=80),
    st.sampled_from(["00" * 32, "0x" + "11" * 20, "-1", "1e309", "\x00", "é"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
SHARED = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def valid(
    played: Testbed,
    facts: ChainFacts,
    bundles: dict[tuple[int, int], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[bytes]]:
    packed = tmp_path_factory.mktemp("packed") / "run.tar"
    pack_folder(played.archive.root, packed)
    blob = played.records[0].body.units[0].blob
    assert blob is not None
    return {
        "message": list(messages().values()),
        "manifest": [MANIFEST.to_bytes()],
        "dossier": [dossier()],
        "settlement": [settlement()],
        "bundle": [next(iter(bundles.values())).read_bytes()],
        "packed folder": [packed.read_bytes()],
        "anchors": [AnchorFile.of(facts, 9).to_bytes()],
        "update": [played.public.get(blob, max_size=1 << 20)],
        "rollouts": [rollouts.encode(groups(), SHAPE)],
        "group": groups()[:1],
        "model": [model_file()],
    }


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for place, length, noise in edits:
        place %= len(data) + 1
        data = data[:place] + noise + data[place + length :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_valid_is_read(
    name: str, valid: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.targets.ALLOWED", ())
    for data in valid[name]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_arbitrary_bytes_are_refused_or_read(name: str) -> None:
    @given(st.binary(max_size=2048))
    @settings(max_examples=60)
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_edited_bytes_are_refused_or_read(name: str, valid: dict[str, list[bytes]]) -> None:
    @given(st.data(), EDITS)
    @SHARED
    def check(choice: st.DataObject, edits: list[Edit]) -> None:
        TARGETS[name](edited(choice.draw(st.sampled_from(valid[name])), edits))

    check()


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a document, the inner ones included."""
    inner: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inner = [one for name in sorted(value) for one in paths(value[name], (*path, name))]
    elif isinstance(value, list):
        inner = [one for index, item in enumerate(value) for one in paths(item, (*path, index))]
    return [*([path] if path else []), *inner]


def with_value(data: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    document: Any = parse_canonical_json(data, max_bytes=1 << 24)
    inside = document
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return canonical_json(document)


@pytest.mark.parametrize("name", ["message", "manifest", "dossier", "settlement", "anchors"])
def test_any_value_in_any_place_is_refused_or_read(name: str, valid: dict[str, list[bytes]]) -> None:
    places = [
        (data, path)
        for data in (one.removesuffix(b"\n") for one in valid[name])
        for path in paths(parse_canonical_json(data, max_bytes=1 << 24))
    ]

    @given(st.sampled_from(places), VALUES)
    @settings(max_examples=80)
    def check(place: tuple[bytes, tuple[Any, ...]], value: Any) -> None:
        try:
            data = with_value(*place, value)
        except ValueError:
            return  # not JSON that RFC 8785 can spell
        TARGETS[name](data)

    check()


def test_any_value_in_a_bundle_s_document_is_refused_or_read(valid: dict[str, list[bytes]]) -> None:
    data = valid["bundle"][0]
    length = int(data[124:135], 8)
    document, rest = data[512 : 512 + length], data[512 + length + -length % 512 :]
    places = paths(parse_canonical_json(document, max_bytes=1 << 24))

    @given(st.sampled_from(places), VALUES)
    @settings(max_examples=50)
    def check(path: tuple[Any, ...], value: Any) -> None:
        try:
            changed = with_value(document, path, value)
        except ValueError:
            return
        info = tarfile.TarInfo("bundle.json")
        info.size = len(changed)
        header = info.tobuf(tarfile.USTAR_FORMAT)
        TARGETS["bundle"](header + changed + bytes(-len(changed) % 512) + rest)

    check()


def member(name: str, size: int, data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT) + data


HUGE = (1 << 33) - 1  # the largest length a header can claim
BOMBS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "a bundle's document that claims 8 GB": lambda: ("bundle", member("bundle.json", HUGE, bytes(4096))),
    "a bundle's file that claims 8 GB": lambda: (
        "bundle",
        member("bundle.json", 2, b"{}" + bytes(510)) + member("files/" + "0" * 64, HUGE),
    ),
    "a packed manifest that claims 8 GB": lambda: (
        "packed folder",
        member("manifest.json", HUGE, bytes(4096)),
    ),
    "deep brackets": lambda: ("message", b"[" * 60_000),
    "deep objects": lambda: ("dossier", b'{"a":' * 100_000),
    "many digits": lambda: ("message", b'{"a":' + b"9" * 50_000 + b"}"),
    "a long list": lambda: (
        "settlement",
        b'{"finish":null,"ready":[' + b"0," * 40_000 + b'0],"rewards":[]}',
    ),
    "noise for an update": lambda: ("update", bytes(range(256)) * 4000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_costs_no_more_memory_than_its_size(bomb: str) -> None:
    name, data = BOMBS[bomb]()
    tracemalloc.start()
    try:
        TARGETS[name](data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * len(data) + (4 << 20)


def test_a_packed_folder_leads_nowhere_else(tmp_path: Path) -> None:
    from verification.tarball import unpack

    for name in ("../manifest.json", "/etc/passwd", "rounds/../../x.json", "blobs/ab/" + "cd" * 32):
        with pytest.raises(Malformed):
            unpack(io.BytesIO(member(name, 0)), tmp_path)
    link = tarfile.TarInfo("manifest.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(Malformed):
        unpack(io.BytesIO(link.tobuf(tarfile.USTAR_FORMAT)), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert ALLOWED
