"""The live page and the pages of rollouts as a person meets them, in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from coordinator.api import create_app
from coordinator.rollouts import describe_rollouts
from coordinator.store import Store
from coordinator.tables import database_url, open_engine
from tests.browser.conftest import Visit, visiting
from tests.coordinator.test_rollouts import blob_of, unit_row
from tests.verification.rollout_run import honest_unit

NOW = 1_000_000.0
ROUNDS = 2
HOSTILE = (
    "<script>document.title='taken'</script>",
    "<img src='http://elsewhere.example/x.png' onerror=\"document.title='taken'\">",
    "</code></p><svg onload=alert(1)>",
    "<a href='javascript:alert(1)'>win</a>",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coordinator")


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    """Fill a database as a coordinator of a run of nim would, with samples that would rather be markup."""
    unit = honest_unit("nim")
    with Store.open(folder, unit.manifest, clock=lambda: NOW) as opened:
        with opened.write() as tx:
            for round_ in range(ROUNDS):
                found = describe_rollouts(unit.manifest, blob_of(unit))
                for sample, text in zip(found["shown"]["samples"], HOSTILE, strict=True):
                    sample["parts"][0]["text"] = text
                tx.posted(round_, root_block=5, record_block=6)
                tx.policy(round_, 0.25 + round_ / 2, 0.5, dict.fromkeys(found["components"], 0.5))
                for number in (1, 2):
                    tx.rollouts(round_, number, found)
                    row = unit_row(number, merged=number == 1, reason="" if number == 1 else HOSTILE[0])
                    row.round = round_
                    tx._session.add(row)
            tx.status(phase="commit", round_=1, detail=HOSTILE[1], height=77, facts={})
        yield opened


@pytest.fixture(scope="module")
def app(folder: Path, store: Store) -> Iterator[Any]:
    engine = open_engine(database_url(folder), writer=False)
    yield create_app(engine, lambda: NOW + 1)
    engine.dispose()


def is_text(page: Page, texts: tuple[str, ...]) -> None:
    """Check that what peers wrote is there to read, letter by letter, and nothing of it was obeyed."""
    shown = page.locator("body").text_content() or ""
    assert not [text for text in texts if text not in shown]
    assert page.locator("script, img, svg[onload], a[href^=javascript]").count() == 0
    assert page.title().startswith("Murmur: ")


def test_the_live_page_shows_a_policy_and_follows_it(
    visit: Callable[..., Visit], app: Any, store: Store
) -> None:
    page = visit(app).go("/")
    expect(page.locator("h1")).to_have_text("rollouts · round 2 of 6")
    expect(page.locator("dl")).to_contain_text("0.250 → 0.750")
    expect(page.get_by_role("img", name="Share of held-out tasks done")).to_be_visible()
    is_text(page, (HOSTILE[1],))
    assert page.locator("table").first.evaluate("cell => getComputedStyle(cell).borderCollapse") == "collapse"
    with store.write() as tx:
        tx.status(phase="reveal", round_=2, detail="", height=78, facts={})
    expect(page.locator("h1")).to_have_text("rollouts · round 3 of 6", timeout=30_000)


def test_a_person_browses_samples_and_reads_them_as_text(visit: Callable[..., Visit], app: Any) -> None:
    page = visit(app).go("/")
    page.get_by_role("link", name="Rollouts of round 2").click()
    expect(page.locator("h1")).to_have_text("rollouts · rollouts of round 2 of 6")
    expect(page.get_by_role("heading", name="Number 2, group")).to_be_visible()
    for place in range(len(HOSTILE)):
        sample = page.locator("details").nth(place)
        words = sample.locator("code").first
        expect(words).not_to_be_visible()
        sample.locator("summary").click()
        expect(words).to_be_visible()
        expect(words).to_have_text(HOSTILE[place])
    is_text(page, HOSTILE)
    page.get_by_role("link", name="round 1", exact=True).click()
    expect(page.locator("h1")).to_have_text("rollouts · rollouts of round 1 of 6")
    is_text(page, HOSTILE)
    page.get_by_role("link", name="the run").click()
    expect(page.get_by_role("heading", name="Peers")).to_be_visible()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.error('a plain mistake')</script>", "a plain mistake"),
        ("<script>nobody.home()</script>", "a script failed: nobody is not defined"),
        ("<img src='http://elsewhere.example/x.png'>", "asked elsewhere: http://elsewhere.example/x.png"),
        (HOSTILE[2], "a dialog opened: 1"),
        ("<img src='/gone.png'>", "404"),
    ],
)
def test_what_no_page_of_ours_does_is_noticed(browser: Browser, body: str, fault: str) -> None:
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse(f"<!doctype html><title>it</title>{body}")

    broken = Starlette(routes=[Route("/", page)])
    with pytest.raises(AssertionError, match=fault), visiting(browser, broken) as visit:
        visit.go("/")


def test_a_script_that_is_given_runs_before_the_page(visit: Callable[..., Visit]) -> None:
    async def page(request: Request) -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>it</title><script>document.title = window.given</script>")

    opened = visit(Starlette(routes=[Route("/", page)]), "window.given = 'a provider'").go("/")
    expect(opened).to_have_title("a provider")
