"""A whole network of the product over links, as `murmur up` lives it, but each participant on a host of its own.

`python -m tests.bench._whole_network JSON` runs on the coordinator's host, where the chain is too, and answers its
parent in lines: when the first round begins, and what became of all of them.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts import anvil
from coordinator.choices import Choices
from murmur.churn import Churn
from murmur.identities import Identity
from murmur.interrupt import interruptible, uninterruptible
from murmur.local import Staked
from murmur.processes import Wiring
from murmur.supervisor import Child, Supervisor
from murmur.up import LocalRun, UpOptions
from tests.bench._crew import TICKS, family
from tests.bench._links import Host
from tests.bench._meeting import say

COORDINATOR = "coordinator"
LOOPBACK = "/ip4/127.0.0.1/"


@dataclass(frozen=True)
class SpreadWiring(Wiring):
    """Have every participant listen on its own host, and run there."""

    hosts: Mapping[str, Host] = field(default_factory=dict)
    cpu_share: float = 1.0  # of the time, in which contributors' trainers compute

    @property
    def bootstrap(self) -> str:
        """Return the coordinator's full address on its host."""
        return super().bootstrap.replace(LOOPBACK, f"/ip4/{self.hosts[COORDINATOR].address}/")

    def child(self, identity: Identity) -> Child:
        """Return the process of a participant on its host."""
        child = super().child(replace(identity, cpu_share=self.cpu_share))
        host = self.hosts[identity.name]
        spread = [part.replace(LOOPBACK, f"/ip4/{host.address}/") for part in child.argv]
        return replace(child, argv=spread if identity.role is None else host.command(spread))


@dataclass
class Watch(Churn):
    """Note when each phase of each round was first seen, and what every process had computed by then."""

    def __post_init__(self) -> None:
        self.marks: list[dict[str, Any]] = []

    def look(self, round_: int, phase: str) -> None:
        """Note a phase that was not seen before."""
        super().look(round_, phase)
        if self.marks and (self.marks[-1]["round"], self.marks[-1]["phase"]) == (round_, phase):
            return
        running = [child for child in self.supervisor.children if child.process is not None]
        cpu_s = {child.name: sum(family(child.process.pid)) / TICKS for child in running if child.process}
        self.marks.append({"at": time.monotonic(), "round": round_, "phase": phase, "cpu_s": cpu_s})
        say(self.marks[-1])


@dataclass
class SpreadRun(LocalRun):
    """Take a network over several hosts through its life."""

    hosts: Mapping[str, Host] = field(default_factory=dict)
    cpu_share: float = 1.0

    def _create_run(self, *arguments: Any) -> SpreadWiring:
        wiring = super()._create_run(*arguments)
        return SpreadWiring(**vars(wiring), hosts=self.hosts, cpu_share=self.cpu_share)

    def _plan_churn(self, *arguments: Any) -> Watch:
        return Watch(**vars(super()._plan_churn(*arguments)))

    def _watch(self, wiring: Wiring, staked: Staked, churn: Churn) -> dict[str, Any]:
        state = super()._watch(wiring, staked, churn)
        say({"curve": state["loss"]["curve"], "local": state["loss"]["local"]})
        return state


def main(arguments: Sequence[str]) -> int:
    """Live the network."""
    words = json.loads(arguments[0])
    hosts = {name: Host(**fields) for name, fields in words["hosts"].items()}
    anvil.HOST = hosts[COORDINATOR].address  # the others reach the chain by it
    options = UpOptions(
        peers=words["peers"],
        verifiers=words["verifiers"],
        cheats=(),
        rounds=words["rounds"],
        seed=words["seed"],
        directory=Path(words["directory"]),
        port=0,
        keep_running=False,
        choices=Choices(delay=words.get("delay", 0)),
    )
    notes: list[str] = []
    supervisor = Supervisor(time.monotonic, notes.append)
    with interruptible() as check:
        try:
            console = Console(stderr=True, width=120)
            share = words.get("cpu_share", 1.0)
            run = SpreadRun(options, console, supervisor, notes, check, hosts=hosts, cpu_share=share)
            summary = run.live()
            say({"not_demonstrated": summary.not_demonstrated, "notes": notes})
        finally:
            with uninterruptible():
                supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
