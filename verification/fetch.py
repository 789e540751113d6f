"""`murmur audit fetch`: gather a run's public data from whoever holds it, as an observer without stake.

Messages come from peers by anti-entropy, from a coordinator's HTTP API or from a public folder; all go through the
same message pool, so that only what registered keys signed is taken. Blobs come by their content address. What
nobody delivers is named, and a later call goes on where this one stopped.
"""

import json
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from protocol.beacons import BEACONS_DIRECTORY, PUBLIC_ENDPOINTS
from protocol.canonical import canonical_json
from protocol.errors import ConfigError, Malformed, MurmurError, NetworkError
from protocol.joint import max_joint_bytes
from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from protocol.messages import Body, Signed
from protocol.peer import Peer, PeerConfig, open_peer
from protocol.published import max_published_bytes
from training.outer import outer_layout
from verification.archive import Archive
from verification.blobs import find_blob
from verification.commit import Carried
from verification.gather import anchored_rounds, dossier_of, gaps, run_gaps, settlement_of
from verification.lateness import is_void
from verification.opening import needed_files
from verification.public import AuditChain
from verification.unit import DrawnUnit

log = logging.getLogger(__name__)

SCRATCH = ".fetch"  # inside the folder: history and libp2p's things, so that a later call goes on from there
PAUSE_S = 0.5
TRIES = 4  # of one question to one peer, which may only be answering others
BLOB_DEADLINE_S = 20.0
AT_ONCE = 4
PAGE = 500
MAX_PAGE_BYTES = 64 << 20
API_TIMEOUT_S = 20.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class FetchConfig:
    """Say what to gather, and where from."""

    run: str
    out: Path  # the folder to write
    bootstrap: tuple[str, ...] = ()
    public: Path | None = None  # a public folder that is at hand
    api: str | None = None  # a coordinator's HTTP API
    listen: str = "/ip4/127.0.0.1/tcp/0"
    drand: tuple[str, ...] = PUBLIC_ENDPOINTS
    patience_s: float = 60.0  # how long to go on asking for what is missing


@dataclass
class FetchReport:
    """Say what was gathered and what is missing."""

    run: str
    rounds: int = 0
    messages: int = 0
    updates: int = 0
    states: int = 0  # opened state files that somebody still served
    states_missing: int = 0
    missing: list[str] = field(default_factory=list)  # without which the audit is undecided

    @property
    def complete(self) -> bool:
        """Tell whether all is there that an audit without replays needs."""
        return not self.missing

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON data."""
        return {"complete": self.complete, **vars(self)}


async def fetch_archive(config: FetchConfig, chain: AuditChain, say: Say) -> FetchReport:
    """Gather a run and write its public folder.

    Args:
        say: takes a line about the progress.

    Raises:
        ConfigError: neither a peer nor a folder was named, or the folder is another run's.
        NetworkError: nobody has the manifest.
        LedgerError: the chain does not answer, or does not know the run.
    """
    archive, manifest = Archive(config.out), None
    if config.public is not None:
        manifest = Archive(config.public).manifest()
        if manifest.run_id != config.run:
            raise ConfigError(f"{config.public} is of run {manifest.run_id}, not {config.run}")
    elif not config.bootstrap:
        raise ConfigError("nobody was named to ask", hint="add --bootstrap ADDRESS, or --from DIR")
    scratch = config.out / SCRATCH
    settings = PeerConfig(
        scratch,
        config.run,
        config.listen,
        config.bootstrap,
        blobs=archive.blobs,
        history=scratch / "messages.sqlite",
        manifest_wait_s=config.patience_s,
        drand=config.drand,
        beacons=archive.root / BEACONS_DIRECTORY,
    )
    key = PeerKey(secrets.token_bytes(32))  # of a guest: it signs nothing
    async with open_peer(settings, key, chain, manifest) as peer:
        return await _Gathering(config, chain, peer, archive, say).run()


class _Gathering:
    """Hold what one call needs."""

    def __init__(
        self, config: FetchConfig, chain: AuditChain, peer: Peer, archive: Archive, say: Say
    ) -> None:
        self._config = config
        self._chain = chain
        self._peer = peer
        self._archive = archive
        self._say = say
        self._report = FetchReport(config.run)
        self._update_bytes = max_published_bytes(peer.manifest)
        self._parameter_bytes = outer_layout(peer.manifest).file_bytes

    async def run(self) -> FetchReport:
        config, peer, report = self._config, self._peer, self._report
        self._archive.write_manifest(peer.manifest)
        if config.public is not None:
            await self._take(folder_messages(config.public, peer.manifest))
        if config.api is not None:
            await self._take(await trio.to_thread.run_sync(api_messages, config.api, config.run))
        await self._ask_everybody()
        rounds = anchored_rounds(peer.manifest, self._chain)
        report.rounds = len(rounds)
        report.missing = self._lacking()
        for round_ in rounds:
            dossier = dossier_of(peer.manifest, self._chain, peer.pool, round_)
            if dossier is not None:
                self._archive.write_round(dossier)
        self._archive.write_settlement(settlement_of(peer.pool))
        report.messages = len(peer.pool.wire_digests(0))
        await self._bring_public(rounds)
        await self._bring_states(rounds)
        return report

    async def _take(self, messages: Iterable[bytes]) -> None:
        for wire in messages:
            try:
                await self._peer.receive("an archive", wire)
            except MurmurError as error:
                log.info("not taken: %s", error)

    # messages

    async def _ask_everybody(self) -> None:
        """Ask every peer, and those that they know, until nothing that counts is missing or patience is over."""
        if not self._config.bootstrap:
            return
        asked: dict[str, int] = {}  # peer -> messages held when it had nothing more
        with trio.move_on_after(self._config.patience_s):
            while True:
                pool = self._peer.pool
                for other in sorted(self._peer.network.connected_peers()):
                    if asked.get(other) != len(pool):
                        await self._drain(other)
                        asked[other] = len(pool)
                lacking = len(self._lacking())
                rounds = len(anchored_rounds(self._peer.manifest, self._chain))
                self._say(f"{len(pool)} messages, {rounds} rounds on chain, {lacking} messages missing")
                everybody = self._peer.network.connected_peers() <= asked.keys()
                if asked and everybody and not lacking:
                    return
                await trio.sleep(PAUSE_S)

    def _lacking(self) -> list[str]:
        chain, pool = self._chain, self._peer.pool
        rounds = anchored_rounds(self._peer.manifest, chain)
        return [*(gap for round_ in rounds for gap in gaps(chain, pool, round_)), *run_gaps(chain, pool)]

    async def _drain(self, other: str) -> None:
        """Ask one peer from the first round on, as often as its answers bring something."""
        peer, pool = self._peer, self._peer.pool
        tries, cursor = TRIES, 0
        try:
            while cursor < peer.manifest.rounds:
                peer.ask_since = cursor
                before = pool.counts()
                try:
                    told = await peer.network.sync_now(other)
                except NetworkError as error:
                    log.info("%s", error)
                    tries -= 1
                    if not tries:
                        return
                    await trio.sleep(PAUSE_S)
                    continue
                grown = {round_ for round_, count in pool.counts().items() if count > before.get(round_, 0)}
                if grown:
                    # Oldest first: whatever an answer had to leave out comes after its first unbroken stretch.
                    cursor = max(cursor, min(grown))
                    while cursor + 1 in grown:
                        cursor += 1
                elif told:
                    cursor += 1  # it repeats what a request has no room to name
                else:
                    return
        finally:
            peer.ask_since = None

    # blobs

    async def _bring_public(self, rounds: Iterable[int]) -> None:
        """Bring the first parameters and the updates; those that were not merged show whether they could have been."""
        manifest, pool = self._peer.manifest, self._peer.pool
        address = manifest.initial_parameters
        if not await self._bring(address, self._parameter_bytes, ()):
            self._report.missing.append(f"the initial parameters {address}")
        wanted: list[tuple[str, int, str]] = []
        for round_ in rounds:
            record = pool.record(round_)
            void = is_void(manifest, self._chain, round_)
            units = () if record is None else record.body.units
            if record is not None and record.body.joint is not None and not void:
                address = record.body.joint
                if not await self._bring(address, max_joint_bytes(manifest), ()):
                    self._report.missing.append(f"the joint update {address} of round {round_}")
            merged = {unit.number: unit.blob for unit in units if unit.merged and not void}
            for number, blob in merged.items():
                if blob is not None:
                    wanted.append((blob, number, f"the update {blob} of number {number} in round {round_}"))
            others = pool.reveals(round_).items()
            wanted += [(one.body.blob, number, "") for number, one in others if number not in merged]
        held = await self._bring_all(
            [(blob, self._update_bytes, number) for blob, number, _ in wanted], "updates"
        )
        self._report.updates = len(held)
        self._report.missing += [name for blob, _, name in wanted if name and blob not in held]

    async def _bring_states(self, rounds: Iterable[int]) -> None:
        """Bring what was opened, as far as anybody serves it still; an audit without replays does without."""
        manifest, pool, wanted = self._peer.manifest, self._peer.pool, dict[str, tuple[int, int]]()
        for round_ in rounds:
            commitments = pool.commitments(round_)
            for (number, _), opening in pool.openings(round_).items():
                if number in commitments:
                    unit = DrawnUnit(commitments[number], opening.body.segment, "", Carried())
                    for one in needed_files(manifest, unit, opening.body):
                        if not one.public:  # the parameters of a round follow from the first ones
                            wanted[one.address] = one.bytes, number
        files = [(address, size, number) for address, (size, number) in wanted.items()]
        held = await self._bring_all(files, "opened states")
        self._report.states, self._report.states_missing = len(held), len(wanted) - len(held)

    async def _bring_all(self, wanted: list[tuple[str, int, int]], what: str) -> set[str]:
        """Bring (address, most bytes, number of the owner), a few at a time; return the addresses that are here."""
        held: set[str] = set()
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def bring(address: str, size: int, number: int) -> None:
            async with limiter:
                if await self._bring(address, size, (number,)):
                    held.add(address)
                    if len(held) % 50 == 0:
                        self._say(f"{len(held)} of {len(wanted)} {what}")

        async with trio.open_nursery() as nursery:
            for one in wanted:
                nursery.start_soon(bring, *one)
        self._say(f"{len(held)} of {len({address for address, _, _ in wanted})} {what}")
        return held

    async def _bring(self, address: str, size: int, numbers: tuple[int, ...]) -> bool:
        peer, public = self._peer, self._config.public
        if not peer.store.has(address) and public is not None:
            data = find_blob([public / "blobs"])(address, size)
            if data is not None:
                peer.store.put(data)
        if not peer.store.has(address) and self._config.bootstrap:
            try:
                await peer.fetch(address, max_size=size, deadline_s=BLOB_DEADLINE_S, numbers=numbers)
            except NetworkError as error:
                log.info("%s", error)
        return peer.store.has(address)


def folder_messages(folder: Path, manifest: RunManifest) -> Iterable[bytes]:
    """Yield the messages of a public folder; a file that is not well formed is passed over, and so is missing."""
    archive = Archive(folder)
    messages: list[Signed[Body]] = []
    for round_ in archive.rounds():
        try:
            dossier = archive.round(manifest, round_)
        except Malformed as error:
            log.warning("round %d in %s: %s", round_, folder, error)
            continue
        if dossier is not None:
            messages += dossier.messages()
    try:
        messages += archive.settlement(manifest).messages()
    except Malformed as error:
        log.warning("settlement in %s: %s", folder, error)
    return [message.wire for message in messages]


def api_messages(url: str, run: str) -> list[bytes]:
    """Read every signed message from a coordinator's API.

    Raises:
        NetworkError: it does not answer, or not as such an API does.
    """
    found: list[bytes] = []
    after = 0
    try:
        with httpx.Client(base_url=url.rstrip("/"), timeout=API_TIMEOUT_S) as client:
            while True:
                page = _get(client, f"/v1/runs/{run}/messages", {"after": after, "limit": PAGE})
                found += [canonical_json(one["message"]) for one in page["messages"]]
                following = page["next"]
                if following is None:
                    return found
                if not isinstance(following, int) or following <= after:
                    raise ValueError("its pages do not go on")
                after = following
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"the API at {url} does not give the messages of the run: {error}") from error


def _get(client: httpx.Client, path: str, query: dict[str, int]) -> Any:
    with client.stream("GET", path, params=query) as answer:
        answer.raise_for_status()
        data = bytearray()
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > MAX_PAGE_BYTES:
                raise ValueError("a page is too long")
    return json.loads(data)
