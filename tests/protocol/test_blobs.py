"""A blob store gives back what its digest names, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from protocol.blobs import BlobCorrupt, BlobMissing, BlobStore, BlobTooLarge


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_what_is_put_is_read_back_under_its_digest(store: BlobStore) -> None:
    digest = store.put(memoryview(b"hello"))
    assert digest == digest_of(b"hello")
    assert store.has(digest)
    assert store.size(digest) == 5
    assert store.get(digest, max_size=5) == b"hello"
    assert store.path(digest) == store.root / digest[:2] / digest


def test_a_file_is_stored_like_its_bytes(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert store.put_file(tmp_path / "file") == digest_of(b"x" * 3_000_000)
    assert store.put_file(tmp_path / "file") == digest_of(b"x" * 3_000_000)
    assert not list((store.root / "scratch").iterdir())


def test_a_blob_damaged_on_disk_is_deleted_and_not_returned(store: BlobStore) -> None:
    digest = store.put(b"hello")
    store.path(digest).write_bytes(b"hullo")
    with pytest.raises(BlobCorrupt, match="damaged"):
        store.get(digest, max_size=5)
    assert not store.has(digest)
    with pytest.raises(BlobMissing):
        store.get(digest, max_size=5)


def test_a_blob_beyond_the_callers_bound_is_not_read(store: BlobStore) -> None:
    digest = store.put(b"hello")
    with pytest.raises(BlobTooLarge, match="5 bytes, more than 4"):
        store.get(digest, max_size=4)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "ab" * 32 + "\n"])
def test_a_name_that_is_no_digest_never_becomes_a_path(store: BlobStore, name: str) -> None:
    for call in (store.has, store.path, store.pin, store.delete, store.begin):
        with pytest.raises(ValueError, match="not a blob digest"):
            call(name)


def test_the_least_recently_used_blob_makes_room_and_pins_hold(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, max_bytes=250)
    old, pinned, used = (store.put(bytes([n]) * 80) for n in range(3))
    for age, digest in ((300, old), (400, pinned), (200, used)):
        os.utime(store.path(digest), (1e9 - age, 1e9 - age))
    store.pin(pinned)
    store.put(b"z" * 80)
    assert [store.has(digest) for digest in (old, pinned, used)] == [False, True, True]
    store.unpin(pinned)
    store.put(b"y" * 80)
    assert not store.has(pinned)


def test_a_store_counts_what_an_earlier_process_left(tmp_path: Path) -> None:
    first = BlobStore(tmp_path).put(b"a" * 200)
    store = BlobStore(tmp_path, max_bytes=250)
    second = store.put(b"b" * 200)
    assert not store.has(first)
    assert store.has(second)


def test_a_download_resumes_where_it_was_aborted(store: BlobStore) -> None:
    data = b"0123456789" * 1000
    with store.begin(digest_of(data)) as partial:
        partial.append(data[:4000])
    assert not store.has(digest_of(data))
    with store.begin(digest_of(data)) as partial:
        assert partial.offset == 4000
        partial.append(data[4000:])
        assert partial.finish() == store.path(digest_of(data))
    assert store.get(digest_of(data), max_size=len(data)) == data


def test_a_download_of_other_bytes_is_dropped(store: BlobStore) -> None:
    digest = digest_of(b"wanted")
    with store.begin(digest) as partial:
        partial.append(b"served")
        with pytest.raises(BlobCorrupt, match="received bytes hash to"):
            partial.finish()
    with store.begin(digest) as partial:
        assert partial.offset == 0
        partial.append(b"x")
        partial.restart()
        partial.append(b"wanted")
        partial.finish()
    assert store.has(digest)
