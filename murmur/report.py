"""From a finished run to its summary: counted from the public folder and the chain, as any auditor would."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.run import ChainRun
from contracts.types import Role
from murmur.churn import Churn, presence
from murmur.identities import Identity
from murmur.learning import course, groups_of, lag_of, merged_sizes
from murmur.processes import read_status
from murmur.summary import (
    AuditCheck,
    AuditSummary,
    LedgerSummary,
    Loss,
    PeerSummary,
    Summary,
    Units,
    Verification,
    VerifierSummary,
    Wire,
    not_demonstrated,
)
from protocol.messages import PASSED, Judgement
from protocol.tensors import parameter_layout
from verification.cases import combined
from verification.judge import Outcome
from verification.public import PublicRun
from verification.ruling import silent


def units_of(run: PublicRun, number: int, trained: int) -> Units:
    """Count what became of a contributor's units."""
    commitments = [one for round_ in run.rounds if (one := run.commitment(round_, number)) is not None]
    tiers = Counter(one.body.tier for one in commitments)
    units = [unit for round_ in run.rounds for unit in run.standing[round_].units if unit.number == number]
    revealed = sum(reveal.body.number == number for dossier in run.dossiers for reveal in dossier.reveals)
    outcomes = [outcome for (_, owner), outcome in judged_units(run).items() if owner == number]
    return Units(
        trained=trained,
        committed=len(commitments),
        revealed=revealed,
        drawn=sum(drawn == number for _, drawn in run.draws),
        passed=outcomes.count("passed"),
        rejected=outcomes.count("false"),
        void=outcomes.count("void"),
        doubted=sum(unit.merged and not unit.weight for unit in units),
        tiers=[tiers[tier] for tier in range(run.manifest.smallest_tier + 1)],
    )


def judged_units(run: PublicRun) -> dict[tuple[int, int], Outcome]:
    """Return what each judged unit is after its draw and all cases, by (round, number)."""
    found: dict[tuple[int, int], list[Judgement]] = {}
    for (round_, number, _), judgement in run.declared.items():
        found.setdefault((round_, number), []).append(judgement)
    return {unit: combined(judged) for unit, judged in found.items()}


def credited(run: PublicRun) -> dict[str, int]:
    """Return every wallet's cumulative pay in the last reward table, in wei."""
    if not run.settlement.rewards:
        return {}
    return {entry.account: entry.cumulative_wei for entry in run.settlement.rewards[-1].body.entries}


def claimed(chain: ChainRun) -> dict[str, int]:
    """Return what every wallet has claimed, in wei."""
    found: dict[str, int] = {}
    for claim in chain.claims():
        found[claim.account] = found.get(claim.account, 0) + claim.amount
    return found


def wire_of(run: PublicRun) -> Wire:
    """Weigh what was merged."""
    if run.manifest.rollouts is not None:
        return _wire_of_rollouts(run)
    merged = {
        (round_, unit.number) for round_ in run.rounds for unit in run.standing[round_].units if unit.merged
    }
    sizes = [
        reveal.body.blob_bytes
        for dossier in run.dossiers
        for reveal in dossier.reveals
        if (dossier.round, reveal.body.number) in merged
    ]
    if not sizes:
        return Wire(update_bytes_mean=None, bits_per_parameter=None, dense_ratio=None)
    return _weighed(run, sizes)


def _wire_of_rollouts(run: PublicRun) -> Wire:
    found = list(merged_sizes(run))
    if not found:
        return Wire(update_bytes_mean=None, bits_per_parameter=None, dense_ratio=None)
    rounds = len({round_ for round_, _, _ in found})
    return _weighed(run, [update for _, update, _ in found]).model_copy(
        update={
            "rollout_bytes_step": round(sum(one for _, _, one in found) / rounds, 1),
            "weights_bytes_step": round(sum(one for _, one, _ in found) / rounds, 1),
        }
    )


def _weighed(run: PublicRun, sizes: Sequence[int]) -> Wire:
    mean = sum(sizes) / len(sizes)
    parameters = parameter_layout(run.manifest.model).size
    return Wire(
        update_bytes_mean=round(mean, 1),
        bits_per_parameter=round(8 * mean / parameters, 4),
        dense_ratio=round(4 * parameters / mean, 1),
    )


def verification_of(run: PublicRun, honest: set[int]) -> Verification:
    """Count draws and outcomes, and set CPU seconds of replay against those of training."""
    outcomes = [*judged_units(run).values()]
    replay_s = sum(m.body.replay_cpu_s for verdicts in run.verdicts.values() for m in verdicts.values())
    train_s = sum(reveal.body.train_cpu_s for dossier in run.dossiers for reveal in dossier.reveals)
    false_rejections = {
        key
        for key, verdicts in run.verdicts.items()
        if key[1] in honest and any(message.body.outcome != PASSED for message in verdicts.values())
    }
    return Verification(
        draw_probability=run.manifest.verification.schedule.fresh_probability,
        drawn=len(run.draws),
        passed=outcomes.count("passed"),
        rejected=outcomes.count("false"),
        void=outcomes.count("void"),
        false_rejections=len(false_rejections),
        overhead=round(replay_s / train_s, 4) if train_s else None,
    )


def summarize(
    *,
    directory: Path,
    run: PublicRun,
    chain: ChainRun,
    identities: tuple[Identity, ...],
    numbers: Mapping[str, int],
    loss: Loss,
    policy: Mapping[str, Any] | None,
    refusals: Mapping[str, Mapping[str, int]],
    audit: Mapping[str, Any],
    churn: Churn,
    drop: float,
    wall_s: float,
) -> Summary:
    """Put the summary together.

    Args:
        numbers: registration numbers by name.
        policy: what the coordinator measured of a policy.
        refusals: counts by reason, by "number N" or peer id of the sender, as the coordinator noted them; what the
            other honest processes refused is in their status files.
        audit: the document that `murmur audit run --json` printed.
        churn: who came late and who was killed when.
        drop: chance to be killed in a round that honest contributors were given.
    """
    slashed, pay, paid = chain.slashed(), credited(run), claimed(chain)
    operators = {operator.number: operator for operator in chain.operators()}
    peers, verifiers = [], []
    declared = [(round_, number) for round_, number, case in run.declared if not case]
    rulings = [run.ruling(key) for key in declared]
    silences = Counter(
        judge
        for key, ruling in zip(declared, rulings, strict=True)
        for judge in silent(run.manifest, run.draws[key], ruling, run.verdict_bodies(key))
    )
    # What is malformed is not passed on: only a neighbour of its sender, seldom the coordinator, gets to refuse it.
    noticed = [
        read_status(directory / one.name).get("network", {}).get("refused_of", {})
        for one in identities
        if one.role is not None and one.honest
    ]
    for identity in identities:
        if identity.name not in numbers:
            continue  # the coordinator, or who never came
        operator = operators[numbers[identity.name]]
        wallet = operator.wallet
        if identity.role == Role.VERIFIER:
            count = sum(operator.number in verdicts for verdicts in run.verdicts.values())
            verifiers.append(
                VerifierSummary(
                    name=identity.name,
                    number=operator.number,
                    peer_id=operator.peer_id,
                    address=wallet,
                    honest=identity.honest,
                    cheat=identity.cheat,
                    verdicts=count,
                    right=sum(operator.number in one.right for one in rulings),
                    wrong=sum(operator.number in one.wrong for one in rulings),
                    silent=silences[operator.number],
                    credited_wei=pay.get(wallet, 0),
                    claimed_wei=paid.get(wallet, 0),
                )
            )
            continue
        trained = int(read_status(directory / identity.name).get("units", {}).get("trained", 0))
        refused: Counter[str] = Counter()
        for sender in (f"number {operator.number}", operator.peer_id):
            for told in (refusals, *noticed):
                refused.update(told.get(sender, {}))
        peers.append(
            PeerSummary(
                name=identity.name,
                number=operator.number,
                peer_id=operator.peer_id,
                address=wallet,
                honest=identity.honest,
                cheat=identity.cheat,
                units=units_of(run, operator.number, trained),
                stake_wei=operator.stake_wei,
                slashed_wei=slashed.get(operator.number, 0),
                credited_wei=pay.get(wallet, 0),
                claimed_wei=paid.get(wallet, 0),
                refused=dict(refused),
                presence=presence(
                    run,
                    chain,
                    operator.number,
                    joined=churn.joins.get(identity.name),
                    killed=churn.killed.get(identity.name, ()),
                ),
            )
        )
    honest = {peer.number for peer in peers if peer.honest}
    checks = [
        AuditCheck(name=check["name"], ok=check["ok"], detail=check["detail"])
        for check in audit.get("checks", [])
    ]
    audit_summary = AuditSummary(ok=bool(audit.get("ok")) and bool(checks), checks=checks)
    success = None if policy is None else course(policy, "success")
    rollouts = run.manifest.rollouts
    done = len(run.rounds) if chain.finished() is not None else max(0, len(run.rounds) - 1)
    return Summary(
        run_id=run.run,
        rounds=len(run.rounds),
        parameters=parameter_layout(run.manifest.model).size,
        directory=str(directory),
        environment=None if rollouts is None else rollouts.environment.name,
        reward=None if policy is None else course(policy, "reward"),
        success=success,
        groups=None if rollouts is None else groups_of(run, judged_units(run)),
        lag=None if rollouts is None else lag_of(run),
        loss=loss,
        peers=peers,
        verifiers=verifiers,
        wire=wire_of(run),
        verification=verification_of(run, honest),
        ledger=LedgerSummary(
            chain_id=run.manifest.chain_id,
            ledger=run.manifest.ledger,
            token=str(chain.ledger.token.address),
            commit_roots=sum(chain.commitments(round_) is not None for round_ in range(run.manifest.rounds)),
            epochs_finalized=len(chain.finalized()),
            funded_wei=chain.funded_wei,
            paid_wei=sum(paid.values()),
            slashed_wei=sum(slashed.values()),
        ),
        audit=audit_summary,
        wall_s=round(wall_s, 1),
        not_demonstrated=not_demonstrated(
            peers,
            audit_summary,
            rounds_done=done,
            rounds=run.manifest.rounds,
            verifiers=verifiers,
            success=success,
            drop=drop,
        ),
    )
