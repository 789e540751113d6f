"""The API and the live page: a process of its own that only reads the database, `python -m coordinator.api`.

It ends when its stdin closes, so that it never outlives the coordinator; what people bring it hands over on its stdout
(`coordinator.handing`). Errors are problem documents (RFC 9457).
"""

import os
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException as StarletteHTTPException

from coordinator.comparing import Comparisons
from coordinator.handing import Handover
from coordinator.metrics import run_readings
from coordinator.page import STYLE, render
from coordinator.preference_api import Submit, add_preferences
from coordinator.queries import MAX_PAGE, Reader
from coordinator.rollout_page import render_rollouts
from coordinator.tables import open_engine
from protocol.checkpoints import MAX_ROUND, Checkpoints
from protocol.clock import Clock, unix_time
from protocol.metrics import CONTENT_TYPE, exposition

STALE_S = 30.0
PAGE_ROUNDS = 20
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

RunId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Run id, 64 hex digits.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="At most so many entries.")]
Outcome = Literal["passed", "void", "false", "unjudged"]
Kind = Annotated[str, Query(max_length=32, pattern=r"^[a-z]+$")]
RoundQuery = Annotated[int, Query(ge=0, lt=2**31, description="Round, from 0.")]
Cursor = Annotated[
    str, Query(pattern=r"^[0-9]{1,7}-[0-9]{1,16}$", description="Continue after this round-number.")
]


def problem(status: int, detail: str) -> JSONResponse:
    """Return a problem document."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def create_app(
    engine: Engine, clock: Clock, submit: Submit | None = None, checkpoints: Checkpoints | None = None
) -> FastAPI:
    """Return the API over a database.

    Args:
        clock: tells the age of what is shown.
        submit: hands the coordinator what people bring; None: nothing can be brought.
        checkpoints: of the run; None: there are none.
    """
    app = FastAPI(title="Murmur coordinator", version="1", docs_url=None, redoc_url=None)
    reader = Reader(engine)
    _add_edges(app)

    def known(run: str) -> Reader:
        if reader.run_id() != run:
            raise HTTPException(404, "this coordinator does not run it")
        return reader

    @app.get("/v1/runs")
    def runs() -> list[dict[str, Any]]:
        """List the runs of this coordinator."""
        run = reader.run_id()
        return [] if run is None else [{"run": run, "href": f"/v1/runs/{run}"}]

    @app.get("/v1/runs/{run}")
    def run_summary(run: RunId) -> dict[str, Any]:
        """Return where the run stands: rounds, loss, peers, wire bytes, verification, ledger."""
        return known(run).summary(clock())

    @app.get("/v1/runs/{run}/rounds")
    def run_rounds(
        run: RunId, after: Annotated[int, Query(ge=-1, lt=2**31)] = -1, limit: Limit = 50
    ) -> dict[str, Any]:
        """List rounds by number."""
        found = known(run).rounds(after, limit)
        return {"rounds": found, "next": found[-1]["round"] if len(found) == limit else None}

    @app.get("/v1/runs/{run}/rounds/{round}")
    def run_round(run: RunId, round: Annotated[int, Path(ge=0, lt=2**31)]) -> dict[str, Any]:
        """Return one round with its units and verdicts."""
        found = known(run).round(round)
        if found is None:
            raise HTTPException(404, f"round {round} has not begun")
        return found

    @app.get("/v1/runs/{run}/units")
    def run_units(
        run: RunId,
        number: Annotated[int | None, Query(ge=1, lt=2**53)] = None,
        outcome: Outcome | None = None,
        after: Cursor | None = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """List units and what became of each."""
        round_, _, last = (after or "").partition("-")
        start = (int(round_), int(last)) if after else (-1, 0)
        found = known(run).units(number=number, outcome=outcome, after=start, limit=limit)
        more = f"{found[-1]['round']}-{found[-1]['number']}" if len(found) == limit else None
        return {"units": found, "next": more}

    @app.get("/v1/runs/{run}/messages")
    def run_messages(
        run: RunId,
        after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
        limit: Limit = 100,
        kind: Kind | None = None,
    ) -> dict[str, Any]:
        """List signed messages, in order of arrival, as they came over the wire."""
        found = known(run).messages(after, limit, kind)
        return {"messages": found, "next": found[-1]["sequence"] if len(found) == limit else None}

    @app.get("/v1/runs/{run}/rollouts")
    def run_rollouts(run: RunId, round: RoundQuery) -> dict[str, Any]:
        """Return the rollouts of one round: figures of each unit, and one group's samples as text."""
        return known(run).rollouts(round)

    @app.get("/v1/runs/{run}/settlement")
    def run_settlement(run: RunId) -> dict[str, Any]:
        """Return the signed reward tables, for `murmur rewards claim --settlement`."""
        return known(run).settlement()

    add_checkpoints(app, checkpoints, known)

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Return the run's metrics as Prometheus scrapes them."""
        summary = None if reader.run_id() is None else reader.summary(clock())
        return Response(exposition(lambda: run_readings(summary)), media_type=CONTENT_TYPE)

    @app.get("/livez")
    def livez() -> dict[str, str]:
        """Tell that this process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> Response:
        """Tell whether the coordinator keeps the data fresh."""
        age = clock() - reader.updated_at()
        if age > STALE_S:
            return problem(503, f"the coordinator last wrote {age:.0f} s ago")
        return JSONResponse({"status": "ok", "age_s": round(max(age, 0.0), 1)})

    @app.get("/style.css", include_in_schema=False)
    def style() -> Response:
        return Response(STYLE, media_type="text/css")

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        """Show the run to a person."""
        if reader.run_id() is None:
            raise HTTPException(503, "the coordinator has not begun")
        return HTMLResponse(render(reader.summary(clock()), reader.last_rounds(PAGE_ROUNDS)))

    @app.get("/rollouts", include_in_schema=False)
    def rollouts_page(round: RoundQuery = 0) -> HTMLResponse:
        """Show a round's rollouts to a person."""
        if reader.run_id() is None:
            raise HTTPException(503, "the coordinator has not begun")
        return HTMLResponse(render_rollouts(reader.summary(clock()), reader.rollouts(round)))

    add_preferences(app, Comparisons(engine), clock, submit)
    return app


def add_checkpoints(app: FastAPI, kept: Checkpoints | None, known: Callable[[str], Reader]) -> None:
    """Offer the run's checkpoints.

    Args:
        known: refuses another run than the coordinator's.
    """

    @app.get("/v1/runs/{run}/checkpoints")
    def run_checkpoints(run: RunId) -> dict[str, Any]:
        """List the rounds whose global parameters are kept, with their roots and sizes."""
        known(run)
        return {"checkpoints": [asdict(one) for one in (kept.kept() if kept is not None else [])]}

    @app.get("/v1/runs/{run}/checkpoints/{round}")
    def run_checkpoint(run: RunId, round: Annotated[int, Path(ge=0, lt=MAX_ROUND)]) -> Response:
        """Return the global parameters at the start of a round, as the file that its root is the hash of."""
        known(run)
        found = [one for one in (kept.kept() if kept is not None else []) if one.round == round]
        try:
            if kept is None or not found:
                raise FileNotFoundError
            path = kept.path(found[-1])
            return FileResponse(path, media_type="application/octet-stream", stat_result=path.stat())
        except FileNotFoundError:  # or let go meanwhile
            raise HTTPException(404, f"no checkpoint of round {round} is kept") from None


def _add_edges(app: FastAPI) -> None:
    """Turn every failure into a problem document, and put the security headers on everything."""

    @app.middleware("http")
    async def headers(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await answer(request)
        except SQLAlchemyError:
            response = problem(503, "the database cannot be read now")
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)  # a page with a script says so itself
        return response

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: StarletteHTTPException) -> Response:
        response = problem(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(re.sub(r"[^\w-]", "?", str(part))[:40] for part in first["loc"])
        return problem(422, f"{where}: {first['msg']}")


def main() -> None:
    """Serve on an inherited listening socket until stdin closes."""
    import argparse

    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--checkpoints", type=FilePath, required=True)
    arguments = parser.parse_args()
    questions = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not reach the coordinator
    handover = Handover(sys.stdin.buffer, questions)
    threading.Thread(target=handover.end_with, daemon=True).start()
    engine, checkpoints = open_engine(arguments.database, writer=False), Checkpoints(arguments.checkpoints)
    app = create_app(engine, unix_time, handover.submit, checkpoints)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=64,
        timeout_keep_alive=5,
        h11_max_incomplete_event_size=16384,
    )
    serve = partial(uvicorn.Server(config).run, sockets=[socket.socket(fileno=arguments.fd)])
    serve()


if __name__ == "__main__":
    main()
