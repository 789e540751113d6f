"""Where a local run stands: what its coordinator's API says of it, and whether anything moves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from protocol.errors import NetworkError


@dataclass
class Progress:
    """Notice when nothing moves any more."""

    clock: Callable[[], float]
    patience_s: float
    _last: object = None
    _since: float | None = None

    def note(self, where: object) -> None:
        """Take down where the run stands."""
        if self._since is None or where != self._last:
            self._last, self._since = where, self.clock()

    def check(self, line: str) -> None:
        """Raise NetworkError if it has stood there for too long."""
        if self._since is not None and self.clock() - self._since > self.patience_s:
            raise NetworkError(f"nothing has moved for {self.patience_s:.0f} s: {line}", hint="see the logs")


def learnt(state: dict[str, Any]) -> str:
    """Say how far a run has come, as its coordinator last measured; empty before it did."""
    if state["policy"] is None:
        loss = state["loss"]["last"]
        return "" if loss is None else f", loss {loss:.3f}"
    last = state["policy"]["last"]
    return "" if last is None else f", success {last['success']:.3f}, reward {last['reward']:.3f}"


def read_summary(client: httpx.Client, run: str) -> dict[str, Any] | None:
    """Ask the coordinator's API where the run stands; None while it does not answer."""
    try:
        answer = client.get(f"/v1/runs/{run}")
        if answer.status_code != httpx.codes.OK:
            return None
        found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return found
