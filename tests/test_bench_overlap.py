"""What the `overlap` bench simulates: links, and runs of the product's own machines over them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.keys import PeerKey
from protocol.manifest import RunManifest
from tests.bench._network import FIRST_WINDOW, Clock, Links
from tests.bench._simulated_run import Machine, Setting, per_step_share, simulate
from tests.coordinator.conftest import make_manifest, verification

KEY = PeerKey(b"\x11" * 32)
RATE = 1e6  # bytes a second
MACHINE = Machine(steps=(0.5, 1.5), compress=0.1, aggregate=0.1, judge=3.0)
SETTING = Setting(mbit_s=0.8, delay_ms=100.0, block_s=1.0, update_bytes=1500, parameter_bytes=10_000)


def arrivals(*fetches: tuple[int, int, int], delay_s: float = 0.0, hosts: int = 4) -> list[float]:
    """Return when each of some transfers that begin at once is here: (source, target, bytes)."""
    clock = Clock()
    links, found = Links(clock, hosts, RATE, delay_s), [0.0] * len(fetches)

    def note(place: int) -> Callable[[], None]:
        return lambda: found.__setitem__(place, clock.now)

    for place, (source, target, size) in enumerate(fetches):
        links.fetch(source, target, size, note(place))
    clock.run(lambda: all(found), 1e3)
    return found


def test_a_transfer_takes_its_bytes_and_its_round_trips() -> None:
    assert arrivals((0, 1, 1_000_000)) == [pytest.approx(1.0)]
    [late] = arrivals((0, 1, FIRST_WINDOW), delay_s=0.1)
    assert late == pytest.approx(0.2 + FIRST_WINDOW / RATE), "a request and its answer"
    [later] = arrivals((0, 1, 4 * FIRST_WINDOW), delay_s=0.1)
    assert later == pytest.approx(0.6 + 4 * FIRST_WINDOW / RATE), "a window that doubles twice"


def test_flows_share_an_uplink_and_a_downlink_and_nothing_else() -> None:
    assert arrivals((0, 1, 500_000), (0, 2, 500_000)) == [pytest.approx(1.0)] * 2
    assert arrivals((0, 2, 500_000), (1, 2, 500_000)) == [pytest.approx(1.0)] * 2
    assert arrivals((0, 1, 500_000), (2, 3, 500_000)) == [pytest.approx(0.5)] * 2
    short, long = arrivals((0, 1, 250_000), (0, 2, 750_000))
    assert (short, long) == (pytest.approx(0.5), pytest.approx(1.0)), "who is done leaves its share"


def test_a_message_leaves_copy_after_copy() -> None:
    clock, heard = Clock(), dict[int, float]()
    links = Links(clock, 3, RATE, 0.1)
    links.tell(0, (1, 2), 100_000, lambda target: heard.__setitem__(target, clock.now))
    clock.run(lambda: len(heard) == 2, 10.0)
    assert heard == {1: pytest.approx(0.2), 2: pytest.approx(0.3)}
    assert (links.sent, links.received) == ([200_000, 0, 0], [0, 100_000, 100_000])


def test_a_clock_says_that_nothing_comes_of_it() -> None:
    with pytest.raises(RuntimeError, match="not done"):
        Clock().run(lambda: False, 1.0)


def run(delay: int) -> RunManifest:
    """Return a run of ten steps a round in five segments."""
    return make_manifest(
        rounds=6,
        inner={"steps": 10, "batch": 2},
        outer={"delay": delay},
        verification=verification(witnesses=2, schedule={"fresh_probability": 0.0, "floor_probability": 0.0}),
        deadlines={"commit": 100, "reveal": 50},
    )


def test_who_does_not_wait_spends_its_time_in_inner_steps() -> None:
    waiting, some, most = (simulate(run(delay), MACHINE, SETTING, 3, KEY) for delay in (0, 1, 4))
    assert waiting.share < 0.8
    assert waiting.waits_s == pytest.approx(waiting.round_s - 10, rel=0.05)
    assert waiting.share < some.share < most.share
    assert most.share > 0.95
    assert most.round_s < waiting.round_s
    assert waiting.down_bytes > 2 * SETTING.update_bytes, "everybody fetches everybody else's update"


def test_a_simulation_comes_out_the_same_again() -> None:
    assert simulate(run(2), MACHINE, SETTING, 3, KEY) == simulate(run(2), MACHINE, SETTING, 3, KEY)


def test_a_sum_after_every_step_waits_for_each_of_its_messages() -> None:
    slow = SETTING.model_copy(update={"delay_ms": 200.0})
    assert per_step_share(MACHINE, slow, 4, 100_000) < per_step_share(MACHINE, SETTING, 4, 100_000) < 1
    exchange = 6 * 0.1 + 4 * 100_000 * 1.5 / 1e5
    assert per_step_share(MACHINE, SETTING, 4, 100_000) == pytest.approx(1 / (1 + exchange))
