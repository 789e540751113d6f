"""Published beacons verify; a signature of another round, network, length or spelling does not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from py_arkworks_bls12381 import G1Point, Scalar

from protocol.drand import QUICKNET, DrandChain, check_public_key, round_point, verify_beacon
from protocol.errors import Malformed

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "golden" / "drand_quicknet.json").read_text()
)
KEY = QUICKNET.public_key
SIGNATURES: dict[int, str] = {one["round"]: one["signature"] for one in GOLDEN["rounds"]}

# p of the curve's base field: points whose coordinates are not reduced have a second spelling.
FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB


@pytest.mark.parametrize("one", GOLDEN["rounds"], ids=lambda one: one["round"])
def test_published_beacons_of_quicknet_verify(one: dict[str, Any]) -> None:
    found = verify_beacon(KEY, one["round"], one["signature"])
    assert found == hashlib.sha256(bytes.fromhex(one["signature"])).hexdigest()
    assert one["randomness"] in (None, found)


def test_the_pinned_network_is_the_published_one() -> None:
    assert (KEY, QUICKNET.chain_hash) == (GOLDEN["public_key"], GOLDEN["chain_hash"])
    # drand's own hash of a chain's information (chain/info.go, Info.Hash).
    info = QUICKNET.period.to_bytes(4, "big") + QUICKNET.genesis_time.to_bytes(8, "big")
    info += bytes.fromhex(KEY) + bytes.fromhex(GOLDEN["group_hash"]) + GOLDEN["beacon_id"].encode()
    assert hashlib.sha256(info).hexdigest() == QUICKNET.chain_hash


@pytest.mark.parametrize(
    ("round_", "signature"),
    [
        (1001, SIGNATURES[1000]),
        (999, SIGNATURES[1000]),
        (1000, SIGNATURES[1001]),
        (1000, GOLDEN["other_network_round_1000"]),
    ],
)
def test_a_beacon_of_another_round_or_network_is_refused(round_: int, signature: str) -> None:
    with pytest.raises(Malformed, match="not one of round"):
        verify_beacon(KEY, round_, signature)


@pytest.mark.parametrize("bit", [0, 7, 100, 383])
def test_a_flipped_bit_is_refused(bit: int) -> None:
    data = bytearray.fromhex(SIGNATURES[1000])
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed, match="drand signature"):
        verify_beacon(KEY, 1000, data.hex())


def test_the_negated_signature_is_refused() -> None:
    negated = -G1Point.from_compressed_bytes(bytes.fromhex(SIGNATURES[1000]))
    with pytest.raises(Malformed, match="not one of round"):
        verify_beacon(KEY, 1000, negated.to_compressed_bytes().hex())


@pytest.mark.parametrize(
    "signature",
    [
        "",
        SIGNATURES[1000] + "00",
        SIGNATURES[1000][:-2],
        SIGNATURES[1000].upper(),
        " " + SIGNATURES[1000][1:],
        "٣" * 96,  # digits to Python, not to anybody else
        "00" * 48,
        "ff" * 48,
    ],
)
def test_other_lengths_and_letters_are_refused(signature: str) -> None:
    with pytest.raises(Malformed):
        verify_beacon(KEY, 1000, signature)


@pytest.mark.parametrize("first", ["c0", "e0", "80"])
def test_the_identity_is_no_signature_in_any_spelling(first: str) -> None:
    with pytest.raises(Malformed, match="drand signature"):
        verify_beacon(KEY, 1000, first + "00" * 47)


def test_coordinates_beyond_the_field_are_refused() -> None:
    x = int(SIGNATURES[32285085], 16) & ((1 << 381) - 1)
    assert x + FIELD < 1 << 381  # this x has a second spelling of the right length
    for spelling in (x + FIELD, FIELD):
        with pytest.raises(Malformed, match="not a point"):
            verify_beacon(KEY, 32285085, f"{spelling | 1 << 383:096x}")


def test_a_point_of_the_curve_outside_the_subgroup_is_refused() -> None:
    # x = 4 is on y^2 = x^3 + 4 over this field, but not of the prime order.
    outside = G1Point.from_compressed_bytes_unchecked(bytes.fromhex(f"{4 | 1 << 383:096x}"))
    assert not outside.is_in_subgroup()
    with pytest.raises(Malformed, match="not a point of the group"):
        verify_beacon(KEY, 1000, f"{4 | 1 << 383:096x}")


@pytest.mark.parametrize("key", ["", KEY[:-2], KEY.upper(), "c0" + "00" * 95, "a0" + "00" * 95, "ff" * 96])
def test_a_public_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(Malformed, match="drand public key"):
        check_public_key(key)


@pytest.mark.parametrize("round_", [0, -1, 2**53])
def test_a_number_that_no_round_has_is_refused(round_: int) -> None:
    with pytest.raises(Malformed, match="not a drand round"):
        verify_beacon(KEY, round_, SIGNATURES[1000])


def test_who_has_no_share_of_the_key_cannot_sign() -> None:
    forged = round_point(1000) * Scalar(12345)
    with pytest.raises(Malformed, match="not one of round"):
        verify_beacon(KEY, 1000, forged.to_compressed_bytes().hex())


def test_the_first_round_at_a_time_is_the_first_not_before_it() -> None:
    chain = DrandChain("00" * 32, KEY, genesis_time=1000, period=3)
    assert [chain.first_round_at(second) for second in (0, 999, 1000, 1001, 1003, 1004)] == [1, 1, 1, 2, 2, 3]
    for second in range(1000, 1040):
        round_ = chain.first_round_at(second)
        assert chain.time_of(round_) >= second > chain.time_of(round_ - 1)
    assert QUICKNET.first_round_at(1692803367 + 3 * 999) == 1000
