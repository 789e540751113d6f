"""Names for the reasons of a revert: custom errors of ledger, jury, token and OpenZeppelin, from their ABIs.

* LedgerError (protocol.errors)
  + LedgerRevert    the contract refused; `name` is the error in contracts/src/libraries/ErrorsLib.sol
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak
from web3.exceptions import ContractLogicError

from contracts.artifacts import ContractName, artifact
from protocol.errors import LedgerError

_HINTS = {
    "ERC20InsufficientBalance": "the wallet does not hold that many tokens",
    "ERC20InsufficientAllowance": "approve the ledger first",
    "NotRegistered": "register first: `murmur stake deposit`",
    "WalletTaken": "one registration a wallet; add to its stake with `murmur stake deposit`",
    "RoundNotAnchored": "a unit can be accused once its round's record is anchored",
    "CaseExists": "`murmur dispute list` shows what becomes of it",
    "CasesOpen": "`murmur dispute list` shows them; try again when they are closed",
    "WindowClosed": "it is too late for that",
    "WindowOpen": "try again at that block",
    "NoJurors": "verifiers take slots with `murmur jury join`",
    "DrawPending": "try again in a few blocks",
    "UnbondingTooShort": "a run with a shorter window can be opened on this ledger",
    "StillUnbonding": "see `murmur stake status` for the block",
}


class LedgerRevert(LedgerError):
    """Report a call that a contract refused, by the name of its custom error."""

    def __init__(self, name: str, arguments: Mapping[str, Any], *, hint: str = "") -> None:
        details = ", ".join(f"{key}={_show(value)}" for key, value in arguments.items())
        super().__init__(f"the ledger refused: {name}({details})", hint=hint or _HINTS.get(name, ""))
        self.name = name
        self.arguments = dict(arguments)


def _show(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


@cache
def _errors() -> dict[bytes, dict[str, Any]]:
    names: tuple[ContractName, ...] = ("Token", "Ledger", "Jury", "BlockBeacon", "DrandBeacon")
    entries = [entry for name in names for entry in artifact(name).abi]
    found = [entry for entry in entries if entry["type"] == "error"]
    return {keccak(text=_signature(entry))[:4]: entry for entry in found}


def _signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(item['type'] for item in entry['inputs'])})"


def decode_revert(error: ContractLogicError) -> LedgerRevert:
    """Return the named error for what a node answered to a call that reverted."""
    data = _revert_data(error)
    entry = _errors().get(data[:4])
    if entry is None:
        return LedgerRevert("Reverted", {"reason": error.message or data})
    inputs = entry["inputs"]
    try:
        values = decode([item["type"] for item in inputs], data[4:])
    except DecodingError:
        return LedgerRevert(entry["name"], {"data": data})
    return LedgerRevert(entry["name"], dict(zip((item["name"] for item in inputs), values, strict=True)))


def _revert_data(error: ContractLogicError) -> bytes:
    text = error.data.get("data", "") if isinstance(error.data, dict) else error.data or ""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        return b""
