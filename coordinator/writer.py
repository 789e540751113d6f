"""What happens, as changes of the database's rows, inside one transaction."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from coordinator.state import Admitted, Decision, Drawn, FetchUpdate, Ruled
from coordinator.tables import (
    DecisionRow,
    LocalRow,
    MessageRow,
    PeerRow,
    PolicyRow,
    PreferenceRow,
    RefusalRow,
    RolloutsRow,
    RoundRow,
    RunRow,
    SamplesRow,
    SilenceRow,
    TransactionRow,
    UnitRow,
    VerdictRow,
)
from protocol.chain import Operator
from protocol.messages import (
    Body,
    CommitmentList,
    Preference,
    Ready,
    RewardTable,
    RoundRecord,
    Signed,
    Verdict,
    parse_message,
)
from protocol.speakers import number_of

KEPT_ROUNDS = 8  # whose samples people can compare; more than any lag
MAX_REFUSALS = 2048  # rows; what comes on top is counted under "others"


class Writer:
    """Change rows. Made by `Store.write`, and of no use after its block."""

    def __init__(self, session: Session, now: float) -> None:
        self._session = session
        self._now = now

    # Messages

    def heard(self, message: Signed[Body]) -> bool:
        """Log a peer's message; tell whether it is new."""
        if self._session.scalar(select(MessageRow.sequence).where(MessageRow.id == message.id)) is not None:
            return False
        body = message.body
        number = None if isinstance(body, Preference) else number_of(body) or None
        self._log(message, number=number, own=False, label=0)
        if isinstance(body, Ready):  # its latest word counts, and a peer may say as many as it likes
            same = (MessageRow.kind == body.kind, MessageRow.number == number, MessageRow.id != message.id)
            self._session.execute(delete(MessageRow).where(*same))
        if isinstance(body, Preference):
            self._preferred(message.round, body)
        if isinstance(body, Verdict):
            self._session.add(
                VerdictRow(
                    id=message.id,
                    round=message.round,
                    number=body.number,
                    verifier=body.verifier,
                    outcome=body.outcome,
                    reason=body.reason,
                    distance=body.distance,
                    replay_cpu_s=body.replay_cpu_s,
                )
            )
        return True

    def say(self, message: Signed[Body]) -> Signed[Body]:
        """Store a statement of our own and return what may be told: the one stored first for its place."""
        label = message.body.epoch if isinstance(message.body, RewardTable) else 0
        place = (
            MessageRow.own,
            MessageRow.kind == message.body.kind,
            MessageRow.round == message.round,
            MessageRow.label == label,
        )
        stored = self._session.scalar(select(MessageRow.wire).where(*place))
        if stored is not None:
            return parse_message(stored.encode())
        # Another may have said the very same: it says it once, whoever signed.
        same = self._session.scalar(select(MessageRow.wire).where(MessageRow.id == message.id))
        if same is None:
            self._log(message, number=None, own=True, label=label)
        else:
            message = parse_message(same.encode())
        self.adopted(message)
        return message

    def _log(self, message: Signed[Body], *, number: int | None, own: bool, label: int) -> None:
        self._session.add(
            MessageRow(
                id=message.id,
                kind=message.body.kind,
                round=message.round,
                number=number,
                own=own,
                label=label,
                wire=message.wire.decode(),
                received_at=self._now,
            )
        )
        self._session.flush()

    def refused(self, sender: str, reason: str) -> None:
        """Count a refusal."""
        row = self._session.get(RefusalRow, (sender, reason))
        if row is None and (self._session.scalar(select(func.count(RefusalRow.count))) or 0) >= MAX_REFUSALS:
            sender, reason = "others", "the table of refusals is full"
            row = self._session.get(RefusalRow, (sender, reason))
        if row is None:
            self._session.add(RefusalRow(sender=sender, reason=reason, count=1, last_at=self._now))
            self._session.flush()
        else:
            row.count += 1
            row.last_at = self._now

    # Units

    def admitted(self, effect: Admitted) -> None:
        """Note a valid commitment."""
        unit = self._unit(effect.message.round, effect.message.body.number)
        unit.commitment = effect.message.id

    def adopted(self, message: Signed[Body]) -> None:
        """Note what a statement in the coordinator's name says: ours, or another's that counts instead."""
        match message.body:
            case CommitmentList() as listed:
                for unit in self._session.scalars(select(UnitRow).where(UnitRow.round == message.round)):
                    unit.listed = False
                self._listed(message.round, listed)
            case RoundRecord() as record:
                self._recorded(message.round, record)
            case RewardTable() as table:
                self._credited(table)
            case _:
                pass

    def _listed(self, round_: int, listed: CommitmentList) -> None:
        row = self._round(round_)
        row.listed = len(listed.entries)
        for entry in listed.entries:
            unit = self._unit(round_, entry.number)
            unit.commitment, unit.listed = entry.commitment, True

    def revealed(self, effect: FetchUpdate) -> None:
        """Note a reveal that opens its commitment."""
        body = effect.reveal.body
        unit = self._unit(effect.reveal.round, body.number)
        unit.revealed, unit.blob_bytes, unit.train_cpu_s = True, body.blob_bytes, body.train_cpu_s

    def _recorded(self, round_: int, record: RoundRecord) -> None:
        row = self._round(round_)
        row.parameters, row.merged, row.ended_at = record.parameters, 0, self._now
        row.update_bytes, row.train_cpu_s = 0, 0.0
        row.listed = sum(found.counts for found in record.units)
        for found in record.units:
            unit = self._unit(round_, found.number)
            unit.commitment, unit.merged, unit.reason = found.commitment, found.merged, found.reason
            unit.tier, unit.weight, unit.score = (
                found.tier,
                found.weight if found.merged else None,
                found.score,
            )
            unit.listed = found.counts  # whoever forced its commitment in is as good as listed
            row.train_cpu_s += unit.train_cpu_s or 0.0
            if found.merged:
                row.merged += 1
                row.update_bytes += unit.blob_bytes or 0
        for one in record.retracted:
            self._unit(one.round, one.number).retracted = round_
        for told in record.preferences:
            self._preferred(told.round, told.said).listed = round_

    def _preferred(self, round_: int, said: Preference) -> PreferenceRow:
        row = self._session.get(PreferenceRow, (round_, *said.pair))
        if row is None:
            person, number, group, low, high = said.pair
            place = {"person": person, "number": number, "group": group, "low": low, "high": high}
            row = PreferenceRow(round=round_, **place, better=said.better)
            self._session.add(row)
        row.better = said.better  # a record's word stands, if another record was told first
        return row

    def voided(self, round_: int) -> None:
        """Note that nothing of a round merged, because its record came too late."""
        row = self._round(round_)
        row.merged, row.update_bytes = 0, 0
        for unit in self._session.scalars(select(UnitRow).where(UnitRow.round == round_)):
            unit.merged, unit.reason = False, "void: the record was anchored too late"
            unit.weight, unit.score = None, None
        for unit in self._session.scalars(select(UnitRow).where(UnitRow.retracted == round_)):
            unit.retracted = None

    def drawn(self, effect: Drawn) -> None:
        """Note which units of a round were drawn."""
        drawn = {draw.number: draw for draw in effect.draws}
        for unit in self._session.scalars(select(UnitRow).where(UnitRow.round == effect.round)):
            unit.drawn = unit.number in drawn
            unit.segment = drawn[unit.number].segment if unit.drawn else None

    def decided(self, decision: Decision) -> None:
        """Store the outcome of a drawn unit or a case."""
        key = (decision.round, *decision.label)
        if self._session.get(DecisionRow, key) is None:
            self._session.add(
                DecisionRow(
                    round=decision.round,
                    number=decision.number,
                    case=decision.case,
                    segment=decision.segment,
                    outcome=decision.outcome,
                    judges=json.dumps(decision.judges),
                    verdicts=json.dumps(decision.verdicts),
                    wrong=json.dumps(decision.wrong),
                    silent=json.dumps(decision.silent),
                    heard=json.dumps(decision.heard),
                )
            )
            for verifier in decision.silent:
                self._session.add(
                    SilenceRow(
                        round=decision.round, number=decision.number, case=decision.case, verifier=verifier
                    )
                )
        counted = (VerdictRow.id.in_(decision.verdicts), VerdictRow.verifier.in_(decision.judges))
        self._session.execute(update(VerdictRow).where(*counted).values(counted=True))
        wrong = (VerdictRow.id.in_(decision.verdicts), VerdictRow.verifier.in_(decision.wrong))
        self._session.execute(update(VerdictRow).where(*wrong).values(wrong=True))

    def ruled(self, effect: Ruled) -> None:
        """Note what a unit is after all that was judged of it so far."""
        self._unit(effect.round, effect.number).outcome = effect.outcome

    def slashed(self, round_: int, number: int, tx: str) -> None:
        """Note the transaction that took a unit's stake."""
        self._unit(round_, number).slash_tx = tx

    # Rounds and what was measured

    def began(self, round_: int) -> None:
        """Note when a round began."""
        row = self._round(round_)
        if row.began_at is None:
            row.began_at = self._now

    def posted(self, round_: int, *, root_block: int | None = None, record_block: int | None = None) -> None:
        """Note the blocks of a round's root and record."""
        row = self._round(round_)
        row.root_block = row.root_block if root_block is None else root_block
        row.record_block = row.record_block if record_block is None else record_block

    def parameters(self, round_: int, digest: str) -> None:
        """Store the parameters at the start of a round."""
        self._round(round_).parameters = digest

    def loss(self, round_: int, loss: float) -> None:
        """Store the held-out loss of the parameters at the start of a round."""
        self._round(round_).loss = loss

    def policy(self, round_: int, success: float, reward: float, components: Mapping[str, float]) -> None:
        """Store what the parameters at the start of a round do on held-out tasks."""
        told = json.dumps(dict(components))
        self._session.merge(PolicyRow(round=round_, success=success, reward=reward, components=told))

    def rollouts(self, round_: int, number: int, found: Mapping[str, Any]) -> None:
        """Store what a unit's rollouts are."""
        told = {**found, "components": json.dumps(found["components"]), "shown": json.dumps(found["shown"])}
        told.pop("compared", None)
        self._session.merge(RolloutsRow(round=round_, number=number, **told))
        for group, samples in found.get("compared", {}).items():
            row = SamplesRow(round=round_, number=number, group=int(group), samples=json.dumps(samples))
            self._session.merge(row)
        self._session.execute(delete(SamplesRow).where(SamplesRow.round < round_ - KEPT_ROUNDS))

    def local(self, round_: int, number: int, parameters: str, moments: str, loss: float | None) -> None:
        """Store where a peer of the control group stands after a round."""
        row = LocalRow(round=round_, number=number, parameters=parameters, moments=moments, loss=loss)
        self._session.merge(row)

    # Peers, money, status

    def peers(self, operators: Iterable[Operator], slashed: Mapping[int, int], ready: Iterable[int]) -> None:
        """Store who is registered, with what at stake."""
        said = set(ready)
        for one in operators:
            row = self._session.get(PeerRow, one.number)
            if row is None:
                row = PeerRow(number=one.number, earned_wei="0")
                self._session.add(row)
            row.role, row.wallet, row.peer, row.peer_id = one.role, one.wallet, one.peer, one.peer_id
            row.stake_wei, row.slashed_wei = str(one.stake_wei), str(slashed.get(one.number, 0))
            row.ready = one.number in said

    def _credited(self, table: RewardTable) -> None:
        earned = {entry.account.lower(): str(entry.cumulative_wei) for entry in table.entries}
        for row in self._session.scalars(select(PeerRow)):
            row.earned_wei = earned.get(row.wallet.lower(), "0")

    def sending(self, kind: str, round_: int | None, number: int | None) -> int:
        """Note that a transaction is on its way; return the row's number."""
        row = TransactionRow(kind=kind, round=round_, number=number, state="sending", at=self._now)
        self._session.add(row)
        self._session.flush()
        return row.sequence

    def sent(
        self,
        row: int,
        state: str,
        *,
        tx: str | None = None,
        block: int | None = None,
        gas: int = 0,
        detail: str = "",
    ) -> None:
        """Note what became of a transaction."""
        found = self._session.get_one(TransactionRow, row)
        found.state, found.tx, found.block, found.gas, found.detail = state, tx, block, gas, detail[:300]

    def status(self, *, phase: str, round_: int, detail: str, height: int, facts: Mapping[str, Any]) -> None:
        """Store the latest word of the service."""
        self._session.execute(
            update(RunRow).values(
                phase=phase,
                round=round_,
                detail=detail[:500],
                height=height,
                facts=json.dumps(facts),
                updated_at=self._now,
            )
        )

    def _round(self, round_: int) -> RoundRow:
        row = self._session.get(RoundRow, round_)
        if row is None:
            row = RoundRow(round=round_)
            self._session.add(row)
            self._session.flush()
        return row

    def _unit(self, round_: int, number: int) -> UnitRow:
        row = self._session.get(UnitRow, (round_, number))
        if row is None:
            row = UnitRow(round=round_, number=number, commitment="", listed=False, revealed=False, reason="")
            self._session.add(row)
            self._session.flush()
        return row
