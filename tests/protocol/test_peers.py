"""Whom to call, decided without clock or socket."""

from __future__ import annotations

import pytest

from protocol.errors import ConfigError
from protocol.host import peer_id_of
from protocol.peers import ADDRESSES_PER_PEER, FORGET_AFTER_FAILURES, MAX_PEERS, PeerBook
from protocol.rate import TokenBucket
from protocol.stats import NetworkStats


def name(number: int) -> str:
    return peer_id_of(number.to_bytes(32, "big"))


def address(number: int, port: int = 4001) -> str:
    return f"/ip4/192.0.2.1/tcp/{port}/p2p/{name(number)}"


@pytest.fixture
def book() -> PeerBook:
    return PeerBook(name(999), first_pause_s=1.0, max_pause_s=60.0, kept_max_pause_s=4.0)


def test_bootstrap_peers_are_always_due_and_others_up_to_the_target(book: PeerBook) -> None:
    book.add(address(1), keep=True)
    for number in range(2, 7):
        book.add(address(number))
    assert book.due(0.0, frozenset(), 3) == [name(1), name(2), name(3)]
    assert book.due(0.0, frozenset(map(name, range(10, 20))), 3) == [name(1)]
    assert book.due(0.0, {name(1), name(2)}, 3) == [name(3)]


@pytest.mark.parametrize(
    ("keep", "pauses"), [(False, (1, 2, 4, 8, 16, 32, 60)), (True, (1, 2, 4, *([4] * 100)))]
)
def test_a_failed_dial_waits_twice_as_long_each_time_but_seconds_for_the_way_into_the_run(
    book: PeerBook, keep: bool, pauses: tuple[int, ...]
) -> None:
    book.add(address(1), keep=keep)
    now = 0.0
    for pause in pauses:
        book.failed(name(1), now)
        assert book.due(now + pause - 0.01, frozenset(), 1) == []
        now += pause
        assert book.due(now, frozenset(), 1) == [name(1)]
    book.succeeded(name(1))
    book.lost(name(1), now)
    assert book.due(now + 1.0, frozenset(), 1) == [name(1)]


def test_a_stranger_that_never_answers_is_forgotten(book: PeerBook) -> None:
    book.add(address(1))
    for _ in range(FORGET_AFTER_FAILURES):
        book.failed(name(1), 0.0)
    assert book.addresses(name(1)) == []


def test_a_flood_of_addresses_displaces_nobody_that_answered(book: PeerBook) -> None:
    book.add(address(1), keep=True)
    book.add(address(2), teller=name(2))
    for number in range(1000, 1000 + MAX_PEERS):
        book.add(address(number), teller=name(5))
    assert book.addresses(name(1))
    assert book.proven() == [address(2)]
    assert book.addresses(name(1000 + MAX_PEERS - 1))


def test_hearsay_does_not_overwrite_what_is_known(book: PeerBook) -> None:
    book.add(address(1, 4001), teller=name(1))
    book.add(address(1, 6666), teller=name(2))
    assert book.addresses(name(1)) == [address(1, 4001)]
    for port in range(1, 10):
        book.add(address(1, port), teller=name(1))
    assert book.addresses(name(1)) == [address(1, port) for port in (9, 8, 7, 6)]
    assert len(book.addresses(name(1))) == ADDRESSES_PER_PEER


def test_our_own_address_is_not_called(book: PeerBook) -> None:
    book.add(address(999))
    assert book.due(0.0, frozenset(), 9) == []


def test_what_is_no_full_address_is_refused(book: PeerBook) -> None:
    with pytest.raises(ConfigError):
        book.add("/ip4/192.0.2.1/tcp/1")


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(burst=3, per_s=2.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.5), bucket.take(10.5)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_strangers_without_number_cannot_grow_the_table_of_who_was_refused() -> None:
    stats = NetworkStats(lambda: 0.0)
    for number in range(1000):
        stats.refuse("malformed message", f"peer {number}", "no")
    stats.refuse("oversized gossip", "peer 0", "no")
    told = stats.snapshot()
    assert told["refused"] == {"malformed message": 1000, "oversized gossip": 1}
    assert len(told["refused_of"]) == 64
    assert told["refused_of"]["peer 0"] == {"malformed message": 1, "oversized gossip": 1}


def test_refusals_are_all_counted_but_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    stats = NetworkStats(lambda: now[0])
    for _ in range(5):
        stats.refuse("malformed message", "peer", "no\nsense")
    stats.refuse("malformed message", "other", "no")
    now[0] = 11.0
    stats.refuse("malformed message", "peer", "no")
    assert stats.snapshot()["refused"] == {"malformed message": 7}
    assert stats.snapshot()["refused_of"] == {
        "peer": {"malformed message": 6},
        "other": {"malformed message": 1},
    }
    assert [record.getMessage() for record in caplog.records] == [
        r"ignored malformed message from peer: no\nsense",
        "ignored malformed message from other: no",
        "ignored malformed message from peer: no (4 more since)",
    ]
