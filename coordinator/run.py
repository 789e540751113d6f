"""Making a run: its manifest, what it can cost, how likely a cheater is to escape, and its creation on chain."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.client import Ledger
from contracts.sender import Sender
from contracts.types import Ladder, Receipt
from coordinator.choices import DEFAULT_ROUNDS
from coordinator.config import PUBLIC_DIRECTORY
from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.blobs import BlobStore
from protocol.canonical import ZERO_DIGEST
from protocol.chain import Penalties
from protocol.daemon import MANIFEST_FILE
from protocol.errors import ConfigError, LedgerError, Malformed, UsageError
from protocol.keys import PeerKey
from protocol.manifest import (
    LOCAL_CHAIN_ID,
    DeadlineConfig,
    RunManifest,
    SamplingSchedule,
)
from protocol.tensors import parameter_layout, unpack
from training.recipe import with_recipe
from verification.archive import Archive
from verification.settle import max_payout

ESCAPE = 0.001
"""A peer that cheats in every round escapes a whole run with at most this probability, if verifiers do their work."""

REVEAL_BLOCKS = 10  # for the update of who is forced in last to reach the witnesses
FLOOR = 0.09  # of the draw probability: below, who refuses to open gains over an epoch of ten units (`murmur run plan`)
SHORT_RUN = 10  # rounds; up to here every unit is drawn


def draw_probability(rounds: int) -> float:
    """Return how often a unit must be drawn so that a constant cheater escapes less than once in 1,000 runs.

    A cheater with units in `rounds` rounds is caught by one draw, and the last round's draw comes too late to keep it
    out of any other: so (1 - p)**(rounds - 1) <= 0.001, with p rounded up to four decimals. In a short run every unit
    is drawn.
    """
    if rounds <= SHORT_RUN:
        return 1.0
    exact = 1 - ESCAPE ** (1 / (rounds - 1))
    return float(Decimal(exact).quantize(Decimal("0.0001"), rounding=ROUND_CEILING))


def escape_probability(manifest: RunManifest) -> float:
    """Return how likely a peer that cheats in every round is never drawn before the last one."""
    schedule = manifest.verification.schedule
    kept = (1 - schedule.probability(earlier, suspect=0) for earlier in range(max(manifest.rounds - 1, 1)))
    return prod(kept)


@dataclass(frozen=True)
class RunPlan:
    """What a run will be and what it can cost, before anything is paid."""

    manifest: RunManifest
    contributors: int  # that the cost is reckoned for
    fund_wei: int

    @property
    def max_payout_wei(self) -> int:
        """Return the most that contributors and verifiers can earn together."""
        return max_payout(self.manifest, self.contributors)

    @property
    def escape(self) -> float:
        """Return the chance of a constant cheater to escape the run."""
        return escape_probability(self.manifest)


def initial_parameters_file(manifest: RunManifest, seed: int, start: Path | None) -> bytes:
    """Return the canonical file of the parameters a run starts from: drawn by a seed, or those of a file.

    Raises:
        ConfigError: the file cannot be read, or holds no parameters of the run's model.
    """
    # Imported here: torch is heavy, and nothing else of this module needs it.
    from training.model import initial_parameters
    from training.outer import initial_state, parameters_file

    if start is None:
        vector = initial_parameters(manifest.model, seed)
    else:
        layout = parameter_layout(manifest.model)
        try:
            with start.open("rb") as file:
                vector, _ = unpack(layout, file.read(layout.file_bytes + 1))
        except OSError as error:
            raise ConfigError(f"cannot read {start}: {error.strerror}") from error
        except Malformed as error:
            raise ConfigError(
                f"{start} holds no parameters of the run's model: {error.message}",
                hint="the manifest's fields of the model are in the fields.json that `murmur model import` wrote",
            ) from error
    return parameters_file(manifest, initial_state(manifest, vector))


def complete(given: Mapping[str, Any]) -> RunManifest:
    """Return the manifest that fields make.

    Rounds, schedule and beacon follow from the others where they are left out; so do the updates' codec and the outer
    step (`training.recipe`).

    Raises:
        UsageError: they make none.
    """
    try:
        values = with_recipe({"rounds": DEFAULT_ROUNDS, **given})
        public = values.get("chain_id") != LOCAL_CHAIN_ID
        values.setdefault("beacon", DrandBeacon() if public else BlockBeacon())
        verification = dict(values.get("verification") or {})
        often = max(draw_probability(int(values["rounds"])), FLOOR)
        verification.setdefault(
            "schedule", SamplingSchedule(fresh_probability=often, floor_probability=often)
        )
        return RunManifest.model_validate({**values, "verification": verification})
    except (ValidationError, ValueError, TypeError) as error:
        raise UsageError(f"these fields make no manifest: {_first(error)}") from error


def plan_run(
    directory: Path,
    *,
    ledger: Ledger,
    coordinator: PeerKey,
    fund_wei: int,
    contributors: int,
    seed: int = 0,
    start: Path | None = None,
    judge: Path | None = None,
    data: Path | None = None,
    data_dir: Path | None = None,
    fields: Mapping[str, Any] | None = None,
) -> RunPlan:
    """Build a run's manifest, its initial parameters and its token shard.

    Args:
        directory: the coordinator's.
        contributors: how many the cost is reckoned for.
        seed: of the initial parameters, where `start` names no file of them.
        start: canonical file of parameters, such as `murmur model import` writes.
        judge: file of the parameters of the judge that the fields pin.
        data: text to train on; None takes the packaged one.
        data_dir: where token shards are kept; None: data/ in the directory.
        fields: of the manifest, `rounds` and `name` among them; what is not given follows from the others or has its
            default. The draw probability follows from the rounds by `draw_probability`, codec and outer step by
            `training.recipe`, the beacon from the chain, and the time for reveals from the ledger's for forced
            commitments.

    Raises:
        UsageError: the fields make no manifest.
        ConfigError: the text cannot be read.
        LedgerError: the chain does not answer.
    """
    from training.corpus import DEFAULT_NAME, dataset_config, prepare_corpus
    from training.program import program_digest

    given = dict(fields or {})
    deadlines = given.get("deadlines", {})
    if isinstance(deadlines, Mapping):
        reveal = max(DeadlineConfig().reveal, ledger.force_blocks + REVEAL_BLOCKS)
        given["deadlines"] = {"reveal": reveal, **deadlines}
    shard = prepare_corpus(data, data_dir or directory / "data")
    name = DEFAULT_NAME if data is None else _dataset_name(data)
    manifest = complete(
        {
            "name": "murmur",
            "dataset": dataset_config(name, shard),
            "initial_parameters": ZERO_DIGEST,
            "program": program_digest(),
            **given,
            "chain_id": ledger.chain_id,
            "ledger": ledger.address,
            "coordinator": coordinator.address,
        }
    )
    store = BlobStore(Archive(directory / PUBLIC_DIRECTORY).blobs)
    if judge is not None:
        store.put(judge.read_bytes())
    if "initial_parameters" not in given:
        file = initial_parameters_file(manifest, seed, start)
        address = store.put(file)
        manifest = manifest.model_copy(update={"initial_parameters": address})
    return RunPlan(manifest, contributors, fund_wei)


def create_run(directory: Path, plan: RunPlan, *, ledger: Ledger, sender: Sender) -> Receipt:
    """Write the manifest into the coordinator's directory, and create and fund its run on chain.

    Raises:
        ConfigError: the directory holds another run already, or its deadlines do not fit the ledger.
        LedgerError: the chain refuses, or does not answer.
    """
    reveal = plan.manifest.deadlines.reveal
    if reveal <= ledger.force_blocks:
        raise ConfigError(
            f"reveals close {reveal} blocks after the list, while commitments can be forced in for "
            f"{ledger.force_blocks}: their updates would be late",
            hint="a larger deadlines.reveal in the manifest",
        )
    path = directory / MANIFEST_FILE
    data = plan.manifest.to_bytes()
    if path.exists() and path.read_bytes() != data:
        raise ConfigError(
            f"{directory} already holds a run", hint="one directory holds one run; name another --dir"
        )
    balance = ledger.balance_of(sender.address)
    needed = plan.fund_wei + ledger.run_bond
    if balance < needed:
        raise LedgerError(
            f"wallet {sender.address} holds {balance} wei of the token, not {needed}: the pot and the run's bond",
            hint="fund less with --fund, or send it tokens first",
        )
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    Archive(directory / PUBLIC_DIRECTORY).write_manifest(plan.manifest)
    return ledger.create_run(
        sender, plan.manifest.run_id, plan.manifest.coordinator, ladder_of(plan.manifest), plan.fund_wei
    )


def ladder_of(manifest: RunManifest) -> Ladder:
    """Return what the chain holds of a manifest's penalties."""
    held = Penalties.of(manifest)
    return Ladder(held.fault_bps, held.equivocation_bps, held.window_blocks)


def _dataset_name(data: Path) -> str:
    stem = data.name.split(".")[0].lower()
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in stem).strip("-")
    return kept[:64] or "text"


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
