"""What a drawn witness does in a round: fetch every revealed update, check it, and sign one receipt.

It signs as soon as every update of the round is here and nobody can be forced in any more, or when the reveals close.
Whatever it signed it repeats after a restart, from the journal, and never signs another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from node.events import Effect, Publish, Receive, Received, StopReceiving
from node.facts import RoundFacts
from protocol.lessons import NOTHING, Lessons
from protocol.messages import Receipt, ReceivedUpdate, Reveal


@dataclass(frozen=True)
class Watch:
    """Hold what a witness has of one round's updates."""

    round: int
    asked: Mapping[int, Reveal] = field(default_factory=dict)  # by number
    settled: Mapping[int, bool] = field(default_factory=dict)  # by number: here and well formed
    present: bool = False  # it watched before the reveals closed
    over: bool = False  # nothing more is fetched

    @property
    def busy(self) -> bool:
        """Tell whether something is being fetched."""
        return not self.over and self.asked.keys() > self.settled.keys()

    @property
    def blobs(self) -> frozenset[str]:
        """Return the addresses of every update asked for."""
        return frozenset(reveal.blob for reveal in self.asked.values())

    def receipt(self, number: int) -> Receipt:
        """Return what the witness can sign now."""
        held = sorted(one for one, good in self.settled.items() if good)
        return Receipt(
            number=number,
            entries=tuple(
                ReceivedUpdate(number=one, symbols=self.asked[one].symbols, blob=self.asked[one].blob)
                for one in held
            ),
        )


def take(watch: Watch, event: Received) -> Watch:
    """Note that an update is here, or is none."""
    if watch.over or event.round != watch.round or event.number not in watch.asked:
        return watch
    return replace(watch, settled={**watch.settled, event.number: event.good})


def end(watch: Watch) -> tuple[Watch, tuple[Effect, ...]]:
    """Fetch nothing more."""
    return replace(watch, over=True), (StopReceiving(),) if watch.busy else ()


def witness(
    watch: Watch,
    facts: RoundFacts,
    height: int,
    number: int,
    signed: Receipt | None,
    lessons: Lessons | None = NOTHING,
) -> tuple[Watch, tuple[Effect, ...]]:
    """Do what a witness has to do now.

    Args:
        facts: of the watched round.
        number: the witness's registration number.
        signed: a receipt for the round in our journal.
        lessons: what the round's units build on; None while that is not known here.
    """
    units = facts.units
    if watch.over or facts.beacon is None:
        return watch, ()
    if number not in facts.witnesses or facts.anchored is not None:
        return end(watch)
    if signed is not None:
        ended, effects = end(watch)
        return ended, (*effects, Publish(watch.round, signed))
    if facts.testified:  # by us, before this journal began
        return end(watch)
    if units is None or facts.reveals_close is None or lessons is None:
        return watch, ()
    closed = height >= facts.reveals_close
    if closed and not watch.present:
        return end(watch)  # what came in time is not ours to say
    fresh = {
        one: reveal
        for one, reveal in facts.reveals.items()
        if not closed
        and one not in watch.asked
        and units.get(one) == reveal.commitment
        and one in facts.awaited
    }
    effects = tuple(Receive(watch.round, reveal, lessons) for _, reveal in sorted(fresh.items()))
    watch = replace(watch, asked={**watch.asked, **fresh}, present=True)
    complete = facts.is_final(height) and facts.awaited <= watch.settled.keys()
    if complete or closed:
        receipt = watch.receipt(number)
        watch, ending = end(watch)
        effects = (*effects, *ending, Publish(watch.round, receipt))
    return watch, effects
