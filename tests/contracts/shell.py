"""The wallet's owner at a terminal-less shell: what is typed, and what the program answers."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Typer
from typer.testing import CliRunner

from contracts.dispute_cli import dispute_app
from contracts.jury_cli import jury_app
from contracts.rewards_cli import rewards_app
from contracts.stake_cli import stake_app
from protocol.errors import MurmurError

if TYPE_CHECKING:
    from tests.contracts.conftest import Network


ROOT = Path(__file__).parents[2]


def murmur(arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run the program as people do."""
    return subprocess.run(
        [sys.executable, "-m", "murmur", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@dataclass(frozen=True)
class Answer:
    """What a command said; `error` is what it was refused with."""

    out: str
    err: str
    error: MurmurError | None
    code: int

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def answer(app: Typer, arguments: Sequence[str]) -> Answer:
    """Return what an app answers; only what it does not expect is raised."""
    found = CliRunner().invoke(app, list(arguments))
    if found.exception is not None and not isinstance(found.exception, MurmurError | SystemExit):
        raise found.exception
    error = found.exception if isinstance(found.exception, MurmurError) else None
    code = found.exit_code if error is None else error.exit_code
    return Answer(found.stdout, found.stderr, error, code)


@dataclass(frozen=True)
class Shell:
    """Type commands of one wallet's owner, who has no terminal."""

    network: "Network"
    home: Path
    wallet: str

    def flags(self, command: str) -> list[str]:
        # `murmur dispute list RUN` and `show CASE` need no wallet.
        directory = () if re.match("list [0-9a-f]{64}|show [0-9]", command) else ("--dir", str(self.home))
        return [
            *command.split(),
            *directory,
            *("--rpc", self.network.chain.url, "--ledger", self.network.ledger.address),
        ]

    def type(self, command: str, *more: str) -> Answer:
        app, _, rest = command.partition(" ")
        return self.bare(app, *self.flags(rest), *more)

    def bare(self, command: str, *more: str) -> Answer:
        """Type a command without the flags that most of them need."""
        app, _, rest = command.partition(" ")
        apps = {"stake": stake_app, "rewards": rewards_app, "dispute": dispute_app, "jury": jury_app}
        arguments = [*rest.split(), *more]
        return answer(apps[app], arguments)

    def balance(self) -> int:
        return self.network.ledger.balance_of(self.wallet)

    def block(self) -> int:
        return int(self.network.chain.w3.eth.block_number)
