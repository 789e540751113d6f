"""Audit a run from public data alone: nobody is believed but the chain.

Each check recomputes one thing from the public folder and the chain's events and compares; a check that cannot be
made because data is missing is inconclusive, and so is an audit that executed no training step again. Where fewer than
a majority of a round's witnesses signed, what was late is the one thing that only the coordinator saw.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol.blobs import BlobStore
from protocol.canonical import digest
from protocol.errors import ConfigError, Malformed, ProofInconclusive, ProofRejected
from training.corpus import Shard
from verification import (
    audit_beacons,
    audit_choices,
    audit_jury,
    audit_money,
    audit_preferences,
    audit_retract,
    audit_roots,
    audit_rounds,
    audit_verdicts,
)
from verification.archive import Archive
from verification.audit_rounds import Found
from verification.blobs import find_blob
from verification.bundle import FindBlob
from verification.public import AuditChain, PublicRun
from verification.report import Check, Extent, exit_code, first_failure

_CHECKS: tuple[tuple[str, Callable[[PublicRun], Found]], ...] = (
    ("run id", audit_rounds.check_run),
    ("authors", audit_rounds.check_authors),
    ("commitment roots", audit_rounds.check_roots),
    ("record hashes", audit_rounds.check_records),
    ("rosters", audit_rounds.check_rosters),
    ("forced inclusion", audit_choices.check_forced),
    ("beacons", audit_beacons.check_beacons),
    ("assignments", audit_rounds.check_assignments),
    ("merging", audit_rounds.check_merging),
    ("preferences", audit_preferences.check_preferences),
    ("witnesses", audit_choices.check_witnesses),
    ("retractions", audit_retract.check_retractions),
    ("aggregation", audit_rounds.check_aggregation),
    ("sampling", audit_choices.check_sampling),
    ("draws", audit_verdicts.check_draws),
    ("verdicts", audit_verdicts.check_verdicts),
    ("outcomes", audit_verdicts.check_outcomes),
    ("rulings", audit_jury.check_rulings),
    ("slashes", audit_jury.check_slashes),
)
_MONEY: tuple[tuple[str, Callable[[PublicRun], Found]], ...] = (
    ("reward tables", audit_money.check_tables),
    ("reward roots", audit_money.check_reward_roots),
    ("pending root", audit_roots.check_pending_root),
    ("disputed roots", audit_roots.check_reward_rulings),
    ("claims", audit_money.check_claims),
)

NO_REPLAY = "nothing was executed again, so the verdicts are only believed: --replay sampled, first or all"


@dataclass(frozen=True)
class AuditReport:
    """Say what an audit found."""

    run: str
    checks: tuple[Check, ...]
    rounds: int = 0
    only: range | None = None  # rounds that alone were judged
    overhead: float | None = None  # CPU seconds of replay over self-reported CPU seconds of training
    subject: dict[str, object] = field(default_factory=dict)  # chain and ledger

    @property
    def ok(self) -> bool:
        """Tell whether every check holds."""
        return all(check.ok for check in self.checks)

    @property
    def exit_code(self) -> int:
        """Return 0, 6 or 7."""
        return exit_code(self.checks)

    @property
    def first_violation(self) -> dict[str, str] | None:
        """Return the first rule that was broken, in the order of the checks: its name, what it says, what was found."""
        broken = next((check for check in self.checks if check.result == "rejected"), None)
        return None if broken is None else {"check": broken.name, "rule": broken.rule, "found": broken.detail}

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON data."""
        failure = first_failure(self.checks)
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "run": self.run,
            **self.subject,
            "rounds": self.rounds,
            "only_rounds": None if self.only is None else [self.only.start, self.only.stop],
            "left_out": [] if self.only is None else [name for name, _ in _MONEY],
            "overhead": self.overhead,
            "first_failure": None if failure is None else failure.name,
            "first_violation": self.first_violation,
            "checks": [check.to_json() for check in self.checks],
        }


def audit(
    archive: Archive,
    chain: AuditChain,
    run_id: str,
    find: FindBlob,
    *,
    replay: Extent | None = None,
    only: range | None = None,
    shard: Callable[[], Shard] | None = None,
    device: str = "cpu",
) -> AuditReport:
    """Recompute a run.

    Args:
        chain: the run on its chain, refreshed.
        find: reads public blobs, and opened states where they are at hand.
        replay: which drawn units to execute again; without, the audit is inconclusive at best.
        only: judge these rounds alone, and no money, which follows from all of them.
        shard: opens the dataset; needed for replays.

    Raises:
        ConfigError: there is no public folder.
    """
    try:
        run = PublicRun.read(archive, chain, run_id, find, only)
    except Malformed as error:
        return AuditReport(run_id, (Check("public folder", "rejected", error.message),))
    except ProofInconclusive as error:
        return AuditReport(run_id, (Check("public folder", "inconclusive", error.message),))
    with TemporaryDirectory(prefix="murmur-parameters-") as directory:
        if replay is not None:
            run = _keeping(run, BlobStore(Path(directory)))
        checks = _check(run, only, replay, shard, device)
    subject: dict[str, object] = {
        "chain_id": run.manifest.chain_id,
        "ledger": run.manifest.ledger,
        "height": chain.height,
    }
    return AuditReport(run_id, checks, len(run.scope), only, overhead(run), subject)


def _keeping(run: PublicRun, spool: BlobStore) -> PublicRun:
    """Let replays find the parameters of rounds, which nobody needs to hold, as the aggregation computes them again."""
    known = run.find

    def keep(round_: int, data: bytes) -> None:
        if round_ >= len(run.dossiers) or known(digest(data), len(data)) is not None:
            return
        if run.dossiers[round_].openings or run.manifest.merging.judges:
            spool.put(data)

    def find(address: str, max_bytes: int) -> bytes | None:
        data = known(address, max_bytes)
        return find_blob([spool.root])(address, max_bytes) if data is None else data

    return replace(run, find=find, keep=keep)


def _check(
    run: PublicRun,
    only: range | None,
    replay: Extent | None,
    shard: Callable[[], Shard] | None,
    device: str,
) -> tuple[Check, ...]:
    checks = [_made(name, check, run) for name, check in _CHECKS]
    if only is None:
        checks += [_made(name, check, run) for name, check in _MONEY]

    def check_replays(run: PublicRun) -> Found:
        """Whatever is executed again gives what its verdicts, and its jury, say."""
        if replay is None:
            raise ProofInconclusive(NO_REPLAY)
        from training.inner import prepare_process  # torch
        from verification import audit_findings, audit_replays
        from verification.replay import Units

        plain = run.manifest.rollouts is None
        if plain and shard is None:
            raise ProofInconclusive("the dataset is needed for replays")
        prepare_process(None)
        units = Units(shard() if plain and shard is not None else None, device)
        replayed, executed = audit_replays.check_replays(run, replay, units)
        ruled, judged = audit_findings.check_findings(run, replay, units)
        return replayed + ruled, f"{executed}; {judged}"

    def check_weights(run: PublicRun) -> Found:
        """Every merged update has the weight that what it does to the loss, and its direction, give it."""
        from verification import audit_weights  # torch

        return audit_weights.check_weights(run, replay, shard)

    checks += [_made("weights", check_weights, run), _made("replays", check_replays, run)]
    return tuple(checks)


def _made(name: str, check: Callable[[PublicRun], Found], run: PublicRun) -> Check:
    rule = (check.__doc__ or "").partition("\n")[0]
    try:
        count, detail = check(run)
    except (ProofRejected, Malformed) as error:
        return Check(name, "rejected", error.message, 0, rule)
    except (ProofInconclusive, ConfigError) as error:
        return Check(name, "inconclusive", error.message, 0, rule)
    return Check(name, "ok", f"{count} {detail}", count, rule)


def overhead(run: PublicRun) -> float | None:
    """Return CPU seconds of replay over CPU seconds of training, both self-reported; None without training."""
    trained = sum(one.body.train_cpu_s for dossier in run.audited for one in dossier.reveals)
    replayed = sum(one.body.replay_cpu_s for dossier in run.audited for one in dossier.verdicts)
    return replayed / trained if trained else None
