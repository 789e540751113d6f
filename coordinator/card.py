"""The model card of an exported checkpoint: what a run's own data say of it, in the form of Hugging Face's cards.

A card is Markdown after a block of YAML (https://huggingface.co/docs/hub/model-cards). JSON is YAML, so every value is
written as JSON. What a coordinator's database or API says is quoted as its word; only an audit recomputes it.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.checkpoints import Checkpoint
from protocol.manifest import RunManifest
from protocol.tensors import parameter_layout

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
MAX_PEERS = 1000
NOT_AUDITED = "not audited"


@dataclass(frozen=True)
class Contributor:
    """Say how many units of a peer are in a checkpoint."""

    number: int
    peer: str  # address of its key; empty where it is not known
    merged: int
    doubted: int  # of these, without weight: judged to be of no use
    retracted: int  # found invalid and taken back again


@dataclass(frozen=True)
class Provenance:
    """Hold what is known of how a checkpoint came to be."""

    manifest: RunManifest
    checkpoint: Checkpoint
    contributors: tuple[Contributor, ...] | None  # None: not known in this place
    heldout: tuple[str, float] | None  # what was measured of these parameters, and the figure
    began: tuple[str, float] | None  # the same of those that the run began with
    audit: str = NOT_AUDITED


def provenance(
    manifest: RunManifest,
    checkpoint: Checkpoint,
    summary: Mapping[str, Any] | None,
    units: Iterable[Mapping[str, Any]],
    audit: str = NOT_AUDITED,
) -> Provenance:
    """Gather what a coordinator's database or API says of a checkpoint.

    Args:
        summary: what `Reader.summary` returns; None where nobody but a coordinator knows.
        units: what `Reader.units` lists.

    Raises:
        KeyError, TypeError, ValueError: these are no such answers.
    """
    if summary is None:
        return Provenance(manifest, checkpoint, None, None, None, audit)
    merged, doubted, retracted = Counter[int](), Counter[int](), Counter[int]()
    for one in units:
        number, back = int(one["number"]), one["retracted"]
        if one["merged"] is True and int(one["round"]) < checkpoint.round:
            merged[number] += 1
            doubted[number] += one["weight"] == 0
            retracted[number] += back is not None and int(back) < checkpoint.round
    peers = {int(one["number"]): str(one["peer"]) for one in summary["peers"]}
    contributors = tuple(
        Contributor(
            number,
            peers.get(number, "") if _ADDRESS.fullmatch(peers.get(number, "")) else "",
            count,
            doubted[number],
            retracted[number],
        )
        for number, count in sorted(merged.items())[:MAX_PEERS]
    )
    curve = _curve(summary)
    return Provenance(manifest, checkpoint, contributors, curve.get(checkpoint.round), curve.get(0), audit)


def _curve(summary: Mapping[str, Any]) -> dict[int, tuple[str, float]]:
    """Return what was measured of the parameters that rounds start from."""
    policy = summary["policy"]
    if policy is None:
        points = [(int(one["round"]), float(one["loss"])) for one in summary["loss"]["curve"]]
        name = "held-out loss, nats a byte"
    else:
        points = [(int(one["round"]), float(one["success"])) for one in policy["curve"]]
        name = "share of held-out tasks done"
    return {round_: (name, value) for round_, value in points if math.isfinite(value)}


def model_card(found: Provenance) -> str:
    """Return the text of README.md."""
    manifest, checkpoint = found.manifest, found.checkpoint
    name = f"{manifest.name}, round {checkpoint.round} of {manifest.rounds}"
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in _metadata(found).items()),
        "---",
        "",
        f"# {name}",
        "",
        f"A decoder of the LLaMA family with {parameter_layout(manifest.model).size:,} parameters, trained by a Murmur "
        "run: machines that do not trust each other take assigned steps, and sampled steps are computed again.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in _facts(found)),
        "",
        "## Contributors",
        "",
        *_contributors(found),
        "",
        "## Audit",
        "",
        f"{found.audit[0].upper()}{found.audit[1:]}.",
        "",
    ]
    return "\n".join(lines)


def _metadata(found: Provenance) -> dict[str, Any]:
    manifest = found.manifest
    tags = ["murmur", "llama", "decentralized-training"]
    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if found.heldout is not None:
        metric, value = found.heldout
        kind = "loss" if manifest.rollouts is None else "success"
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"type": _data_name(manifest), "name": _data_name(manifest)},
            "metrics": [{"type": kind, "name": metric, "value": value}],
        }
        values["model-index"] = [{"name": manifest.name, "results": [result]}]
    return values


def _data_name(manifest: RunManifest) -> str:
    return manifest.dataset.name if manifest.rollouts is None else manifest.rollouts.environment.name


def _facts(found: Provenance) -> list[tuple[str, str]]:
    manifest, checkpoint = found.manifest, found.checkpoint
    data = manifest.dataset
    momentum = ", which also covers the outer momentum" if manifest.outer.momentum else ""
    facts = [
        ("run", f"`{manifest.run_id}`"),
        ("chain id", str(manifest.chain_id)),
        ("ledger", f"`{manifest.ledger}`"),
        ("coordinator", f"`{manifest.coordinator}`"),
        ("rounds", f"{checkpoint.round} of {manifest.rounds}, {manifest.inner.steps} steps each"),
        ("parameter root (BLAKE3)", f"`{checkpoint.root}`{momentum}"),
        ("initial parameters", f"`{manifest.initial_parameters}`"),
        ("program", f"`{manifest.program}`"),
        ("dataset", f"{data.name}, {data.tokens:,} bytes, the last {data.heldout:.0%} held out"),
        ("dataset root (BLAKE3)", f"`{data.root}`"),
    ]
    if manifest.rollouts is not None:
        environment = manifest.rollouts.environment
        facts.append(("environment", f"{environment.name} {environment.version}"))
        facts.append(("environment settings", f"`{environment.settings_hash}`"))
    if manifest.rollouts is None or manifest.rollouts.tokenizer is None:
        facts.append(("tokens", "bytes of UTF-8, one a token: there is no tokenizer file"))
    else:
        facts.append(("tokenizer", f"`{manifest.rollouts.tokenizer}`"))
    for what, measured in (("these parameters", found.heldout), ("the initial parameters", found.began)):
        told = (
            "not measured" if measured is None else f"{measured[1]:.4f} ({measured[0]}, by the coordinator)"
        )
        facts.append((f"held out, {what}", told))
    return facts


def _contributors(found: Provenance) -> list[str]:
    if found.contributors is None:
        return ["Not known where this was exported: only a coordinator's directory or API tells."]
    if not found.contributors:
        return ["Nobody: no unit was merged before this round."]
    rows = [
        f"| {one.number} | {one.peer or 'unknown'} | {one.merged} | {one.doubted} | {one.retracted} |"
        for one in found.contributors
    ]
    return [
        "Units that were merged before this round, by registration number, as the coordinator tells; how many of them",
        "had no weight, because of what their update does to the others or to the loss; and how many were taken back",
        "again as invalid:",
        "",
        "| number | peer | merged | without weight | taken back |",
        "|---:|---|---:|---:|---:|",
        *rows,
    ]
