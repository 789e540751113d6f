"""What people can compare, how they bring what they prefer, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from eth_account import Account
from starlette.testclient import TestClient
from typer.testing import CliRunner

from coordinator import prefer_cli
from coordinator.api import create_app
from coordinator.cli import run_app
from coordinator.preference_api import BURST
from protocol.errors import ConfigError, Malformed
from protocol.keys import PeerKey, save_peer_key
from protocol.messages import parse_message
from tests.coordinator.compared import Compared
from tests.coordinator.conftest import make_manifest
from tests.protocol.makers import key

PERSON = key("person 0")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def compared(tmp_path: Path) -> Iterator[Compared]:
    with Compared.open(tmp_path) as found:
        yield found


@pytest.fixture
def client(compared: Compared, clock: Clock) -> Iterator[TestClient]:
    with TestClient(create_app(compared.engine, clock, compared.submit)) as opened:
        yield opened


def base(compared: Compared) -> str:
    return f"/v1/runs/{compared.manifest.run_id}/preferences"


def pair_for(client: TestClient, compared: Compared, address: str = PERSON.address, *skip: str) -> Any:
    answer = client.get(f"{base(compared)}/next", params={"address": address, "skip": skip})
    assert answer.status_code == 200, answer.text
    return answer.json()["pair"]


def sign_and_bring(
    client: TestClient, compared: Compared, pair: Any, own: PeerKey = PERSON, **changes: Any
) -> httpx.Response:
    """Do what the page does with a wallet: ask what to sign, sign it, bring it."""
    said = {name: pair[name] for name in ("round", "number", "group")}
    said |= {"address": own.address, "better": pair["left"]["place"], "worse": pair["right"]["place"]}
    found = client.get(f"{base(compared)}/typed-data", params=said)
    if found.status_code != 200:
        return found
    signed = Account.sign_typed_data(own.secret, full_message=found.json()["typed_data"])
    brought = said | {"signature": f"0x{bytes(signed.signature).hex()}"} | changes
    return client.post(base(compared), json=brought)


def test_a_person_signs_what_it_prefers_and_a_record_carries_it(
    client: TestClient, compared: Compared
) -> None:
    pair = pair_for(client, compared)
    assert pair["left"]["parts"] != pair["right"]["parts"]
    answer = sign_and_bring(client, compared, pair)
    assert answer.status_code == 200, answer.text
    message = parse_message(compared.brought[0])
    assert message.author == PERSON.address
    assert answer.json()["message"] == message.id
    assert f"sample {pair['left']['place']} is better" in answer.json()["says"]
    compared.record(2)
    told = client.get(f"/v1/runs/{compared.manifest.run_id}/rollouts", params={"round": pair["round"]}).json()
    unit = next(one for one in told["units"] if one["number"] == pair["number"])
    assert unit["preferences"] == 1
    record = client.get(f"/v1/runs/{compared.manifest.run_id}/messages", params={"kind": "record"}).json()
    carried = [one["message"]["body"]["preferences"] for one in record["messages"]]
    assert carried[2][0]["said"] == message.body.model_dump()


def test_the_page_of_rollouts_says_how_often_a_sample_was_preferred(
    client: TestClient, compared: Compared
) -> None:
    skip: list[str] = []
    while (pair := pair_for(client, compared, PERSON.address, *skip))["number"] != 1 or pair["group"]:
        places = sorted((pair["left"]["place"], pair["right"]["place"]))
        skip.append("-".join(str(one) for one in (pair["round"], pair["number"], pair["group"], *places)))
    assert sign_and_bring(client, compared, pair).status_code == 200
    compared.record(2)
    page = client.get("/rollouts", params={"round": pair["round"]}).text
    assert "people prefer it 1 of 1 times: 0.629" in page
    assert "people prefer it 0 of 1 times: 0.371" in page


def test_what_few_have_compared_comes_first_and_nobody_is_asked_twice(
    client: TestClient, compared: Compared
) -> None:
    seen: list[tuple[int, ...]] = []
    for _ in range(8):
        pair = pair_for(client, compared)
        places = sorted((pair["left"]["place"], pair["right"]["place"]))
        seen.append((pair["round"], pair["number"], pair["group"], *places))
        assert sign_and_bring(client, compared, pair).status_code == 200
    groups = [one[:3] for one in seen]
    assert len(set(groups[:6])) == 6, "each group once, before any is compared again"
    assert len(set(seen)) == len(seen)
    assert not any(one[3:] == (0, 3) for one in seen), "equal samples are not compared"


def test_skipped_pairs_are_not_shown_again(client: TestClient, compared: Compared) -> None:
    skip: list[str] = []
    while (pair := pair_for(client, compared, PERSON.address, *skip)) is not None:
        places = sorted((pair["left"]["place"], pair["right"]["place"]))
        skip.append("-".join(str(one) for one in (pair["round"], pair["number"], pair["group"], *places)))
    assert len(set(skip)) == len(skip) == 6 * 5, "six groups, five differing pairs each"


def test_only_who_is_listed_is_asked(client: TestClient, compared: Compared) -> None:
    answer = client.get(f"{base(compared)}/next", params={"address": key("stranger").address})
    assert answer.status_code == 403
    assert "not among the people" in answer.json()["detail"]


def test_a_signature_of_another_is_refused(client: TestClient, compared: Compared) -> None:
    pair = pair_for(client, compared)
    wrong = sign_and_bring(client, compared, pair, address=key("person 1").address)
    assert wrong.status_code == 422
    assert "signed by" in wrong.json()["detail"]
    broken = sign_and_bring(client, compared, pair, signature="0x" + "11" * 65)
    assert broken.status_code == 422
    assert compared.brought == []


def test_what_comes_too_late_or_twice_is_refused(client: TestClient, compared: Compared) -> None:
    pair = pair_for(client, compared)
    assert sign_and_bring(client, compared, pair).status_code == 200
    again = sign_and_bring(client, compared, {**pair, "left": pair["right"], "right": pair["left"]})
    assert again.status_code == 409
    assert "before" in again.json()["detail"]
    for round_ in range(2, 5):
        compared.record(round_)
    fresh = {**pair, "left": {"place": 3}, "right": {"place": 2}}
    late = sign_and_bring(client, compared, fresh)
    assert late.status_code == 409
    assert "too late" in late.json()["detail"]


def test_nothing_invalid_is_compared(client: TestClient, compared: Compared) -> None:
    for round_ in (0, 1):
        compared.void(round_, 1)
    pair = pair_for(client, compared)
    assert pair["number"] == 2
    answer = sign_and_bring(client, compared, {**pair, "number": 1})
    assert answer.status_code == 409
    assert "nothing of number 1" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b'{"address": 5}', 422),
        (b"{" * 2000, 422),
        (b" " * 3000, 413),
        (b"\xff\xfe", 422),
    ],
)
def test_what_is_no_preference_is_refused_before_anything_else(
    client: TestClient, compared: Compared, body: bytes, status: int
) -> None:
    answer = client.post(base(compared), content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_preferences_are_taken_at_a_bounded_rate(
    client: TestClient, compared: Compared, clock: Clock
) -> None:
    found = [client.post(base(compared), content=b"{}").status_code for _ in range(int(BURST) + 1)]
    assert found == [422] * int(BURST) + [429]
    clock.now += 1
    assert client.post(base(compared), content=b"{}").status_code == 422


def test_a_run_without_people_has_no_such_page(tmp_path: Path) -> None:
    with (
        Compared.open(tmp_path, make_manifest(rounds=6)) as found,
        TestClient(create_app(found.engine, lambda: 0.0)) as client,
    ):
        assert client.get("/preferences").status_code == 404
        answer = client.get(f"{base(found)}/next", params={"address": PERSON.address})
        assert answer.status_code == 404
        assert "asks no people" in answer.json()["detail"]


def test_without_a_coordinator_nothing_is_taken(compared: Compared) -> None:
    with TestClient(create_app(compared.engine, lambda: 0.0)) as client:
        assert client.post(base(compared), content=b"{}").status_code == 503


def test_the_page_lets_its_own_script_run_and_no_other(client: TestClient, compared: Compared) -> None:
    page = client.get("/preferences")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.text.count("<script") == 1
    assert "innerHTML" not in client.get("/preferences.js").text
    front = client.get("/")
    assert "script-src" not in front.headers["content-security-policy"]
    assert '2 people say which samples are better: <a href="/preferences">' in front.text


@pytest.fixture
def terminal(compared: Compared, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the command talk to the app without a socket; return the person's key file."""
    app = create_app(compared.engine, clock, compared.submit)
    monkeypatch.setattr(httpx, "Client", lambda **more: TestClient(app))
    path = tmp_path / "person" / "peer.key"
    save_peer_key(path, PERSON)
    return path


def prefer(path: Path, *arguments: str, said: str = "") -> Any:
    return CliRunner().invoke(
        run_app, ["prefer", "--api", "http://testserver", "--key", str(path), *arguments], input=said
    )


def test_a_person_without_a_browser_compares_in_a_terminal(terminal: Path, compared: Compared) -> None:
    found = prefer(terminal, said="what?\ns\nleft\nr\nq\n")
    assert found.exit_code == 0, found.exception
    assert found.stdout.count("Accepted.") == 2
    assert len(compared.brought) == 2
    assert {parse_message(one).author for one in compared.brought} == {PERSON.address}


def test_a_script_compares_in_lines_of_json(terminal: Path, compared: Compared) -> None:
    found = prefer(terminal, "--json", "--count", "1", said="left\n")
    assert found.exit_code == 0, found.exception
    shown, told = (json.loads(line) for line in found.stdout.splitlines())
    assert told["accepted"]
    said = parse_message(compared.brought[0]).body
    assert said.better == shown["pair"]["left"]["place"]  # type: ignore[attr-defined]


def test_the_command_explains_a_key_of_nobody_and_an_open_file(terminal: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger" / "peer.key"
    save_peer_key(stranger, key("stranger"))
    found = prefer(stranger)
    assert isinstance(found.exception, ConfigError)
    assert "not among the people" in found.exception.message
    terminal.chmod(0o644)
    assert "chmod 600" in prefer(terminal).exception.hint
    assert prefer_cli._visible("a\x1b[2J\nb") == "a?[2J⏎b"


def test_what_is_not_self_consistent_is_no_preference() -> None:
    from coordinator.preference_api import preference_of

    with pytest.raises(Malformed, match="not better than itself"):
        preference_of(0, 1, 0, 2, 2)
