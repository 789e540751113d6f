"""What the contract `DrandBeacon` needs of drand: points written out, as EIP-2537 wants them."""

from typing import Final

from py_arkworks_bls12381 import G1Point, G2Point

from protocol.drand import QUICKNET, verify_beacon
from protocol.manifest import DrandBeacon

_PADDING: Final = bytes(16)

# A published round of quicknet: whoever deploys makes the chain check it.
_ROUND: Final = 1000
_SIGNATURE: Final = (
    "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
)


def seed_proof(public_key: str, round_: int, signature: str) -> bytes:
    """Return a round's signature as `DrandBeacon.seed` takes it: x and y, 64 bytes each.

    Args:
        public_key: the network's, 192 hex digits.
        signature: 96 hex digits.

    Raises:
        Malformed: it is not this network's signature of that round.
    """
    verify_beacon(public_key, round_, signature)
    return _written_out(bytes(G1Point.from_compressed_bytes(bytes.fromhex(signature)).to_xy_bytes_be()))


def quicknet_arguments() -> tuple[bytes, int, int, int, int, bytes]:
    """Return the constructor's arguments for quicknet: key, genesis, period, margin, and a round with its proof."""
    key = bytes(G2Point.from_compressed_bytes(bytes.fromhex(QUICKNET.public_key)).to_xy_bytes_be())
    proof = seed_proof(QUICKNET.public_key, _ROUND, _SIGNATURE)
    margin = DrandBeacon().margin_s
    return _written_out(key), QUICKNET.genesis_time, QUICKNET.period, margin, _ROUND, proof


def _written_out(coordinates: bytes) -> bytes:
    return b"".join(_PADDING + coordinates[at : at + 48] for at in range(0, len(coordinates), 48))
