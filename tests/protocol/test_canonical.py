"""Canonical JSON refuses what has a second spelling, and what would cost more to parse than it says."""

from __future__ import annotations

import sys

import pytest

from protocol.canonical import MAX_DEPTH, canonical_json, parse_canonical_json
from protocol.errors import Malformed


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
