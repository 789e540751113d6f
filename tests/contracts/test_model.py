"""Ledger and jury against a model of them in Python: random calls, allowed or not, have the same effect on both.

After every step the operators, runs, pending roots, jurors, cases, credits and balances are compared, and a refused
call must name the error that the model expects. The calls are the same in every run; the hashes of anvil's blocks, and
so who is drawn for a jury, are not: a failure prints every call with what came of it.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account
from eth_utils.crypto import keccak
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from contracts.anvil import set_coin, start_anvil, wait_ready
from contracts.client import Ledger
from contracts.jury import sealed_vote
from contracts.types import CaseKind, CaseStage
from murmur.ports import free_port
from protocol.keys import PeerKey
from protocol.manifest import LOCAL_CHAIN_ID
from protocol.merkle import reward_tree
from protocol.messages import RewardEntry
from tests.contracts.cast import (
    ACTIONS,
    CAROL,
    CONTRIBUTORS,
    COORDINATOR,
    COORDINATOR_KEY,
    JURY,
    LADDERS,
    NAMES,
    NEWCOMER,
    PEOPLE,
    RESULTS,
    RUNS,
    SALT,
    SEATS,
    TERMS,
    TOKEN,
    VERIFIERS,
    action,
    deadlines_of,
    peer_of,
    prepare,
)
from tests.contracts.model import NOBODY, ZERO
from tests.contracts.model_court import Case
from tests.contracts.twin import CALLS, Twin

any_ = st.integers(0, 2**16)
backs, segments = st.integers(-1, 2), st.integers(0, 1)
people = st.sampled_from(PEOPLE)
runs = st.sampled_from((RUNS[0], RUNS[0], RUNS[0], *RUNS))
often = st.sampled_from((True, True, True, False))
rarely = st.sampled_from((False, False, False, False, True))
# What each seat does: its outcome, 0 for silence, 10 more for a vote that is sealed and never revealed.
agreed = st.integers(1, 5).map(lambda outcome: (outcome,) * SEATS)
ballots = agreed | st.lists(
    st.sampled_from((0, 1, 1, 2, 3, 3, 3, 4, 5, 13)), min_size=SEATS, max_size=SEATS
).map(tuple)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twin]:
    """Start a chain with a run that has an anchored round, and jurors who hold five slots."""
    port = free_port()
    log: Path = tmp_path_factory.mktemp("anvil") / "anvil.log"
    process = start_anvil(port, None, None, log_path=log)
    try:
        w3 = wait_ready(process, port, log_path=log)
        deployer = Account.from_key(keccak(text="deployer"))
        set_coin(w3, deployer.address, 100 * TOKEN)
        ledger = Ledger.deploy(w3, deployer, supply=10**9 * TOKEN, terms=TERMS, jury=JURY)
        made = Twin(w3, ledger, TERMS, JURY, deployer.address)
        prepare(made, deployer.address.lower())
        yield made
    finally:
        process.terminate()
        process.wait()


class Machine(RuleBasedStateMachine):
    """Everybody's calls on one ledger, in any order."""

    twin: Twin

    def __init__(self) -> None:
        super().__init__()
        self.twin.restore()
        self.trees: dict[bytes, list[RewardEntry]] = {}
        self.rotated: defaultdict[str, int] = defaultdict(int)

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(NAMES))
        getattr(self, name)(**data.draw(st.fixed_dictionaries(ACTIONS[name])))

    @invariant()
    def contract_and_model_agree(self) -> None:
        self.twin.compare()

    # Time

    @initialize(rounds=st.integers(0, 2))
    def some_rounds_have_passed(self, rounds: int) -> None:
        for _ in range(rounds):
            self.play_round(RUNS[0])

    @action(which=any_, offset=st.sampled_from((-1, 0, 1)))
    def reach_a_deadline(self, which: int, offset: int) -> None:
        found = sorted(block for block in deadlines_of(self.twin.model) if block + 1 >= self.twin.model.block)
        if found:
            self.twin.reach(found[which % len(found)] + offset)

    @action(blocks=st.integers(1, 12))
    def let_time_go_by(self, blocks: int) -> None:
        self.twin.mine(blocks)

    # Stake

    @action(who=people, role=st.sampled_from((1, 1, 2, 2, 3)), more=st.sampled_from((0, 0, 5, -1)), by=rarely)
    def register(self, who: str, role: int, more: int, by: bool) -> None:
        peer = peer_of(who, self.rotated[who])
        self.twin.register(who, role, peer, TERMS.min_stake + more, by=COORDINATOR_KEY if by else None)

    @action(who=people, fresh=often, by=rarely)
    def rotate(self, who: str, fresh: bool, by: bool) -> None:
        self.rotated[who] += fresh
        self.twin.rotate(who, peer_of(who, self.rotated[who]), by=COORDINATOR_KEY if by else None)

    @action(
        who=people,
        amount=st.sampled_from((0, 1, 3 * TOKEN + 1, 3 * TOKEN + 1, 10**6 * TOKEN, 2**128 - 1, 2**128)),
    )
    def deposit(self, who: str, amount: int) -> None:
        self.twin.do("deposit", who, amount)

    @action(who=people, part=st.sampled_from((0, 1, 3, 3, 2)), more=st.sampled_from((0, 0, 1)))
    def unbond(self, who: str, part: int, more: int) -> None:
        op = self.twin.model.operators.get(self.twin.model.number_of.get(who, 0))
        self.twin.do("unbond", who, (op.stake * part // 3 if op else 1) + more)

    @action(who=people)
    def cancel_unbond(self, who: str) -> None:
        self.twin.do("cancel_unbond", who)

    @action(who=people, wait=often)
    def withdraw(self, who: str, wait: bool) -> None:
        op = self.twin.model.operators.get(self.twin.model.number_of.get(who, 0))
        if op and wait:
            self.twin.reach(op.unbonding_at)
        self.twin.do("withdraw", who)

    @action(who=st.sampled_from((*CONTRIBUTORS, *VERIFIERS)), part=st.integers(1, 3))
    def leave(self, who: str, part: int) -> None:
        self.unbond(who, part, 0)
        self.withdraw(who, wait=True)

    @action(who=st.sampled_from((*CONTRIBUTORS, *VERIFIERS)))
    def change_ones_mind(self, who: str) -> None:
        self.unbond(who, 1, 0)
        self.cancel_unbond(who)

    # Runs

    @action(run=st.sampled_from(RUNS[1:]), release=st.booleans())
    def have_a_short_run(self, run: bytes, release: bool) -> None:
        self.create_run(CAROL, run, 0, 100 * TOKEN)
        self.open_run(CAROL, run, own=True)
        self.play_round(run)
        self.finish_run(CAROL, run, own=True, root=RESULTS[0])
        if release:
            self.release_run_bond(CAROL, run, own=True, wait=True)

    @action(
        who=people, run=runs, which=any_, funding=st.sampled_from((0, 100 * TOKEN, 10**6 * TOKEN, 2**128))
    )
    def create_run(self, who: str, run: bytes, which: int, funding: int) -> None:
        ladder = LADDERS[which % len(LADDERS)]
        self.twin.create_run(who, run, COORDINATOR_KEY.address.lower(), ladder, funding)

    @action(who=people, run=runs, amount=st.sampled_from((70 * TOKEN, 0, 1, 70 * TOKEN, 2**128 - 1, 2**128)))
    def fund(self, who: str, run: bytes, amount: int) -> None:
        self.twin.do("fund", who, run, amount)

    def coordinator_of(self, run: bytes, who: str, own: bool) -> str:
        one = self.twin.model.runs.get(run)
        return one.coordinator if one and own else who

    @action(who=people, run=runs, own=often)
    def open_run(self, who: str, run: bytes, own: bool) -> None:
        self.twin.do("open_run", self.coordinator_of(run, who, own), run)

    @action(
        who=people,
        run=st.sampled_from(RUNS[1:]),
        own=often,
        root=st.sampled_from((RESULTS[0], RESULTS[0], ZERO)),
    )
    def finish_run(self, who: str, run: bytes, own: bool, root: bytes) -> None:
        self.twin.do("finish_run", self.coordinator_of(run, who, own), run, root)

    @action(who=people, run=runs, own=often, wait=often)
    def release_run_bond(self, who: str, run: bytes, own: bool, wait: bool) -> None:
        one = self.twin.model.runs.get(run)
        if wait and one and one.status == 3:
            self.twin.reach(one.active_at + TERMS.unbonding_blocks)
        self.twin.do("release_run_bond", self.coordinator_of(run, who, own), run)

    @action(who=people, run=runs, own=often, skip=rarely, count=st.sampled_from((0, 2)), lie=rarely)
    def post(self, who: str, run: bytes, own: bool, skip: bool, count: int, lie: bool) -> None:
        one = self.twin.model.runs.get(run)
        round_ = (one.committed if one else 0) + skip
        root = ZERO if (count == 0) != lie else RESULTS[0]
        self.twin.do("post_commitments", self.coordinator_of(run, who, own), run, round_, root, count)

    @action(who=people, run=runs, hot=rarely, back=rarely)
    def force(self, who: str, run: bytes, hot: bool, back: bool) -> None:
        one = self.twin.model.runs.get(run)
        round_ = max(0, (one.committed if one else 0) - 1 - back)
        sender = peer_of(who, self.rotated[who]).address.lower() if hot else who
        self.twin.equip(sender)
        self.twin.do("force_commitment", sender, run, round_, RESULTS[1])

    @action(who=st.sampled_from(CONTRIBUTORS), hot=st.booleans())
    def post_and_force(self, who: str, hot: bool) -> None:
        self.post(CAROL, RUNS[0], own=True, skip=False, count=2, lie=False)
        self.force(who, RUNS[0], hot=hot, back=False)

    @action(who=people, run=runs, own=often, wait=often, skip=rarely)
    def anchor(self, who: str, run: bytes, own: bool, wait: bool, skip: bool) -> None:
        one = self.twin.model.runs.get(run)
        round_ = (one.anchored if one else 0) + skip
        times = self.twin.model.rounds.get((run, round_))
        if wait and times:
            self.twin.reach(times.posted_at + TERMS.force_blocks + 1)
        self.twin.do("anchor_record", self.coordinator_of(run, who, own), run, round_, RESULTS[0])

    @action(2, run=runs)
    def play_round(self, run: bytes) -> None:
        one = self.twin.model.runs.get(run)
        if not one or one.status != 2:
            return
        if one.committed == one.anchored:
            self.post(CAROL, run, own=True, skip=False, count=2, lie=False)
        self.anchor(CAROL, run, own=True, wait=True, skip=False)

    # Rewards

    @action(
        who=people,
        run=runs,
        own=often,
        amounts=st.lists(st.integers(0, 50), min_size=3, max_size=3),
        flaw=st.sampled_from(("", "", "", "", "low", "high", "epoch", "previous", "hostile", "fewer")),
    )
    def propose(self, who: str, run: bytes, own: bool, amounts: list[int], flaw: str) -> None:
        """Propose what the settlement's tree gives; a hostile one adds up to more than its total."""
        one = self.twin.model.runs.get(run)
        final = self.trees.get(one.final_root, []) if one else []
        before = {entry.account: entry.cumulative_wei for entry in final}
        earned = {
            w: before.get(w, 0) + amount * TOKEN // 7 for w, amount in zip(CONTRIBUTORS, amounts, strict=True)
        }
        if flaw == "hostile":
            earned = {w: 1000 * TOKEN + amount for w, amount in earned.items()}
        if flaw == "fewer":
            earned[CONTRIBUTORS[0]] //= 2
        entries = [RewardEntry(account=w, cumulative_wei=amount) for w, amount in earned.items() if amount]
        if not entries:
            entries = [RewardEntry(account=who, cumulative_wei=1)]
        root = reward_tree(entries).root
        self.trees[root] = entries
        funded, total = (one.funded if one else 0), sum(entry.cumulative_wei for entry in entries)
        total = {"low": 0, "high": funded + 1, "hostile": min(funded, total)}.get(flaw, total)
        epoch, previous = (one.epoch, one.final_root) if one else (0, ZERO)
        if flaw == "epoch":
            epoch += 1
        if flaw == "previous":
            previous = RESULTS[0]
        sender = self.coordinator_of(run, who, own)
        self.twin.do("propose_rewards", sender, run, epoch, previous, root, total)

    @action(2, who=people, run=runs, wait=often)
    def finalize(self, who: str, run: bytes, wait: bool) -> None:
        pending = self.twin.model.pending.get(run)
        if wait and pending:
            self.twin.reach(pending.final_at)
        self.twin.do("finalize_rewards", who, run)

    @action(who=people, run=runs, which=any_, lie=rarely)
    def claim(self, who: str, run: bytes, which: int, lie: bool) -> None:
        one = self.twin.model.runs.get(run)
        entries = self.trees.get(one.final_root, []) if one else []
        if not entries:
            self.twin.do("claim", who, run, who, 1, [])
            return
        index = which % len(entries)
        proof = reward_tree(entries).proof(index)
        amount = entries[index].cumulative_wei + lie
        self.twin.do("claim", who, run, entries[index].account, amount, proof)

    # Slots

    @action(who=st.sampled_from(VERIFIERS) | people, count=st.integers(0, 2))
    def join(self, who: str, count: int) -> None:
        self.twin.do("join", who, count)

    @action(who=st.sampled_from(VERIFIERS) | people, count=st.integers(0, 2), wrong=rarely)
    def resign(self, who: str, count: int, wrong: bool) -> None:
        m = self.twin.model
        own = [index for index, number in enumerate(m.slots) if number == m.number_of.get(who)]
        indices = sorted(own[:count], reverse=not wrong)
        self.twin.do("resign", who, indices or ([0] if wrong else []))

    @action(who=st.sampled_from(VERIFIERS) | people, wait=often)
    def withdraw_slots(self, who: str, wait: bool) -> None:
        m = self.twin.model
        if wait and who in m.number_of:
            self.twin.reach(m.jurors[m.number_of[who]].leaving_at)
        self.twin.do("withdraw_slots", who)

    @action(who=st.sampled_from(VERIFIERS), count=st.integers(1, 2))
    def leave_the_jury(self, who: str, count: int) -> None:
        self.resign(who, count, wrong=False)
        self.withdraw_slots(who, wait=True)

    @action(run=runs, which=any_)
    def settle_and_claim(self, run: bytes, which: int) -> None:
        self.propose(CAROL, run, own=True, amounts=[3, 0, 50], flaw="")
        self.finalize(CAROL, run, wait=True)
        self.claim(CAROL, run, which, lie=False)

    # Cases

    @action(
        who=people, run=runs, back=backs, number=st.integers(0, 4), segment=segments, refusal=st.booleans()
    )
    def accuse(
        self, who: str, run: bytes, back: int, number: int, segment: int, refusal: bool = False
    ) -> None:
        one = self.twin.model.runs.get(run)
        round_ = max(0, (one.anchored if one else 0) - 1 - back)
        finder = CAROL if number else NOBODY
        self.twin.do("accuse", who, run, round_, number, segment, finder, RESULTS[0], refusal)

    @action(3, run=runs)
    def accuse_the_newest_round(self, run: bytes) -> None:
        self.play_round(run)
        self.accuse(CAROL, run, back=0, number=1, segment=0)

    @action(who=st.sampled_from(CONTRIBUTORS) | people, run=runs, segment=st.integers(0, 1))
    def contest(self, who: str, run: bytes, segment: int) -> None:
        one = self.twin.model.runs.get(run)
        round_ = max(0, (one.anchored if one else 0) - 1)
        self.twin.do("contest", who, run, round_, segment, RESULTS[1])

    @action(who=st.sampled_from(CONTRIBUTORS))
    def contest_the_newest_round(self, who: str) -> None:
        self.play_round(RUNS[0])
        self.contest(who, RUNS[0], 0)

    @action(who=people, run=runs, ground=st.sampled_from((0, 1, 1, 2, 2, 3)))
    def dispute_rewards(self, who: str, run: bytes, ground: int) -> None:
        self.twin.do("dispute_rewards", who, run, ground, RESULTS[0])

    @action(run=runs, ground=st.integers(1, 2))
    def propose_and_dispute(self, run: bytes, ground: int) -> None:
        self.propose(CAROL, run, own=True, amounts=[1, 2, 3], flaw="")
        self.dispute_rewards(CAROL, run, ground)

    def pick(self, which: int, *stages: CaseStage) -> int:
        """Return a case at one of these stages, now and then any number."""
        cases = self.twin.model.cases
        found = [number for number, case in cases.items() if case.stage in stages]
        if not found or which % 16 == 0:
            return which % (len(cases) + 2)
        return found[which % len(found)]

    @action(who=people, which=any_, wait=often)
    def draw(self, who: str, which: int, wait: bool) -> None:
        number = self.pick(which, CaseStage.CALLED)
        case = self.twin.model.cases.get(number)
        if wait and case:
            self.twin.reach(case.seed_round + 1)
        self.twin.draw(who, number)

    def sealed(self, number: int, case: Case, index: int, outcome: int, result: bytes) -> bytes:
        juror = case.seats[index].juror if index < len(case.seats) else 1
        return sealed_vote(
            LOCAL_CHAIN_ID,
            self.twin.model.jury,
            number,
            second=case.second,
            seat=index,
            juror=juror,
            outcome=outcome,
            result=result,
            salt=SALT,
        )

    def commit(self, number: int, index: int, outcome: int, *, who: str = "", hot: bool = False) -> None:
        case = self.twin.model.cases[number]
        if index < len(case.seats):
            op = self.twin.model.operators[case.seats[index].juror]
            who = who or (op.peer if hot else op.wallet)
        sender = who or CAROL
        self.twin.do(
            "commit_vote", sender, number, index, self.sealed(number, case, index, outcome, RESULTS[0])
        )

    @action(
        which=any_, index=st.integers(0, SEATS), outcome=st.integers(1, 5), hot=rarely, who=st.none() | people
    )
    def seal_a_vote(self, which: int, index: int, outcome: int, hot: bool, who: str | None) -> None:
        number = self.pick(which, CaseStage.VOTING)
        if number in self.twin.model.cases:
            self.commit(number, index, outcome, who=who or "", hot=hot)

    @action(
        which=any_, index=st.integers(0, SEATS), outcome=st.integers(0, 6), result=st.sampled_from(RESULTS)
    )
    def reveal_a_vote(self, which: int, index: int, outcome: int, result: bytes) -> None:
        number = self.pick(which, CaseStage.VOTING, CaseStage.REVEALING)
        self.twin.do("reveal_vote", CAROL, number, index, outcome, result, SALT)

    @action(2, which=any_, votes=ballots, hot=rarely)
    def all_vote(self, which: int, votes: tuple[int, ...], hot: bool) -> None:
        self.let_all_vote(self.pick(which, CaseStage.VOTING), votes, hot)

    def let_all_vote(self, number: int, votes: tuple[int, ...], hot: bool) -> None:
        case = self.twin.model.cases.get(number)
        if not case or case.stage != CaseStage.VOTING:
            return
        for index in range(len(case.seats)):
            if votes[index]:
                self.commit(number, index, votes[index] % 10, hot=hot)
        case = self.twin.model.cases[number]
        if case.stage == CaseStage.VOTING:
            self.twin.reach(case.stage_at + JURY.vote_blocks + 1)
        for index in range(len(case.seats)):
            if 0 < votes[index] < 10:
                self.twin.do("reveal_vote", CAROL, number, index, votes[index], RESULTS[0], SALT)
        case = self.twin.model.cases[number]
        if case.revealed != case.committed:
            sealing = JURY.vote_blocks if case.stage == CaseStage.VOTING else 0
            self.twin.reach(case.stage_at + sealing + JURY.reveal_blocks + 1)
        self.twin.do("rule", CAROL, number)

    @action(who=people, which=any_)
    def rule_(self, who: str, which: int) -> None:
        self.twin.do("rule", who, self.pick(which, CaseStage.VOTING, CaseStage.REVEALING))

    @action(who=people, which=any_)
    def appeal(self, who: str, which: int) -> None:
        self.twin.do("appeal", who, self.pick(which, CaseStage.RULED))

    @action(who=people, which=any_, wait=often)
    def close(self, who: str, which: int, wait: bool) -> None:
        number = self.pick(which, CaseStage.CALLED, CaseStage.RULED)
        case = self.twin.model.cases.get(number)
        if wait and case:
            blocks = JURY.draw_blocks if case.stage == CaseStage.CALLED else JURY.appeal_blocks
            self.twin.reach(case.stage_at + blocks + 1)
        self.twin.do("close", who, number)

    @action(
        which=any_,
        first=ballots,
        second=ballots,
        appeal=st.booleans(),
        who=st.sampled_from((CAROL, *CONTRIBUTORS)),
    )
    def judge(
        self, which: int, first: tuple[int, ...], second: tuple[int, ...], appeal: bool, who: str
    ) -> None:
        """Take a case from its call to its end."""
        number = self.pick(which | 1, CaseStage.CALLED)
        case = self.twin.model.cases.get(number)
        if not case or case.stage != CaseStage.CALLED:
            return
        self.twin.reach(case.seed_round + 1)
        if not self.twin.draw(CAROL, number):
            return
        self.let_all_vote(number, self.possible(case, first), hot=False)
        self.twin.compare()
        case = self.twin.model.cases[number]
        if appeal and not case.second and self.twin.do("appeal", who, number):
            self.twin.reach(self.twin.model.cases[number].seed_round + 1)
            if not self.twin.draw(who, number):
                return
            self.let_all_vote(number, self.possible(case, second), hot=True)
            self.twin.compare()
        self.twin.reach(self.twin.model.cases[number].stage_at + JURY.appeal_blocks + 1)
        self.twin.do("close", CAROL, number)

    @action(2, first=ballots, second=ballots, who=st.sampled_from(CONTRIBUTORS))
    def take_a_unit_to_both_juries(self, first: tuple[int, ...], second: tuple[int, ...], who: str) -> None:
        self.accuse_the_newest_round(RUNS[0])
        self.judge(1, first, second, appeal=True, who=who)

    @staticmethod
    def possible(case: Case, votes: tuple[int, ...]) -> tuple[int, ...]:
        """Return votes that a case of this kind can have."""
        if case.kind != CaseKind.REWARDS:
            return votes
        return tuple(2 if vote % 10 in (3, 4) else vote for vote in votes)

    # Equivocation and credits

    @action(
        who=people,
        run=runs,
        round_=st.integers(0, 3),
        record=st.booleans(),
        coordinator=rarely,
        old=rarely,
        flaw=st.sampled_from(("", "", "", "", "same", "two", "none", "nobody")),
    )
    def equivocate(
        self, who: str, run: bytes, round_: int, record: bool, coordinator: bool, old: bool, flaw: str
    ) -> None:
        version = self.rotated[who] - old
        key = COORDINATOR_KEY if coordinator else peer_of(who, max(0, version))
        other: PeerKey | None = {"two": peer_of(COORDINATOR), "none": None}.get(flaw, key)
        bodies = (RESULTS[0], RESULTS[flaw != "same"])
        finder = NOBODY if flaw == "nobody" else CAROL
        self.twin.equivocate(who, run, round_, record=record, bodies=bodies, keys=(key, other), finder=finder)

    @action(
        2, who=st.sampled_from((COORDINATOR, *CONTRIBUTORS)), round_=st.integers(0, 4), record=st.booleans()
    )
    def equivocate_in_the_first_run(self, who: str, round_: int, record: bool) -> None:
        by_coordinator = who == COORDINATOR
        self.equivocate(who, RUNS[0], round_, record, coordinator=by_coordinator, old=False, flaw="")

    @action(2, who=people, account=people, some=often)
    def withdraw_credit(self, who: str, account: str, some: bool) -> None:
        owed = sorted(held for held, amount in self.twin.model.credit.items() if amount)
        self.twin.do("withdraw_credit", who, owed[0] if owed and some else account)


def play(twin: Twin, examples: int, steps: int) -> None:
    made = type("Played", (Machine,), {"twin": twin})
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),  # a smaller example would be judged by another jury
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(made, settings=chosen)


def test_every_call_does_what_the_model_says(twin: Twin) -> None:
    twin.counts.clear()
    run, alice = RUNS[0], CONTRIBUTORS[0]
    played: Machine = type("Played", (Machine,), {"twin": twin})()
    played.post_and_force(alice, hot=True)
    played.contest_the_newest_round(alice)
    played.judge(1, (1,) * SEATS, (3,) * SEATS, appeal=True, who=CAROL)
    twin.compare()
    played.take_a_unit_to_both_juries((3,) * SEATS, (3, 3, 3, 3, 3, 0, 13, 1, 2), alice)
    played.settle_and_claim(run, 0)
    played.propose_and_dispute(run, 1)
    played.judge(1, (2,) * SEATS, (2,) * SEATS, appeal=False, who=CAROL)
    twin.compare()
    played.rotate(alice, fresh=True, by=False)
    played.deposit(alice, 1)
    played.fund(CAROL, run, 1)
    played.equivocate_in_the_first_run(COORDINATOR, 0, record=True)
    played.withdraw_credit(CAROL, CAROL, some=True)
    played.change_ones_mind(CONTRIBUTORS[1])
    played.leave(CONTRIBUTORS[1], 3)
    played.leave_the_jury(VERIFIERS[0], 1)
    played.join(VERIFIERS[0], 1)
    played.register(NEWCOMER, 1, 0, by=False)
    played.have_a_short_run(RUNS[1], release=True)
    twin.compare()
    passed = {call for call, answer in twin.counts if answer == "passed"}
    assert set(CALLS) - {"approve", "move"} <= passed, twin.counts


def test_contracts_do_what_the_model_says(twin: Twin) -> None:
    play(twin, examples=6, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_contracts_do_what_the_model_says_for_long(twin: Twin) -> None:
    play(twin, examples=400 if os.environ.get("FOUNDRY_PROFILE") == "nightly" else 10, steps=50)
