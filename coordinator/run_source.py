"""Where a run's checkpoints and figures are read from: a directory of this machine, or a coordinator's API.

Nobody is believed about bytes: parameters are hashed as they are read. What an API serves must also be what a signed
record, or the closing word, says of that round; with a chain at hand, what is anchored there.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from coordinator.queries import MAX_PAGE, Reader
from coordinator.tables import DATABASE_FILE, database_url, open_engine
from protocol.canonical import canonical_json, digest
from protocol.chain import ChainView
from protocol.checkpoints import CHECKPOINTS_DIRECTORY, Checkpoint, Checkpoints, read_verified
from protocol.clock import unix_time
from protocol.daemon import MANIFEST_FILE
from protocol.errors import ConfigError, Malformed, NetworkError, ProofRejected, UsageError
from protocol.manifest import RunManifest
from protocol.messages import Finish, RoundRecord, parse_message
from training.outer import outer_layout
from verification.archive import Archive

if TYPE_CHECKING:
    import httpx

API_TIMEOUT_S = 10.0
MAX_API_BYTES = 64 << 20
URL_HINT = "see status.json for its URL"


class RunSource(Protocol):
    """Give what is known of one run in one place."""

    @property
    def manifest(self) -> RunManifest:
        """Return the run's manifest."""

    @property
    def place(self) -> str:
        """Return what to call the place in an error."""

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints that can be read here, by round."""

    def read(self, checkpoint: Checkpoint) -> bytes:
        """Return the file of a checkpoint, verified."""

    def summary(self) -> dict[str, Any] | None:
        """Return what `Reader.summary` does; None where only a coordinator would know."""

    def units(self) -> Iterator[dict[str, Any]]:
        """Yield the units as `Reader.units` does."""


def find_checkpoint(source: RunSource, wanted: str) -> Checkpoint:
    """Return the checkpoint of a round, or the newest for `last`.

    Raises:
        UsageError: neither a round nor `last`.
        ConfigError: it is not kept.
    """
    kept = source.checkpoints()
    rounds = sorted({one.round for one in kept})
    shown = ", ".join(map(str, rounds if len(rounds) <= 12 else [*rounds[:5], "...", *rounds[-5:]]))
    if wanted != "last" and not (wanted.isascii() and wanted.isdigit() and len(wanted) < 8):
        raise UsageError(
            f"{wanted!r} is neither a round, nor last, nor a file", hint="`murmur run checkpoints` lists them"
        )
    if not kept:
        raise ConfigError(
            f"{source.place} has no checkpoints", hint="`murmur coordinator start` keeps them while it runs"
        )
    found = [one for one in kept if wanted == "last" or one.round == int(wanted)]
    if not found:
        raise ConfigError(
            f"{source.place} keeps no checkpoint of round {wanted}", hint=f"rounds kept: {shown}"
        )
    return found[-1]


# ---------------------------------------------------------------- a directory


@dataclass
class FolderSource:
    """Read the directory of a coordinator, of a node, or of a whole local network."""

    directory: Path
    manifest: RunManifest

    @classmethod
    def open(cls, directory: Path) -> "FolderSource":
        """Find the run in a directory.

        Raises:
            ConfigError: there is none, or its manifest is damaged.
        """
        for place in (directory / "coordinator", directory):
            path = place / MANIFEST_FILE
            try:
                return cls(place, RunManifest.read(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, Malformed) as error:
                raise ConfigError(f"{path} is not a manifest: {error}") from error
        raise ConfigError(
            f"no run in {directory}",
            hint="name the directory of a coordinator, of a node, or of a local network with --dir",
        )

    @property
    def place(self) -> str:
        """Return the directory."""
        return str(self.directory)

    def checkpoints(self) -> list[Checkpoint]:
        """Return what is kept, and what still lies among the public blobs."""
        found = {one.round: one for one in self._kept.kept()}
        for round_, root in self._roots.items():
            blob = self._blob(root)
            if round_ not in found and blob.is_file():
                found[round_] = Checkpoint(round_, root, blob.stat().st_size)
        return sorted(found.values())

    def read(self, checkpoint: Checkpoint) -> bytes:
        """Return the file of a checkpoint.

        Raises:
            NetworkError: it is gone, or the disk gave other bytes.
        """
        limit = outer_layout(self.manifest).file_bytes
        path = self._kept.path(checkpoint)
        return read_verified(
            path if path.exists() else self._blob(checkpoint.root), checkpoint.root, max_bytes=limit
        )

    def summary(self) -> dict[str, Any] | None:
        """Return what the coordinator's database says; None in a node's directory."""
        return None if self._reader is None else self._reader.summary(unix_time())

    def units(self) -> Iterator[dict[str, Any]]:
        """Yield the units that the coordinator's database holds."""
        reader = self._reader
        if reader is not None:
            yield from _pages(
                lambda after: reader.units(number=None, outcome=None, after=after, limit=MAX_PAGE),
                (-1, 0),
                _unit_key,
            )

    @property
    def _kept(self) -> Checkpoints:
        return Checkpoints(self.directory / CHECKPOINTS_DIRECTORY)

    @cached_property
    def _reader(self) -> Reader | None:
        if not (self.directory / DATABASE_FILE).exists():
            return None
        return Reader(open_engine(database_url(self.directory), writer=False))

    @cached_property
    def _roots(self) -> Mapping[int, str]:
        first = {0: self.manifest.initial_parameters}
        return first if self._reader is None else first | self._reader.parameters()

    def _blob(self, root: str) -> Path:
        return Archive(self.directory / "public").blobs / root[:2] / root


# ---------------------------------------------------------------- an API


@dataclass
class ApiSource:
    """Read a coordinator's API, and take its word for nothing that can be checked."""

    client: "httpx.Client"
    manifest: RunManifest
    chain: ChainView | None = None  # to compare records with

    @classmethod
    def open(
        cls, client: "httpx.Client", connect: Callable[[RunManifest], ChainView] | None = None
    ) -> "ApiSource":
        """Ask what the API serves.

        Args:
            connect: gives the run on its chain; None: the coordinator's signature has to do.

        Raises:
            NetworkError: it does not answer as a coordinator does.
            ProofRejected: its manifest is not that of the run.
        """
        served = ask(client, "/v1/runs")
        try:
            known = str(served[0]["run"])
            told = ask(client, f"/v1/runs/{known}")["manifest"]
            manifest = RunManifest.model_validate(told)
        except (ValidationError, IndexError, KeyError, TypeError) as error:
            raise NetworkError(f"{client.base_url} serves no run: {error!s:.200}") from error
        if manifest.run_id != known:
            raise ProofRejected(f"the manifest that {client.base_url} serves is of another run than {known}")
        return cls(client, manifest, None if connect is None else connect(manifest))

    @property
    def place(self) -> str:
        """Return the URL."""
        return str(self.client.base_url)

    def checkpoints(self) -> list[Checkpoint]:
        """Return what the API offers and a signed statement vouches for.

        Raises:
            NetworkError: the answer is not such a list.
        """
        try:
            offered = ask(self.client, f"{self._run}/checkpoints")["checkpoints"]
            listed = [Checkpoint(int(one["round"]), str(one["root"]), int(one["bytes"])) for one in offered]
        except (KeyError, TypeError, ValueError) as error:
            raise NetworkError(f"{self.place} lists no checkpoints: {error!s:.200}") from error
        roots = self._roots
        return sorted(one for one in listed if roots.get(one.round) == one.root)

    def read(self, checkpoint: Checkpoint) -> bytes:
        """Fetch the file of a checkpoint.

        Raises:
            NetworkError: it cannot be fetched.
            ProofRejected: it is not what the run's record names.
        """
        limit = outer_layout(self.manifest).file_bytes
        data = fetch(self.client, f"{self._run}/checkpoints/{checkpoint.round}", limit)
        if digest(data) != self._roots.get(checkpoint.round):
            raise ProofRejected(
                f"what {self.place} serves as the parameters of round {checkpoint.round} does not hash to the root "
                "that the run's record names"
            )
        return data

    def summary(self) -> dict[str, Any] | None:
        """Return what the coordinator says of the run."""
        found = ask(self.client, self._run)
        if not isinstance(found, dict):
            raise NetworkError(f"{self.place} did not answer as a coordinator")
        return found

    def units(self) -> Iterator[dict[str, Any]]:
        """Yield the units that the coordinator names."""
        path = f"{self._run}/units?limit={MAX_PAGE}"

        def page(after: tuple[int, int] | None) -> Any:
            more = "" if after is None else f"&after={after[0]}-{after[1]}"
            return ask(self.client, f"{path}{more}")["units"]

        return _pages(page, None, _unit_key)

    @property
    def _run(self) -> str:
        return f"/v1/runs/{self.manifest.run_id}"

    @cached_property
    def _roots(self) -> Mapping[int, str]:
        """Return the parameter roots that are signed for, by round; with a chain, those that it holds."""
        found = {0: self.manifest.initial_parameters}
        for kind in (RoundRecord.kind, Finish.kind):
            path = f"{self._run}/messages?kind={kind}&limit={MAX_PAGE}&after="
            told = _pages(
                lambda after, path=path: ask(self.client, f"{path}{after}")["messages"],  # type: ignore[misc]
                0,
                lambda row: int(row["sequence"]),
            )
            for one in told:
                self._take(found, one.get("message"))
        return found

    def _take(self, found: dict[int, str], told: Any) -> None:
        manifest, chain = self.manifest, self.chain
        try:
            message = parse_message(canonical_json(told))
        except (ValueError, RecursionError) as error:
            raise NetworkError(f"{self.place} serves a message that is none: {error!s:.200}") from error
        place = (message.run, message.chain_id, message.ledger.lower())
        if place != (manifest.run_id, manifest.chain_id, manifest.ledger.lower()):
            return
        ours = message.role == "coordinator" and message.author == manifest.coordinator
        match message.body:
            case RoundRecord() as record:
                anchored = None if chain is None else chain.record_hash(message.round)
                if record.digest().hex() == anchored if chain is not None else ours:
                    found[message.round] = record.parameters
            case Finish() as finish:
                if finish.parameters == chain.finished() if chain is not None else ours:
                    found[manifest.rounds] = finish.parameters
            case _:
                pass


@contextmanager
def open_client(url: str) -> "Iterator[httpx.Client]":
    """Give a client of a coordinator's API.

    Raises:
        NetworkError: that is no URL.
    """
    import httpx

    try:
        client = httpx.Client(base_url=url, timeout=API_TIMEOUT_S)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise NetworkError(f"{url} is not the URL of a coordinator: {error}", hint=URL_HINT) from error
    with client:
        yield client


def ask(client: "httpx.Client", path: str) -> Any:
    """Return an API's answer as plain JSON data.

    Raises:
        NetworkError: there is none, it is an error or too long, or not JSON.
    """
    try:
        return json.loads(fetch(client, path, MAX_API_BYTES))
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"{client.base_url} did not answer as a coordinator: {error!s:.200}") from error


def fetch(client: "httpx.Client", path: str, limit: int) -> bytes:
    """Return the bytes of an API's answer.

    Raises:
        NetworkError: there is none, it is an error, or longer than the limit.
    """
    import httpx

    try:
        with client.stream("GET", path) as response:
            response.raise_for_status()
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if len(data) > limit:
                    raise NetworkError(f"{client.base_url} answers with more than {limit} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NetworkError(
            f"{client.base_url} did not answer as a coordinator: {error}", hint=URL_HINT
        ) from error
    return bytes(data)


def _pages(
    page: Callable[[Any], Any], first: Any, key: Callable[[dict[str, Any]], Any]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one page after the other.

    Raises:
        NetworkError: an answer is no page, or does not go on from the last one.
    """
    after = first
    while True:
        try:
            rows = page(after)
            keys = [key(row) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise NetworkError(f"not a page of an answer: {error!s:.200}") from error
        yield from rows
        if len(rows) < MAX_PAGE:
            return
        if keys != sorted(keys) or (after is not None and keys[0] <= after):
            raise NetworkError("an answer whose pages do not end")
        after = keys[-1]


def _unit_key(row: dict[str, Any]) -> tuple[int, int]:
    return int(row["round"]), int(row["number"])
