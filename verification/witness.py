"""Who watches a round's updates come in, and what their receipts decide: what was late is nobody's opinion.

The assignment beacon draws witnesses from the round's roster. Each signs one receipt of the revealed updates that it
had fetched and checked when the reveals closed. If a majority of the drawn witnesses signed, a unit merges if and only
if a majority of the receipts by others than its owner names it. Otherwise the coordinator's word decides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.beacon import WITNESSES, draw, seed
from protocol.errors import Malformed
from protocol.manifest import RunManifest
from protocol.messages import Receipt, ReceivedUpdate


def witnesses(
    manifest: RunManifest, run: str, beacon: str, round_: int, roster: Iterable[int]
) -> tuple[int, ...]:
    """Return who witnesses a round, by number: all of a roster that is not larger than the manifest asks for.

    Args:
        run: the manifest's run id.
        beacon: assignment beacon of the round, 64 hex digits.
        roster: registration numbers of the round's contributors.
    """
    round_seed = seed(WITNESSES, beacon, run, round_)
    ranked = sorted(set(roster), key=lambda number: (draw(round_seed, number), number))
    return tuple(sorted(ranked[: manifest.verification.witnesses]))


def check_receipt(receipt: Receipt, drawn: Iterable[int], numbers: Iterable[int]) -> None:
    """Check what a receipt says.

    Args:
        drawn: the round's witnesses.
        numbers: whose commitments were listed or forced in.

    Raises:
        Malformed: not by a witness, entries out of order or twice, or one by nobody who committed.
    """
    if receipt.number not in set(drawn):
        raise Malformed(f"number {receipt.number} is not a witness of the round")
    named = [entry.number for entry in receipt.entries]
    if named != sorted(set(named)):
        raise Malformed("receipt whose entries are not in order of number, each once")
    if not set(named) <= set(numbers):
        raise Malformed("receipt of an update by somebody who neither was listed nor forced in")


@dataclass(frozen=True)
class RoundReceipts:
    """Hold what the witnesses of one round say."""

    drawn: tuple[int, ...]
    receipts: Mapping[int, Receipt]  # by witness; each passes `check_receipt`

    @property
    def quorum(self) -> bool:
        """Tell whether a majority of the drawn witnesses signed."""
        return 2 * len(self.receipts) > len(self.drawn)

    def decides(self, number: int) -> bool:
        """Tell whether receipts, and not the coordinator's word, decide about a number's unit."""
        return self.quorum and bool(self._others(number))

    def rules(self, number: int, revealed: str | None) -> bool:
        """Tell whether receipts that decide about a unit want it merged.

        Args:
            revealed: symbols of a reveal that opens the unit's commitment; None if nobody has shown one, which
                does not contradict witnesses who say that they hold the update.
        """
        named = self.named(number)
        return named is not None and revealed in (None, named)

    def named(self, number: int) -> str | None:
        """Return the symbols that a majority of the others' receipts names for a number."""
        others = self._others(number)
        said = [entry.symbols for entry in self.entries(number)]
        return next((symbols for symbols in said if 2 * said.count(symbols) > len(others)), None)

    def entries(self, number: int) -> tuple[ReceivedUpdate, ...]:
        """Return what the others' receipts say of a number's unit."""
        return tuple(
            entry for receipt in self._others(number) for entry in receipt.entries if entry.number == number
        )

    def holders(self, blob: str) -> tuple[int, ...]:
        """Return the witnesses that say they hold an update's bytes."""
        return tuple(
            witness
            for witness, receipt in sorted(self.receipts.items())
            if any(entry.blob == blob for entry in receipt.entries)
        )

    def tally(self, number: int) -> str:
        """Say in words how many receipts name a number's unit."""
        return f"named by {len(self.entries(number))} of {len(self._others(number))} receipts"

    def _others(self, number: int) -> tuple[Receipt, ...]:
        return tuple(receipt for witness, receipt in sorted(self.receipts.items()) if witness != number)
