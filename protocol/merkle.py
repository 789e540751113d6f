"""Keccak Merkle trees equal to OpenZeppelin's StandardMerkleTree: double-hashed leaves, sorted pairs."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from protocol.canonical import ZERO_DIGEST
from protocol.messages import CommitmentList, RewardEntry

ROOTS_KEPT: Final = 64
"""How many roots of lists and of tables are remembered: who looks at a round asks for them again and again."""


def standard_leaf(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """Return keccak256(keccak256(abi.encode(values))), which no inner node can collide with."""
    return keccak(keccak(encode(list(types), list(values))))


def commitment_leaf(number: int, commitment: str) -> bytes:
    """Return the leaf of one unit in a round's commitment root: (uint64 registration number, bytes32 message id)."""
    return standard_leaf(("uint64", "bytes32"), (number, bytes.fromhex(commitment)))


def reward_leaf(account: str, cumulative_wei: int) -> bytes:
    """Return the leaf of one account in a reward root: (address, uint256 cumulative)."""
    return standard_leaf(("address", "uint256"), (account, cumulative_wei))


def _pair(a: bytes, b: bytes) -> bytes:
    return keccak(a + b if a < b else b + a)


class StandardMerkleTree:
    """Build the tree over leaves of 32 bytes, laid out as in @openzeppelin/merkle-tree: root first, leaves reversed.

    Raises:
        ValueError: no leaves.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ValueError("a Merkle tree needs at least one leaf")
        count = len(leaves)
        order = sorted(range(count), key=leaves.__getitem__)
        nodes = [b""] * (2 * count - 1)
        self._position = [0] * count
        for rank, leaf in enumerate(order):
            nodes[2 * count - 2 - rank] = leaves[leaf]
            self._position[leaf] = 2 * count - 2 - rank
        for index in range(count - 2, -1, -1):
            nodes[index] = _pair(nodes[2 * index + 1], nodes[2 * index + 2])
        self._nodes = nodes

    @property
    def root(self) -> bytes:
        """Return the 32-byte root."""
        return self._nodes[0]

    def proof(self, leaf: int) -> list[bytes]:
        """Return the siblings from leaf number `leaf` (in the order given) up to the root."""
        index, siblings = self._position[leaf], []
        while index:
            siblings.append(self._nodes[index + 1 if index % 2 else index - 1])
            index = (index - 1) // 2
        return siblings


def reward_tree(entries: Iterable[RewardEntry]) -> StandardMerkleTree:
    """Return the tree whose root the ledger pays from; leaves in the order of the entries.

    Raises:
        ValueError: no entries, since nobody earned.
    """
    return StandardMerkleTree([reward_leaf(entry.account, entry.cumulative_wei) for entry in entries])


@lru_cache(ROOTS_KEPT)
def rewards_root(entries: tuple[RewardEntry, ...]) -> str:
    """Return the root of a reward table's tree, 64 hex digits; raises what `reward_tree` raises."""
    return reward_tree(entries).root.hex()


def verify_proof(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` leads from `leaf` to `root`."""
    for sibling in proof:
        leaf = _pair(leaf, sibling)
    return leaf == root


@lru_cache(ROOTS_KEPT)
def commitments_root(listed: CommitmentList) -> str:
    """Return the Merkle root that a list of commitments must have on chain; zero for an empty list."""
    if not listed.entries:
        return ZERO_DIGEST
    leaves = [commitment_leaf(entry.number, entry.commitment) for entry in listed.entries]
    return StandardMerkleTree(leaves).root.hex()
