"""What the contract `DrandBeacon` needs of drand: points written out, as EIP-2537 wants them."""

import hashlib
from typing import Final

from eth_utils.address import to_checksum_address
from py_arkworks_bls12381 import G1Point, G2Point
from web3 import Web3
from web3.exceptions import ContractLogicError

from contracts.artifacts import artifact
from contracts.chain import ledger_errors
from protocol.beacon_config import DrandBeacon
from protocol.drand import QUICKNET, verify_beacon

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


def follows_quicknet(w3: Web3, beacon: str) -> bool:
    """Tell whether a `DrandBeacon` on chain checks quicknet's key and keeps its time.

    Key and times are the deployer's: of another key it may hold the secret, and with other times rounds decide that
    are known already.

    Raises:
        LedgerError: the chain is not there.
    """
    _, genesis, period, margin, round_, proof = quicknet_arguments()
    calls = w3.eth.contract(address=to_checksum_address(beacon), abi=artifact("DrandBeacon").abi).functions
    with ledger_errors():
        times = (calls.GENESIS().call(), calls.PERIOD().call(), calls.MARGIN().call())
        if times[:2] != (genesis, period) or times[2] < margin:
            return False
        try:
            seed = calls.seed(round_, proof).call()
        except ContractLogicError:
            return False
    return bytes(seed) == hashlib.sha256(bytes.fromhex(_SIGNATURE)).digest()


def _written_out(coordinates: bytes) -> bytes:
    return b"".join(_PADDING + coordinates[at : at + 48] for at in range(0, len(coordinates), 48))
