"""The choice of joint updates for a run, as commands take it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import UsageError

if TYPE_CHECKING:
    from training.preset import Preset

JointK = Annotated[
    int,
    typer.Option(
        min=0,
        max=4096,
        help="Entries of every 4096 that one joint update a round keeps, which contributors fetch in the place of "
        "everybody's updates, such as 768; 0: they fetch everybody's.",
    ),
]
"""For runs of many peers: what each downloads then does not grow with their number."""


def joint_fields(
    joint_k: int, chosen: "Preset | None", given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the manifest's fields of a choice; none for 0, which leaves it to them.

    Args:
        chosen: preset of a run of rollouts.
        given: the fields so far.

    Raises:
        UsageError: for a run of rollouts.
    """
    if not joint_k:
        return {}
    if chosen is not None:
        raise UsageError(
            "a policy learns from everybody's rollouts, which come with the updates",
            hint="--joint-k without --kind rollout",
        )
    return {"merging": {**((given or {}).get("merging") or {}), "joint_k": joint_k}}
