"""Which key speaks for a number about a round, before and after it was given another."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest

from protocol.chain import LinkedKey
from protocol.errors import Equivocation, Malformed, Premature
from protocol.messages import Body, Ready, Reveal, Role, Signed, sign
from protocol.pool import MessagePool
from protocol.speakers import first_round, keys_since, later_keys, speaker_of
from tests.protocol.makers import commitment, digest_of, key, manifest, opening, verdict

ANCHORS = {-1: 10, 0: 20, 1: 30, 2: 40}


@dataclass(frozen=True)
class Registered:
    role: str


@dataclass
class Chain:
    """Number 1 contributes and number 7 verifies; a test links keys and anchors rounds."""

    anchors: dict[int, int] = field(default_factory=lambda: dict(ANCHORS))
    linked: dict[int, list[tuple[str, int]]] = field(
        default_factory=lambda: {1: [("old", 1)], 7: [("judge", 1)]}
    )

    def operator(self, number: int) -> Registered | None:
        roles = {1: "contributor", 7: "verifier"}
        return Registered(roles[number]) if number in roles else None

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        return tuple(LinkedKey(key(name).address, key(name).peer_id, at) for name, at in self.linked[number])

    def anchor(self, round_: int) -> int | None:
        return self.anchors.get(round_)


def pool(chain: Chain) -> MessagePool:
    held = MessagePool(manifest(), partial(speaker_of, chain))  # type: ignore[arg-type]
    held.round = max(chain.anchors) + 1
    return held


def said(name: str, round_: int, body: Body, role: Role = "contributor") -> Signed[Body]:
    return sign(key(name), manifest(), round_, role, body)


def reveal() -> Reveal:
    return Reveal(
        number=1,
        commitment=digest_of("c"),
        salt=digest_of("salt"),
        symbols=digest_of("symbols"),
        blob=digest_of("blob"),
        blob_bytes=1,
        train_cpu_s=1.0,
    )


@pytest.mark.parametrize(
    ("block", "found"),
    [(0, ("a", "b", "c")), (4, ("a", "b", "c")), (5, ("b", "c")), (8, ("b", "c")), (9, ("c",))],
)
def test_a_key_counts_from_its_own_block_on_and_the_one_before_no_more(
    block: int, found: tuple[str, ...]
) -> None:
    keys = [LinkedKey("a", "", 3), LinkedKey("b", "", 5), LinkedKey("c", "", 9)]
    assert keys_since(keys, block) == found


def test_of_two_keys_linked_in_one_block_the_last_is_the_one_at_that_block() -> None:
    keys = [LinkedKey("a", "", 3), LinkedKey("b", "", 5), LinkedKey("c", "", 5)]
    assert keys_since(keys, 5) == ("c",)
    assert keys_since(keys, 4) == ("a", "b", "c")


def test_what_the_old_key_said_stays_valid_and_the_new_one_goes_on_with_it() -> None:
    chain = Chain()
    chain.linked[1].append(("new", 25))  # in round 1, whose roster is that of block 20
    held = pool(chain)
    committed = said("old", 1, commitment(1))
    assert held.add(committed) == committed
    assert held.add(said("new", 1, reveal())) is not None
    assert held.add(said("new", 0, opening(1))) is not None
    assert held.add(said("old", 1, opening(1))) is not None


def test_a_late_joiner_reads_what_was_signed_with_keys_that_are_replaced_since() -> None:
    chain = Chain()
    chain.linked[1] += [("second", 25), ("third", 35)]
    late = pool(chain)
    for name, round_ in (("old", 0), ("old", 1), ("second", 2), ("third", 3)):
        assert late.add(said(name, round_, commitment(1))) is not None
    assert late.add(said("second", 0, opening(1))) is not None
    assert late.add(said("third", 1, reveal())) is not None


@pytest.mark.parametrize("linked", [25, 30])
def test_a_replaced_key_says_nothing_about_rounds_whose_roster_has_the_new_one(linked: int) -> None:
    chain = Chain()
    chain.linked[1].append(("new", linked))  # 30 is the roster block of round 2 itself
    held = pool(chain)
    for body in (commitment(1), reveal(), opening(1)):
        with pytest.raises(Malformed, match="does not speak for it"):
            held.add(said("old", 2, body))
        assert held.add(said("new", 2, body)) is not None


def test_a_number_commits_to_a_round_with_one_key_alone() -> None:
    chain = Chain()
    chain.linked[1].append(("new", 25))
    held = pool(chain)
    for round_ in (0, 1):
        with pytest.raises(Malformed, match="commitment"):
            held.add(said("new", round_, commitment(1)))
    first, second = said("old", 1, commitment(1)), said("old", 1, commitment(1, update=digest_of("other")))
    held.add(first)
    with pytest.raises(Equivocation):
        held.add(second)
    assert {one.author for pair in held.equivocations for one in pair} == {key("old").address}


def test_a_strangers_key_says_nothing_about_any_round() -> None:
    chain = Chain()
    chain.linked[1].append(("new", 25))
    for round_ in range(4):
        with pytest.raises(Malformed):
            pool(chain).add(said("stranger", round_, opening(1)))


def test_a_verifiers_roster_is_that_of_the_rounds_own_record() -> None:
    chain = Chain()
    chain.linked[7].append(("new judge", 25))
    held = pool(chain)
    assert held.add(said("judge", 0, verdict(), "verifier")) is not None
    with pytest.raises(Malformed):
        held.add(said("judge", 1, verdict(), "verifier"))
    assert held.add(said("new judge", 1, verdict(), "verifier")) is not None
    with pytest.raises(Equivocation):
        held.add(said("new judge", 0, verdict().model_copy(update={"outcome": 2}), "verifier"))


def test_nobody_is_judged_by_a_roster_that_is_not_known_yet() -> None:
    chain = Chain(anchors={-1: 10})
    held = pool(chain)
    assert held.add(said("old", 0, commitment(1))) is not None
    with pytest.raises(Premature, match="roster of round 1"):
        held.add(said("old", 1, commitment(1)))
    with pytest.raises(Premature, match="roster of round 0"):
        held.add(said("judge", 0, verdict(), "verifier"))
    chain.linked[1].append(("new", 15))
    chain.anchors[0] = 20
    with pytest.raises(Malformed):
        held.add(said("old", 1, commitment(1)))
    assert held.add(said("new", 1, commitment(1))) is not None


def test_a_later_keys_word_on_where_it_listens_stands() -> None:
    chain = Chain()
    chain.linked[1].append(("new", 25))
    held = pool(chain)

    def ready(name: str, port: int) -> Signed[Body]:
        addresses = (f"/ip4/127.0.0.1/tcp/{port}",)
        return said(name, 0, Ready(number=1, program=digest_of("p"), addresses=addresses))

    held.add(ready("old", 1))
    for port in (2, 3):
        held.add(ready("new", port))
    assert held.add(ready("old", 4)) is None
    assert held.ready()[1].body.addresses == ("/ip4/127.0.0.1/tcp/3",)


def test_a_new_key_commits_from_the_first_round_on_whose_roster_it_is() -> None:
    chain = Chain()
    for name, block in (("b", 25), ("c", 30), ("d", 50)):
        chain.linked[1].append((name, block))
    assert first_round(chain, 1, key("old").address) == 0  # type: ignore[arg-type]
    assert first_round(chain, 1, key("b").address) == 2  # type: ignore[arg-type]
    assert first_round(chain, 1, key("c").address) == 2  # type: ignore[arg-type]
    assert first_round(chain, 1, key("d").address) == 4  # type: ignore[arg-type]
    assert first_round(Chain(anchors={}, linked={1: [("old", 1), ("b", 5)]}), 1, key("b").address) == 0  # type: ignore[arg-type]
    assert later_keys(chain, 1, 1) == tuple(key(name).address for name in "bcd")  # type: ignore[arg-type]
    assert later_keys(chain, 3, 1) == ()  # type: ignore[arg-type]
