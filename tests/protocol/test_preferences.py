"""Signed preferences: what a wallet signs, and which the pool lets in."""

from __future__ import annotations

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from pydantic import ValidationError

from protocol.errors import Equivocation, Malformed, Premature
from protocol.messages import Preference, parse_message, sign
from protocol.pool import MAX_SAID, MessagePool
from protocol.preferences import listed, place_of, signed, typed_data
from protocol.speakers import Speaker
from tests.protocol.makers import asking, key, manifest, preference

RUN = manifest(rollouts=asking())


def pool(run: object = RUN) -> MessagePool:
    speakers = {1: Speaker("contributor", (key("peer-1").address,)), 7: Speaker("verifier", ())}
    return MessagePool(run, lambda number, round_: speakers.get(number))  # type: ignore[arg-type]


def test_a_wallet_signs_what_the_message_says() -> None:
    message = preference(RUN, 2, 1, 3)
    shown = encode_typed_data(full_message=typed_data(RUN, 2, message.body))

    assert keccak(b"\x19" + shown.version + shown.header + shown.body).hex() == message.id
    assert parse_message(message.wire) == message


def test_a_record_carries_all_that_checks_a_preference() -> None:
    message = preference(RUN, 2, 1, 3, person=1)
    assert signed(RUN, listed(message)) == message
    assert signed(RUN, listed(message)).author == key("person 1").address


def test_a_person_is_found_in_any_spelling_of_its_address() -> None:
    address = key("person 1").address
    assert place_of(RUN, address.lower()) == place_of(RUN, address) == 1
    assert place_of(RUN, key("stranger").address) is None


def test_the_pool_lets_in_one_word_of_a_person_on_two_samples() -> None:
    held, first = pool(), preference(RUN, 0, 1, 3)
    assert held.accept(first.wire) == first
    assert held.accept(first.wire) is None
    with pytest.raises(Equivocation, match="said before"):
        held.add(preference(RUN, 0, 3, 1))
    other = preference(RUN, 0, 3, 1, person=1)
    assert held.add(other) == other
    assert list(held.preferences(0).values()) == [first, other]
    assert held.equivocations == [], "nobody is punished for it"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (preference(RUN, 0, 0, 1, person=2), "the manifest names 2"),
        (preference(RUN, 0, 0, 1, group=2), "a unit has 2"),
        (preference(RUN, 0, 0, 4), "a group has 4"),
        (preference(RUN, 0, 0, 1, number=7), "not a contributor"),
        (
            sign(
                key("person 1"), RUN, 0, "person", Preference(person=0, number=1, group=0, better=0, worse=1)
            ),
            "signed by",
        ),
    ],
)
def test_the_pool_refuses_what_nobody_of_the_run_can_have_said(message: object, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        pool().add(message)  # type: ignore[arg-type]


def test_the_pool_refuses_preferences_where_nobody_is_asked() -> None:
    plain = manifest()
    with pytest.raises(Malformed, match="asks no people"):
        pool(plain).add(preference(plain, 0, 0, 1))


def test_a_sample_is_not_better_than_itself() -> None:
    with pytest.raises(ValidationError, match="not better than itself"):
        Preference(person=0, number=1, group=0, better=2, worse=2)


def test_what_a_person_may_say_of_a_round_is_bounded() -> None:
    run = manifest(rollouts=asking(groups=256))
    held = pool(run)
    for group in range(MAX_SAID):
        held._check_room(0, preference(run, 0, 0, 1, group=group % 256).body, None)
    with pytest.raises(Premature, match="has said 256"):
        held.add(preference(run, 0, 0, 1))
    assert held.add(preference(run, 1, 0, 1)) is not None


def test_an_old_preference_is_neither_let_in_nor_told_again() -> None:
    held, late = pool(), preference(RUN, 0, 0, 1)
    held.add(late)
    assert late.wire in [*held.missing(0, ())]
    held.round = 3
    assert late.wire not in [*held.missing(0, ())], "with a lag of 3 the record of round 3 cannot carry it"
    held.round = 5
    with pytest.raises(Malformed, match="nobody learns"):
        held.add(preference(RUN, 0, 1, 2))
