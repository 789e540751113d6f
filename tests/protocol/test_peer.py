"""Peers of one run on real connections: what one says the others hold, and what the chain says they follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from protocol import peer as peers
from protocol.chain import OPENING_ROUND, Case, ChainView, LinkedKey, Operator, Penalties, PostedRoot
from protocol.errors import LedgerError, MurmurError, NetworkError, UsageError
from protocol.manifest import RunManifest
from protocol.messages import (
    Body,
    CommitmentEntry,
    CommitmentList,
    Ready,
    Reveal,
    RoundRecord,
    Signed,
    UnitRecord,
    sign,
)
from protocol.peer import SYNC_ROUNDS, Peer, PeerConfig, open_peer
from tests.protocol.makers import commitment, digest_of, key, manifest, opening

COORDINATOR = "coordinator"
PEERS = {1: "peer-1", 2: "peer-2"}


@dataclass
class SimulatedChain:
    """One chain as one peer sees it; `refresh` fails while there is an `error`."""

    height: int = 10
    min_stake_wei: int = 1
    force_blocks: int = 0
    timeout_blocks: int = 50
    error: str = ""
    anchors: dict[int, int] = field(default_factory=lambda: {OPENING_ROUND: 1})
    registered: dict[int, str] = field(default_factory=lambda: dict(PEERS))
    opened: list[Case] = field(default_factory=list)

    def refresh(self) -> None:
        if self.error:
            raise LedgerError(self.error)

    def mine(self, *anchored: int) -> None:
        self.anchors |= dict.fromkeys(anchored, self.height + 1)
        self.height += 2

    def stand_in(self) -> int:
        return 0

    def activity(self) -> tuple[int, ...]:
        return tuple(sorted(self.anchors.values()))

    def reward_roots(self) -> frozenset[str]:
        return frozenset()

    def created(self) -> int | None:
        return 1

    def anchor(self, round_: int) -> int | None:
        return self.anchors.get(round_)

    def record_hash(self, round_: int) -> str | None:
        return None

    def commitments(self, round_: int) -> PostedRoot | None:
        return None

    def forced(self, round_: int) -> dict[int, str]:
        return {}

    def roster(self, round_: int) -> tuple[Operator, ...]:
        return self.operators()

    def verifiers(self, round_: int) -> tuple[Operator, ...]:
        return ()

    def follow_beacon(self, beacon: object, source: object, *, ahead: int = 0) -> None:
        """Beacons are hashes of blocks here, whatever a manifest demands."""

    def assignment_beacon(self, round_: int) -> str | None:
        return None

    def sampling_beacon(self, round_: int) -> str | None:
        return None

    def penalties(self) -> Penalties | None:
        return Penalties(10_000, 1000, 1200)

    def cases(self, round_: int) -> tuple[Case, ...]:
        return tuple(case for case in self.opened if case.round == round_)

    def operators(self) -> tuple[Operator, ...]:
        return tuple(
            Operator(number, "0x", key(name).address, key(name).peer_id, "contributor", 1)
            for number, name in sorted(self.registered.items())
        )

    def operator(self, number: int) -> Operator | None:
        return next((one for one in self.operators() if one.number == number), None)

    def keys(self, number: int) -> tuple[LinkedKey, ...]:
        operator = self.operator(number)
        return () if operator is None else (LinkedKey(operator.peer, operator.peer_id, 1),)

    def slashed(self) -> dict[int, int]:
        return {}

    def finished(self) -> str | None:
        return None


@dataclass(frozen=True)
class Place:
    """Open peers by name; each has its own directory and, unless told otherwise, its own view of the chain."""

    folder: Path
    manifest: RunManifest

    @asynccontextmanager
    async def open(
        self,
        name: str,
        *bootstrap: Peer,
        chain: ChainView | None = None,
        config: PeerConfig | None = None,
        brings: bool = False,
    ) -> AsyncIterator[Peer]:
        found = config or PeerConfig(self.folder / name, self.manifest.run_id, poll_s=0.01)
        addresses = tuple(one.network.addresses[0] for one in bootstrap)
        found = replace(found, bootstrap=found.bootstrap + addresses, sync_interval_s=0.3)
        known = self.manifest if brings else None
        async with open_peer(found, key(name), chain or SimulatedChain(), known) as peer:
            yield peer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, manifest())


async def until(peer: Peer, condition: Callable[[], bool]) -> None:
    while not condition():
        await peer.changed()


def committed(number: int, round_: int = 0) -> Signed[Body]:
    return sign(key(PEERS[number]), manifest(), round_, "contributor", commitment(number))


def listed(round_: int) -> Signed[Body]:
    entries = (CommitmentEntry(number=1, commitment=digest_of("c")),)
    return sign(key(COORDINATOR), manifest(), round_, COORDINATOR, CommitmentList(entries=entries))


def story(run: RunManifest, round_: int) -> list[Signed[Body]]:
    """Tell a round in which one unit was committed, revealed and merged."""
    committed = sign(key(PEERS[1]), run, round_, "contributor", commitment(1))
    entries = (CommitmentEntry(number=1, commitment=committed.id),)
    symbols, blob = digest_of(f"symbols {round_}"), digest_of(f"blob {round_}")
    reveal = Reveal(
        number=1,
        commitment=committed.id,
        symbols=symbols,
        salt=digest_of("salt"),
        blob=blob,
        blob_bytes=1,
        train_cpu_s=1.0,
    )
    unit = UnitRecord(number=1, commitment=committed.id, merged=True, symbols=symbols, blob=blob)
    record = RoundRecord(parameters=digest_of("parameters"), units=(unit,), judged=())
    return [
        committed,
        sign(key(COORDINATOR), run, round_, COORDINATOR, CommitmentList(entries=entries)),
        sign(key(PEERS[1]), run, round_, "contributor", reveal),
        sign(key(COORDINATOR), run, round_, COORDINATOR, record),
    ]


def ready(number: int, *addresses: str) -> Signed[Body]:
    body = Ready(number=number, program=digest_of("program"), addresses=addresses)
    return sign(key(PEERS[number]), manifest(), 0, "contributor", body)


async def test_the_manifest_is_fetched_by_the_run_id_and_kept(place: Place) -> None:
    async with place.open(COORDINATOR, brings=True) as coordinator:
        async with place.open("peer-1", coordinator) as peer:
            assert peer.manifest == place.manifest
            assert peer.store.get(peer.run, max_size=1 << 16) == place.manifest.to_bytes()
        address = coordinator.network.addresses[0]
    # Once on disk, nobody else is needed for it.
    async with place.open(
        "peer-1", config=PeerConfig(place.folder / "peer-1", place.manifest.run_id, bootstrap=(address,))
    ) as peer:
        assert peer.manifest == place.manifest


async def test_a_manifest_that_comes_later_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MANIFEST_PAUSE_S", 0.05)
    async with place.open(COORDINATOR, brings=True) as coordinator:
        address = coordinator.network.addresses[0]
        coordinator.store.delete(coordinator.run)

        async def bring() -> None:
            await coordinator.network.wait_for(lambda: bool(coordinator.network.connected_peers()))
            coordinator.store.put(place.manifest.to_bytes())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bring)
            config = PeerConfig(place.folder / "peer-1", place.manifest.run_id, bootstrap=(address,))
            async with place.open("peer-1", config=config) as peer:
                assert peer.manifest == place.manifest


async def test_a_bootstrap_peer_that_is_not_there_yet_is_waited_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MANIFEST_PAUSE_S", 0.05)
    async with place.open(COORDINATOR, brings=True) as before:
        address = before.network.addresses[0]
    early = PeerConfig(place.folder / "peer-1", place.manifest.run_id, bootstrap=(address,))
    late = PeerConfig(place.folder / COORDINATOR, place.manifest.run_id, listen=address.partition("/p2p/")[0])
    joined = trio.Event()

    async def join() -> None:
        async with place.open("peer-1", config=early) as peer:
            assert peer.manifest == place.manifest
            joined.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        await trio.testing.wait_all_tasks_blocked(0.1)
        async with place.open(COORDINATOR, config=late, brings=True):
            await joined.wait()


async def test_a_manifest_that_nobody_has_is_a_network_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "MANIFEST_WAIT_S", 0.2)
    async with place.open(COORDINATOR, brings=True) as coordinator:
        config = PeerConfig(place.folder / "lost", digest_of("another run"))
        with pytest.raises(NetworkError, match="nobody has the manifest") as lost:
            async with place.open("peer-1", coordinator, config=config):
                raise AssertionError("opened")
        assert "--run" in lost.value.hint


async def test_what_is_no_run_or_another_runs_manifest_opens_nothing(place: Place) -> None:
    for run in ("", "ab", "../" * 20 + "abcd", "AB" * 32):
        with pytest.raises(UsageError, match="not a run id"):
            async with place.open("peer-1", config=PeerConfig(place.folder, run)):
                raise AssertionError("opened")
    config = PeerConfig(place.folder, digest_of("another run"))
    with pytest.raises(MurmurError, match="is of run"):
        async with place.open("peer-1", config=config, brings=True):
            raise AssertionError("opened")


async def test_what_one_peer_says_all_hold_and_their_owners_are_told(place: Place) -> None:
    async with (
        place.open(COORDINATOR, brings=True) as coordinator,
        place.open("peer-1", coordinator) as one,
        place.open("peer-2", coordinator) as two,
    ):
        told: list[Signed[Body]] = []
        two.on_message.append(told.append)
        messages = [committed(1), committed(2), listed(0)]
        for speaker, message in zip((one, two, coordinator), messages, strict=True):
            await speaker.publish(message)
        for peer in (coordinator, one, two):
            await until(peer, lambda peer=peer: len(peer.pool.of_round(0)) == 3)
            assert peer.pool.commitments(0) == {1: messages[0], 2: messages[1]}
            assert peer.pool.commitment_list(0) == messages[2]
        assert sorted(message.id for message in told) == sorted(message.id for message in messages)
        await one.publish(messages[0])  # said again: nobody hears of it twice
        assert len(told) == 3


async def test_a_late_joiner_gets_everything_that_was_said(place: Place) -> None:
    chain = SimulatedChain()
    chain.mine(OPENING_ROUND, 0, 1, 2, 3)
    messages = [message for round_ in range(4) for message in story(place.manifest, round_)]
    async with place.open(COORDINATOR, chain=chain, brings=True) as coordinator:
        for message in messages:
            await coordinator.publish(message)
        async with place.open("peer-1", coordinator, chain=chain) as late:
            await until(late, lambda: len(late.pool.wire_digests(0)) == len(messages))
            assert sorted(late.pool.wire_digests(0)) == sorted(coordinator.pool.wire_digests(0))
            assert late.pool.round == 4


def test_anti_entropy_asks_from_the_first_round_that_is_incomplete(place: Place, tmp_path: Path) -> None:
    chain = SimulatedChain()
    longer = manifest(rounds=40)
    peer = Peer(PeerConfig(tmp_path, longer.run_id), key("peer-1"), chain, longer, None)  # type: ignore[arg-type]
    assert peer.summary() == (0, [])
    chain.mine(OPENING_ROUND, *range(30))
    peer.note_rounds()
    rounds = [story(longer, round_) for round_ in range(30)]
    for message in (message for messages in rounds[1:] for message in messages):
        peer.pool.add(message)
    assert peer.summary()[0] == 0  # the end of an answer whose beginning was refused
    for message in rounds[0]:
        assert peer.summary()[0] == 0
        peer.pool.add(message)
    since, held = peer.summary()
    assert since == 30 - SYNC_ROUNDS
    assert held == [message.wire_digest for messages in rounds[since:] for message in messages]


def test_rounds_follow_the_chain_to_the_last_and_no_further(place: Place, tmp_path: Path) -> None:
    chain = SimulatedChain()
    peer = Peer(PeerConfig(tmp_path, place.manifest.run_id), key("peer-1"), chain, place.manifest, None)  # type: ignore[arg-type]
    seen = []
    for round_ in range(place.manifest.rounds):
        peer.note_rounds()
        seen.append(peer.pool.round)
        chain.mine(round_)
    peer.note_rounds()
    assert seen == [0, 1, 2, 3, 4, 5]
    assert peer.pool.round == place.manifest.rounds - 1


async def test_a_message_from_an_author_that_our_chain_does_not_know_yet_is_taken_later(place: Place) -> None:
    behind = SimulatedChain(registered={2: PEERS[2]})
    async with (
        place.open(COORDINATOR, brings=True) as coordinator,
        place.open("peer-2", coordinator, chain=behind) as peer,
    ):
        await coordinator.publish(committed(1))
        await peer.network.wait_for(lambda: sum(peer.network.stats.refused.values()) > 0)
        assert peer.pool.commitments(0) == {}
        behind.registered = dict(PEERS)
        behind.mine()
        await until(peer, lambda: 1 in peer.pool.commitments(0))


async def test_what_a_case_asks_for_is_taken_by_each_peer_once_its_own_chain_shows_the_case(
    place: Place,
) -> None:
    ahead, behind = SimulatedChain(), SimulatedChain()
    ahead.opened.append(Case(4, 0, 1, 0, contests=False, block=10))
    message = sign(key("peer-1"), manifest(), 0, "contributor", opening(1, case=4))
    async with (
        place.open(COORDINATOR, chain=ahead, brings=True) as coordinator,
        place.open("peer-2", coordinator, chain=behind) as peer,
    ):
        await coordinator.publish(message)
        await peer.network.wait_for(lambda: sum(peer.network.stats.refused.values()) > 0)
        assert peer.pool.openings(0) == {}
        behind.opened += ahead.opened
        behind.mine()
        await until(peer, lambda: (1, 4) in peer.pool.openings(0))


async def test_a_forged_message_is_refused_by_everybody_else(place: Place) -> None:
    forged = sign(key("peer-2"), manifest(), 0, "contributor", commitment(1))
    async with (
        place.open(COORDINATOR, brings=True) as coordinator,
        place.open("peer-2", coordinator) as mallory,
    ):
        await mallory.network.publish(forged.wire)
        await coordinator.network.wait_for(lambda: sum(coordinator.network.stats.refused.values()) > 0)
        assert coordinator.pool.of_round(0) == []
        with pytest.raises(MurmurError, match="not signed by the key"):
            await mallory.publish(forged)
        assert mallory.pool.of_round(0) == []


async def test_a_blob_is_fetched_from_its_author_by_number(place: Place) -> None:
    async with (
        place.open(COORDINATOR, brings=True) as coordinator,
        place.open("peer-1", coordinator) as author,
        place.open("peer-2", coordinator) as reader,
    ):
        await author.publish(ready(1, author.network.addresses[0]))
        await until(reader, lambda: 1 in reader.pool.ready())
        digest = author.store.put(b"an update")
        path = await reader.fetch(digest, max_size=100, deadline_s=20, numbers=(1,))
        assert path.read_bytes() == b"an update"
        assert reader.store.has(digest)
        assert not coordinator.store.has(digest)


async def test_nonsense_where_an_address_should_be_does_not_stop_a_fetch(place: Place) -> None:
    async with (
        place.open(COORDINATOR, brings=True) as coordinator,
        place.open("peer-2", coordinator) as reader,
    ):
        await coordinator.publish(
            ready(1, "/nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/999.0.0.1/tcp/1/p2p/x", "/p2p/x/y")
        )
        await until(reader, lambda: 1 in reader.pool.ready())
        digest = coordinator.store.put(b"somebody has it")
        assert await reader.fetch(digest, max_size=100, deadline_s=20, numbers=(1, 2, 77))
        with pytest.raises(NetworkError):
            await reader.fetch(digest_of("nobody has it"), max_size=100, deadline_s=20, numbers=(1,))


async def test_a_chain_that_falls_silent_is_waited_for_with_its_error_on_show(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    chain = SimulatedChain()
    chain.mine(OPENING_ROUND)
    async with place.open(COORDINATOR, chain=chain, brings=True) as peer:
        assert peer.chain_error is None
        chain.error = "the chain is not there"
        await until(peer, lambda: peer.chain_error is not None)
        assert peer.chain_error == "the chain is not there"
        await peer.publish(listed(0))  # the network goes on meanwhile
        assert peer.pool.commitment_list(0) is not None
        chain.error = ""
        await until(peer, lambda: peer.chain_error is None)
        chain.mine(0)
        await until(peer, lambda: peer.pool.round == 1)
    assert caplog.text.count("waiting for the chain") == 1


async def test_without_a_chain_nothing_opens(place: Place) -> None:
    with pytest.raises(LedgerError, match="not there"):
        async with place.open(COORDINATOR, chain=SimulatedChain(error="the chain is not there"), brings=True):
            raise AssertionError("opened")


async def test_an_error_of_the_owner_keeps_its_class(place: Place) -> None:
    with pytest.raises(KeyError):
        async with place.open(COORDINATOR, brings=True):
            raise KeyError("the owner's own")


async def test_changed_returns_for_what_happened_before_it_was_called(place: Place) -> None:
    async with place.open(COORDINATOR, brings=True) as peer:
        peer.touch()
        await peer.changed()
        await peer.publish(listed(0))
        await peer.changed()
