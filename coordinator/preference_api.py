"""The API's part for people: two samples to compare, what to sign, and where to bring it.

This process cannot write. What it is brought it checks as far as the database tells, and hands it to the coordinator
(`coordinator.handing`), which takes it in like a message from any peer.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from coordinator.comparing import Comparisons, Pair
from coordinator.preference_page import SCRIPT, render_preferences
from protocol.clock import Clock
from protocol.errors import Malformed, NetworkError
from protocol.frozen import Address, Frozen
from protocol.manifest import RunManifest
from protocol.messages import Number, Place, Preference, Round, Signed
from protocol.preferences import check_preference, message_of, typed_data
from protocol.rate import TokenBucket

MAX_BODY_BYTES: Final = 2048
BURST: Final = 20.0  # preferences brought at once, by everybody together
PER_S: Final = 5.0
SCRIPT_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

Submit = Callable[[bytes], Awaitable[str]]
"""Hand wire bytes to the coordinator; return why it refuses them, or an empty string. Raises NetworkError."""

RunId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Run id, 64 hex digits.")]
Person = Annotated[
    str, Query(pattern=r"^0x[0-9a-fA-F]{40}$", description="Address of one of the run's people.")
]
PlaceQuery = Annotated[int, Query(ge=0, lt=4096)]
Skipped = Annotated[
    list[str],
    Query(max_length=64, description="Pairs not to be shown: round-number-group-place-place."),
]


class BroughtPreference(Frozen):
    """A preference as a wallet signed it."""

    address: Address
    round: Round
    number: Number
    group: Place
    better: Place
    worse: Place
    signature: Annotated[str, Field(pattern=r"^0x[0-9a-fA-F]{130}$")]

    def message(self, manifest: RunManifest, person: int) -> Signed[Preference]:
        """Return it as a message.

        Raises:
            Malformed: a sample is compared with itself.
        """
        raw = bytes.fromhex(self.signature[2:])
        if raw[64] < 2:  # as some wallets write it
            raw = raw[:64] + bytes([raw[64] + 27])
        said = preference_of(person, self.number, self.group, self.better, self.worse)
        return message_of(manifest, self.round, said, raw)


def preference_of(person: int, number: int, group: int, better: int, worse: int) -> Preference:
    """Return a preference.

    Raises:
        Malformed: a sample is compared with itself.
    """
    try:
        return Preference(person=person, number=number, group=group, better=better, worse=worse)
    except ValidationError as error:
        raise Malformed(error.errors()[0]["msg"]) from error


def add_preferences(app: FastAPI, comparisons: Comparisons, clock: Clock, submit: Submit | None) -> None:
    """Add the routes for people to an app.

    Args:
        submit: None: preferences can be looked for, but not brought.
    """
    bucket = TokenBucket(BURST, PER_S, clock())

    def asking(run: str) -> RunManifest:
        try:
            manifest = comparisons.manifest()
        except Malformed as error:
            raise HTTPException(404, error.message) from error
        if manifest.run_id != run:
            raise HTTPException(404, "this coordinator does not run it")
        return manifest

    def person_of(manifest: RunManifest, address: str) -> int:
        try:
            return comparisons.person(manifest, address)
        except Malformed as error:
            raise HTTPException(403, error.message) from error

    @app.get("/v1/runs/{run}/preferences/next")
    def next_pair(run: RunId, address: Person, skip: Skipped = []) -> dict[str, Any]:  # noqa: B006 (never changed)
        """Return two samples of one group for a person to compare, or none if there are none now."""
        manifest = asking(run)
        person_of(manifest, address)
        pair = comparisons.next_pair(manifest, address, {_pair(one) for one in skip})
        return {"pair": pair}

    @app.get("/v1/runs/{run}/preferences/typed-data")
    def to_sign(
        run: RunId,
        address: Person,
        round: Annotated[int, Query(ge=0, le=1_000_000)],
        number: Annotated[int, Query(ge=1, lt=2**53)],
        group: PlaceQuery,
        better: PlaceQuery,
        worse: PlaceQuery,
    ) -> dict[str, Any]:
        """Return what a wallet signs to say that one sample is better than another (`eth_signTypedData_v4`)."""
        manifest = asking(run)
        person = person_of(manifest, address)
        try:
            said = preference_of(person, number, group, better, worse)
        except Malformed as error:
            raise HTTPException(422, error.message) from error
        if refusal := comparisons.refusal(manifest, round, said):
            raise HTTPException(409, refusal)
        return {"says": says(round, said), "typed_data": typed_data(manifest, round, said)}

    def check(run: str, data: bytes) -> Signed[Preference]:
        manifest = asking(run)
        try:
            brought = BroughtPreference.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            raise HTTPException(422, f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}") from error
        person = person_of(manifest, brought.address)
        try:
            message = brought.message(manifest, person)
            check_preference(manifest, message)
        except Malformed as error:
            raise HTTPException(422, error.message) from error
        if refusal := comparisons.refusal(manifest, message.round, message.body):
            raise HTTPException(409, refusal)
        return message

    @app.post("/v1/runs/{run}/preferences")
    async def bring(run: RunId, request: Request) -> dict[str, Any]:
        """Take a signed preference: JSON with address, round, number, group, better, worse and signature."""
        if submit is None:
            raise HTTPException(503, "no coordinator takes preferences here")
        if not bucket.take(clock()):
            raise HTTPException(429, "too many preferences at once", {"Retry-After": "1"})
        message = await run_in_threadpool(check, run, await _body(request))
        try:
            refusal = await submit(message.wire)
        except NetworkError as error:
            raise HTTPException(503, error.message) from error
        if refusal:
            raise HTTPException(409, refusal)
        return {"accepted": True, "message": message.id, "says": says(message.round, message.body)}

    @app.get("/preferences", include_in_schema=False)
    def page() -> Response:
        """Show two samples to a person."""
        try:
            manifest = comparisons.manifest()
        except Malformed as error:
            raise HTTPException(404, error.message) from error
        return HTMLResponse(render_preferences(manifest), headers={"Content-Security-Policy": SCRIPT_POLICY})

    @app.get("/preferences.js", include_in_schema=False)
    def script() -> Response:
        return Response(SCRIPT, media_type="text/javascript")


def says(round_: int, said: Preference) -> str:
    """Return in words what a preference says."""
    return (
        f"In group {said.group} of number {said.number} in round {round_}, sample {said.better} is better than "
        f"sample {said.worse}."
    )


def _pair(text: str) -> Pair:
    parts = text.split("-")
    if len(text) > 40 or len(parts) != 5 or not all(part.isascii() and part.isdigit() for part in parts):
        raise HTTPException(422, "skip: a pair is round-number-group-place-place")
    round_, number, group, *places = map(int, parts)
    return (round_, number, group, min(places), max(places))


async def _body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a preference has at most {MAX_BODY_BYTES} bytes")
    return bytes(data)
