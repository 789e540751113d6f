"""What commands let the maker of a run of training choose of its manifest, beside a file of fields."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from protocol.errors import UsageError
from verification.cheats import Cheat

if TYPE_CHECKING:
    from training.preset import Preset


DEFAULT_ROUNDS: Final = 40
"""Of training, where nobody says how many; a policy's preset says its own."""


class MomentsStart(StrEnum):
    """Name where AdamW's moments start in a round (`training.inner`)."""

    CARRIED = "carried"
    FRESH = "fresh"
    PUBLISHED = "published"


class Optimizer(StrEnum):
    """Name what turns gradients into inner steps (`training.inner`)."""

    ADAMW = "adamw"
    MUON = "muon"


Delay = Annotated[
    int,
    typer.Option(
        min=0,
        max=999,
        help="Segments of a unit that are taken while the round before is still decided; 0: contributors wait for it.",
    ),
]
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
Moments = Annotated[
    MomentsStart | None,
    typer.Option(
        help="Where AdamW's moments start in a round. published: from what all updates last said, the default from 40 "
        "rounds on; carried: where their peer's last unit ended, the default in shorter runs and beside --delay and "
        "--joint-k; fresh: anew.",
    ),
]
InnerSteps = Annotated[
    Optimizer | None,
    typer.Option(
        "--optimizer",
        help="Whose inner steps peers take. muon: Muon's for matrices of blocks and AdamW's for the rest, the default "
        "from a million parameters on where moments are published; adamw: AdamW's for all, the default elsewhere.",
    ),
]


@dataclass(frozen=True)
class Choices:
    """Hold what was chosen; a default leaves a field to the manifest's."""

    delay: int = 0  # segments before the outer step of the round before
    joint_k: int = 0  # entries of a chunk in a round's joint update
    moments: MomentsStart | None = None
    optimizer: Optimizer | None = None

    def check(
        self,
        preset: "Preset | None" = None,
        cheats: Collection[str] = (),
        rounds: int = DEFAULT_ROUNDS,
    ) -> None:
        """Refuse what no run can be.

        Args:
            preset: of a run of rollouts.
            cheats: that are to be tried in it.
            rounds: of the run.

        Raises:
            UsageError: a choice for a run of rollouts, two that exclude each other, or a lie about what is not
                published.
        """
        if preset is not None and self != Choices():
            raise UsageError(
                "a policy samples from the round's parameters, learns from everybody's rollouts by AdamW, and carries "
                "moments",
                hint="--delay, --joint-k, --moments and --optimizer without --kind rollout",
            )
        if self.moments is MomentsStart.PUBLISHED and (self.delay or self.joint_k):
            raise UsageError(
                "a unit that goes on from its own state has its own moments, and a joint update says nobody's",
                hint="--moments published without --delay and --joint-k",
            )
        if Cheat.FORGED_MOMENTS in cheats:
            from training.recipe import with_recipe

            filled = with_recipe({"rounds": rounds, **self.fields()})
            if filled["inner"]["moments"] != MomentsStart.PUBLISHED:
                raise UsageError(
                    f"{Cheat.FORGED_MOMENTS} lies about second moments, and the run publishes none",
                    hint="--moments published, without --delay and --joint-k",
                )

    def fields(self, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the manifest's fields of what was chosen.

        Args:
            given: the fields so far, whose groups keep what is not chosen.
        """
        before = given or {}
        inner: dict[str, Any] = {"moments": self.moments.value} if self.moments else {}
        if self.optimizer is not None:
            # Rates that were given with it stay.
            muon = (before.get("inner") or {}).get("muon") or {}
            inner["muon"] = muon if self.optimizer is Optimizer.MUON else None
        chosen: dict[str, dict[str, Any]] = {
            "outer": {"delay": self.delay} if self.delay else {},
            "merging": {"joint_k": self.joint_k} if self.joint_k else {},
            "inner": inner,
        }
        return {group: {**(before.get(group) or {}), **values} for group, values in chosen.items() if values}
