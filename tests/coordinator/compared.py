"""A coordinator's database in which people can compare samples, and a pool that takes in what they bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from coordinator.store import Store
from coordinator.tables import UnitRow, database_url, open_engine
from protocol.canonical import ZERO_DIGEST
from protocol.manifest import RunManifest
from protocol.messages import RoundRecord, UnitRecord, sign
from protocol.pool import MessagePool
from protocol.preferences import is_preference, listed
from protocol.speakers import Speaker
from tests.coordinator.conftest import COORDINATOR, make_manifest
from tests.protocol.makers import asking, key

HOSTILE = "<script>alert(1)</script>"
SAID = ("a\n", "b\n", HOSTILE, "a\n")


def text_of(said: str) -> dict[str, Any]:
    return {"parts": [{"player": None, "text": "task "}, {"player": 0, "text": said}]}


def described(groups: dict[int, tuple[str, ...]]) -> dict[str, Any]:
    """Return what describes a unit (`coordinator.rollouts.describe_rollouts`)."""
    sample = {**text_of("a\n"), "rewards": [{"sorted": 0.0, "preferred": 0.0}], "totals": [0.0]}
    return {
        "groups": 2,
        "samples": 8,
        "reward": 0.0,
        "success": 0.0,
        "components": {"sorted": 0.0, "preferred": 0.0},
        "update_bytes": 10,
        "rollout_bytes": 10,
        "shown": {"group": 0, "samples": [sample] * 4},
        "compared": {group: [text_of(said) for said in texts] for group, texts in groups.items()},
    }


@dataclass
class Compared:
    """Rounds 0 and 1 are recorded, numbers 1 and 2 merged in both; with a lag of 3 people can compare both."""

    store: Store
    manifest: RunManifest
    engine: Engine
    pool: MessagePool
    brought: list[bytes] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, manifest: RunManifest | None = None) -> Iterator[Compared]:
        manifest = manifest or make_manifest(rollouts=asking(lag=3, tokens=8, turn_tokens=4), rounds=6)
        speakers = {number: Speaker("contributor", (key(f"peer-{number}").address,)) for number in (1, 2)}
        pool = MessagePool(manifest, lambda number, round_: speakers.get(number))
        with Store.open(folder, manifest, clock=lambda: 0.0) as store:
            engine = open_engine(database_url(folder), writer=False)
            found = cls(store, manifest, engine, pool)
            for round_ in (0, 1):
                found.record(round_)
            yield found
            engine.dispose()

    def record(self, round_: int) -> None:
        """Record a round; its record carries what was brought before and fits."""
        units = tuple(
            UnitRecord(
                number=number, commitment=ZERO_DIGEST, merged=True, symbols=ZERO_DIGEST, blob=ZERO_DIGEST
            )
            for number in (1, 2)
        )
        carried = tuple(
            listed(one)
            for about in range(max(0, round_ - 2), round_)
            for one in self.pool.preferences(about).values()
        )
        body = RoundRecord(parameters=ZERO_DIGEST, units=units, judged=(), preferences=carried)
        with self.store.write() as tx:
            tx.posted(round_, root_block=1, record_block=2)
            for number in (1, 2):
                tx._unit(round_, number).blob_bytes = 100
            tx.say(sign(COORDINATOR, self.manifest, round_, "coordinator", body))
            tx.rollouts(round_, 1, described({0: SAID, 1: SAID}))
            tx.rollouts(round_, 2, described({1: SAID}))
        self.pool.round = round_ + 1

    def void(self, round_: int, number: int) -> None:
        """Let a unit be found void."""
        with self.store.write() as tx:
            tx._session.get_one(UnitRow, (round_, number)).outcome = "void"

    async def submit(self, wire: bytes) -> str:
        """Take in what was brought, as the coordinator does."""
        from protocol.errors import MurmurError

        try:
            message = self.pool.accept(wire)
        except MurmurError as error:
            return error.message
        if message is not None and is_preference(message):
            self.brought.append(wire)
            with self.store.write() as tx:
                tx.heard(message)
        return ""
