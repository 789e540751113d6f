"""What became of this peer's units, counted from public facts, and the node's status for a person."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.hearing import describe_alert
from protocol.chain import ChainView
from protocol.manifest import RunManifest
from protocol.messages import PASSED, Judgement, RoundRecord
from protocol.pool import MessagePool
from verification.cases import combined
from verification.duty import confirmed_entries
from verification.judge import Outcome
from verification.lateness import in_force, is_void
from verification.sample import draws

RECENT = 8  # outcomes shown with their reasons


@dataclass
class UnitCounts:
    """Count units by how far they came."""

    committed: int = 0  # in a list on chain
    merged: int = 0
    drawn: int = 0
    passed: int = 0
    void: int = 0
    false: int = 0  # proven false: stake was taken
    unjudged: int = 0  # drawn, but no verifier came


@dataclass
class Tally:
    """Walk the records of a run in order and count one number's units."""

    manifest: RunManifest
    run: str
    number: int
    counts: UnitCounts = field(default_factory=UnitCounts)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    _next: int = 0
    _closed: bool = False
    _judged: dict[int, list[Judgement]] = field(default_factory=dict)  # by round

    def update(self, chain: ChainView, pool: MessagePool) -> None:
        """Count what has become known since the last call."""
        while self._next < self.manifest.rounds:
            record, beacon = pool.record(self._next), chain.sampling_beacon(self._next)
            if record is None or beacon is None:
                return
            if record.body.digest().hex() != chain.record_hash(self._next):
                return
            verifiers = [operator.number for operator in chain.verifiers(self._next)]
            self._count(record.body, is_void(self.manifest, chain, self._next), beacon, verifiers, pool)
            entries = confirmed_entries(chain, pool, self._next) or ()
            self._note_ignored(record.body, any(one.number == self.number for one in entries))
            self._next += 1
        finish = pool.finish()
        if finish is not None and not self._closed:
            self._closed = True
            for judgement in finish.body.judged:
                self._judge(judgement, pool)

    def _count(
        self, record: RoundRecord, void: bool, beacon: str, verifiers: list[int], pool: MessagePool
    ) -> None:
        self.counts.committed += any(unit.number == self.number and unit.counts for unit in record.units)
        units = in_force(record, void=void).units
        self.counts.merged += any(unit.merged for unit in units if unit.number == self.number)
        drawn = draws(self.manifest, self.run, beacon, self._next, units, verifiers)
        self.counts.drawn += any(draw.number == self.number for draw in drawn)
        for judgement in record.judged:
            self._judge(judgement, pool)

    def _note_ignored(self, record: RoundRecord, named: bool) -> None:
        """Show that our unit does not count by a record, or that it has none of what list and chain name."""
        unit = next((one for one in record.units if one.number == self.number), None)
        if unit is None and named:
            reason = "listed or forced in, and the record has no unit of it: `murmur audit run` names that"
        elif unit is not None and not unit.counts:
            reason = unit.reason
        else:
            return
        self.recent.append({"round": self._next, "outcome": "ignored", "reasons": [reason]})

    def _judge(self, judgement: Judgement, pool: MessagePool) -> None:
        if judgement.number != self.number:
            return
        found = self._judged.setdefault(judgement.round, [])
        if found:  # a case changes what a unit is, and adds none
            self._count_outcome(combined(found), -1)
        found.append(judgement)
        self._count_outcome(combined(found), 1)
        verdicts = {} if judgement.case else pool.verdicts(judgement.round)  # a jury gives no reasons
        reasons = [
            one.body.reason
            for (number, _), one in verdicts.items()
            if number == self.number and one.body.outcome != PASSED
        ]
        self.recent.append(
            {"round": judgement.round, "outcome": judgement.outcome, "reasons": sorted(set(reasons))}
        )

    def _count_outcome(self, outcome: Outcome, by: int) -> None:
        setattr(self.counts, outcome, getattr(self.counts, outcome) + by)


def _speed(figures: Mapping[str, Any] | None) -> list[str]:
    """Return lines about the last unit: how fast it was made, and where the time went since the one before."""
    if figures is None:
        return []

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    busy = None if not figures["interval_s"] else min(1.0, figures["unit_s"] / figures["interval_s"])
    lines = [
        f"time     making units {share(busy)}, communication {share(figures['communication_share'])}, "
        f"waiting {share(figures['waiting_share'])}; {figures['bytes_up']:,} bytes up, {figures['bytes_down']:,} down"
    ]
    if figures["tokens_per_s"] is not None:
        whole = figures["round_tokens_per_s"]
        round_ = "" if whole is None else f", {whole:,.0f} over the round"
        peak = "" if figures["peak_flops"] is None else f" of {figures['peak_flops'] / 1e9:,.1f} GFLOP/s"
        mfu = f"MFU {share(figures['mfu'])}{peak}"
        lines.insert(0, f"speed    {figures['tokens_per_s']:,.0f} tokens/s while training{round_}; {mfu}")
    return lines


def describe(status: Mapping[str, Any]) -> str:
    """Return the status for a person: a line a topic, the last error with what to do about it."""
    units, chain, training = status["units"], status["chain"], status["training"]
    step = f", step {training['step']} of {training['steps']}" if "step" in training else ""
    loss = "" if status["loss"] is None else f", loss {status['loss']:.3f}"
    lines = [
        f"run      {status['run_name']} ({status['run'][:16]})",
        f"number   {status['number']}, peer {status['peer_id']}",
        f"round    {status['round']} of {status['rounds']}: {status['phase']}{step}{loss}",
        "units    " + ", ".join(f"{count} {name}" for name, count in units.items()),
        *_speed(status.get("figures")),
        f"money    staked {status['stake_wei']}, slashed {status['slashed_wei']}, earned {status['earned_wei']} (wei)",
        f"network  {len(status['network']['peers'])} peers, chain at block {chain['height']}",
        f"updated  {status['updated_at']}",
    ]
    for judged in status["judged"]:
        reasons = "; ".join(judged["reasons"])
        lines.append(
            f"judged   round {judged['round']}: {judged['outcome']}" + (f" ({reasons})" if reasons else "")
        )
    lines += (f"ALERT    {describe_alert(alert)}" for alert in status["alerts"])
    lines += (f"ALERT    {warning}" for warning in status["warnings"])
    if chain["error"] is not None:
        lines.append(f"chain    {chain['error']}")
    if status["error"] is not None:
        lines.append(f"error    {status['error']['message']}")
        if status["error"]["hint"]:
            lines.append(f"  next   {status['error']['hint']}")
    return "\n".join(lines)
