"""What ledger and jury must do, in plain Python: the jury's half. `model.py` holds the ledger's."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from contracts.jury import sealed_vote, vote_digest
from contracts.types import CaseKind, CaseOutcome, CaseStage
from protocol.manifest import LOCAL_CHAIN_ID
from tests.contracts.model import (
    BPS,
    CONTRIBUTOR,
    NO_INDEX,
    NOBODY,
    VERIFIER,
    ZERO,
    LedgerModel,
    Refused,
    require,
)

SECOND = 3  # a second jury's seats and bond, in those of the first
SEED_MARGIN = 2
KEPT_HASHES = 256
TRIES = 128
FINDER_BPS, JURY_BPS = 3000, 2000
ALL_AT = 3
REWARD_OUTCOMES = (CaseOutcome.RIGHT, CaseOutcome.VOID, CaseOutcome.UNAVAILABLE)


@dataclass
class Juror:
    slots: int = 0
    serving: int = 0
    leaving_at: int = 0
    bonded: int = 0
    leaving: int = 0


@dataclass
class Seat:
    juror: int
    outcome: int = 0
    vote: bytes = ZERO


@dataclass
class Case:
    kind: CaseKind
    run: bytes
    round: int
    number: int
    segment: int
    evidence: bytes
    opened_at: int
    appellant: str
    finder: str
    stage: int = 0
    stage_at: int = 0
    seed_round: int = 0
    slot_count: int = 0
    outcome: int = 0
    first_outcome: int = 0
    result: bytes = ZERO
    second: bool = False
    caller: str = NOBODY
    first_jury: list[Seat] = field(default_factory=list)
    second_jury: list[Seat] = field(default_factory=list)
    committed: int = 0
    revealed: int = 0

    @property
    def seats(self) -> list[Seat]:
        return self.second_jury if self.second else self.first_jury

    @property
    def subject(self) -> tuple[bytes, int, int, int, int]:
        return self.run, self.round, self.number, self.segment, self.kind


@dataclass
class Model(LedgerModel):
    """Slots, cases, votes, penalties and credits."""

    jurors: defaultdict[int, Juror] = field(default_factory=lambda: defaultdict(Juror))
    slots: list[int] = field(default_factory=list)  # whose each is
    cases: dict[int, Case] = field(default_factory=dict)
    case_of: dict[tuple[bytes, int, int, int, int], int] = field(default_factory=dict)
    punished: set[tuple[bytes, int, int]] = field(default_factory=set)
    equivocated: set[tuple[bytes, int, bool, int]] = field(default_factory=set)
    credit: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    # Slots

    @property
    def undrawn(self) -> int:
        return sum(case.stage == CaseStage.CALLED for case in self.cases.values())

    def owes(self, number: int) -> bool:
        return self.jurors[number].bonded < self.jurors[number].slots * self.court.slot_stake

    def join(self, sender: str, count: int) -> None:
        number = self.number_of.get(sender, 0)
        op = self.operators.get(number)
        if op is None or op.role != VERIFIER or op.stake < self.terms.min_stake:
            raise Refused("NotAStakedVerifier", number)
        require(not self.owes(number) or not self.undrawn, "DrawPending")
        one = self.jurors[number]
        amount = (one.slots + count) * self.court.slot_stake - one.bonded
        require(amount != 0, "ZeroValue")
        one.slots += count
        one.bonded += amount
        self.slots += [number] * count
        self.move(sender, self.jury, amount)

    def resign(self, sender: str, indices: Sequence[int]) -> None:
        number = self.number_of.get(sender, 0)
        require(len(indices) != 0, "ZeroValue")
        require(not self.undrawn, "DrawPending")
        one = self.jurors[number]
        require(one.serving == 0, "Serving", one.serving)
        above = len(self.slots)
        for index in indices:
            require(index < above and self.slots[index] == number, "NotYourSlot", index)
            above = index
            self.slots[index] = self.slots[-1]
            self.slots.pop()
        one.slots -= len(indices)
        amount = max(0, one.bonded - one.slots * self.court.slot_stake)
        one.bonded -= amount
        one.leaving += amount
        one.leaving_at = self.block + self.court.unbonding_blocks

    def withdraw_slots(self, sender: str) -> None:
        one = self.jurors[self.number_of.get(sender, 0)]
        require(one.leaving != 0, "NothingUnbonding")
        require(self.block >= one.leaving_at, "StillUnbonding", one.leaving_at)
        self.move(self.jury, sender, one.leaving)
        one.leaving = 0

    # Cases

    def check_unit(self, run: bytes, round_: int, number: int) -> None:
        info = self.known(run)
        times = self.rounds.get((run, round_))
        if times is None or not times.anchored_at:
            raise Refused("RoundNotAnchored", round_)
        last = times.anchored_at + info.ladder.window_blocks
        require(self.block <= last, "WindowClosed", last)
        op = self.operators.get(number)
        require(op is not None and op.role == CONTRIBUTOR, "NotAContributor", number)

    def accuse(
        self,
        sender: str,
        run: bytes,
        round_: int,
        number: int,
        segment: int,
        finder: str,
        evidence: bytes,
        refusal: bool,
    ) -> None:
        require(finder != NOBODY, "ZeroValue")
        self.check_unit(run, round_, number)
        require(not refusal or sender == self.runs[run].coordinator, "NotCoordinator")
        kind = CaseKind.REFUSAL if refusal else CaseKind.ACCUSATION
        self.open_case(Case(kind, run, round_, number, segment, evidence, self.block, sender, finder))

    def contest(self, sender: str, run: bytes, round_: int, segment: int, evidence: bytes) -> None:
        number = self.number_of.get(sender, 0)
        self.check_unit(run, round_, number)
        self.open_case(
            Case(CaseKind.CONTEST, run, round_, number, segment, evidence, self.block, sender, NOBODY)
        )

    def dispute_rewards(self, sender: str, run: bytes, ground: int, evidence: bytes) -> None:
        require(ground in (1, 2), "UnknownGround", ground)
        pending = self.pending.get(run)
        if pending is None:
            raise Refused("NoPendingRewards")
        require(self.block < pending.final_at, "WindowClosed", pending.final_at)
        require(ground not in pending.grounds, "GroundUsed", ground)
        pending.grounds |= {ground}
        pending.open += 1
        self.open_case(
            Case(CaseKind.REWARDS, run, pending.proposed_at, 0, ground, evidence, self.block, sender, sender)
        )

    def open_case(self, case: Case) -> None:
        before = self.case_of.get(case.subject)
        if before:
            raise Refused("CaseExists", before)
        number = len(self.cases) + 1
        self.cases[number], self.case_of[case.subject] = case, number
        self.call(case)
        if case.number:
            self.operators[case.number].cases += 1
        self.move(case.appellant, self.jury, self.court.case_bond)

    def call(self, case: Case) -> None:
        require(len(self.slots) >= self.court.seats, "NoJurors")
        case.slot_count = len(self.slots)
        case.seed_round = self.block + SEED_MARGIN
        self.enter(case, CaseStage.CALLED)

    def enter(self, case: Case, stage: CaseStage) -> None:
        case.stage, case.stage_at = stage, self.block

    def at(self, number: int, stage: CaseStage) -> Case:
        case = self.cases.get(number)
        if case is None or case.stage != stage:
            raise Refused("WrongStage", case.stage if case else 0)
        return case

    def draw(self, sender: str, number: int, block_hash: bytes) -> None:
        """Draw from the hash of block `seed_round`, which the caller looks up."""
        case = self.at(number, CaseStage.CALLED)
        require(self.block > case.seed_round, "SeedNotYet", case.seed_round)
        require(self.block - case.seed_round <= KEPT_HASHES, "SeedLost", case.seed_round)
        seed = keccak(encode(("bytes32", "uint64", "bool"), (block_hash, number, case.second)))
        parties = (case.number, self.number_of.get(case.appellant, 0))
        for seat in range(self.court.seats * (SECOND if case.second else 1)):
            juror = self.drawn(seed, seat, case.slot_count, parties)
            require(juror != 0, "NoJurors")
            case.seats.append(Seat(juror))
            self.jurors[juror].serving += 1
        self.enter(case, CaseStage.VOTING)

    def drawn(self, seed: bytes, seat: int, count: int, parties: tuple[int, int]) -> int:
        for attempt in range(TRIES):
            digest = keccak(encode(("bytes32", "uint256", "uint256"), (seed, seat, attempt)))
            juror = self.slots[int.from_bytes(digest, "big") % count]
            if juror not in parties and not self.owes(juror):
                return juror
        return 0

    def seat(self, case: Case, index: int) -> Seat:
        require(index < len(case.seats), "Panic", NO_INDEX)
        return case.seats[index]

    def commit_vote(self, sender: str, number: int, index: int, digest: bytes) -> None:
        case = self.at(number, CaseStage.VOTING)
        require(digest != ZERO, "ZeroValue")
        last = case.stage_at + self.court.vote_blocks
        require(self.block <= last, "WindowClosed", last)
        seat = self.seat(case, index)
        op = self.operators[seat.juror]
        require(sender in (op.peer, op.wallet), "NotYourSeat", index)
        require(seat.vote == ZERO, "AlreadyVoted", index)
        seat.vote = digest
        case.committed += 1
        if case.committed == len(case.seats):
            self.enter(case, CaseStage.REVEALING)

    def revealing(self, number: int) -> Case:
        case = self.cases.get(number)
        last = case.stage_at + self.court.vote_blocks if case else 0
        if case and case.stage == CaseStage.VOTING and self.block > last:
            case.stage, case.stage_at = CaseStage.REVEALING, last
        return self.at(number, CaseStage.REVEALING)

    def reveal_vote(
        self, sender: str, number: int, index: int, outcome: int, result: bytes, salt: bytes
    ) -> None:
        case = self.revealing(number)
        last = case.stage_at + self.court.reveal_blocks
        require(self.block <= last, "WindowClosed", last)
        possible = REWARD_OUTCOMES if case.kind == CaseKind.REWARDS else tuple(CaseOutcome)
        require(outcome in possible, "UnknownOutcome", outcome)
        seat = self.seat(case, index)
        require(seat.outcome == 0, "AlreadyVoted", index)
        digest = sealed_vote(
            LOCAL_CHAIN_ID,
            self.jury,
            number,
            second=case.second,
            seat=index,
            juror=seat.juror,
            outcome=outcome,
            result=result,
            salt=salt,
        )
        require(seat.vote == digest, "WrongReveal", index)
        seat.outcome, seat.vote = outcome, vote_digest(outcome, result)
        case.revealed += 1

    def rule(self, sender: str, number: int) -> None:
        case = self.revealing(number)
        last = case.stage_at + self.court.reveal_blocks
        require(case.revealed == case.committed or self.block > last, "WindowOpen", last + 1)
        votes = Counter((seat.outcome, seat.vote) for seat in case.seats if seat.outcome)
        (outcome, vote), same = votes.most_common(1)[0] if votes else ((0, ZERO), 0)
        if same <= len(case.seats) // 2:
            outcome, vote = 0, ZERO
        if not case.second:
            case.first_outcome = outcome
        if outcome or not case.second:
            case.outcome, case.result = outcome, vote
        self.enter(case, CaseStage.RULED)

    def appeal(self, sender: str, number: int) -> None:
        case = self.at(number, CaseStage.RULED)
        last = case.stage_at + self.court.appeal_blocks
        require(not case.second and self.block <= last, "WindowClosed", last)
        case.second, case.caller = True, sender
        case.committed = case.revealed = 0
        self.call(case)
        self.move(sender, self.jury, SECOND * self.court.case_bond)

    def close(self, sender: str, number: int) -> None:
        case = self.cases.get(number)
        if case is None or case.stage not in (CaseStage.CALLED, CaseStage.RULED):
            raise Refused("WrongStage", case.stage if case else 0)
        if case.stage == CaseStage.CALLED:
            first = case.stage_at + self.court.draw_blocks + 1
            require(self.block >= first, "WindowOpen", first)
            case.second = False
        else:
            first = case.stage_at + self.court.appeal_blocks + 1
            require(case.second or self.block >= first, "WindowOpen", first)
        self.enter(case, CaseStage.CLOSED)
        if case.number:
            self.operators[case.number].cases -= 1
        if not case.outcome:
            del self.case_of[case.subject]
        self.settle(case)

    # What a case costs and pays

    def silence(self, seats: list[Seat]) -> None:
        for seat in seats:
            one = self.jurors[seat.juror]
            one.serving -= 1
            if not seat.outcome:
                amount = min(one.bonded, self.court.silent_penalty)
                one.bonded -= amount
                self.burn(self.jury, amount)

    def settle(self, case: Case) -> None:
        everyone = case.first_jury + case.second_jury
        self.silence(everyone)
        called = case.caller != NOBODY
        bond, second_bond = self.court.case_bond, SECOND * self.court.case_bond
        pending = self.pending.get(case.run)
        disputed = case.kind == CaseKind.REWARDS and pending and pending.proposed_at == case.round
        if not case.outcome:
            if disputed and pending:
                pending.open -= 1
                pending.grounds -= {case.segment}
                pending.final_at = self.block + self.terms.dispute_blocks
            self.credit[case.appellant] += bond
            if called:
                self.credit[case.caller] += second_bond
            return

        right = case.outcome == CaseOutcome.RIGHT
        winners = [seat for seat in everyone if seat.outcome and seat.vote == case.result]
        seized = 0
        if case.kind == CaseKind.REWARDS:
            if disputed and pending and right:
                pending.open -= 1
            elif disputed:
                del self.pending[case.run]
                seized = self.terms.proposal_bond
                self.move(self.ledger, self.jury, seized)
        elif case.outcome > CaseOutcome.VOID and case.subject[:3] not in self.punished:
            self.punished.add(case.subject[:3])
            seized = self.slash(case.number, self.runs[case.run].ladder.fault_bps)

        share, left = self.court.fee, bond
        if seized:
            share = seized * JURY_BPS // BPS // len(winners)
            found = seized * FINDER_BPS // BPS if case.finder != NOBODY else 0
            if found:
                self.credit[case.finder] += found
            self.burn(self.jury, seized - found - share * len(winners))
        else:
            left -= share * len(winners)
        for seat in winners:
            self.credit[self.operators[seat.juror].wallet] += share

        if case.kind == CaseKind.REFUSAL or right == (case.kind == CaseKind.CONTEST):
            self.credit[case.appellant] += left
        else:
            self.forfeit(case, left)
        if called:
            useful = not case.second or case.outcome != case.first_outcome
            if useful:
                self.credit[case.caller] += second_bond
            else:
                self.forfeit(case, second_bond)

    def forfeit(self, case: Case, amount: int) -> None:
        """Give a lost bond to who was accused for nothing, else to the run's pot."""
        if case.kind == CaseKind.ACCUSATION and case.outcome == CaseOutcome.RIGHT:
            self.credit[self.operators[case.number].wallet] += amount
        else:
            self.runs[case.run].funded += amount
            self.move(self.jury, self.ledger, amount)

    def prove_equivocation(
        self,
        sender: str,
        run: bytes,
        round_: int,
        record: bool,
        bodies: tuple[bytes, bytes],
        signers: tuple[str, str],
        finder: str,
    ) -> None:
        """Judge two statements by who signed them, `NOBODY` for a signature that is none."""
        require(finder != NOBODY, "ZeroValue")
        require(bodies[0] != bodies[1], "SameStatement")
        require(NOBODY not in signers, "BadSignature")
        require(signers[0] == signers[1], "TwoSigners")
        signer = signers[0]
        info = self.known(run)
        if record and signer == info.key:
            amount, info.bond = info.bond, 0
            self.move(self.ledger, self.jury, amount)
        else:
            number = self.answers_for(signer)
            require(number != 0, "NotRegistered")
            op = self.operators[number]
            require(record or op.role == CONTRIBUTOR, "NotAContributor", number)
            require((run, round_, record, number) not in self.equivocated, "AlreadyPunished")
            self.equivocated.add((run, round_, record, number))
            op.equivocations += 1
            everything = record or op.equivocations >= ALL_AT
            amount = self.slash(number, BPS if everything else info.ladder.equivocation_bps)
        require(amount != 0, "AlreadyPunished")
        found = amount * FINDER_BPS // BPS
        self.credit[finder] += found
        self.burn(self.jury, amount - found)

    def withdraw_credit(self, sender: str, account: str) -> None:
        amount = self.credit[account]
        require(amount != 0, "NothingToClaim")
        self.credit[account] = 0
        self.move(self.jury, account, amount)

    def jury_owes(self) -> int:
        """Return what the jury's balance must be: slots, slots on their way out, bonds of open cases, credits."""
        slots = sum(one.bonded + one.leaving for one in self.jurors.values())
        bonds = sum(
            self.court.case_bond * (1 if case.caller == NOBODY else 1 + SECOND)
            for case in self.cases.values()
            if case.stage != CaseStage.CLOSED
        )
        return slots + bonds + sum(self.credit.values())
