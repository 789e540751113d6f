"""What counts of those who speak for a run whose coordinator is gone."""

from dataclasses import dataclass, field

import pytest

from protocol.chain import OPENING_ROUND, LinkedKey, Operator, PostedRoot
from protocol.errors import Equivocation, Malformed, Premature
from protocol.manifest import PayConfig, RunManifest
from protocol.merkle import commitments_root, reward_tree
from protocol.messages import (
    Body,
    CommitmentEntry,
    CommitmentList,
    Finish,
    RewardEntry,
    RewardTable,
    RoundRecord,
    Signed,
    sign,
)
from protocol.pool import MessagePool
from protocol.speakers import Speaker
from protocol.succession import MAX_STAND_INS, Succession, acts_from, stands_in, stood_still
from tests.protocol.makers import commitment, digest_of, key, manifest

OPENED, TIMEOUT = 10, 20
STAKE = 100
JUDGES = tuple(f"judge-{index}" for index in range(MAX_STAND_INS + 2))


@dataclass
class Chain:
    """One run on one chain, as far as succession looks at it."""

    height: int = OPENED
    timeout_blocks: int = TIMEOUT
    min_stake_wei: int = STAKE
    roots: dict[int, PostedRoot] = field(default_factory=dict)
    records: dict[int, tuple[str, int]] = field(default_factory=dict)
    rewards: set[str] = field(default_factory=set)
    final: str | None = None
    renewed: str = ""  # who had another key before, "replaced"
    poor: str = ""  # who has less than the minimum stake
    acting: int = 0  # number of who stands in

    def stand_in(self) -> int:
        return self.acting

    def activity(self) -> tuple[int, ...]:
        steps = [one.block for one in self.roots.values()] + [block for _, block in self.records.values()]
        return tuple(sorted((OPENED, *steps)))

    def anchor(self, round_: int) -> int | None:
        if round_ == OPENING_ROUND:
            return OPENED
        return self.records[round_][1] if round_ in self.records else None

    def record_hash(self, round_: int) -> str | None:
        return self.records[round_][0] if round_ in self.records else None

    def commitments(self, round_: int) -> PostedRoot | None:
        return self.roots.get(round_)

    def reward_roots(self) -> frozenset[str]:
        return frozenset(self.rewards)

    def finished(self) -> str | None:
        return self.final

    def operators(self) -> tuple[Operator, ...]:
        return tuple(
            Operator(
                7 + index,
                "0x",
                key(name).address,
                key(name).peer_id,
                "verifier",
                STAKE - (name == self.poor),
            )
            for index, name in enumerate(JUDGES)
        )

    def operator(self, number: int) -> Operator | None:
        return next((one for one in self.operators() if one.number == number), None)

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        name = JUDGES[number - 7]
        old = (LinkedKey(key("replaced").address, "", 1),) if name == self.renewed else ()
        return (*old, LinkedKey(key(name).address, key(name).peer_id, 2))

    def post(self, listed: CommitmentList, round_: int = 0) -> None:
        self.height += 1
        self.roots[round_] = PostedRoot(commitments_root(listed), len(listed.entries), self.height)

    def fix(self, record: RoundRecord, round_: int = 0) -> None:
        self.height += 1
        self.records[round_] = (record.digest().hex(), self.height)


def pool(chain: Chain, run: RunManifest | None = None) -> MessagePool:
    run = run or manifest()
    succession = Succession(run, chain)  # type: ignore[arg-type]  # only what succession looks at
    speaker = Speaker("contributor", (key("peer-1").address,))
    return MessagePool(run, lambda number, round_: speaker, succession=succession)


def listed(*names: str) -> CommitmentList:
    entries = tuple(
        CommitmentEntry(number=one, commitment=digest_of(name)) for one, name in enumerate(names, 1)
    )
    return CommitmentList(entries=entries)


def record(name: str) -> RoundRecord:
    return RoundRecord(parameters=digest_of(name), units=(), judged=(), receipts=())


def said(author: str, body: Body, round_: int = 0) -> Signed[Body]:
    return sign(key(author), manifest(), round_, "coordinator", body)


def test_a_run_stands_still_after_the_timeout_and_no_sooner() -> None:
    chain = Chain(height=OPENED + TIMEOUT)
    assert acts_from(chain) == OPENED + TIMEOUT + 1  # type: ignore[arg-type]
    assert not stood_still(chain, OPENED)  # type: ignore[arg-type]
    chain.height += 1
    assert stood_still(chain, OPENED)  # type: ignore[arg-type]
    chain.post(listed("a"))
    assert stood_still(chain, OPENED), "it did, before that"  # type: ignore[arg-type]
    assert not stood_still(chain, chain.height)  # type: ignore[arg-type]


def test_whoever_stands_in_waits_no_second_time() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    held = pool(chain)
    chain.acting = 7  # who posts in the ledger's eyes
    chain.post(listed("a"))
    judge = key("judge-0").address
    assert stands_in(chain, judge)  # type: ignore[arg-type]
    assert acts_from(chain, judge) == chain.height  # type: ignore[arg-type]
    assert acts_from(chain, key("judge-1").address) == chain.height + TIMEOUT + 1  # type: ignore[arg-type]
    assert held.add(said("judge-0", record("b"))) is not None
    with pytest.raises(Premature, match="has time"):
        held.add(said("judge-1", record("c")))
    chain.acting = 0  # the coordinator is back
    with pytest.raises(Premature, match="has time"):
        pool(chain).add(said("judge-0", record("b")))


def test_while_the_coordinator_has_time_nobody_else_speaks_for_it() -> None:
    chain = Chain(height=OPENED + TIMEOUT)
    held = pool(chain)
    with pytest.raises(Premature, match="has time"):
        held.add(said("judge-0", listed("a")))
    with pytest.raises(Malformed, match="nor by an operator"):
        held.add(said("stranger", listed("a")))
    with pytest.raises(Premature, match="before it is due"):
        held.add(said("judge-0", record("a")))
    with pytest.raises(Premature, match="before it is due"):
        held.add(said("judge-0", listed("a"), 1))
    assert len(held) == 0


def test_who_has_not_the_minimum_stake_does_not_stand_in() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1, poor="judge-0")
    with pytest.raises(Premature, match="minimum stake"):
        pool(chain).add(said("judge-0", listed("a")))
    chain.post(listed("a"))
    assert pool(chain).add(said("judge-0", listed("a"))), (
        "what the chain confirms counts, whoever is left to say it"
    )


def test_the_chain_says_whose_list_counts_and_neither_evicts_the_other() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    held = pool(chain)
    theirs, ours = said("judge-0", listed("a")), said("coordinator", listed("b"))
    held.add(theirs)
    assert held.commitment_list(0) == theirs
    held.add(ours)
    assert held.commitment_list(0) == ours, "before the chain speaks the coordinator's goes first"
    assert held.equivocations == []
    chain.post(listed("a"))
    assert held.commitment_list(0) == theirs
    assert sorted(one.author for one in held.of_round(0)) == sorted((ours.author, theirs.author))
    with pytest.raises(Premature, match="holds another"):
        held.add(said("judge-1", listed("c")))


def test_the_coordinators_list_counts_again_when_the_chain_took_that_one() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    held = pool(chain)
    held.add(said("judge-0", listed("a")))
    chain.post(listed("b"))
    ours = said("coordinator", listed("b"))
    held.add(ours)
    assert held.commitment_list(0) == ours


def test_the_anchored_record_counts_after_an_own_timeout() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    chain.post(listed("a"))
    held = pool(chain)
    with pytest.raises(Premature, match="has time"):
        held.add(said("judge-0", record("a")))
    chain.height += TIMEOUT + 1
    theirs = said("judge-0", record("a"))
    held.add(theirs)
    held.add(said("coordinator", record("b")))
    chain.fix(record("a"))
    assert held.record(0) == theirs
    later = pool(chain)
    assert later.add(theirs), "a late joiner gets it from the chain's word alone"


def test_one_place_holds_few_stand_ins_and_always_the_confirmed_one() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    held = pool(chain)
    for name in JUDGES[:MAX_STAND_INS]:
        held.add(said(name, listed(name)))
    with pytest.raises(Premature, match="have said"):
        held.add(said(JUDGES[-1], listed("right")))
    chain.post(listed("right"))
    confirmed = said(JUDGES[-1], listed("right"))
    held.add(confirmed)
    assert held.commitment_list(0) == confirmed
    with pytest.raises(Premature, match="have said"):
        held.add(said(JUDGES[-2], listed("right")))
    assert len(held) == MAX_STAND_INS + 1


def test_a_stand_in_that_signs_twice_is_evidence_and_the_anchored_record_counts() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    chain.post(listed("a"))
    chain.height += TIMEOUT + 1
    held = pool(chain)
    first, second = said("judge-0", record("a")), said("judge-0", record("b"))
    held.add(first)
    with pytest.raises(Equivocation):
        held.add(second)
    chain.fix(record("b"))
    held.add(second)
    assert held.record(0) == second
    assert (first, second) in held.equivocations
    assert len(held) == 1


def test_an_unconfirmed_list_of_a_stand_in_moves_no_commitment() -> None:
    chain = Chain(height=OPENED + TIMEOUT + 1)
    held = pool(chain)
    shown, other = (
        sign(key("peer-1"), manifest(), 0, "contributor", commitment(1, update=digest_of(name)))
        for name in ("shown", "other")
    )
    held.add(shown)
    with pytest.raises(Equivocation):
        held.add(other)
    entries = (CommitmentEntry(number=1, commitment=other.id),)
    held.add(said("judge-0", CommitmentList(entries=entries)))
    with pytest.raises(Equivocation):
        held.add(other)
    chain.post(CommitmentList(entries=entries))
    assert held.add(other) == other


def test_tables_and_the_closing_word_of_a_stand_in() -> None:
    chain, run = Chain(), manifest()
    for round_ in range(run.rounds):
        chain.post(listed("a"), round_)
        chain.fix(record("a"), round_)
    last = run.rounds - 1
    held = pool(chain)
    account = RewardEntry(account=run.ledger, cumulative_wei=1)
    table = RewardTable(epoch=run.epoch_of(last), entries=(account,))
    with pytest.raises(Premature, match="has time"):
        held.add(said("judge-0", table, last))
    with pytest.raises(Premature, match="has time"):
        held.add(said("judge-0", Finish(parameters=digest_of("end"), judged=()), last))
    chain.rewards.add(reward_tree(table.entries).root.hex())
    theirs = said("judge-0", table, last)
    held.add(theirs)
    other = RewardTable(epoch=table.epoch, entries=(account.model_copy(update={"cumulative_wei": 2}),))
    held.add(said("coordinator", other, last))
    assert held.rewards() == {table.epoch: theirs}
    chain.height += TIMEOUT + 1
    closing = said("judge-0", Finish(parameters=digest_of("end"), judged=()), last)
    held.add(closing)
    assert held.finish() == closing
    chain.final = digest_of("another end")
    with pytest.raises(Premature, match="holds another"):
        held.add(said("judge-1", Finish(parameters=digest_of("end"), judged=()), last))
    with pytest.raises(Malformed):
        held.add(said("judge-1", Finish(parameters=digest_of("end"), judged=()), 0))


def test_a_table_that_the_chain_holds_is_none_of_an_epoch_that_is_not_over() -> None:
    chain, run = Chain(), manifest(pay=PayConfig(epoch_rounds=2))
    for round_ in range(3):
        chain.post(listed("a"), round_)
        chain.fix(record("a"), round_)
    entries = (RewardEntry(account=run.ledger, cumulative_wei=1),)
    chain.rewards.add(reward_tree(entries).root.hex())
    held = pool(chain, run)

    def table(epoch: int) -> Signed[Body]:
        last = run.rounds_of(epoch)[-1]
        return sign(key("judge-0"), run, last, "coordinator", RewardTable(epoch=epoch, entries=entries))

    assert held.add(table(0)) is not None
    with pytest.raises(Premature, match="before it is due"):
        held.add(table(1))
    assert held.newest_rewards() == held.rewards()[0] == table(0)


def test_a_key_that_was_replaced_stands_in_no_more_but_what_the_chain_took_from_it_counts() -> None:
    chain = Chain(height=OPENED + 2 * TIMEOUT, renewed=JUDGES[0])
    word = listed("a")
    with pytest.raises(Premature, match="has no more"):
        pool(chain).add(said("replaced", word))
    assert pool(chain).add(said(JUDGES[0], word)) is not None
    chain.post(word)
    assert pool(chain).add(said("replaced", word)) is not None
