"""Trees are OpenZeppelin's: roots and proofs equal those of its JavaScript library."""

import json
from pathlib import Path

import pytest

from protocol.merkle import StandardMerkleTree, commitment_leaf, reward_leaf, verify_proof

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "standard_merkle_tree.json").read_text())


@pytest.mark.parametrize("tree", GOLDEN["trees"], ids=lambda tree: f"{len(tree['values'])}_leaves")
def test_roots_and_proofs_equal_openzeppelins(tree: dict) -> None:
    leaves = [reward_leaf(account, int(amount)) for account, amount in tree["values"]]
    ours = StandardMerkleTree(leaves)
    assert "0x" + ours.root.hex() == tree["root"]
    assert [["0x" + node.hex() for node in ours.proof(i)] for i in range(len(leaves))] == tree["proofs"]


def test_a_proof_leads_only_its_own_leaf_to_the_root() -> None:
    leaves = [commitment_leaf(number, f"{number:064x}") for number in range(1, 12)]
    tree = StandardMerkleTree(leaves)
    for index, leaf in enumerate(leaves):
        proof = tree.proof(index)
        assert verify_proof(tree.root, leaf, proof)
        assert not verify_proof(tree.root, leaves[(index + 1) % len(leaves)], proof)
        assert not verify_proof(tree.root, leaf, proof[:-1])


def test_a_tree_without_leaves_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one leaf"):
        StandardMerkleTree([])
