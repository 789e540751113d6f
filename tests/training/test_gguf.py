"""What a GGUF file says is read as its specification has it, and nothing beyond its bounds."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError, Malformed
from tests.training.models import BF16, F16, F32, Q4_0, Q4_1, Q8_0, entry, gguf, text
from training.gguf import MAX_ITEMS, Gguf


def one(kind: int, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return Gguf(gguf({}, {"one": (kind, shape, data)})).read("one")


def test_metadata_and_plain_tensors_are_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    known = {"name": "flöck", "size": 3, "rate": 0.5, "yes": True, "words": ["a", "", "é"], "kinds": [1, -2]}
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf(known, {"pad": (F32, (1,), b"\0\0\0\0"), "one": (F32, (2, 3), values.tobytes())}))
    found = Gguf.open(path)
    assert found.metadata == known
    assert found.shapes == {"pad": (1,), "one": (2, 3)}
    np.testing.assert_array_equal(found.read("one"), values)


def test_halves_are_widened() -> None:
    values = np.array([1.5, -2.0, 0.1, 65504.0], np.float32)
    np.testing.assert_array_equal(
        one(F16, values.astype("<f2").tobytes(), (4,)), values.astype(np.float16).astype(np.float32)
    )
    bits = (values.view(np.uint32) >> 16).astype("<u2")
    np.testing.assert_array_equal(
        one(BF16, bits.tobytes(), (4,)), (bits.astype(np.uint32) << 16).view(np.float32)
    )


@pytest.mark.parametrize("kind", [Q4_0, Q4_1, Q8_0])
def test_quantised_blocks_are_what_their_formulas_say(kind: int) -> None:
    """Value by value: Q8_0 d q; Q4_0 d (q - 8); Q4_1 d q + m; low nibbles are a block's first half."""
    rng = np.random.default_rng(kind)
    data, wanted = b"", []
    for _ in range(6):
        scale, least = np.float16(rng.normal()), np.float16(rng.normal())
        data += scale.tobytes() + (least.tobytes() if kind == Q4_1 else b"")
        if kind == Q8_0:
            steps = rng.integers(-128, 128, 32)
            data += steps.astype(np.int8).tobytes()
            wanted += [float(scale) * int(step) for step in steps]
            continue
        nibbles = rng.integers(0, 16, 32)
        data += bytes(int(nibbles[at]) | int(nibbles[at + 16]) << 4 for at in range(16))
        for step in nibbles.tolist():
            wanted.append(float(scale) * (step - 8) if kind == Q4_0 else float(scale) * step + float(least))
    found = one(kind, data, (3, 64))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-6, atol=1e-6)


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "empty": b"",
    "another format": b"GGML" + bytes(100),
    "another version": head(version=4),
    "many tensors": head(tensors=2**63),
    "many keys": head(keys=2**40),
    "cut in a key": head(keys=1) + struct.pack("<Q", 20) + b"abc",
    "a text of an exabyte": head(keys=1) + struct.pack("<Q", 2**60),
    "not UTF-8": head(keys=1) + struct.pack("<Q", 2) + b"\xff\xfe" + entry(1),
    "a key twice": head(keys=2) + 2 * (text("a") + entry(1)),
    "a value of no kind": head(keys=1) + text("a") + struct.pack("<I", 99),
    "a list of lists": head(keys=1) + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(64),
    "a list beyond the bound": head(keys=1) + text("a") + struct.pack("<IIQ", 9, 0, MAX_ITEMS + 1),
    "a list beyond the file": head(keys=1) + text("a") + struct.pack("<IIQ", 9, 4, 1000),
    "texts beyond the file": head(keys=1) + text("a") + struct.pack("<IIQ", 9, 8, 1 << 20),
    "no alignment": head(keys=1) + text("general.alignment") + entry(0),
    "an alignment of text": head(keys=1) + text("general.alignment") + entry("32"),
    "no dimension": head(tensors=1) + tensor("a", ()) + bytes(64),
    "many dimensions": head(tensors=1) + tensor("a", (1,) * 5) + bytes(64),
    "an empty tensor": head(tensors=1) + tensor("a", (4, 0)) + bytes(64),
    "a tensor that overflows": head(tensors=1) + tensor("a", (2**32, 2**32)) + bytes(64),
    "a tensor beyond the end": head(tensors=1) + tensor("a", (100,)) + bytes(64),
    "a tensor far beyond the end": head(tensors=1) + tensor("a", (1,), offset=2**63) + bytes(64),
    "a cut block": head(tensors=1) + tensor("a", (33,), Q8_0) + bytes(256),
    "a tensor twice": head(tensors=2) + 2 * tensor("a", (1,)) + bytes(64),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_breaks_the_format_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="GGUF"):
        Gguf(data)


def test_every_cut_of_a_file_is_refused() -> None:
    whole = gguf({"a": [1, 2], "b": ["x", "y"]}, {"one": (F32, (4,), bytes(16))})
    for end in range(len(whole)):
        with pytest.raises(Malformed):
            Gguf(whole[:end])


def test_a_kind_that_is_not_read_is_named() -> None:
    with pytest.raises(ConfigError, match="kind 12, which is not read") as caught:
        Gguf(gguf({}, {"a": (12, (256,), bytes(256))}))
    assert "Q4_1" in caught.value.hint


def test_a_missing_and_an_empty_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Gguf.open(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(Malformed, match="empty"):
        Gguf.open(tmp_path / "empty.gguf")
