"""A person says on the coordinator's page which sample is better, and signs it with the wallet in the browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from playwright.sync_api import Page, expect

from coordinator.api import create_app
from protocol.keys import PeerKey
from protocol.messages import Preference, RoundRecord, parse_message
from tests.browser.conftest import Visit
from tests.coordinator.compared import HOSTILE, Compared
from tests.protocol.makers import key
from verification.preferences import check_listed

# What a wallet puts into a page (EIP-1193); the test itself answers.
PROVIDER = """
window.ethereum = {
  request: async ({ method, params }) => {
    const told = await window.wallet(method, JSON.stringify(params || []));
    if (told.error) throw told.error;
    return told.result;
  },
};
"""


class Wallet:
    """Answer a page as a wallet does that holds one key and agrees to everything, or to nothing."""

    def __init__(self, own: PeerKey, *, agrees: bool = True) -> None:
        self.own, self.agrees = own, agrees
        self.signed: list[dict[str, Any]] = []

    def __call__(self, method: str, params: str) -> dict[str, Any]:
        if method == "eth_requestAccounts":
            return {"result": [self.own.address]}
        assert method == "eth_signTypedData_v4", method
        address, typed = json.loads(params)
        assert address == self.own.address
        if not self.agrees:
            return {"error": {"code": 4001, "message": "User rejected the request."}}
        self.signed.append(json.loads(typed))
        signed = Account.sign_typed_data(self.own.secret, full_message=self.signed[-1])
        return {"result": f"0x{bytes(signed.signature).hex()}"}

    def into(self, page: Page) -> None:
        """Let a page use it."""
        page.expose_function("wallet", self)


@pytest.fixture
def compared(tmp_path: Path) -> Iterator[Compared]:
    with Compared.open(tmp_path) as found:
        yield found


@pytest.fixture
def app(compared: Compared) -> Any:
    return create_app(compared.engine, lambda: 0.0, compared.submit)


def connect(visit: Visit, wallet: Wallet) -> Page:
    wallet.into(visit.page)
    page = visit.go("/preferences")
    page.get_by_role("button", name="Connect wallet").click()
    return page


def test_a_person_chooses_and_a_record_carries_it(
    visit: Callable[..., Visit], app: Any, compared: Compared
) -> None:
    wallet = Wallet(key("person 0"))
    page = connect(visit(app, PROVIDER), wallet)
    expect(page.locator("#account")).to_have_text(wallet.own.address)
    expect(page.locator("#left code")).to_have_count(2)
    left, right = (page.locator(f"#{side} code").nth(1).text_content() for side in ("left", "right"))
    assert left != right
    page.get_by_role("button", name="Left is better").click()
    expect(page.locator("#told")).to_contain_text("Accepted. In group")
    first = page.locator("#told").text_content() or ""
    page.get_by_role("button", name="Right is better").click()
    expect(page.locator("#told")).not_to_have_text(first)
    expect(page.locator("#told")).to_contain_text("Accepted. In group")
    expect(page.get_by_role("button", name="Skip")).to_be_enabled()

    said = [parse_message(wire) for wire in compared.brought]
    assert [one.author for one in said] == [wallet.own.address] * 2
    assert all(isinstance(one.body, Preference) for one in said)
    assert [f"0x{one.body.digest().hex()}" for one in said] == [
        one["message"]["body"] for one in wallet.signed
    ]
    texts = ("a\n", "b\n", HOSTILE, "a\n")
    better = said[0].body.better  # type: ignore[attr-defined]
    assert texts[better] == left
    compared.record(2)
    records = records_of(compared)
    carried = records[2].preferences
    assert [one.said for one in carried] == [one.body for one in sorted(said, key=lambda one: one.round)]
    assert [fault for _, fault in check_listed(compared.manifest, records.get, 2)] == ["", ""]


def records_of(compared: Compared) -> dict[int, RoundRecord]:
    """Return the records as the coordinator's database has them."""
    from coordinator.queries import Reader

    found = Reader(compared.engine).messages(0, 100, "record")
    bodies = [one["message"] for one in found]
    return {one["round"]: RoundRecord.model_validate(one["body"]) for one in bodies}


def test_what_a_policy_wrote_is_text_and_skipping_goes_on(visit: Callable[..., Visit], app: Any) -> None:
    page = connect(visit(app, PROVIDER), Wallet(key("person 0")))
    for _ in range(40):
        expect(page.get_by_role("button", name="Skip")).to_be_enabled()
        if HOSTILE in (page.locator(".sides").text_content() or ""):
            break
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#told")).to_have_text("Skipped.")
    else:
        pytest.fail("nobody was shown what would rather be markup")
    assert page.locator("script").count() == 1
    assert page.locator("script").get_attribute("src") == "/preferences.js"
    assert page.title() == "Murmur: preferences"


def test_who_has_no_wallet_is_told(visit: Callable[..., Visit], app: Any) -> None:
    page = visit(app).go("/preferences")
    page.get_by_role("button", name="Connect wallet").click()
    expect(page.locator("#told")).to_contain_text("There is no wallet in this browser")
    expect(page.get_by_role("button", name="Left is better")).to_be_disabled()


def test_who_does_not_agree_in_its_wallet_signs_nothing(
    visit: Callable[..., Visit], app: Any, compared: Compared
) -> None:
    page = connect(visit(app, PROVIDER), Wallet(key("person 0"), agrees=False))
    page.get_by_role("button", name="Left is better").click()
    expect(page.locator("#told")).to_have_text(
        "Not accepted: you did not agree in your wallet; nothing was signed"
    )
    assert compared.brought == []


def only_fault(visit: Visit, status: str) -> None:
    """Check that one refusal of the server is all that the browser noted, as it does of each on its console."""
    assert len(visit.faults) == 1
    assert status in visit.faults.pop()


def test_who_is_not_listed_is_told(visit: Callable[..., Visit], app: Any) -> None:
    opened = visit(app, PROVIDER)
    page = connect(opened, Wallet(key("stranger")))
    expect(page.locator("#told")).to_contain_text("is not among the people whose preferences count")
    expect(page.get_by_role("button", name="Left is better")).to_be_disabled()
    only_fault(opened, "403")


def test_who_comes_too_late_is_told_and_goes_on(
    visit: Callable[..., Visit], app: Any, compared: Compared
) -> None:
    opened = visit(app, PROVIDER)
    page = connect(opened, Wallet(key("person 0")))
    expect(page.get_by_role("button", name="Skip")).to_be_enabled()
    for round_ in range(2, 5):
        compared.record(round_)
    page.get_by_role("button", name="Right is better").click()
    expect(page.locator("#told")).to_contain_text("Not accepted: too late")
    expect(page.get_by_role("button", name="Skip")).to_be_enabled()
    assert compared.brought == []
    only_fault(opened, "409")


def test_where_nothing_can_be_compared_the_page_waits(
    visit: Callable[..., Visit], app: Any, compared: Compared
) -> None:
    for round_ in (0, 1):
        for number in (1, 2):
            compared.void(round_, number)
    page = connect(visit(app, PROVIDER), Wallet(key("person 0")))
    expect(page.locator("#told")).to_contain_text("There is nothing to compare now")
    compared.record(2)
    expect(page.get_by_role("button", name="Skip")).to_be_enabled()
