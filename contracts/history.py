"""What the events say: pure functions of events in chain order, the same live and in an audit."""

from collections.abc import Iterable
from dataclasses import dataclass

from contracts.events import (
    Claimed,
    CommitmentsPosted,
    Event,
    RecordAnchored,
    Registered,
    RewardsFinalized,
    RunCreated,
    RunFinished,
    RunOpened,
    Slashed,
    StakeChanged,
)
from contracts.types import Role


@dataclass(frozen=True)
class RosterEntry:
    """An operator as it stood at the end of a block."""

    number: int
    wallet: str
    peer: str
    role: Role
    stake: int  # bonded, wei


def roster(events: Iterable[Event], block: int, role: Role, min_stake: int) -> tuple[RosterEntry, ...]:
    """Return the operators of a role with `min_stake` wei or more bonded at the end of `block`, by number."""
    registered: dict[int, Registered] = {}
    stakes: dict[int, int] = {}
    for event in events:
        if event.block > block:
            break
        if isinstance(event, Registered):
            registered[event.number] = event
        elif isinstance(event, StakeChanged):
            stakes[event.number] = event.stake
    return tuple(
        RosterEntry(number, found.wallet, found.peer, Role(found.role), stakes[number])
        for number, found in sorted(registered.items())
        if found.role == role and stakes[number] >= min_stake
    )


def run_created(events: Iterable[Event], run: str) -> RunCreated | None:
    """Return the creation of a run, or None."""
    return next((e for e in events if isinstance(e, RunCreated) and e.run == run), None)


def run_opened_block(events: Iterable[Event], run: str) -> int | None:
    """Return the block in which a run opened, or None."""
    return next((e.block for e in events if isinstance(e, RunOpened) and e.run == run), None)


def run_finished(events: Iterable[Event], run: str) -> RunFinished | None:
    """Return the end of a run, or None."""
    return next((e for e in events if isinstance(e, RunFinished) and e.run == run), None)


def commitments_posted(events: Iterable[Event], run: str, round_: int) -> CommitmentsPosted | None:
    """Return the commitment root of a round, or None."""
    found = (e for e in events if isinstance(e, CommitmentsPosted) and e.run == run and e.round == round_)
    return next(found, None)


def record_anchored(events: Iterable[Event], run: str, round_: int) -> RecordAnchored | None:
    """Return the anchored record of a round, or None."""
    found = (e for e in events if isinstance(e, RecordAnchored) and e.run == run and e.round == round_)
    return next(found, None)


def finalized_rewards(events: Iterable[Event], run: str) -> tuple[RewardsFinalized, ...]:
    """Return the final reward roots of a run, by epoch."""
    return tuple(e for e in events if isinstance(e, RewardsFinalized) and e.run == run)


def claims(events: Iterable[Event], run: str) -> tuple[Claimed, ...]:
    """Return the claims of a run in chain order."""
    return tuple(e for e in events if isinstance(e, Claimed) and e.run == run)


def slashes(events: Iterable[Event], run: str) -> tuple[Slashed, ...]:
    """Return the slashes of a run in chain order."""
    return tuple(e for e in events if isinstance(e, Slashed) and e.run == run)
