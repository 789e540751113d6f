"""Drand beacons, verified offline: threshold BLS signatures of round numbers that nobody can predict or choose.

The one scheme that is read is `bls-unchained-g1-rfc9380` (https://drand.love/docs/cryptography): signatures are points
of G1, the public key is one of G2, both compressed; the message is SHA-256 of the round number as eight bytes, hashed
to the curve by RFC 9380; the randomness is SHA-256 of the signature. A signature of a round is unique, and only its
canonical encoding is read, so that a round has exactly one randomness.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from py_arkworks_bls12381 import GT, G1Point, G2Point

from protocol.errors import Malformed

SCHEME: Final = "bls-unchained-g1-rfc9380"
DOMAIN = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
SIGNATURE_BYTES = 48
PUBLIC_KEY_BYTES = 96
MAX_ROUND = 2**53 - 1


@dataclass(frozen=True)
class DrandChain:
    """Name a drand network. Nodes and auditors have it from the manifest and ask nobody else."""

    chain_hash: str  # 64 hex digits: the network's name in its HTTP API
    public_key: str  # 192 hex digits
    genesis_time: int  # Unix seconds of round 1
    period: int  # seconds between rounds

    def time_of(self, round_: int) -> int:
        """Return the Unix second at which a round is published."""
        return self.genesis_time + (round_ - 1) * self.period

    def first_round_at(self, timestamp: int) -> int:
        """Return the first round that is published at a Unix second or later."""
        return max(1, -((self.genesis_time - timestamp) // self.period) + 1)


QUICKNET = DrandChain(
    chain_hash="52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
    public_key=(
        "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451"
        "0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a"
    ),
    genesis_time=1692803367,
    period=3,
)
"""The League of Entropy's network with a beacon every three seconds."""


def round_point(round_: int) -> G1Point:
    """Return the curve point that a network signs for a round.

    Raises:
        Malformed: no round has this number.
    """
    if not 1 <= round_ <= MAX_ROUND:
        raise Malformed(f"{round_} is not a drand round")
    return G1Point.hash_to_curve(hashlib.sha256(round_.to_bytes(8, "big")).digest(), DOMAIN)


def verify_beacon(public_key: str, round_: int, signature: str) -> str:
    """Check the signature of a round and return its randomness, 64 hex digits.

    Args:
        public_key: the network's, 192 lower-case hex digits.
        signature: 96 lower-case hex digits.

    Raises:
        Malformed: a length, encoding or point is wrong, or the key did not sign this round.
    """
    key = _public_point(public_key)
    data = _exact_bytes(signature, SIGNATURE_BYTES, "signature")
    try:
        point = G1Point.from_compressed_bytes(data)
    except ValueError as error:
        raise Malformed("drand signature: not a point of the group") from error
    if point == G1Point.identity() or point.to_compressed_bytes() != data:
        raise Malformed("drand signature: the identity, or not in canonical form")
    if not GT.pairing_check([point, round_point(round_)], [G2Point(), -key]):
        raise Malformed(f"drand signature: not one of round {round_} by this network")
    return hashlib.sha256(data).hexdigest()


def check_public_key(public_key: str) -> None:
    """Check a network's public key.

    Raises:
        Malformed: it is no point of the group in canonical form, or the identity.
    """
    _public_point(public_key)


@lru_cache(maxsize=8)
def _public_point(public_key: str) -> G2Point:
    data = _exact_bytes(public_key, PUBLIC_KEY_BYTES, "public key")
    try:
        point = G2Point.from_compressed_bytes(data)
    except ValueError as error:
        raise Malformed("drand public key: not a point of the group") from error
    if point == G2Point.identity() or point.to_compressed_bytes() != data:
        raise Malformed("drand public key: the identity, or not in canonical form")
    return point


def _exact_bytes(text: str, size: int, what: str) -> bytes:
    if len(text) != 2 * size or not set(text) <= set("0123456789abcdef"):
        raise Malformed(f"drand {what}: not {2 * size} lower-case hex digits")
    return bytes.fromhex(text)
