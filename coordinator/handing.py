"""How the API's process hands the coordinator what people bring: lines of JSON over the pipes between the two.

The API writes `{"id": 7, "wire": "..."}` to its stdout and reads `{"id": 7, "refused": ""}` from its stdin, which also
tells it when the coordinator is gone. The coordinator believes none of it: a line is at most as long as a preference
can be, and what it holds is checked like a message from any peer.
"""

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from itertools import count
from typing import IO, Any, Final

import trio

from protocol.canonical import canonical_json, parse_canonical_json
from protocol.errors import Malformed, MurmurError, NetworkError

MAX_LINE_BYTES: Final = 4096
PATIENCE_S: Final = 10.0


class Handover:
    """The API's end."""

    def __init__(self, answers: IO[bytes], questions: IO[bytes]) -> None:
        self._answers, self._questions = answers, questions
        self._waiting: dict[int, Future[str]] = {}
        self._numbers = count(1)
        self._writing = threading.Lock()

    async def submit(self, wire: bytes) -> str:
        """Hand wire bytes over; return why they are refused, or an empty string.

        Raises:
            NetworkError: the coordinator does not answer.
        """
        number, answer = next(self._numbers), Future[str]()
        self._waiting[number] = answer
        try:
            await asyncio.to_thread(self._write, {"id": number, "wire": wire.decode()})
            return await asyncio.wait_for(asyncio.wrap_future(answer), PATIENCE_S)
        except (TimeoutError, OSError) as error:
            raise NetworkError("the coordinator does not answer now", hint="try again") from error
        finally:
            del self._waiting[number]

    def _write(self, question: dict[str, Any]) -> None:
        with self._writing:
            self._questions.write(canonical_json(question) + b"\n")
            self._questions.flush()

    def listen(self) -> None:
        """Take answers until the coordinator is gone."""
        while line := self._answers.readline():
            told = json.loads(line)
            waiting = self._waiting.get(told["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(told["refused"])

    def end_with(self) -> None:
        """Take answers, and end the process with its coordinator."""
        try:
            self.listen()
        finally:
            os._exit(0)


Take = Callable[[bytes], Awaitable[None]]
"""Take in wire bytes from a person; raise a MurmurError to refuse them."""


async def answer(process: trio.Process, take: Take) -> None:
    """Take what the API hands over, until it ends or breaks the rules of its lines.

    Raises:
        Malformed: a line is too long or none of the API's.
    """
    assert process.stdout is not None
    assert process.stdin is not None
    buffered = bytearray()
    while piece := await process.stdout.receive_some(MAX_LINE_BYTES):
        buffered += piece
        while (end := buffered.find(b"\n")) >= 0:
            line, buffered = bytes(buffered[:end]), buffered[end + 1 :]
            told = parse_canonical_json(line, max_bytes=MAX_LINE_BYTES)
            number, wire = told.get("id"), told.get("wire")
            if not isinstance(number, int) or not isinstance(wire, str):
                raise Malformed("the API handed over a line without a message")
            refused = await _refusal(take, wire.encode())
            await process.stdin.send_all(canonical_json({"id": number, "refused": refused}) + b"\n")
        if len(buffered) > MAX_LINE_BYTES:
            raise Malformed("the API handed over a line that is too long")


async def _refusal(take: Take, wire: bytes) -> str:
    try:
        await take(wire)
    except MurmurError as error:
        return error.message or "refused"
    return ""
