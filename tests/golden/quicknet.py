"""Write the published rounds of drand's quicknet as points that the chain reads: `python -m tests.golden.quicknet`.

drand publishes compressed points (48 and 96 bytes); EIP-2537 takes x and y, each coordinate padded to 64 bytes. The
rounds are those of drand_quicknet.json, and contracts/test/Quicknet.sol is written.
"""

import hashlib
import json
from pathlib import Path

from py_arkworks_bls12381 import G1Point, G2Point

VECTORS = Path(__file__).with_name("drand_quicknet.json")
PATH = Path(__file__).parents[2] / "contracts" / "test" / "Quicknet.sol"

HEAD = """\
// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What drand's quicknet published, as points for EIP-2537. Made by `python -m tests.golden.quicknet`.
library Quicknet {
"""


def padded(point: bytes) -> bytes:
    """Return field elements of 48 bytes, each padded to 64."""
    return b"".join(bytes(16) + point[at : at + 48] for at in range(0, len(point), 48))


def render() -> str:
    """Return the text of Quicknet.sol."""
    known = json.loads(VECTORS.read_text())
    key = padded(G2Point.from_compressed_bytes(bytes.fromhex(known["public_key"])).to_xy_bytes_be())
    text = HEAD
    text += f"    uint64 internal constant GENESIS = {known['genesis_time']};\n"
    text += f"    uint64 internal constant PERIOD = {known['period']};\n"
    text += f"    uint256 internal constant COUNT = {len(known['rounds'])};\n\n"
    text += "    /// @dev x.c0, x.c1, y.c0, y.c1.\n    bytes internal constant PUBLIC_KEY =\n"
    text += "\n".join(f'        hex"{key[at : at + 64].hex()}"' for at in range(0, 256, 64)) + ";\n\n"
    text += (
        "    /// @dev A round, its signature as x and y, and the randomness that drand publishes for it.\n"
    )
    text += "    function vector(uint256 index)\n        internal\n        pure\n"
    text += "        returns (uint64 round, bytes memory signature, bytes32 randomness)\n    {\n"
    for index, one in enumerate(known["rounds"]):
        compressed = bytes.fromhex(one["signature"])
        point = padded(G1Point.from_compressed_bytes(compressed).to_xy_bytes_be())
        randomness = hashlib.sha256(compressed).hexdigest()
        if one["randomness"] is not None and one["randomness"] != randomness:
            raise ValueError(f"round {one['round']}: the published randomness is not the signature's hash")
        text += f"        if (index == {index}) {{\n            return (\n                {one['round']},\n"
        text += f'                hex"{point[:64].hex()}"\n                hex"{point[64:].hex()}",\n'
        text += f"                0x{randomness}\n            );\n        }}\n"
    return text + "        revert();\n    }\n}\n"


if __name__ == "__main__":
    PATH.write_text(render())
