"""What the receipts of a round's witnesses mean for the coordinator: whom it waits for, and what it must merge."""

from dataclasses import replace

from coordinator.state import CurrentRound, Effect, FetchUpdate, State
from protocol.chain import ChainView
from verification.witness import RoundReceipts, witnesses


def round_receipts(state: State, current: CurrentRound, chain: ChainView) -> RoundReceipts:
    """Return what the witnesses of the round in progress have said so far."""
    beacon = chain.assignment_beacon(current.round)
    assert beacon is not None  # commitments were checked with it
    roster = (one.number for one in chain.roster(current.round))
    drawn = witnesses(state.manifest, state.run, beacon, current.round, roster)
    return RoundReceipts(drawn, {number: message.body for number, message in current.receipts.items()})


def is_complete(current: CurrentRound, heard: RoundReceipts) -> bool:
    """Tell whether nobody who takes part in the round is waited for any more."""
    if not current.commitments:
        return True
    awaited = {witness for witness in heard.drawn if witness in current.commitments}
    if heard.drawn and not (heard.quorum and awaited <= heard.receipts.keys()):
        return False
    word = {number for number in current.commitments if not heard.decides(number)}
    return word <= current.delivered.keys() | current.faults.keys()


def is_lacking(current: CurrentRound, heard: RoundReceipts, number: int) -> bool:
    """Tell whether receipts want a unit merged whose update is not here."""
    reveal = current.reveals.get(number)
    revealed = None if reveal is None else reveal.body.symbols
    return number not in current.delivered and heard.decides(number) and heard.rules(number, revealed)


def why_left_out(current: CurrentRound, heard: RoundReceipts, number: int) -> str:
    """Return why a revealed unit does not merge, or an empty string."""
    if number not in current.delivered:
        return current.faults.get(number, "late: update not delivered in time")
    if heard.decides(number) and not heard.rules(number, current.reveals[number].body.symbols):
        return f"late: {heard.tally(number)}"
    return ""


def fetch(current: CurrentRound) -> tuple[CurrentRound, tuple[Effect, ...]]:
    """Ask for revealed updates, in the encodings of their owners and in those that witnesses hold."""
    reveals = {number: message.body for number, message in current.reveals.items()}
    named = {
        (entry.number, entry.blob)
        for message in current.receipts.values()
        for entry in message.body.entries
        if entry.number in reveals and entry.symbols == reveals[entry.number].symbols
    }
    named |= {(number, reveal.blob) for number, reveal in reveals.items()}
    wanted = sorted(one for one in named - current.fetching if one[0] not in current.delivered)
    effects = tuple(FetchUpdate(current.reveals[number], blob) for number, blob in wanted)
    return replace(current, fetching=current.fetching | set(wanted)), effects
