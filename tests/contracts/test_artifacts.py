"""The committed artifacts belong to the committed sources, and code on chain is compared with them."""

import hashlib
from importlib import resources
from typing import get_args

import pytest

from contracts.artifacts import ContractName, artifact

NAMES = get_args(ContractName)


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_those_that_were_compiled(name: ContractName) -> None:
    own = {unit: digest for unit, digest in artifact(name).sources.items() if unit.startswith("src/")}
    assert f"src/{name}.sol" in own
    for unit, digest in own.items():
        source = resources.files("contracts").joinpath(*unit.split("/")).read_bytes()
        assert hashlib.sha256(source).hexdigest() == digest, f"run `node compile.mjs` in contracts/: {unit}"


def test_every_source_is_compiled_into_some_artifact() -> None:
    folder = resources.files("contracts") / "src"
    names = {f"src/{part.name}" for part in folder.iterdir() if part.name.endswith(".sol")}
    for child in ("interfaces", "libraries"):
        names |= {f"src/{child}/{part.name}" for part in (folder / child).iterdir()}
    assert names <= {source for name in NAMES for source in artifact(name).sources}


def test_code_matches_whatever_its_immutables_are() -> None:
    ledger = artifact("Ledger")
    start, length = ledger.immutables[0]
    code = bytearray(ledger.deployed_bytecode)
    code[start : start + length] = b"\x11" * length
    assert ledger.matches(bytes(code))
    code[start + length] ^= 1
    assert not ledger.matches(bytes(code))
    assert not ledger.matches(b"")
    assert not ledger.matches(artifact("Token").deployed_bytecode)
