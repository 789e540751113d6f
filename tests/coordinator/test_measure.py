"""Which rounds are described, and with whose judgments."""

from __future__ import annotations

from typing import Any

import trio

from coordinator.measure import Measurements
from protocol.manifest import RunManifest
from tests.verification.judged_run import judged_manifest
from tests.verification.rollout_run import rollout_manifest


class Child:
    """Stand for the evaluator's process, and note what it is asked; while it works, the run goes on."""

    def __init__(self, meanwhile: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self.meanwhile = meanwhile

    async def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert method == "rollouts"
        self.asked.append(params)
        self.meanwhile()
        return {"units": {}}


def asked_of(manifest: RunManifest) -> list[dict[str, Any]]:
    """Describe two rounds, of which the first was described before, while a wake forgets them both."""

    async def write(_: Any) -> None:
        pass

    async def describe() -> None:
        while await found._describe_one():
            pass

    child = Child(lambda: found.wake({}, {}))
    unused: Any = None
    found = Measurements(manifest, unused, child, write, unused, (), set(), {}, described={3})  # type: ignore[arg-type]
    found.wake({}, {3: {1: "a3", 2: "b3"}, 4: {1: "a4", 2: "b4"}})
    trio.run(describe)
    assert found.described == {3, 4}
    return child.asked


def test_a_round_is_described_again_with_what_its_judges_said() -> None:
    assert asked_of(judged_manifest()) == [
        {"units": {"1": "a4", "2": "b4"}, "judging": ()},
        {"units": {"1": "a3", "2": "b3"}, "judging": ("a4", "b4")},
    ]


def test_without_a_judge_a_round_is_described_once() -> None:
    assert asked_of(rollout_manifest()) == [{"units": {"1": "a4", "2": "b4"}, "judging": ()}]


def test_what_was_given_up_is_not_pending_any_more() -> None:
    unused: Any = None
    found = Measurements(rollout_manifest(), unused, unused, unused, unused, (), {0, 1, 3}, {})
    assert found.pending == 2
    found.skipped.add(2)
    assert found.pending == 4
