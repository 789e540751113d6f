"""What a unit of gas costs on a chain now, by EIP-1559, under a cap."""

from dataclasses import dataclass
from statistics import median

from web3 import Web3

from protocol.errors import LedgerError

MIN_TIP_WEI = 10**6
FEE_HISTORY_BLOCKS = 10


@dataclass(frozen=True)
class GasPrice:
    """Wei for a unit of gas."""

    base: int  # of the next block, burned
    tip: int  # for the block's builder
    most: int  # what is offered, tip included


def gas_price(w3: Web3, cap_wei: int) -> GasPrice:
    """Return what to offer for a unit of gas; web3's errors are the caller's.

    Args:
        cap_wei: most that is offered.

    Raises:
        LedgerError: the base fee alone is above the cap.
    """
    history = w3.eth.fee_history(FEE_HISTORY_BLOCKS, "latest", [50.0])
    base = int(history["baseFeePerGas"][-1])
    tips = [int(block[0]) for block in history.get("reward") or [] if block]
    tip = max(int(median(tips)) if tips else int(w3.eth.max_priority_fee), MIN_TIP_WEI)
    if base > cap_wei:
        raise LedgerError(
            f"the base fee is {base} wei per gas, above the cap of {cap_wei}",
            hint="wait, or raise max_fee_gwei in the network's profile",
        )
    # Twice the base fee holds for six full blocks in a row (EIP-1559).
    return GasPrice(base, min(tip, cap_wei), min(2 * base + tip, cap_wei))
