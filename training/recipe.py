"""What updates and outer steps a run uses where its maker names none: a rule, and where its figures come from.

A sparse update sends k of 4096 entries, and what it leaves out waits in the residual. A run that is too short never
sends it: at 10 rounds sparse updates lose to peers who train alone, at 20 to dense ones. So

* a run sends **sparse** updates where rounds * 256 / 4096 reaches `COVER`, that is from 40 rounds on: k = 256, a
  residual that decays by 0.95 a round, and outer steps of rate 2, since the mean of updates that each leave most out
  is short;
* a shorter one sends **dense** updates of four bits a value, whose residual loses nothing (decay 1), with outer steps
  of rate 1.5. They are eight times as large a round.

Neither has outer momentum: it gains 0.02 nats in short runs, but doubles what a joiner fetches, and an update that is
taken back would go on moving the parameters. How many peers there are, and how large the model is, was not found to
matter between 4 and 8 peers of 0.17 M parameters; nothing else was measured.

Figures: tests/bench/notes/2026-11-23-loss.md, by `python -m tests.bench loss --sizes 0.17M --rounds 10 --seeds 0
--explore "scheme=local" "kind=dense decay=1 outer_lr=1.5" "k=256 outer_lr=2"` and the same of 20 and 40 rounds.

AdamW's moments are carried. Whoever has them *published* (`training.second_moments`), so that a round follows from what
is public alone, gets sparse updates, and as many slices as there are rounds: each peer then says every entry about
once. With eight peers and 100 rounds nothing is lost; 128 slices in 40 rounds of four peers lose 0.016 nats, 40 lose
0.004. Beyond `MOST_SLICES` they would save next to nothing. It also gets the tolerances that were calibrated for it,
which are wider (`PUBLISHED`): that is why it is not the default.

Whoever names a codec's kind gets the outer steps of that kind; every value that is named stays as it is. A policy's
come from its preset.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from protocol.manifest import CPU_FP32

COVER: Final = 2.5
"""Times that a run could send every entry, from which on updates are sparse."""

MOST_SLICES: Final = 256

CHUNK: Final = 4096
K: Final = 256

Group = dict[str, Any]

SPARSE: Final[Mapping[str, Group]] = {
    "codec": {"kind": "sparse", "chunk": CHUNK, "k": K, "decay": 0.95},
    "outer": {"lr": 2.0, "momentum": 0.0},
}
DENSE: Final[Mapping[str, Group]] = {
    "codec": {"kind": "dense", "bits": 4, "decay": 1.0},
    "outer": {"lr": 1.5, "momentum": 0.0},
}


PUBLISHED: Final = CPU_FP32.model_copy(
    update={"tolerance": 7.5e-4, "fresh_tolerance": 7.5e-4, "slash_tolerance": 1.5e-3}
)
"""Honest replays of one segment in 720 were 1.5e-4 apart, in one entry of a rare token's embedding, and of 99 in 100
within 1.2e-5: `verification/data/calibration-published.json`.
"""


def recipe(rounds: int, kind: str | None = None) -> Mapping[str, Group]:
    """Return the fields of `codec` and `outer` that suit a run of so many rounds.

    Args:
        kind: of the updates, sparse or dense, where somebody has chosen; None: what suits the length.
    """
    if kind is None:
        kind = "sparse" if rounds * K / CHUNK >= COVER else "dense"
    return SPARSE if kind == "sparse" else DENSE


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's fields with those of `codec` and `outer` filled in that nobody named.

    Where moments are published, slices and numeric profiles too.

    Args:
        given: `rounds` among them; groups are mappings, or models whose unset fields count as not named.

    Raises:
        TypeError, ValueError: rounds are no number, or a group is no mapping.
    """
    if given.get("rollouts") is not None:
        return dict(given)
    rounds, inner = int(given["rounds"]), _named(given.get("inner"))
    published = inner.get("moments") == "published"
    kind = _named(given.get("codec")).get("kind", "sparse" if published else None)
    chosen = dict(recipe(rounds, kind))
    if published:
        chosen |= {
            "inner": {"slices": max(1, min(rounds, MOST_SLICES))},
            "verification": {"profiles": [PUBLISHED]},
        }
    return {**given, **{group: {**values, **_named(given.get(group))} for group, values in chosen.items()}}


def _named(group: Any) -> Group:
    if group is None:
        return {}
    return group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else dict(group)
