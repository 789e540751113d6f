"""What people bring to the API's process reaches the coordinator, over the pipes between the two real processes."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest
import trio

from coordinator import serving
from coordinator.handing import MAX_LINE_BYTES, answer
from coordinator.tables import database_url
from protocol.errors import Malformed
from protocol.messages import parse_message
from tests.coordinator.compared import Compared
from tests.protocol.makers import key, preference


async def wait_for(client: httpx.AsyncClient) -> None:
    with trio.fail_after(60):
        while True:
            try:
                if (await client.get("/livez")).status_code == 200:
                    return
            except httpx.TransportError:
                await trio.sleep(0.1)


def test_a_preference_reaches_the_pool_and_its_refusal_the_person(tmp_path: Path) -> None:
    brought: list[bytes] = []

    async def live(compared: Compared) -> tuple[httpx.Response, httpx.Response]:
        async def take(wire: bytes) -> None:
            brought.append(wire)
            compared.pool.accept(wire)

        listener = await serving.bind(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with AsyncExitStack() as stack:
            stack.enter_context(listener)
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url))
            nursery = await stack.enter_async_context(trio.open_nursery())
            places = (tmp_path / "checkpoints", tmp_path / "api.log")
            nursery.start_soon(serving.serve, listener, database_url(tmp_path), *places, take)
            await wait_for(client)
            message = preference(compared.manifest, 1, 0, 1)
            body = {**message.body.model_dump(exclude={"person"}), "round": 1}
            body |= {"address": key("person 0").address, "signature": f"0x{message.signature.hex()}"}
            path = f"/v1/runs/{compared.manifest.run_id}/preferences"
            first = await client.post(path, json=body)
            again = await client.post(path, json={**body, "better": 1, "worse": 0})
            turned = preference(compared.manifest, 1, 1, 0)
            turn = {**body, "better": 1, "worse": 0, "signature": f"0x{turned.signature.hex()}"}
            assert again.status_code == 422, "the signature is of other words"
            again = await client.post(path, json=turn)
            nursery.cancel_scope.cancel()
        return first, again

    with Compared.open(tmp_path) as compared:
        first, again = trio.run(live, compared)
        assert first.status_code == 200, first.text
        assert parse_message(brought[0]) == preference(compared.manifest, 1, 0, 1)
        assert again.status_code == 409
        assert "said before" in again.json()["detail"]


@pytest.mark.parametrize(
    "said", [f"print('x' * {2 * MAX_LINE_BYTES})", "print('[]')", """print('{"id":1}')"""]
)
def test_a_process_that_breaks_the_rules_of_its_lines_is_not_listened_to(said: str) -> None:
    async def take(wire: bytes) -> None:
        pytest.fail("there is nothing to take")

    async def live() -> None:
        command = [sys.executable, "-S", "-c", said]
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdin, process.stdout:
            try:
                await answer(process, take)
            finally:
                await process.wait()

    with pytest.raises(Malformed):
        trio.run(live)
