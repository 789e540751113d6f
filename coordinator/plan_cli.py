"""`murmur run plan`: what honesty and every attack earn under a manifest, and whether it may be run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol import options
from protocol.errors import ConfigError, MurmurError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contracts.client import Ledger
    from coordinator.economics import Plan, Terms
    from protocol.manifest import RunManifest

MAX_MANIFEST_FIELDS_BYTES = 64 * 1024
ASSUMED_STAKE_WEI = 100 * 10**18
ASSUMED_UNBONDING_BLOCKS = 3000
COST = 0.4

CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration", help="Signed file of `murmur verifier calibrate`, if not the packaged one."
    ),
]
Cost = Annotated[
    float,
    typer.Option(min=0.0, max=10.0, help="What a unit costs an honest operator, as a share of its pay."),
]


def plan(
    manifest: Annotated[
        Path, typer.Argument(help="A manifest, or a JSON file of the fields that `run create` takes.")
    ],
    calibration: CalibrationFile = None,
    stake: Annotated[
        int | None, typer.Option(min=0, help="Stake of a contributor in wei; 100 tokens are assumed.")
    ] = None,
    unbonding: Annotated[
        int | None, typer.Option(min=0, help="Blocks until a stake that leaves is free; 3000 are assumed.")
    ] = None,
    cost: Cost = COST,
    verifiers: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="Verifiers that are staked; as many as judge are assumed."),
    ] = None,
    slash_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Finder's share of a slash, which the offender may pay to itself."
        ),
    ] = 0.3,
    case_blocks: Annotated[
        int, typer.Option(min=0, help="Longest time of a case before the jury, with its appeal.")
    ] = 566,
    accused: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of units found unopened that somebody takes before the jury."
        ),
    ] = 0.05,
    explain: Annotated[bool, typer.Option("--explain", help="Show the arithmetic line by line.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compute what honesty and every attack earn; fail if an attack pays or honesty is not safe."""
    from coordinator.economics import Terms

    found = read_fields_or_manifest(manifest)
    terms = Terms(
        stake_wei=ASSUMED_STAKE_WEI if stake is None else stake,
        unbonding_blocks=ASSUMED_UNBONDING_BLOCKS if unbonding is None else unbonding,
        cost=cost,
        verifiers=verifiers or found.verification.verifiers,
        slash_share=slash_share,
        case_blocks=case_blocks,
        accused=accused,
    )
    result = make_plan(found, terms, calibration)
    if as_json:
        typer.echo(json.dumps(to_json(result, terms)))
    else:
        for line in describe(result, explain=explain):
            typer.echo(line)
    if not result.holds:
        raise Refused(result)


class Refused(MurmurError):
    """Report a manifest under which cheating pays, or honesty is not safe."""

    def __init__(self, result: "Plan") -> None:
        more = len(result.reasons) - 1
        super().__init__(
            f"the manifest is refused: {result.reasons[0]}" + (f" (and {more} more)" if more else ""),
            hint="`murmur run plan MANIFEST --explain` shows the arithmetic; draw more often, make rounds a multiple "
            "of longer epochs, lengthen unbonding, raise stake or pay, or calibrate with more segments",
        )


def ledger_terms(ledger: "Ledger", *, cost: float, verifiers: int) -> "Terms":
    """Return what a plan assumes, as far as a ledger says it: least stake, how long it stays bound, and its jury."""
    from coordinator.economics import Terms

    jury = ledger.jury
    return Terms(
        stake_wei=ledger.min_stake,
        unbonding_blocks=ledger.unbonding_blocks,
        cost=cost,
        verifiers=verifiers,
        case_blocks=jury.case_blocks,
        dispute_blocks=ledger.dispute_blocks,
        seats=jury.terms.seats,
        case_bond_wei=jury.terms.case_bond,
    )


def check_plan(
    manifest: "RunManifest", terms: "Terms", calibration: Path | None, *, unsafe: bool
) -> list[str]:
    """Return what a plan says of a run that is about to be created.

    Args:
        unsafe: let what is refused pass, on the local chain.

    Raises:
        Refused: it does not hold.
        UsageError: `unsafe` on another chain.
        ConfigError, Malformed, ProofRejected: as `make_plan`.
    """
    from protocol.manifest import LOCAL_CHAIN_ID

    if unsafe:
        if manifest.chain_id != LOCAL_CHAIN_ID:
            raise UsageError("--unsafe is for the local chain", hint="`murmur run plan` says what to change")
        return ["warning: whether cheating pays under this manifest was not asked"]
    result = make_plan(manifest, terms, calibration)
    if not result.holds:
        raise Refused(result)
    best = max(result.lines, key=lambda line: line.profit)
    return [
        f"honest work earns {result.honest_profit:.0%} of its pay and loses at most {result.false_loss:.3%} to false "
        f"rejections and outages; no attack pays, the best ({best.name}) by {best.profit:+.3g} of a unit's pay, "
        f"if {terms.accused:.0%} of the refusals are taken before the jury"
    ]


def make_plan(manifest: "RunManifest", terms: "Terms", calibration: Path | None) -> "Plan":
    """Compute the plan of a manifest from a calibration file, or from the packaged one.

    Raises:
        ConfigError: the file cannot be read, or speaks of other work or tolerances.
        Malformed, ProofRejected: it is not one, or not signed by whom it names.
    """
    from coordinator.economics import of_all_tiers, of_tier
    from coordinator.economics import plan as economics
    from coordinator.suite import attack_figures, check_covers, honest_figures
    from verification.calibration import SignedCalibration, packaged_calibration

    signed = packaged_calibration(manifest) if calibration is None else SignedCalibration.read(calibration)
    measured = signed.calibration
    check_covers(manifest, measured)
    honest = honest_figures(manifest, measured)
    tiers = [of_tier(manifest, tier) for tier in range(manifest.smallest_tier + 1)]
    plans = [economics(tier, terms, honest, attack_figures(tier, measured)) for tier in tiers]
    return of_all_tiers(manifest, plans)


def read_fields(path: Path) -> dict[str, Any]:
    """Read a JSON object of manifest fields.

    Raises:
        ConfigError: it cannot be read, or is not one.
    """
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(MAX_MANIFEST_FIELDS_BYTES + 1))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="a JSON object of manifest fields") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return fields


def read_fields_or_manifest(path: Path) -> "RunManifest":
    """Read a manifest; what a file of fields leaves out is filled as `run create` fills it.

    Raises:
        ConfigError: it cannot be read.
        UsageError: the fields make no manifest.
    """
    return manifest_of(read_fields(path))


def manifest_of(fields: "Mapping[str, Any]") -> "RunManifest":
    """Return the manifest that fields make; what they leave out is filled as `run create` fills it, names by nothing.

    Raises:
        UsageError: they make none.
    """
    from coordinator.run import complete
    from protocol.canonical import ZERO_DIGEST
    from protocol.manifest import LOCAL_CHAIN_ID

    nobody = "0x" + "00" * 20
    placeholders = {
        "name": "plan",
        "chain_id": LOCAL_CHAIN_ID,
        "ledger": nobody,
        "coordinator": nobody,
        "dataset": {"name": "plan", "root": ZERO_DIGEST, "tokens": 1},
        "initial_parameters": ZERO_DIGEST,
        "program": ZERO_DIGEST,
    }
    return complete({**placeholders, **fields})


def describe(result: "Plan", *, explain: bool) -> list[str]:
    """Return a plan for a person: a table, or the arithmetic."""
    lines = [f"honest profit {result.honest_profit:.3g} of a unit's pay"]
    lines.append(f"at most {result.false_loss:.4%} of pay lost to false rejections and outages")
    if explain:
        lines += ["", *result.steps, ""]
    width = max((len(line.name) for line in result.lines), default=0)
    for line in result.lines:
        lines.append(f"{line.name:{width}}  {line.profit:+12.4f}  {'PAYS' if line.pays else 'does not pay'}")
        if explain:
            lines.append(f"  {line.why}")
    lines += [f"refused: {reason}" for reason in result.reasons]
    return [*lines, "the manifest holds" if result.holds else "the manifest is refused"]


def to_json(result: "Plan", terms: "Terms") -> dict[str, object]:
    """Return a plan as plain JSON data; profits are in units of a unit's pay."""
    return {
        "holds": result.holds,
        "reasons": list(result.reasons),
        "honest_profit": result.honest_profit,
        "false_rejection_loss": result.false_loss,
        "assumed": {
            "stake_wei": str(terms.stake_wei),
            "unbonding_blocks": terms.unbonding_blocks,
            "cost": terms.cost,
            "verifiers": terms.verifiers,
            "collusion": terms.collusion,
            "slash_share": terms.slash_share,
            "case_blocks": terms.case_blocks,
            "dispute_blocks": terms.dispute_blocks,
            "seats": terms.seats,
            "case_bond_wei": str(terms.case_bond_wei),
            "accused": terms.accused,
            "outage": terms.outage,
        },
        "strategies": [
            {"name": line.name, "profit": line.profit, "pays": line.pays, "arithmetic": line.why}
            for line in result.lines
        ],
        "steps": list(result.steps),
    }
