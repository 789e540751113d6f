"""Canonical JSON refuses what has a second spelling, and what costs more to parse than it says; hashes are tagged."""

from __future__ import annotations

import sys

import pytest
from blake3 import blake3

from protocol.canonical import MAX_DEPTH, canonical_json, digest, parse_canonical_json, tagged_digest
from protocol.errors import Malformed

GOLDEN_TAGGED = "a4b4e2a10e10b0cdf876efcaa0d835d10ff7590476e3c13484263c3b36900c50"


@pytest.fixture
def _deep_recursion() -> object:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # as a dependency of web3 does
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("_deep_recursion")
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 300_000,
        b'{"a":' * 100_000,
        b'{"a":"\\"",' + b'"b":[' * 100_000,
        "[".encode("utf-16-le") * 100_000,
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
    ],
)
def test_deep_nesting_is_refused_before_it_is_parsed(data: bytes) -> None:
    with pytest.raises(Malformed, match="nested too deep"):
        parse_canonical_json(data, max_bytes=1 << 20)


def test_brackets_inside_strings_are_no_nesting() -> None:
    value = {"a": "[" * 500, "b": ['\\"{{' * 40, "]" * 100], "c": [[[["{"]]]]}
    assert parse_canonical_json(canonical_json(value), max_bytes=1 << 20) == value


def test_nesting_up_to_the_limit_is_read() -> None:
    value: dict[str, object] = {}
    for _ in range(MAX_DEPTH - 1):
        value = {"a": value}
    assert parse_canonical_json(canonical_json(value), max_bytes=1 << 20) == value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "canonical"),
        (b'{"b":1, "a":2}', "canonical"),
        (b'{"a":1e999}', "RFC 8785"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        (b"7", "not a JSON object"),
        (b'{"a":1}' * 100, "exceeds"),
    ],
)
def test_a_second_spelling_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_canonical_json(data, max_bytes=100)


def test_unclosed_strings_are_searched_once() -> None:
    # A search that starts again at every escaped quote would take hours here.
    data = b'{"a":' + b"[" * 20 + b"{}," * 20 + b'"' + b'\\"' * 500_000
    for spoiled in (data, data + b"\\"):
        with pytest.raises(Malformed, match="not JSON"):
            parse_canonical_json(spoiled, max_bytes=1 << 21)


def test_digests_are_blake3s() -> None:
    # The first vector of BLAKE3's own test_vectors.json: no input.
    assert digest(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert digest(memoryview(b"abc")) == digest(bytearray(b"abc")) == blake3(b"abc").hexdigest()


def test_tagged_digest_is_frozen() -> None:
    expected = blake3()
    for part in (b"murmur/test", bytes.fromhex("0102"), (7).to_bytes(8, "little"), b"raw"):
        expected.update(len(part).to_bytes(8, "little") + part)
    assert tagged_digest("murmur/test", "0102", 7, b"raw") == expected.hexdigest()
    assert tagged_digest("murmur/test", "0102", 7, b"raw") == GOLDEN_TAGGED


def test_tag_length_and_order_separate_digests() -> None:
    digests = [
        tagged_digest("murmur/test", b"ab", b"c"),
        tagged_digest("murmur/test", b"a", b"bc"),
        tagged_digest("murmur/test", b"abc"),
        tagged_digest("murmur/test", b"ab", b"c", b""),
        tagged_digest("murmur/test", b"c", b"ab"),
        tagged_digest("murmur/testab", b"c"),
        tagged_digest("murmur/tes", b"t", b"ab", b"c"),
        tagged_digest("murmur/other", b"ab", b"c"),
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(("part", "error"), [(-1, OverflowError), (2**64, OverflowError), ("zz", ValueError)])
def test_parts_that_have_no_encoding_are_refused(part: str | int, error: type[Exception]) -> None:
    with pytest.raises(error):
        tagged_digest("murmur/test", part)
