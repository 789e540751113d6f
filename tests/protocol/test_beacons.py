"""Signatures come over real HTTP from whoever has them; what does not verify counts as silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.beacons import PAUSE_S, DrandClient, KeptSignatures, SignatureFiles
from protocol.drand import verify_beacon
from protocol.errors import Malformed, NetworkError
from tests.protocol.drand_network import LocalDrand

ROUND = 7


class Wall:
    """A clock that is set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def drand() -> LocalDrand:
    return LocalDrand()


@pytest.fixture
def endpoint(drand: LocalDrand) -> Iterator[str]:
    with drand.serve() as url:
        yield url


@pytest.fixture
def wall(drand: LocalDrand) -> Wall:
    return Wall(drand.chain.time_of(ROUND) + 0.5)


def said(round_: int, signature: str) -> tuple[int, bytes]:
    return 200, json.dumps({"round": round_, "signature": signature}).encode()


def test_a_round_that_is_due_is_fetched_and_verified(drand: LocalDrand, endpoint: str, wall: Wall) -> None:
    found = DrandClient([endpoint + "/"], clock=wall).find(drand.chain, ROUND)
    assert found == drand.signature(ROUND)
    assert len(verify_beacon(drand.chain.public_key, ROUND, found)) == 64


def test_nobody_is_asked_before_a_round_is_due(drand: LocalDrand, endpoint: str, wall: Wall) -> None:
    client = DrandClient([endpoint], clock=wall)
    assert client.find(drand.chain, ROUND + 1) is None
    assert drand.asked == []
    wall.now += 1
    assert client.find(drand.chain, ROUND + 1) == drand.signature(ROUND + 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said(ROUND, LocalDrand(secret=666).signature(ROUND)), "not one of round 7"),
        (said(ROUND, LocalDrand().signature(ROUND + 1)), "not one of round 7"),
        (said(ROUND + 1, LocalDrand().signature(ROUND + 1)), "not the signature of drand round 7"),
        (said(ROUND, "c0" + "00" * 47), "identity"),
        (said(ROUND, "zz"), "not 96 lower-case hex digits"),
        ((200, b'{"round":7,"signature":' + b"[" * 200 + b"]" * 200 + b"}"), "nested too deep"),
        ((200, b"[]"), "not a JSON object"),
        ((200, b"<html>"), "not JSON"),
        ((200, b"x" * 5000), "more than 4096 bytes"),
        ((302, b""), "HTTP 302"),
        ((404, b""), "HTTP 404"),
        ((425, b""), "HTTP 425"),
        ((500, b""), "HTTP 500"),
    ],
)
def test_an_endpoint_that_says_anything_else_is_passed_over(
    drand: LocalDrand, endpoint: str, wall: Wall, answer: tuple[int, bytes], why: str
) -> None:
    drand.answers[ROUND] = answer
    with pytest.raises(NetworkError, match=why):
        DrandClient([endpoint], clock=wall).find(drand.chain, ROUND)
    with LocalDrand().serve() as honest:
        found = DrandClient([endpoint, honest], clock=wall).find(drand.chain, ROUND)
    assert found == drand.signature(ROUND)


def test_an_endpoint_that_is_not_there_is_passed_over(drand: LocalDrand, endpoint: str, wall: Wall) -> None:
    client = DrandClient(["http://127.0.0.1:9", endpoint], clock=wall)
    assert client.find(drand.chain, ROUND) == drand.signature(ROUND)
    with pytest.raises(NetworkError, match=r"no drand endpoint gave round 7: http://127\.0\.0\.1:9: Connect"):
        DrandClient(["http://127.0.0.1:9"], clock=wall).find(drand.chain, ROUND)
    with pytest.raises(NetworkError, match="none is named"):
        DrandClient([], clock=wall).find(drand.chain, ROUND)


def test_a_round_that_nobody_has_is_asked_for_less_and_less(
    drand: LocalDrand, endpoint: str, wall: Wall
) -> None:
    drand.answers[ROUND] = (404, b"")
    client = DrandClient([endpoint], clock=wall)
    for asked in range(1, 4):
        with pytest.raises(NetworkError):
            client.find(drand.chain, ROUND)
        assert client.find(drand.chain, ROUND) is None
        assert len(drand.asked) == asked
        wall.now += PAUSE_S * 2 ** (asked - 1)
    drand.answers.clear()
    assert client.find(drand.chain, ROUND) == drand.signature(ROUND)


def test_what_was_found_is_kept_and_found_again_without_a_network(
    drand: LocalDrand, endpoint: str, wall: Wall, tmp_path: Path
) -> None:
    files = SignatureFiles(tmp_path / "beacons")
    assert files.find(drand.chain, ROUND) is None
    source = KeptSignatures(files, DrandClient([endpoint], clock=wall))
    assert source.find(drand.chain, ROUND) == source.find(drand.chain, ROUND) == drand.signature(ROUND)
    assert drand.asked == [ROUND]
    assert files.find(drand.chain, ROUND) == drand.signature(ROUND)
    assert [path.name for path in files.root.iterdir()] == ["7.json"]


def test_a_spoiled_file_is_fetched_again(
    drand: LocalDrand, endpoint: str, wall: Wall, tmp_path: Path
) -> None:
    files = SignatureFiles(tmp_path)
    source = KeptSignatures(files, DrandClient([endpoint], clock=wall))
    for spoiled in (b"", b"x" * 10_000, b'{"round":8,"signature":"00"}', b'{"round":7,"signature":7}'):
        (tmp_path / "7.json").write_bytes(spoiled)
        with pytest.raises(Malformed):
            files.read(ROUND)
        assert source.find(drand.chain, ROUND) == drand.signature(ROUND)
    files.write(ROUND, drand.signature(ROUND + 1))
    assert files.find(drand.chain, ROUND) is None
    assert source.find(drand.chain, ROUND) == drand.signature(ROUND)
