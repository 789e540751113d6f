"""What a peer has heard of a run: every message that the run's own rules let in, once each.

The pool bounds itself: only keys that the chain knows may speak (`protocol.speakers`), each number fills one slot a
kind and round, and nobody speaks of rounds far ahead. A second, different statement for one slot is equivocation:
refused, but kept as evidence.
What a later statement or the chain refers to takes the slot, whichever came first: of two commitments the listed one,
or else the one that was forced in on chain, of two reveals the one that opens it, of two receipts the one that the
record names, of two records the anchored one. Otherwise a peer could keep its unit from verifiers by showing them
another one, or its update from the coordinator alone.

Who speaks when the run's coordinator is gone, and whose word then counts: `protocol.succession`.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping
from copy import copy
from typing import TypeVar, cast

from protocol.errors import Equivocation, Malformed, Premature
from protocol.manifest import RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentList,
    Finish,
    Objection,
    Opening,
    Preference,
    Ready,
    Receipt,
    Reveal,
    RewardTable,
    RoundRecord,
    Seal,
    Signed,
    Verdict,
    check_tiers,
    parse_message,
)
from protocol.preferences import check_preference, people_of
from protocol.speakers import Speaker, check_signer, number_of, round_of
from protocol.state import update_root
from protocol.succession import MAX_STAND_INS, Succession

SpeakerOf = Callable[[int, int | None], Speaker | None]
"""Map a registration number and a round, or none, to who speaks for it; None if the chain knows no such number."""

CasesOf = Callable[[int], Container[tuple[int, int]]]
"""Map a round to the (number, case) of the cases about its units that the chain knows."""

ForcedOf = Callable[[int], Mapping[int, str]]
"""Map a round to the ids of the commitments that were forced into it on chain, by number."""

Slot = tuple[str, int, tuple[int, ...]]
ROUNDS_AHEAD = 2
MAX_EQUIVOCATIONS = 512
MAX_SAID = 256  # preferences of a person about a round

B = TypeVar("B", bound=Body)


class MessagePool:
    """Hold the accepted messages of one run, in the order in which they came."""

    def __init__(
        self,
        manifest: RunManifest,
        speaker_of: SpeakerOf,
        cases_of: CasesOf = lambda round_: frozenset(),
        succession: Succession | None = None,
        forced_of: ForcedOf = lambda round_: {},
    ) -> None:
        """Hold nothing yet.

        Args:
            succession: lets stand-ins speak for the coordinator; None: nobody does.
        """
        self._manifest = manifest
        self.run = manifest.run_id
        self._speaker_of = speaker_of
        self._cases_of = cases_of
        self._succession = succession
        # What stand-ins said, by the coordinator's slot.
        self._stand_ins: dict[Slot, list[Signed[Body]]] = defaultdict(list)
        self._forced_of = forced_of
        self._slots: dict[Slot, Signed[Body]] = {}
        self._rounds: dict[int, dict[Slot, Signed[Body]]] = defaultdict(dict)
        self._known: dict[str, Signed[Body]] = {}
        self._said_by: dict[tuple[int, int], int] = defaultdict(int)  # (round, person) -> preferences
        self._contradicted: set[Slot] = set()
        self.equivocations: list[tuple[Signed[Body], Signed[Body]]] = []
        self.round = 0  # the newest round known to have begun; `peer` raises it from the chain

    def snapshot(self) -> "MessagePool":
        """Return what is held now, to be read by another thread while this pool goes on; it takes nothing in."""
        then = copy(self)
        then._slots = dict(self._slots)
        then._rounds = defaultdict(dict, {round_: dict(found) for round_, found in self._rounds.items()})
        then._stand_ins = defaultdict(list, {slot: list(said) for slot, said in self._stand_ins.items()})
        return then

    def accept(self, data: bytes) -> Signed[Body] | None:
        """Take in wire bytes from anyone; returns the message if it is new, None if it is known already.

        Raises:
            Malformed: it does not parse, or run, ledger, round or author are not what the run expects.
            Premature: it speaks of a round or number that the chain, as far as we see it, does not have yet.
            Equivocation: its author said something else in the same slot before.
        """
        return self.add(parse_message(data))

    def add(self, message: Signed[Body]) -> Signed[Body] | None:
        """Take in a parsed message, under the same rules as `accept`."""
        self._check_binding(message)
        self._check_author(message)
        if message.id in self._known:
            return None
        slot = self._slot_of(message)
        before = self._slots.get(slot)
        if isinstance(message.body, Preference):
            self._check_room(message.round, message.body, before)
        if before is not None and isinstance(message.body, Ready) and self._is_older(message, before):
            return None
        if before is not None and not isinstance(message.body, Ready):
            self._keep_evidence(slot, before, message)
            if not self._counts(message, before):
                raise Equivocation(
                    f"a second {message.body.kind} for round {message.round} by {message.author}"
                )
        if before is not None:
            self._forget(before)
        self._slots[slot] = self._rounds[message.round][slot] = self._known[message.id] = message
        if self._is_stand_in(message):
            self._stand_ins[slot_of(message)].append(message)
        if isinstance(message.body, CommitmentList | RoundRecord):
            self.round = max(self.round, message.round)
        return message

    def _keep_evidence(self, slot: Slot, before: Signed[Body], message: Signed[Body]) -> None:
        """Keep two statements of one author, once a slot: whoever repeats itself must not use up the room."""
        punished = isinstance(message.body, Commitment | RoundRecord)
        room = MAX_EQUIVOCATIONS if punished else MAX_EQUIVOCATIONS // 2
        if slot not in self._contradicted and len(self.equivocations) < room:
            self._contradicted.add(slot)
            self.equivocations.append((before, message))

    def _forget(self, before: Signed[Body]) -> None:
        """Make room for what takes the place of a statement."""
        del self._known[before.id]
        if self._is_stand_in(before):
            self._stand_ins[slot_of(before)].remove(before)

    def _is_older(self, message: Signed[Body], before: Signed[Body]) -> bool:
        """Tell whether a word was signed with an earlier key of its number than the one that stands."""
        speaker = self._speaker_of(number_of(message.body), None)
        keys = () if speaker is None else speaker.keys
        return before.author in keys and keys.index(message.author) < keys.index(before.author)

    def _counts(self, message: Signed[Body], before: Signed[Body]) -> bool:
        """Tell whether of two statements in one slot the later is the one that others refer to."""
        listed, record = self.commitment_list(message.round), self.record(message.round)
        listed = None if listed is None or self._is_doubtful(listed) else listed
        record = None if record is None or self._is_doubtful(record) else record
        match message.body:
            case Commitment(number=number):
                entries = () if listed is None else listed.body.entries
                named = {entry.number: entry.commitment for entry in entries}
                return named.get(number, self._forced_of(message.round).get(number)) == message.id
            case Reveal() as reveal:
                return self._opens(message.round, reveal) and not self._opens(
                    message.round, cast("Reveal", before.body)
                )
            case Receipt() if record is not None:
                return message.id in record.body.receipts
            case CommitmentList() | RoundRecord() | RewardTable() if self._succession is not None:
                return bool(self._succession.holds(message)) and not self._succession.holds(before)
            case _:
                return False

    def _opens(self, round_: int, reveal: Reveal) -> bool:
        commitment = self.commitments(round_).get(reveal.number)
        if commitment is None or commitment.id != reveal.commitment:
            return False
        root = update_root(self.run, round_, reveal.number, reveal.symbols, reveal.salt)
        return root == commitment.body.update

    def _check_binding(self, message: Signed[Body]) -> None:
        manifest, body = self._manifest, message.body
        if message.run != self.run:
            raise Malformed("message of another run")
        if message.chain_id != manifest.chain_id or message.ledger.lower() != manifest.ledger.lower():
            raise Malformed("message for another chain or ledger")
        if message.round >= manifest.rounds:
            raise Malformed("message of a round that the run does not have")
        if isinstance(body, Ready) and message.round:
            raise Malformed("ready for a round instead of the run")
        if isinstance(body, RewardTable) and body.epoch != manifest.epoch_of(message.round):
            raise Malformed("reward table of another epoch than its round")
        if isinstance(body, RewardTable) and message.round != manifest.rounds_of(body.epoch)[-1]:
            raise Malformed("reward table of another round than its epoch's last")
        if isinstance(body, Finish) and message.round != manifest.rounds - 1:
            raise Malformed("closing word of another round than the last")
        check_tiers(manifest, body)
        if message.role != "coordinator" and message.round > self.round + ROUNDS_AHEAD:
            raise Premature("message of a round far ahead")

    def _check_author(self, message: Signed[Body]) -> None:
        if message.role == "coordinator":
            if self._is_stand_in(message):
                self._check_stand_in(message)
            return
        body = message.body
        if isinstance(body, Preference):
            self._check_preference(cast("Signed[Preference]", message))
            return
        check_signer(message, self._speaker_of(number_of(body), round_of(message)))
        if isinstance(body, Verdict | Seal):
            self._check_accused(body.number)
        if isinstance(body, Opening) and body.case:
            self._check_case(message.round, body.number, body.case)

    def _check_preference(self, message: Signed[Preference]) -> None:
        """Let in what a person whom the manifest names says of a contributor's samples, while it may count."""
        check_preference(self._manifest, message)
        self._check_accused(message.body.number)
        if self._is_over(message.round, ROUNDS_AHEAD):
            raise Malformed("a preference about a round that nobody learns from any more")

    def _is_over(self, round_: int, grace: int = 0) -> bool:
        """Tell whether no record from now on may carry a preference about a round."""
        rollouts, _ = people_of(self._manifest)
        return round_ + rollouts.lag + grace <= self.round

    def _check_room(self, round_: int, said: Preference, before: Signed[Body] | None) -> None:
        """Refuse a second word on two samples, which is nobody's crime, and more than a person may say of a round."""
        if before is not None:
            raise Equivocation(f"person {said.person} said before which of these two samples is better")
        if self._said_by[round_, said.person] >= MAX_SAID:
            raise Premature(f"person {said.person} has said {MAX_SAID} preferences about round {round_}")
        self._said_by[round_, said.person] += 1

    def _check_stand_in(self, message: Signed[Body]) -> None:
        """Let in what the chain confirms, and before that a few others' words."""
        if self._succession is None:
            raise Malformed("not signed by the run's coordinator")
        confirmed = self._succession.check(message)
        others = [one for one in self._stand_ins[slot_of(message)] if one.author != message.author]
        if len(others) < MAX_STAND_INS:
            return
        if not confirmed or any(self._succession.holds(one) for one in others):
            raise Premature(f"{len(others)} stand-ins have said their {message.body.kind} already")

    def _is_stand_in(self, message: Signed[Body]) -> bool:
        return message.role == "coordinator" and message.author != self._manifest.coordinator

    def _is_doubtful(self, message: Signed[Body]) -> bool:
        """Tell whether a statement is a stand-in's that the chain does not confirm."""
        if not self._is_stand_in(message):
            return False
        return self._succession is None or not self._succession.holds(message)

    def _slot_of(self, message: Signed[Body]) -> Slot:
        """Return a message's place; a stand-in has one of its own beside the coordinator's."""
        kind, round_, labels = slot_of(message)
        return (kind, round_, (*labels, int(message.author, 16)) if self._is_stand_in(message) else labels)

    def _check_accused(self, number: int) -> None:
        """Bound the slots of whoever speaks of a unit: it is of a number that works."""
        accused = self._speaker_of(number, None)
        if accused is None:
            raise Premature(f"number {number} is not registered")
        if accused.role != "contributor":
            raise Malformed(f"speaks of number {number}, who is not a contributor")

    def _check_case(self, round_: int, number: int, case: int) -> None:
        """Bound everybody's slots: a case is one that the jury knows."""
        if (number, case) not in self._cases_of(round_):
            raise Premature(f"no case {case} about number {number} in round {round_} is on chain")

    def _get(self, kind: type[B], round_: int, *labels: int) -> Signed[B] | None:
        return cast("Signed[B] | None", self._slots.get((kind.kind, round_, labels)))

    def _said(self, kind: type[B], round_: int, *labels: int) -> Signed[B] | None:
        """Return what was said in the coordinator's name: what the chain confirms, else the coordinator's own."""
        own, slot = self._get(kind, round_, *labels), (kind.kind, round_, labels)
        others = cast("list[Signed[B]]", self._stand_ins.get(slot, []))
        if not others or self._succession is None:
            return own
        said = [one for one in (own, *others) if one is not None]
        return next((one for one in said if self._succession.holds(one)), said[0])

    def statements(self, round_: int) -> list[Signed[Body]]:
        """Return all that was said in the coordinator's name in a round, whoever said it."""
        return [one for one in self.of_round(round_) if one.role == "coordinator"]

    def _all(self, kind: type[B], round_: int) -> dict[tuple[int, ...], Signed[B]]:
        found = self._rounds.get(round_, {})
        return {
            slot[2]: cast("Signed[B]", message) for slot, message in found.items() if slot[0] == kind.kind
        }

    def ready(self) -> dict[int, Signed[Ready]]:
        """Return the latest word of each peer that is ready, by number."""
        return {labels[0]: message for labels, message in self._all(Ready, 0).items()}

    def commitments(self, round_: int) -> dict[int, Signed[Commitment]]:
        """Return the commitments heard of a round, by number; the coordinator's list says which count."""
        return {labels[0]: message for labels, message in self._all(Commitment, round_).items()}

    def commitment_list(self, round_: int) -> Signed[CommitmentList] | None:
        """Return the list of a round's commitments: the one that the chain confirms, else the coordinator's."""
        return self._said(CommitmentList, round_)

    def reveals(self, round_: int) -> dict[int, Signed[Reveal]]:
        """Return the reveals heard of a round, by number."""
        return {labels[0]: message for labels, message in self._all(Reveal, round_).items()}

    def record(self, round_: int) -> Signed[RoundRecord] | None:
        """Return the record of a round, chosen likewise; it counts once its hash is anchored on chain."""
        return self._said(RoundRecord, round_)

    def openings(self, round_: int) -> dict[tuple[int, int], Signed[Opening]]:
        """Return the openings heard of a round's units, by (number, case)."""
        return {(labels[0], labels[1]): message for labels, message in self._all(Opening, round_).items()}

    def verdicts(self, round_: int) -> dict[tuple[int, int], Signed[Verdict]]:
        """Return the verdicts heard of a round's units, by (number, verifier)."""
        return {(one[0], one[1]): message for one, message in self._all(Verdict, round_).items()}

    def receipts(self, round_: int) -> dict[int, Signed[Receipt]]:
        """Return the receipts heard of a round's updates, by the witness's number."""
        return {labels[0]: message for labels, message in self._all(Receipt, round_).items()}

    def objections(self, round_: int) -> dict[int, Signed[Objection]]:
        """Return the objections heard to a round's record, by the witness's number."""
        return {labels[0]: message for labels, message in self._all(Objection, round_).items()}

    def seals(self, round_: int) -> dict[tuple[int, int], Signed[Seal]]:
        """Return the seals heard on a round's units, by (number, verifier)."""
        return {(one[0], one[1]): message for one, message in self._all(Seal, round_).items()}

    def rewards(self) -> dict[int, Signed[RewardTable]]:
        """Return the reward table of each epoch that has one, chosen likewise, the newest epoch first."""
        return {table.body.epoch: table for table in self._tables()}

    def newest_rewards(self) -> Signed[RewardTable] | None:
        """Return the reward table of the newest epoch that has one."""
        return next(self._tables(), None)

    def _tables(self) -> Iterator[Signed[RewardTable]]:
        epochs = {self._manifest.epoch_of(round_) for round_ in self._rounds}
        for epoch in sorted(epochs, reverse=True):
            table = self._said(RewardTable, self._manifest.rounds_of(epoch)[-1], epoch)
            if table is not None:
                yield table

    def finish(self) -> Signed[Finish] | None:
        """Return the closing word: the coordinator's, else a stand-in's."""
        return self._said(Finish, self._manifest.rounds - 1)

    def of_round(self, round_: int) -> list[Signed[Body]]:
        """Return everything heard of a round, in the order in which it came."""
        return list(self._rounds.get(round_, {}).values())

    def __len__(self) -> int:
        """Return the number of messages held."""
        return len(self._slots)

    def counts(self) -> dict[int, int]:
        """Return the number of messages held of each round."""
        return {round_: len(found) for round_, found in self._rounds.items()}

    def wire_digests(self, since_round: int) -> list[str]:
        """Return the BLAKE3 digests of the wire bytes of rounds from `since_round` on, and of every `ready`."""
        return [message.wire_digest for message in self._since(since_round)]

    def missing(self, since_round: int, have: Container[str]) -> Iterator[bytes]:
        """Yield wire bytes that an asker lacks who holds those with the digests in `have`, oldest round first."""
        for message in self._since(since_round):
            if message.wire_digest not in have:
                yield message.wire

    def _since(self, since_round: int) -> list[Signed[Body]]:
        ready: list[Signed[Body]] = list(self.ready().values())
        later = [m for round_ in sorted(self._rounds) if round_ >= since_round for m in self.of_round(round_)]
        return ready + [message for message in later if not self._is_past(message)]

    def _is_past(self, message: Signed[Body]) -> bool:
        """Tell whether there is no need to tell it with its round: it was told before, or came to nothing."""
        body = message.body
        return isinstance(body, Ready) or (isinstance(body, Preference) and self._is_over(message.round))

    def preferences(self, round_: int) -> dict[tuple[int, ...], Signed[Preference]]:
        """Return the preferences heard about a round's samples, by `Preference.pair`, in the order of their coming."""
        return self._all(Preference, round_)


def slot_of(message: Signed[Body]) -> Slot:
    """Return (kind, round, labels): the place that a message fills, of which its author has one each."""
    body = message.body
    match body:
        case Verdict() | Seal():
            labels: tuple[int, ...] = (body.number, body.verifier)
        case Opening():
            labels = (body.number, body.case)
        case RewardTable():
            labels = (body.epoch,)
        case Preference():
            labels = body.pair
        case Ready() | Commitment() | Reveal() | Receipt() | Objection():
            labels = (body.number,)
        case _:
            labels = ()
    return (body.kind, 0 if isinstance(body, Ready) else message.round, labels)
