"""A shard is the text the manifest pins, byte for byte, or it is refused."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from training.corpus import DEFAULT_ROOT, Shard, dataset_config, prepare_corpus


def test_the_packaged_corpus_has_its_documented_root(tmp_path: Path) -> None:
    path = prepare_corpus(None, tmp_path)
    config = dataset_config("shakespeare-milton", path)
    assert (config.root, config.tokens) == (DEFAULT_ROOT, 6_460_491)
    shard = Shard.open(config, tmp_path)
    assert shard.tokens[:29].tobytes() == b"ALL'S WELL THAT ENDS WELL\n\nby"


def test_a_prepared_corpus_is_used_again(tmp_path: Path) -> None:
    before = prepare_corpus(None, tmp_path).stat().st_mtime_ns
    assert prepare_corpus(None, tmp_path).stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [f"{DEFAULT_ROOT}.tokens"]


def test_a_damaged_default_corpus_is_prepared_again(tmp_path: Path) -> None:
    path = prepare_corpus(None, tmp_path)
    path.write_bytes(b"short")
    assert dataset_config("x", prepare_corpus(None, tmp_path)).root == DEFAULT_ROOT


def test_text_and_its_compressed_form_are_one_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"to be or not to be" * 100)
    (tmp_path / "b.xz").write_bytes(lzma.compress(b"to be or not to be" * 100))
    assert prepare_corpus(tmp_path / "a.txt", tmp_path) == prepare_corpus(tmp_path / "b.xz", tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xfd7zXZ\x00 not really"], ids=["empty", "broken"])
def test_a_source_without_text_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / ("a.xz" if content else "a.txt")
    source.write_bytes(content)
    data = tmp_path / "data"
    with pytest.raises(ConfigError):
        prepare_corpus(source, data)
    assert list(data.iterdir()) == []


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        prepare_corpus(tmp_path / "nowhere.txt", tmp_path)


def test_a_shard_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"to be or not to be" * 100)
    path = prepare_corpus(tmp_path / "a.txt", tmp_path)
    config = dataset_config("a", path)
    content = bytearray(path.read_bytes())
    content[77] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="corrupt"):
        Shard.open(config, tmp_path)
    path.write_bytes(content + b"!")
    with pytest.raises(ConfigError, match="tokens"):
        Shard.open(config, tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="no shard"):
        Shard.open(config, tmp_path)
