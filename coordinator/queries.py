"""What the API and the page read, as plain JSON data. Nothing here writes, and every answer is bounded."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from sqlalchemy import Engine, Integer, Select, cast, func, select, tuple_
from sqlalchemy.orm import Session

from coordinator.tables import (
    LocalRow,
    MessageRow,
    PeerRow,
    PolicyRow,
    PreferenceRow,
    RefusalRow,
    RolloutsRow,
    RoundRow,
    RunRow,
    SilenceRow,
    TransactionRow,
    UnitRow,
    VerdictRow,
)
from protocol.manifest import RunManifest
from protocol.messages import RewardTable
from protocol.rollout_config import RolloutConfig
from protocol.tensors import parameter_layout
from training.flops import training_flops
from training.preferences import preference_values

MAX_PAGE = 500
MAX_PEERS = 1000
MAX_CURVE = 20_000  # points; a longer run is thinned evenly
MAX_REFUSALS = 200
MAX_TRANSACTIONS = 100
MAX_ROLLOUTS = 64  # units of a round
MAX_PREFERRED = 1024  # preferences about a round; records carry fewer

RECORD = ("right", "wrong", "silent")
OUTCOMES = ("passed", "void", "false", "unjudged")


class Reader:
    """Read one run's database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run_id(self) -> str | None:
        """Return the run that the database holds, or None while the coordinator has not begun it."""
        with Session(self._engine) as session:
            return session.scalar(select(RunRow.run).limit(1))

    def updated_at(self) -> float:
        """Return when the service last wrote its status, in Unix time."""
        with Session(self._engine) as session:
            return session.scalar(select(RunRow.updated_at)) or 0.0

    def summary(self, now: float) -> dict[str, Any]:
        """Return everything about a run that fits on a page.

        Args:
            now: Unix time, to tell the age of the data.
        """
        with Session(self._engine) as session:
            row = session.scalars(select(RunRow)).one()
            manifest = RunManifest.from_bytes(row.manifest.encode())
            facts = json.loads(row.facts)
            return {
                "run": row.run,
                "name": manifest.name,
                "phase": row.phase,
                "round": row.round,
                "rounds": manifest.rounds,
                "rounds_done": session.scalar(
                    select(func.count()).select_from(RoundRow).where(RoundRow.record_block.is_not(None))
                ),
                "detail": row.detail,
                "height": row.height,
                "updated_at": row.updated_at,
                "age_s": max(0.0, round(now - row.updated_at, 1)),
                "parameters": parameter_layout(manifest.model).size,
                "loss": _loss(session),
                "policy": None
                if manifest.rollouts is None
                else _policy(session, manifest, manifest.rollouts),
                "peers": _peers(session, facts.get("ledger", {}).get("claimed_wei", {})),
                "throughput": _throughput(session, manifest),
                "wire": _wire(session, manifest),
                "verification": _verification(session, manifest),
                "ledger": {
                    key: value for key, value in facts.get("ledger", {}).items() if key != "claimed_wei"
                },
                "network": _network(facts.get("network", {})),
                "refused": _refusals(session),
                "transactions": _transactions(session),
                "manifest": manifest.model_dump(mode="json"),
            }

    def rounds(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Return rounds by number, those after `after`."""
        with Session(self._engine) as session:
            query = _played(session).where(RoundRow.round > after).order_by(RoundRow.round).limit(limit)
            return [_round(row) for row in session.scalars(query)]

    def parameters(self) -> dict[int, str]:
        """Return the roots of the global parameters by round; that of the round after the last is the run's result."""
        with Session(self._engine) as session:
            rows = session.execute(select(RoundRow.round, RoundRow.parameters)).all()
        return {round_: root for round_, root in rows if root is not None}

    def last_rounds(self, count: int) -> list[dict[str, Any]]:
        """Return the newest rounds, the newest first."""
        with Session(self._engine) as session:
            query = _played(session).order_by(RoundRow.round.desc()).limit(count)
            return [_round(row) for row in session.scalars(query)]

    def round(self, round_: int) -> dict[str, Any] | None:
        """Return one round with its units and verdicts."""
        with Session(self._engine) as session:
            row = session.scalar(_played(session).where(RoundRow.round == round_))
            if row is None:
                return None
            units = session.scalars(
                select(UnitRow).where(UnitRow.round == round_).order_by(UnitRow.number).limit(MAX_PAGE)
            ).all()
            verdicts = session.scalars(
                select(VerdictRow)
                .where(VerdictRow.round == round_)
                .order_by(VerdictRow.number, VerdictRow.verifier)
                .limit(MAX_PAGE)
            ).all()
            return {
                **_round(row),
                "units": [_unit(unit) for unit in units],
                "verdicts": [_verdict(verdict) for verdict in verdicts],
            }

    def rollouts(self, round_: int) -> dict[str, Any]:
        """Return what the units of a round say: figures, a group to read, and what became of each."""
        with Session(self._engine) as session:
            rows = session.execute(
                select(RolloutsRow, UnitRow)
                .join(UnitRow, (UnitRow.round == RolloutsRow.round) & (UnitRow.number == RolloutsRow.number))
                .where(RolloutsRow.round == round_)
                .order_by(RolloutsRow.number)
                .limit(MAX_ROLLOUTS)
            ).all()
            said = session.execute(
                select(VerdictRow.number, VerdictRow.reason).where(VerdictRow.round == round_).limit(MAX_PAGE)
            ).all()
            preferred = preferred_samples(session, round_)
        return {
            "round": round_,
            "units": [
                {
                    **_fields(row, ("number", "groups", "samples", "reward", "success")),
                    **_fields(row, ("update_bytes", "rollout_bytes")),
                    **_fields(unit, ("merged", "reason", "drawn", "segment", "outcome")),
                    "components": json.loads(row.components),
                    "verdict_reasons": [reason for number, reason in said if number == row.number],
                    "preferences": sum(len(one) for key, one in preferred.items() if key[0] == row.number),
                    "shown": _with_preferences(json.loads(row.shown), row.number, preferred),
                }
                for row, unit in rows
            ],
        }

    def units(
        self, *, number: int | None, outcome: str | None, after: tuple[int, int], limit: int
    ) -> list[dict[str, Any]]:
        """Return units by (round, number), those after `after`, of one number or outcome if given."""
        query = select(UnitRow).where(tuple_(UnitRow.round, UnitRow.number) > after)
        if number is not None:
            query = query.where(UnitRow.number == number)
        if outcome is not None:
            query = query.where(UnitRow.outcome == outcome)
        with Session(self._engine) as session:
            found = session.scalars(query.order_by(UnitRow.round, UnitRow.number).limit(limit))
            return [_unit(row) for row in found]

    def messages(self, after: int, limit: int, kind: str | None = None) -> list[dict[str, Any]]:
        """Return signed messages in order of arrival, those after the sequence number `after`."""
        query = select(MessageRow.sequence, MessageRow.wire).where(MessageRow.sequence > after)
        if kind is not None:
            query = query.where(MessageRow.kind == kind)
        with Session(self._engine) as session:
            rows = session.execute(query.order_by(MessageRow.sequence).limit(limit)).all()
        return [{"sequence": sequence, "message": json.loads(wire)} for sequence, wire in rows]

    def settlement(self) -> dict[str, Any]:
        """Return the reward tables as signed messages, by epoch: what a claim needs, as in `settlement.json`.

        Where others said one too, a claim takes the one whose root is final.
        """
        query = select(MessageRow.wire).where(MessageRow.kind == RewardTable.kind)
        with Session(self._engine) as session:
            found = session.scalars(query.order_by(MessageRow.round, MessageRow.sequence)).all()
        return {"rewards": [json.loads(wire) for wire in found]}


def preferred_samples(session: Session, round_: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return what records say that people prefer among a round's samples: (better, worse) by (number, group)."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    query = select(PreferenceRow).where(PreferenceRow.round == round_, PreferenceRow.listed.is_not(None))
    for row in session.scalars(query.limit(MAX_PREFERRED)):
        worse = row.high if row.better == row.low else row.low
        found.setdefault((row.number, row.group), []).append((row.better, worse))
    return found


def _with_preferences(
    shown: dict[str, Any], number: int, preferred: dict[tuple[int, int], list[tuple[int, int]]]
) -> dict[str, Any]:
    """Say of each sample of a group how often it was preferred, and what that makes it worth."""
    pairs = preferred.get((number, shown["group"]), [])
    if not pairs:
        return shown
    count = 1 + max(len(shown["samples"]) - 1, *(place for pair in pairs for place in pair))
    values = preference_values(count, pairs)
    samples = [
        {
            **sample,
            "preferred": {
                "better": sum(better == place for better, _ in pairs),
                "worse": sum(worse == place for _, worse in pairs),
                "value": values[place],
            },
        }
        for place, sample in enumerate(shown["samples"])
    ]
    return {**shown, "samples": samples}


def _played(session: Session) -> Select[RoundRow]:
    """Select the rounds of the run; a row beyond the last one holds what came out of it."""
    wire = session.scalars(select(RunRow.manifest)).one()
    return select(RoundRow).where(RoundRow.round < RunManifest.from_bytes(wire.encode()).rounds)


def _loss(session: Session) -> dict[str, Any]:
    rows = session.execute(
        select(RoundRow.round, RoundRow.loss).where(RoundRow.loss.is_not(None)).order_by(RoundRow.round)
    ).all()
    points = [{"round": round_, "loss": loss} for round_, loss in rows]
    control = session.execute(
        select(LocalRow.number, LocalRow.loss).where(LocalRow.loss.is_not(None)).order_by(LocalRow.number)
    ).all()
    losses = [loss for _, loss in control if loss is not None]
    return {
        "first": points[0]["loss"] if points else None,
        "last": points[-1]["loss"] if points else None,
        "curve": thinned(points, MAX_CURVE),
        "local": sum(losses) / len(losses) if losses else None,  # a peer alone, mean of the control group
        "control": [{"number": number, "loss": loss} for number, loss in control],
    }


def _policy(session: Session, manifest: RunManifest, rollouts: RolloutConfig) -> dict[str, Any]:
    """Return what the policy does on held-out tasks, by the round that starts from it, and its rollouts."""
    rows = session.scalars(select(PolicyRow).order_by(PolicyRow.round)).all()
    points = [
        {
            "round": row.round,
            "success": row.success,
            "reward": row.reward,
            "components": json.loads(row.components),
        }
        for row in rows
    ]
    return {
        "first": points[0] if points else None,
        "last": points[-1] if points else None,
        "curve": thinned(points, MAX_CURVE),
        "lag": rollouts.lag,
        "reward": _rewards(session),
        "groups": _groups(session, manifest, rollouts.sampling.groups),
        "wire": _bytes_a_unit(session),
    }


def _rewards(session: Session) -> dict[str, Any]:
    """Return what accepted samples earned, by round."""
    rows = session.execute(
        select(RolloutsRow)
        .join(UnitRow, (UnitRow.round == RolloutsRow.round) & (UnitRow.number == RolloutsRow.number))
        .where(UnitRow.merged.is_(True))
        .order_by(RolloutsRow.round)
    )
    points: list[dict[str, Any]] = []
    for round_, group in groupby(rows.scalars(), key=lambda row: row.round):
        found = list(group)
        parts = [json.loads(row.components) for row in found]
        points.append(
            {
                "round": round_,
                "reward": fmean(row.reward for row in found),
                "success": fmean(row.success for row in found),
                "components": {name: fmean(part[name] for part in parts) for name in parts[0]},
            }
        )
    return {
        "first": points[0]["reward"] if points else None,
        "last": points[-1]["reward"] if points else None,
        "curve": thinned(points, MAX_CURVE),
    }


def _groups(session: Session, manifest: RunManifest, a_unit: int) -> dict[str, int]:
    """Count groups: of listed units, of merged ones, of others that were decided, and those that draws asked for."""
    counts = session.execute(
        select(
            func.sum(cast(UnitRow.listed, Integer)),
            func.sum(cast(UnitRow.merged, Integer)),
            func.sum(cast(UnitRow.merged.is_(False), Integer)),
        )
    ).one()
    names = ("assigned", "accepted", "rejected")
    found = {name: a_unit * (count or 0) for name, count in zip(names, counts, strict=True)}
    segments = session.scalars(
        select(UnitRow.segment).where(UnitRow.drawn.is_(True), UnitRow.segment.is_not(None))
    )
    drawn = sum(len(range(segment or 0, a_unit, manifest.segments)) for segment in segments)
    return {**found, "drawn": drawn}


def _bytes_a_unit(session: Session) -> dict[str, float | None]:
    """Return the mean bytes of a unit's rollouts, and of its update: what new weights are made of."""
    rollouts, weights = session.execute(
        select(func.avg(RolloutsRow.rollout_bytes), func.avg(RolloutsRow.update_bytes))
    ).one()
    return {"rollout_bytes": rollouts, "update_bytes": weights}


def thinned(points: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return at most `count` points, evenly chosen, the first and the last among them."""
    if len(points) <= count:
        return points
    step = (len(points) - 1) / (count - 1)
    return [points[round(index * step)] for index in range(count)]


def _peers(session: Session, claimed: dict[str, str]) -> list[dict[str, Any]]:
    units: dict[int, Counter[str]] = {}
    query = select(
        UnitRow.number,
        func.count(),
        func.sum(cast(UnitRow.listed, Integer)),
        func.sum(cast(UnitRow.revealed, Integer)),
        func.sum(cast(UnitRow.merged, Integer)),
        func.sum(cast(UnitRow.weight == 0, Integer)),
        func.sum(cast(UnitRow.drawn, Integer)),
    ).group_by(UnitRow.number)
    for number, *counts in session.execute(query):
        names = ("committed", "listed", "revealed", "merged", "doubted", "drawn")
        units[number] = Counter({name: count or 0 for name, count in zip(names, counts, strict=True)})
    outcomes = select(UnitRow.number, UnitRow.outcome, func.count()).where(UnitRow.outcome.is_not(None))
    for number, outcome, count in session.execute(outcomes.group_by(UnitRow.number, UnitRow.outcome)):
        units[number][str(outcome)] = count
    spent = {
        number: seconds or 0.0
        for number, seconds in session.execute(
            select(UnitRow.number, func.sum(UnitRow.train_cpu_s)).group_by(UnitRow.number)
        )
    }
    records = _records(session)
    shown = ("committed", "listed", "revealed", "merged", "doubted", "drawn", *OUTCOMES)
    paid = {account.lower(): amount for account, amount in claimed.items()}
    rows = session.scalars(select(PeerRow).order_by(PeerRow.number).limit(MAX_PEERS))
    return [
        {
            "number": row.number,
            "role": row.role,
            "wallet": row.wallet,
            "peer": row.peer,
            "peer_id": row.peer_id,
            "ready": row.ready,
            "stake_wei": row.stake_wei,
            "slashed_wei": row.slashed_wei,
            "earned_wei": row.earned_wei,
            "claimed_wei": paid.get(row.wallet.lower(), "0"),
            "units": {name: units.get(row.number, Counter())[name] for name in shown},
            "train_cpu_s": spent.get(row.number, 0.0),  # as the peer says
            "verdicts": records.get(row.number, Counter())["right"],
            "record": {name: records.get(row.number, Counter())[name] for name in RECORD},
        }
        for row in rows
    ]


def _records(session: Session) -> dict[int, Counter[str]]:
    """Count how often each verifier was right, wrong and silent."""
    found: dict[int, Counter[str]] = {}
    queries = {
        "right": select(VerdictRow.verifier, func.count()).where(VerdictRow.counted),
        "wrong": select(VerdictRow.verifier, func.count()).where(VerdictRow.wrong),
    }
    rows = {name: query.group_by(VerdictRow.verifier) for name, query in queries.items()}
    rows["silent"] = select(SilenceRow.verifier, func.count()).group_by(SilenceRow.verifier)
    for name, query in rows.items():
        for verifier, count in session.execute(query):
            found.setdefault(verifier, Counter())[name] = count
    return found


def _throughput(session: Session, manifest: RunManifest) -> dict[str, Any] | None:
    """Return how fast the newest recorded round was; None before there is one, and of a policy.

    Tokens are those of merged units, by what the manifest assigns; seconds are this coordinator's, from the round's
    begin to its record; the peers' CPU seconds are their own word.
    """
    query = select(RoundRow).where(RoundRow.ended_at.is_not(None), RoundRow.began_at.is_not(None))
    row = session.scalar(query.order_by(RoundRow.round.desc()).limit(1))
    if row is None or manifest.rollouts is not None:
        return None
    seconds = max((row.ended_at or 0.0) - (row.began_at or 0.0), 1e-3)
    merged = session.execute(
        select(UnitRow.tier, func.count())
        .where(UnitRow.round == row.round, UnitRow.merged.is_(True))
        .group_by(UnitRow.tier)
    )
    samples = sum(manifest.tier_samples[tier or 0] * count for tier, count in merged)
    tokens = samples * manifest.model.context
    revealed = session.scalar(
        select(func.count())
        .select_from(UnitRow)
        .where(UnitRow.round == row.round, UnitRow.revealed.is_(True))
    )
    flops = training_flops(manifest)
    return {
        "round": row.round,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "flops_per_token": flops,
        "flops_per_s": flops * tokens / seconds,
        "update_bytes": row.update_bytes or 0,
        "train_cpu_share": (row.train_cpu_s or 0.0) / (revealed * seconds) if revealed else None,
    }


def _wire(session: Session, manifest: RunManifest) -> dict[str, Any]:
    total, merged = session.execute(select(func.sum(RoundRow.update_bytes), func.sum(RoundRow.merged))).one()
    size = parameter_layout(manifest.model).size
    mean = (total or 0) / merged if merged else None
    return {
        "update_bytes": total or 0,
        "updates": merged or 0,
        "update_bytes_mean": mean,
        "bits_per_parameter": None if mean is None else 8 * mean / size,
        "dense_ratio": 4 * size / mean if mean else None,  # fp32 bytes over update bytes
    }


def _verification(session: Session, manifest: RunManifest) -> dict[str, Any]:
    drawn = session.scalar(select(func.count()).select_from(UnitRow).where(UnitRow.drawn.is_(True))) or 0
    found = session.execute(
        select(UnitRow.outcome, func.count()).where(UnitRow.outcome.is_not(None)).group_by(UnitRow.outcome)
    ).all()
    counts = {str(outcome): count for outcome, count in found}
    spent, verdicts = session.execute(select(func.sum(VerdictRow.replay_cpu_s), func.count())).one()
    replay = spent or 0.0
    train = session.scalar(select(func.sum(UnitRow.train_cpu_s))) or 0.0
    return {
        "draw_probability": manifest.verification.schedule.fresh_probability,
        "verifiers": manifest.verification.verifiers,
        "drawn": drawn,
        **{outcome: counts.get(outcome, 0) for outcome in OUTCOMES},
        "undecided": drawn - sum(counts.values()),
        "retracted": session.scalar(select(func.count(UnitRow.retracted))) or 0,
        "verdicts": verdicts,
        "replay_cpu_s": replay,
        "train_cpu_s": train,  # as the peers say
        "overhead": replay / train if train and verdicts else None,
    }


def _network(facts: dict[str, Any]) -> dict[str, Any]:
    names = (
        "peer_id",
        "addresses",
        "bytes_up",
        "bytes_down",
        "published",
        "accepted",
        "duplicates",
        "refused",
    )
    return {**{name: facts.get(name) for name in names}, "connected": len(facts.get("peers", {}))}


def _refusals(session: Session) -> list[dict[str, Any]]:
    query = select(RefusalRow).order_by(RefusalRow.count.desc(), RefusalRow.sender).limit(MAX_REFUSALS)
    known = {peer_id: number for number, peer_id in session.execute(select(PeerRow.number, PeerRow.peer_id))}
    return [
        {
            "sender": row.sender,
            "number": known.get(row.sender, _number(row.sender)),
            "reason": row.reason,
            "count": row.count,
            "last_at": row.last_at,
        }
        for row in session.scalars(query)
    ]


def _number(sender: str) -> int | None:
    prefix, _, text = sender.partition(" ")
    return int(text) if prefix == "number" and text.isdecimal() else None


def _transactions(session: Session) -> list[dict[str, Any]]:
    query = select(TransactionRow).order_by(TransactionRow.sequence.desc()).limit(MAX_TRANSACTIONS)
    names = ("kind", "round", "number", "state", "tx", "block", "gas", "detail")
    return [{name: getattr(row, name) for name in names} for row in session.scalars(query)]


def _fields(row: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _round(row: RoundRow) -> dict[str, Any]:
    return _fields(row, [column.name for column in RoundRow.__table__.columns])


def _unit(row: UnitRow) -> dict[str, Any]:
    return _fields(row, [column.name for column in UnitRow.__table__.columns])


def _verdict(row: VerdictRow) -> dict[str, Any]:
    return _fields(row, [column.name for column in VerdictRow.__table__.columns])
