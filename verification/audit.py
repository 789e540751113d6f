"""Audit a run from public data alone: nobody is believed but the chain.

Each check recomputes one thing from the public folder and the chain's events and compares; a check that cannot be
made because data is missing is inconclusive. Late deliveries are the one thing that only the coordinator saw.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.errors import ConfigError, Malformed, ProofInconclusive, ProofRejected
from training.corpus import Shard
from verification import audit_money, audit_rounds, audit_verdicts
from verification.archive import Archive
from verification.audit_rounds import Found
from verification.bundle import FindBlob
from verification.public import AuditChain, PublicRun
from verification.report import Check, exit_code, first_failure

_CHECKS: tuple[tuple[str, Callable[[PublicRun], Found]], ...] = (
    ("run id", audit_rounds.check_run),
    ("authors", audit_rounds.check_authors),
    ("commitment roots", audit_rounds.check_roots),
    ("record hashes", audit_rounds.check_records),
    ("rosters", audit_rounds.check_rosters),
    ("assignments", audit_rounds.check_assignments),
    ("merging", audit_rounds.check_merging),
    ("aggregation", audit_rounds.check_aggregation),
    ("draws", audit_verdicts.check_draws),
    ("verdicts", audit_verdicts.check_verdicts),
    ("outcomes", audit_verdicts.check_outcomes),
    ("slashes", audit_verdicts.check_slashes),
    ("reward tables", audit_money.check_tables),
    ("reward roots", audit_money.check_reward_roots),
    ("claims", audit_money.check_claims),
)


@dataclass(frozen=True)
class AuditReport:
    """Say what an audit found."""

    run: str
    checks: tuple[Check, ...]
    rounds: int = 0
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

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON data."""
        failure = first_failure(self.checks)
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "run": self.run,
            **self.subject,
            "rounds": self.rounds,
            "overhead": self.overhead,
            "first_failure": None if failure is None else failure.name,
            "checks": [check.to_json() for check in self.checks],
        }


def audit(
    archive: Archive,
    chain: AuditChain,
    run_id: str,
    find: FindBlob,
    *,
    replays: int = 0,
    shard: Callable[[], Shard] | None = None,
    device: str = "cpu",
) -> AuditReport:
    """Recompute a run.

    Args:
        chain: the run on its chain, refreshed.
        find: reads public blobs, and opened states where they are at hand.
        replays: how many drawn units to execute again, if their files are at hand.
        shard: opens the dataset; needed for replays.

    Raises:
        ConfigError: there is no public folder.
    """
    try:
        run = PublicRun.read(archive, chain, run_id, find)
    except Malformed as error:
        return AuditReport(run_id, (Check("public folder", "rejected", error.message),))
    except ProofInconclusive as error:
        return AuditReport(run_id, (Check("public folder", "inconclusive", error.message),))
    checks = [_made(name, check, run) for name, check in _CHECKS]
    if replays:

        def replay(run: PublicRun) -> Found:
            from verification.audit_replays import check_replays  # torch

            return check_replays(run, replays, shard, device)

        checks.append(_made("replays", replay, run))
    subject: dict[str, object] = {
        "chain_id": run.manifest.chain_id,
        "ledger": run.manifest.ledger,
        "height": chain.height,
    }
    return AuditReport(run_id, tuple(checks), len(run.dossiers), overhead(run), subject)


def _made(name: str, check: Callable[[PublicRun], Found], run: PublicRun) -> Check:
    try:
        count, detail = check(run)
    except (ProofRejected, Malformed) as error:
        return Check(name, "rejected", error.message, 0)
    except (ProofInconclusive, ConfigError) as error:
        return Check(name, "inconclusive", error.message, 0)
    return Check(name, "ok", f"{count} {detail}", count)


def overhead(run: PublicRun) -> float | None:
    """Return CPU seconds of replay over CPU seconds of training, both self-reported; None without training."""
    trained = sum(one.body.train_cpu_s for dossier in run.dossiers for one in dossier.reveals)
    replayed = sum(one.body.replay_cpu_s for dossier in run.dossiers for one in dossier.verdicts)
    return replayed / trained if trained else None
