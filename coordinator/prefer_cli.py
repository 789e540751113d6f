"""`murmur run prefer`: say in a terminal which of two samples is better, signed with a key file."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import ConfigError, Malformed, MurmurError, NetworkError

if TYPE_CHECKING:
    import httpx

    from protocol.keys import PeerKey
    from protocol.manifest import RunManifest

TIMEOUT_S = 15.0
PAUSE_S = 1.0
MAX_ANSWER_BYTES = 16 << 20
REFUSED = (409, 422, 429)
ANSWERS = {"l": "left", "left": "left", "r": "right", "right": "right", "s": "skip", "skip": "skip"}


class Refused(MurmurError):
    """Report a preference that the coordinator did not take; the next may be."""


def prefer(
    api: Annotated[str, typer.Option(help="URL of the coordinator's API, as status.json has it.")],
    key: Annotated[
        Path,
        typer.Option(help="File with the key of one of the run's people (`murmur keys new --peer-only`)."),
    ],
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many preferences.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for samples where there are none to compare now.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Compare samples of a run whose manifest names you among its people, and sign what you prefer.

    Answers are read line by line: left, right or skip, q to stop. With --json each pair and each answer of the
    coordinator is one line of JSON.
    """
    import httpx

    from protocol.keys import load_peer_key

    own = load_peer_key(key)
    with httpx.Client(base_url=api, timeout=TIMEOUT_S) as client:
        try:
            _session(client, own, count=count, wait=wait, as_json=as_json)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NetworkError(
                f"{api} does not answer: {error}", hint="status.json of the coordinator has its URL"
            ) from error


def _session(client: "httpx.Client", own: "PeerKey", *, count: int | None, wait: bool, as_json: bool) -> None:
    from threading import Event

    pause = Event()  # that nobody sets
    manifest = _manifest(client)
    if (place := _place(manifest, own.address)) is None:
        raise ConfigError(
            f"{own.address} is not among the people whose preferences count in this run",
            hint="its manifest names them; name another file with --key",
        )
    skipped: list[str] = []
    done = 0
    while count is None or done < count:
        query: dict[str, Any] = {"address": own.address, "skip": skipped[-32:]}
        pair = _ask(client, "GET", f"/v1/runs/{manifest.run_id}/preferences/next", params=query)["pair"]
        if pair is None:
            if not wait:
                _tell({"pair": None}, "There is nothing to compare now (--wait waits).", as_json)
                return
            pause.wait(PAUSE_S)
            continue
        answer = _answer(pair, as_json)
        if answer is None:
            return
        places = sorted((pair["left"]["place"], pair["right"]["place"]))
        skipped.append("-".join(map(str, (pair["round"], pair["number"], pair["group"], *places))))
        if answer == "skip":
            continue
        told = _bring(client, manifest, own, place, pair, answer)
        done += bool(told.get("accepted"))
        word = f"Accepted. {told['says']}" if told.get("accepted") else f"Refused: {told['refused']}"
        _tell(told, word, as_json)


def _manifest(client: "httpx.Client") -> "RunManifest":
    from protocol.canonical import canonical_json
    from protocol.manifest import RunManifest

    runs = _ask(client, "GET", "/v1/runs")
    if not runs:
        raise NetworkError("the coordinator has not begun a run", hint="try again in a moment")
    summary = _ask(client, "GET", f"/v1/runs/{runs[0]['run']}")
    try:
        manifest = RunManifest.from_bytes(canonical_json(summary["manifest"]))
    except (Malformed, KeyError, TypeError) as error:
        raise NetworkError(f"the coordinator gives no manifest: {error}") from error
    if manifest.run_id != runs[0]["run"]:
        raise NetworkError("the coordinator gives the manifest of another run")
    return manifest


def _place(manifest: "RunManifest", address: str) -> int | None:
    from protocol.preferences import place_of

    try:
        return place_of(manifest, address)
    except Malformed as error:
        raise ConfigError(
            "this run asks no people", hint="`murmur run create --people` makes one that does"
        ) from error


def _answer(pair: dict[str, Any], as_json: bool) -> str | None:
    """Show a pair and read what is said of it; None at the end."""
    if as_json:
        typer.echo(json.dumps({"pair": pair}))
    else:
        typer.echo(f"\nRound {pair['round']}, number {pair['number']}, group {pair['group']}")
        for side in ("left", "right"):
            typer.echo(f"--- {side}")
            for part in pair[side]["parts"]:
                who = "environment" if part["player"] is None else "policy"
                typer.echo(f"{who:12} {_visible(part['text'])}")
    while True:
        if not as_json:
            typer.echo("left, right, skip or q? ", nl=False)
        line = sys.stdin.readline()
        word = line.strip().lower()
        if not line or word in ("q", "quit"):
            return None
        if word in ANSWERS:
            return ANSWERS[word]
        typer.echo("answer left, right, skip or q", err=True)


def _bring(
    client: "httpx.Client",
    manifest: "RunManifest",
    own: "PeerKey",
    place: int,
    pair: dict[str, Any],
    answer: str,
) -> dict[str, Any]:
    """Sign and bring a preference; return what the coordinator says of it."""
    from protocol.messages import Preference, sign

    other = "right" if answer == "left" else "left"
    about = {"number": pair["number"], "group": pair["group"]}
    about |= {"better": pair[answer]["place"], "worse": pair[other]["place"]}
    message = sign(
        own, manifest, pair["round"], "person", Preference.model_validate(about | {"person": place})
    )
    brought = about | {"address": own.address, "round": pair["round"]}
    brought["signature"] = f"0x{message.signature.hex()}"
    try:
        told: dict[str, Any] = _ask(client, "POST", f"/v1/runs/{manifest.run_id}/preferences", json=brought)
    except Refused as error:
        return {"accepted": False, "refused": error.message}
    return told


def _ask(client: "httpx.Client", method: str, path: str, **more: Any) -> Any:
    """Ask the API.

    Raises:
        NetworkError: it does not answer as a coordinator.
        Refused: it refuses what it was brought.
    """
    with client.stream(method, path, **more) as response:
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MAX_ANSWER_BYTES:
                raise NetworkError(f"the coordinator's answer has more than {MAX_ANSWER_BYTES} bytes")
    try:
        told = json.loads(bytes(data))
    except ValueError as error:
        raise NetworkError(f"the coordinator answered {response.status_code} without JSON") from error
    if response.status_code in REFUSED:
        raise Refused(_visible(str(told.get("detail", response.status_code))))
    if response.status_code != 200:
        raise NetworkError(f"the coordinator: {_visible(str(told.get('detail', response.status_code)))}")
    return told


def _visible(text: str) -> str:
    """Return a peer's text for a terminal: one line, and nothing that moves the cursor."""
    return "".join(char if char.isprintable() else "⏎" if char == "\n" else "?" for char in text)[:2000]


def _tell(told: dict[str, Any], words: str, as_json: bool) -> None:
    typer.echo(json.dumps(told) if as_json else words)
