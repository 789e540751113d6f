"""A real browser in front of the coordinator's pages: `visit` opens one, and fails where a page misbehaves.

The fixtures serve any ASGI app on loopback and open a page of it in Chromium. When the test ends, so does what the page
may do: an error on its console, an exception of a script, a dialog, or a request to anybody but the app fails the test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import create_server
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from playwright.sync_api import Browser, Dialog, Error, Page, Playwright, Route, sync_playwright

from murmur.bootstrap import BROWSER_HINT, find_browser

PATIENCE_MS = 30_000  # for one thing to happen; others use the machine
# Not even names are looked up: whatever a page asks of elsewhere fails, and is noted.
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


def program_of(playwright: Playwright) -> str:
    """Return the browser's program: this machine's Chromium, or else the one that Playwright installed."""
    own = Path(playwright.chromium.executable_path)
    found = find_browser() or (str(own) if own.exists() else None)
    if found is None:
        pytest.skip(f"no browser on this machine: {BROWSER_HINT}")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one browser for the tests of a module."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program_of(playwright), args=[ALONE])
        yield launched
        launched.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free port of the loopback interface until the block ends; gives its address."""
    with create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="app")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Visit:
    """Hold a page of an app, and what it did that no page of ours does."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        """Open a path of the app."""
        answer = self.page.goto(f"{self.url}{path}")
        assert answer is not None
        assert answer.ok, f"{path}: {answer.status}"
        return self.page

    def watch(self) -> None:
        """Take down every fault from now on, and let no request leave for elsewhere."""
        page = self.page
        page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        page.on("pageerror", lambda error: self._note(True, f"a script failed: {error}"))
        page.on("dialog", self._dismiss)
        page.on("popup", lambda opened: self._note(True, f"a window opened: {opened.url}"))
        page.context.route("**/*", self._let_home_only)

    def _note(self, bad: bool, what: str) -> None:
        if bad:
            self.faults.append(what)

    def _dismiss(self, dialog: Dialog) -> None:
        self._note(True, f"a dialog opened: {dialog.message}")
        dialog.dismiss()

    def _let_home_only(self, route: Route) -> None:
        asked = urlsplit(route.request.url)
        if f"{asked.scheme}://{asked.netloc}" == self.url:
            route.continue_()
        else:
            self._note(True, f"asked elsewhere: {route.request.url}")
            route.abort()


@contextmanager
def visiting(browser: Browser, app: Any, script: str = "") -> Iterator[Visit]:
    """Serve an app and open a blank page to visit it with; when the block ends, faults are raised.

    Args:
        script: JavaScript that runs before any script of each page, such as a wallet's provider (EIP-1193).

    Raises:
        AssertionError: the pages did something that none of ours may.
    """
    with served(app) as url:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        if script:
            context.add_init_script(script)
        visit = Visit(context.new_page(), url)
        visit.watch()
        try:
            yield visit
        finally:
            # What is still under way when its page closes is no fault.
            seen = list(visit.faults)
            try:
                context.close()
            except Error as error:
                seen.append(str(error))
        assert not seen, "\n".join(seen)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Return what opens apps in the browser: `visit(app)` or `visit(app, script)`; faults fail the test at its end."""
    with ExitStack() as stack:
        yield lambda app, script="": stack.enter_context(visiting(browser, app, script))
