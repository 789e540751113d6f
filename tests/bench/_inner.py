"""Whose inner steps a table's peers take: those of the product's recipe, or AdamW's alone."""

import argparse
from collections.abc import Mapping
from typing import Any, Final

OPTIMIZERS: Final = ("muon", "adamw")


def add_optimizer(parser: argparse.ArgumentParser) -> None:
    """Add the option that `inner_steps` takes."""
    parser.add_argument(
        "--optimizer",
        default="muon",
        choices=OPTIMIZERS,
        help="of inner steps; muon: where the recipe has it",
    )


def inner_steps(chosen: Mapping[str, Any], optimizer: str) -> dict[str, Any]:
    """Return a recipe's fields of inner steps; with `adamw` no matrix takes Muon's."""
    return {**chosen["inner"], **({"muon": None} if optimizer == "adamw" else {})}
