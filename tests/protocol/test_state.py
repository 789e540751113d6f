"""Roots of a peer's state are frozen, and no two meanings share one."""

from protocol.canonical import ZERO_DIGEST
from protocol.state import NOTHING_CARRIED, moments_root, residual_root, segment_root, update_root

RUN, A, B = "ab" * 32, "11" * 32, "22" * 32


def test_roots_are_frozen() -> None:
    assert segment_root(RUN, 3, 7, 2, A, B) == (
        "c13fd881b3c268cd93fcf70f00786d8006d6b2c78851b71a6dca04330e82c589"
    )
    assert moments_root(RUN, 3, 7, A) == "dc00aa049fc1957a056301ba63d567d3904d1a1099195bac59f1ed4ab9977b92"
    assert residual_root(RUN, 3, 7, A) == "0c22cd9ef57e7798ed86fe6368e3ea1585d1580510ca63705397d0aa7bee0c27"
    assert update_root(RUN, 3, 7, A, B) == "a9601a004ceb1d4fb0f03e670fb3ac248c922f23adf34d15c1efd008b9bda64f"


def test_every_binding_changes_the_root() -> None:
    roots = [
        segment_root(RUN, 3, 7, 2, A, B),
        segment_root("ac" * 32, 3, 7, 2, A, B),
        segment_root(RUN, 4, 7, 2, A, B),
        segment_root(RUN, 7, 3, 2, A, B),
        segment_root(RUN, 3, 7, 3, A, B),
        segment_root(RUN, 3, 7, 2, B, A),
        update_root(RUN, 3, 7, A, B),
        update_root(RUN, 3, 8, A, B),
        update_root(RUN, 3, 7, B, A),
        moments_root(RUN, 3, 7, A),
        moments_root(RUN, 3, 8, A),
        residual_root(RUN, 3, 7, A),
        residual_root(RUN, 4, 7, A),
    ]
    assert len(set(roots)) == len(roots)


def test_nothing_carried_is_no_root() -> None:
    assert NOTHING_CARRIED == ZERO_DIGEST == "00" * 32
    assert moments_root(RUN, 0, 1, ZERO_DIGEST) != NOTHING_CARRIED
