"""The choice of where AdamW's moments start in a round, as commands take it."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import UsageError
from verification.cheats import Cheat

if TYPE_CHECKING:
    from training.preset import Preset


class MomentsStart(StrEnum):
    """Name where they start (`training.inner`)."""

    CARRIED = "carried"
    FRESH = "fresh"
    PUBLISHED = "published"


Moments = Annotated[
    MomentsStart | None,
    typer.Option(
        help="Where AdamW's moments start in a round. carried, the default: where their peer's last unit ended; "
        "published: from what all updates last said; fresh: anew.",
    ),
]


def moments_fields(
    moments: MomentsStart | None, chosen: "Preset | None", given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the manifest's fields of a choice; none for None, which leaves it to them.

    Args:
        chosen: preset of a run of rollouts.
        given: the fields so far.

    Raises:
        UsageError: for a run of rollouts.
    """
    if moments is None:
        return {}
    if chosen is not None:
        raise UsageError("a policy carries its moments", hint="--moments without --kind rollout")
    return {"inner": {**((given or {}).get("inner") or {}), "moments": moments.value}}


def check_forgeries(cheats: Collection[str], moments: MomentsStart | None) -> None:
    """Refuse lies about what a run does not publish.

    Raises:
        UsageError: there is one.
    """
    if Cheat.FORGED_MOMENTS in cheats and moments is not MomentsStart.PUBLISHED:
        raise UsageError(
            f"{Cheat.FORGED_MOMENTS} lies about second moments, and the run publishes none",
            hint="add --moments published",
        )
