"""A beacon contract is trusted for its key and its times, not for its code alone."""

from typing import Any

from py_arkworks_bls12381 import G1Point, G2Point

from contracts.artifacts import artifact
from contracts.drand import follows_quicknet, quicknet_arguments
from tests.contracts.conftest import Network
from tests.protocol.drand_network import LocalDrand


def deploy(network: Network, *arguments: Any) -> str:
    compiled = artifact("DrandBeacon")
    factory = network.chain.w3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    address = network.treasury.send(factory.constructor(*arguments)).contract
    assert address is not None
    return str(address)


def padded(point: bytes) -> bytes:
    return b"".join(bytes(16) + point[at : at + 48] for at in range(0, len(point), 48))


def test_quicknet_is_known_by_a_published_round(network: Network) -> None:
    assert follows_quicknet(network.chain.w3, deploy(network, *quicknet_arguments()))


def test_a_network_whose_key_the_deployer_may_hold_is_not_quicknet(network: Network) -> None:
    _, genesis, period, margin, round_, _ = quicknet_arguments()
    drand = LocalDrand()
    key = G2Point.from_compressed_bytes(bytes.fromhex(drand.chain.public_key)).to_xy_bytes_be()
    proof = G1Point.from_compressed_bytes(bytes.fromhex(drand.signature(round_))).to_xy_bytes_be()
    beacon = deploy(network, padded(bytes(key)), genesis, period, margin, round_, padded(bytes(proof)))
    assert not follows_quicknet(network.chain.w3, beacon)


def test_rounds_that_come_before_their_time_are_not_quicknets(network: Network) -> None:
    key, genesis, period, margin, round_, proof = quicknet_arguments()
    for times in (
        (genesis + period, period, margin),
        (genesis, period + 1, margin),
        (genesis, period, margin - 1),
    ):
        assert not follows_quicknet(network.chain.w3, deploy(network, key, *times, round_, proof))
