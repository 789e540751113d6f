"""The compiled contracts, as shipped in the package; nobody needs a compiler to use them."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

ContractName = Literal["Token", "Ledger", "Jury", "BlockBeacon", "DrandBeacon"]


@dataclass(frozen=True)
class Artifact:
    """One compiled contract."""

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes  # constructor code
    deployed_bytecode: bytes  # what eth_getCode returns, immutables being zero
    immutables: tuple[tuple[int, int], ...]  # (start, length) of every place of an immutable
    sources: dict[str, str]  # source unit name -> sha256 hex

    def matches(self, code: bytes) -> bool:
        """Tell whether code on chain is this contract, whatever its immutables are."""
        if len(code) != len(self.deployed_bytecode):
            return False
        masked = bytearray(code)
        for start, length in self.immutables:
            masked[start : start + length] = bytes(length)
        return bytes(masked) == self.deployed_bytecode


@cache
def artifact(name: ContractName) -> Artifact:
    """Load a compiled contract from the package data."""
    text = resources.files("contracts").joinpath("artifacts", f"{name}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Artifact(
        name=name,
        abi=data["abi"],
        bytecode=bytes.fromhex(data["bytecode"].removeprefix("0x")),
        deployed_bytecode=bytes.fromhex(data["deployedBytecode"].removeprefix("0x")),
        immutables=tuple((place["start"], place["length"]) for place in data["immutables"]),
        sources=data["sources"],
    )
