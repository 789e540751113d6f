"""The ledger: Solidity sources, compiled artifacts, and everything Python needs to use them."""
