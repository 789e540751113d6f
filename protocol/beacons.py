"""Where the signatures of a drand network come from: its HTTP endpoints, and files that were kept.

Neither is believed: every signature is verified with the public key of the manifest. So the worst that an endpoint or a
file can do is to be silent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import httpx

from protocol.canonical import canonical_json, check_depth, parse_canonical_json
from protocol.clock import Clock, unix_time
from protocol.drand import DrandChain, verify_beacon
from protocol.errors import Malformed, NetworkError

PUBLIC_ENDPOINTS = (
    "https://api.drand.sh",
    "https://api2.drand.sh",
    "https://api3.drand.sh",
    "https://drand.cloudflare.com",
)
"""The League of Entropy's relays (https://docs.drand.love/dev-guide/developer/http-api)."""

BEACONS_DIRECTORY = "beacons"
"""Where a daemon keeps the signatures it found, inside its directory."""

MAX_ANSWER_BYTES = 4096
TIMEOUT_S = 5.0
PAUSE_S = 1.0  # after nobody had a round that is due; doubled each time, up to
PAUSE_MAX_S = 30.0


class SignatureSource(Protocol):
    """Find signatures of a network's rounds."""

    def find(self, chain: DrandChain, round_: int) -> str | None:
        """Return the signature of a round, verified; None if it is not there yet. May block.

        Raises:
            NetworkError: the round is due, and nobody has it who should.
        """


class DrandClient:
    """Ask a network's HTTP endpoints in turn; never before a round is due, and rarely while nobody has it."""

    def __init__(self, endpoints: Sequence[str] = PUBLIC_ENDPOINTS, *, clock: Clock = unix_time) -> None:
        self._endpoints = tuple(endpoint.rstrip("/") for endpoint in endpoints)
        self._clock = clock
        self._waiting: dict[
            int, tuple[float, float]
        ] = {}  # round: when to ask again, and the pause after that

    def find(self, chain: DrandChain, round_: int) -> str | None:
        """Return the first answer that verifies; None before the round is due, or soon after asking in vain.

        Raises:
            NetworkError: no endpoint gave a signature that holds.
        """
        now = self._clock()
        again, pause = self._waiting.pop(round_, (0.0, PAUSE_S))
        if now < chain.time_of(round_):
            return None
        if now < again:
            self._waiting[round_] = again, pause
            return None
        problems = []
        for endpoint in self._endpoints:
            try:
                url = f"{endpoint}/{chain.chain_hash}/public/{round_}"
                signature = _signature_in(_ask(url, self._clock), round_)
                verify_beacon(chain.public_key, round_, signature)
            except (NetworkError, Malformed) as error:
                problems.append(f"{endpoint}: {error.message}")
            else:
                return signature
        self._waiting[round_] = now + pause, min(2 * pause, PAUSE_MAX_S)
        raise NetworkError(
            f"no drand endpoint gave round {round_}: {'; '.join(problems) or 'none is named'}",
            hint="name others with --drand URL",
        )


class SignatureFiles:
    """Keep one small file a round, `<round>.json`, with what drand's HTTP API answers."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, chain: DrandChain, round_: int) -> str | None:
        """Return the signature in the file of a round; None if there is no file, or none that verifies."""
        try:
            signature = self.read(round_)
            if signature is not None:
                verify_beacon(chain.public_key, round_, signature)
        except Malformed:
            return None
        return signature

    def read(self, round_: int) -> str | None:
        """Return what the file of a round says, unverified; None if there is no file.

        Raises:
            Malformed: it does not hold a signature of this round.
        """
        try:
            with (self.root / f"{round_}.json").open("rb") as file:
                data = file.read(MAX_ANSWER_BYTES + 1)
        except FileNotFoundError:
            return None
        return _signature_in(parse_canonical_json(data, max_bytes=MAX_ANSWER_BYTES), round_)

    def write(self, round_: int, signature: str) -> None:
        """Write the file of a round."""
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = self.root / f".{round_}.part"
        scratch.write_bytes(canonical_json({"round": round_, "signature": signature}))
        scratch.replace(self.root / f"{round_}.json")


class KeptSignatures:
    """Look into files first, then ask a client, and keep what it found."""

    def __init__(self, files: SignatureFiles, client: DrandClient) -> None:
        self._files = files
        self._client = client

    def find(self, chain: DrandChain, round_: int) -> str | None:
        """Return the kept signature, or one from the endpoints.

        Raises:
            NetworkError: as the client's.
        """
        kept = self._files.find(chain, round_)
        if kept is not None:
            return kept
        found = self._client.find(chain, round_)
        if found is not None:
            self._files.write(round_, found)
        return found


def _ask(url: str, clock: Clock) -> dict[str, object]:
    ends = clock() + TIMEOUT_S
    data = bytearray()
    try:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            response.raise_for_status()
            for piece in response.iter_raw():
                data += piece
                if len(data) > MAX_ANSWER_BYTES:
                    raise NetworkError(f"more than {MAX_ANSWER_BYTES} bytes")
                if clock() > ends:
                    raise NetworkError(f"not done after {TIMEOUT_S:g} s")
    except httpx.HTTPStatusError as error:
        raise NetworkError(f"HTTP {error.response.status_code}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NetworkError(f"{type(error).__name__} {error}".rstrip()) from error
    check_depth(bytes(data))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object")
    return value


def _signature_in(value: dict[str, object], round_: int) -> str:
    signature = value.get("signature")
    if value.get("round") != round_ or not isinstance(signature, str):
        raise Malformed(f"not the signature of drand round {round_}")
    return signature
