"""What updates and outer steps a run uses where its maker names none: a rule, and where its figures come from.

A sparse update sends k of 4096 entries, and what it leaves out waits in the residual. A run that is too short never
sends it: at 10 rounds sparse updates lose to peers who train alone, at 20 to dense ones. So

* a run sends **sparse** updates where rounds * 256 / 4096 reaches `COVER`, that is from 40 rounds on: k = 256, or 192
  from `LONG` rounds on, a residual that decays by 0.95 a round, and outer steps of rate 2, since the mean of updates
  that each leave most out is short. k = 192 saves a sixth of the bytes and loses 0.017 nats to 256 after 40 rounds,
  and 0.009 +- 0.017 after 100; 128 loses 0.026 after 100, on one seed;
* a shorter one sends **dense** updates of four bits a value, whose residual loses nothing (decay 1), with outer steps
  of rate 1.5. They are eight times as large a round.

Neither has outer momentum: it gains 0.02 nats in short runs, but doubles what a joiner fetches, and an update that is
taken back would go on moving the parameters. How many peers there are was not found to matter between 4 and 8 of
0.17 M parameters. After 100 rounds they come to 0.017 nats behind DiLoCo, with 1.2 M and Muon's steps to its loss.

Figures: tests/bench/notes/2026-11-23-loss.md, by `python -m tests.bench loss --sizes 0.17M --rounds 10 --seeds 0
--explore "scheme=local" "kind=dense decay=1 outer_lr=1.5" "k=256 outer_lr=2"` and the same of 20 and 40 rounds.

With sparse updates AdamW's second moments are *published* (`training.second_moments`), so that a round follows from
what is public alone, whoever was away loses less, and nothing is lost otherwise. There are as many slices as rounds:
each peer then says every entry about once. With eight peers and 100 rounds nothing is lost; 128 slices in 40 rounds of
four peers lose 0.016 nats, 40 lose 0.004. Beyond `MOST_SLICES` they would save next to nothing. Dense updates,
delayed outer steps and joint updates cannot say them: there they are carried.

Where moments are published, `inner.eps` is `EPS_SHARE` of the root mean square that the entries of a gradient of norm
one have, to which gradients are clipped by default. An entry that hardly ever has a gradient has a second moment near
zero, and what its gradients are divided by there is eps alone: with 1e-5, honest replays of one segment in 720 were
1.5e-4 apart in one such entry; with this share those of 900 stayed within 9.1e-6
(`verification/data/calibration.json`).

There, and from `MUON_FROM` parameters on, matrices of blocks also take Muon's steps (`training.muon`), which gain
0.016 nats in 100 rounds of 1.2 M. With 0.17 M they gain 0.03 in 40 rounds and nothing that could be told in 100, with
moments published or carried, so that AdamW's stay. They cost time, the more so the fewer tokens a step has. Where
moments are carried nobody has compared replays of Muon's.

Whoever names a codec's kind gets the outer steps of that kind; every value that is named stays as it is. A policy's
come from its preset.
"""

from collections.abc import Mapping
from math import sqrt
from typing import Any, Final

from pydantic import BaseModel

from protocol.model_config import ModelConfig
from protocol.tensors import parameter_layout

COVER: Final = 2.5
"""Times that a run could send every entry, from which on updates are sparse."""

MOST_SLICES: Final = 256

CHUNK: Final = 4096
K: Final = 256

LONG: Final = 100
"""Rounds from which on sparse updates keep `LONG_K` entries of a chunk."""
LONG_K: Final = 192

Group = dict[str, Any]

SPARSE: Final[Mapping[str, Group]] = {
    "codec": {"kind": "sparse", "chunk": CHUNK, "k": K, "decay": 0.95},
    "outer": {"lr": 2.0, "momentum": 0.0},
}
DENSE: Final[Mapping[str, Group]] = {
    "codec": {"kind": "dense", "bits": 4, "decay": 1.0},
    "outer": {"lr": 1.5, "momentum": 0.0},
}


EPS_SHARE: Final = 1 / 60
MUON_FROM: Final = 1_000_000
"""Parameters from which on matrices of blocks take Muon's steps."""
PARAMETERS: Final = parameter_layout(ModelConfig()).size


def recipe(
    rounds: int,
    *,
    kind: str | None = None,
    moments: str | None = None,
    parameters: int = PARAMETERS,
) -> Mapping[str, Group]:
    """Return the fields of `codec`, `outer` and `inner` that suit a run of so many rounds.

    Args:
        kind: of the updates, sparse or dense, where somebody has chosen; None: what suits the length.
        moments: where AdamW's start in a round, likewise; None: what suits the updates.
        parameters: of the model.
    """
    if kind is None:
        long = rounds * K / CHUNK >= COVER
        kind = "sparse" if long or moments == "published" else "dense"
    chosen = SPARSE if kind == "sparse" else DENSE
    codec = chosen["codec"] | ({"k": LONG_K} if kind == "sparse" and rounds >= LONG else {})
    moments = moments or ("published" if kind == "sparse" else "carried")
    inner: Group = {"moments": moments}
    if moments == "published":
        eps = float(f"{EPS_SHARE / sqrt(parameters):.0e}")
        inner |= {"slices": max(1, min(rounds, MOST_SLICES)), "eps": eps}
        if parameters >= MUON_FROM:
            inner["muon"] = {}
    return {**chosen, "codec": codec, "inner": inner}


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's fields with those of `codec`, `outer` and `inner` filled in that nobody named.

    Args:
        given: `rounds` among them; groups are mappings, or models whose unset fields count as not named.

    Raises:
        TypeError, ValueError: rounds are no number, a group is no mapping, or the model is none.
    """
    if given.get("rollouts") is not None:
        return dict(given)
    named = {group: _named(given.get(group)) for group in ("codec", "outer", "inner", "merging", "model")}
    apart = named["outer"].get("delay") or named["merging"].get("joint_k")
    chosen = recipe(
        int(given["rounds"]),
        kind=named["codec"].get("kind"),
        moments=named["inner"].get("moments", "carried" if apart else None),
        parameters=parameter_layout(ModelConfig.model_validate(named["model"])).size,
    )
    return {**given, **{group: {**values, **named[group]} for group, values in chosen.items()}}


def _named(group: Any) -> Group:
    if group is None:
        return {}
    return group.model_dump(exclude_unset=True) if isinstance(group, BaseModel) else dict(group)
