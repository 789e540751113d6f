"""The wallet's owner at a terminal-less shell: what is typed, and what the program answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from contracts.rewards_cli import rewards_app
from contracts.stake_cli import stake_app
from protocol.errors import MurmurError

if TYPE_CHECKING:
    from tests.contracts.conftest import Network


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


@dataclass(frozen=True)
class Shell:
    """Type commands of one wallet's owner, who has no terminal."""

    network: "Network"
    home: Path
    wallet: str

    def flags(self, command: str) -> list[str]:
        directory = () if command.startswith("list") else ("--dir", str(self.home))
        return [
            *command.split(),
            *directory,
            *("--rpc", self.network.chain.url, "--ledger", self.network.ledger.address),
        ]

    def type(self, command: str, *more: str) -> Answer:
        app, _, rest = command.partition(" ")
        apps = {"stake": stake_app, "rewards": rewards_app}
        arguments = [*self.flags(rest), *more]
        if app == "rewards":  # its one command needs no name when it is run alone
            arguments.remove("claim")
        found = CliRunner().invoke(apps[app], arguments)
        if found.exception is not None and not isinstance(found.exception, MurmurError | SystemExit):
            raise found.exception
        error = found.exception if isinstance(found.exception, MurmurError) else None
        code = found.exit_code if error is None else error.exit_code
        return Answer(found.stdout, found.stderr, error, code)

    def balance(self) -> int:
        return self.network.ledger.balance_of(self.wallet)

    def block(self) -> int:
        return int(self.network.chain.w3.eth.block_number)
