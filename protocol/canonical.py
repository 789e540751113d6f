"""One byte string for one meaning: canonical JSON (RFC 8785) and tagged BLAKE3 hashes."""

import json
import re
from typing import Any, Final, cast

import rfc8785
from blake3 import blake3

from protocol.errors import Malformed

DIGEST_BYTES = 32
ZERO_DIGEST = "00" * DIGEST_BYTES
MAX_DEPTH: Final = 32
"""Nesting allowed in canonical JSON. Python's own limit cannot be relied on: web3 raises it so far that the parser's
recursion would overflow the stack and end the process."""

# Possessive, and content with the end of the data for a closing quote: one pass, whatever the data is.
_PARTS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_STEPS: Final = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


def canonical_json(value: Any) -> bytes:
    """Serialise plain JSON data as RFC 8785 demands. Integers beyond 2**53 must already be strings."""
    return rfc8785.dumps(value)


def parse_canonical_json(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Parse an object that must already be in canonical form.

    The round trip through the canonical serialiser refuses duplicate keys, odd spacing and non-finite numbers,
    so that a message has exactly one spelling.

    Raises:
        Malformed: too long, not JSON, not an object, nested too deep, or not canonical.
    """
    if len(data) > max_bytes:
        raise Malformed(f"message of {len(data)} bytes exceeds {max_bytes}")
    check_depth(data)
    try:
        value = json.loads(data.decode())  # decoded here: `loads` would also guess UTF-16 and UTF-32
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    try:
        same = rfc8785.dumps(value) == data
    except (rfc8785.CanonicalizationError, ValueError, RecursionError) as error:
        raise Malformed("JSON outside RFC 8785") from error
    if not same:
        raise Malformed("JSON is not in canonical form")
    return cast(dict[str, Any], value)


def check_depth(data: bytes) -> None:
    """Check the nesting of JSON before a parser sees it.

    Raises:
        Malformed: nested deeper than `MAX_DEPTH`.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _PARTS.finditer(data):  # one at a time: a list of them would be forty times the data
        depth += _STEPS.get(match[0], 0)
        if depth > MAX_DEPTH:
            raise Malformed("JSON nested too deep")


def digest(data: bytes | bytearray | memoryview) -> str:
    """Return the BLAKE3 content address of bytes as 64 hex digits."""
    return blake3(data).hexdigest()


def tagged_digest(tag: str, *parts: bytes | str | int) -> str:
    """Hash a domain tag and length-prefixed parts with BLAKE3; a str part is hex, an int part is unsigned 64 bit."""
    hasher = blake3()
    for part in (tag.encode(), *parts):
        match part:
            case int():
                raw = part.to_bytes(8, "little")
            case str():
                raw = bytes.fromhex(part)
            case _:
                raw = part
        hasher.update(len(raw).to_bytes(8, "little"))
        hasher.update(raw)
    return hasher.hexdigest()
