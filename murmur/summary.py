"""The document that `murmur up` ends with, and what it has to show for itself. Token amounts are decimal strings."""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, Field

from murmur.churn import Presence, churn_missing
from protocol.frozen import Wei
from verification.cheats import Fate, cheat_named


class Loss(BaseModel):
    """Held-out loss in nats a byte."""

    first: float | None
    last: float | None
    local: float | None  # a peer alone on the same number of its own steps, mean of two
    curve: list[float]


class Units(BaseModel):
    """Count a contributor's units by what became of them."""

    trained: int = 0
    committed: int = 0
    revealed: int = 0
    drawn: int = 0
    passed: int = 0
    rejected: int = 0  # proven false
    void: int = 0
    doubted: int = 0  # merged, but judged to harm
    tiers: list[int] = Field(default_factory=list)  # committed, by tier


class PeerSummary(BaseModel):
    """One contributor."""

    name: str
    number: int
    peer_id: str
    address: str  # wallet
    honest: bool
    cheat: str | None
    units: Units
    stake_wei: Wei
    slashed_wei: Wei
    credited_wei: Wei
    claimed_wei: Wei
    refused: dict[str, int] = Field(default_factory=dict)  # frames the others refused of it, by reason
    presence: Presence = Field(default_factory=Presence)


class VerifierSummary(BaseModel):
    """One verifier."""

    name: str
    number: int
    peer_id: str
    address: str
    honest: bool = True
    cheat: str | None = None
    verdicts: int
    right: int = 0
    wrong: int = 0  # otherwise than the majority of those who judged the unit
    silent: int = 0
    credited_wei: Wei
    claimed_wei: Wei


class Wire(BaseModel):
    """What an update weighs on the wire, and in a run of rollouts what a step of the swarm takes: a whole round."""

    update_bytes_mean: float | None
    bits_per_parameter: float | None
    dense_ratio: float | None  # fp32 bytes over update bytes
    rollout_bytes_step: float | None = None  # of all merged units of a round, mean
    weights_bytes_step: float | None = None  # their updates, from which everybody makes the next weights


class Course(BaseModel):
    """One figure on held-out tasks, at the start of every round and at the end."""

    first: float | None
    last: float | None
    curve: list[float]


class Groups(BaseModel):
    """Count groups of samples by what became of the units that hold them."""

    assigned: int
    accepted: int  # merged, and neither void nor false later
    rejected: int  # never merged, void or false
    drawn: int  # in segments that verifiers judged


class Lag(BaseModel):
    """Say how many rounds samples were old when they were learned from."""

    mean: float | None
    max: int | None


class Verification(BaseModel):
    """What verification drew and found."""

    draw_probability: float
    drawn: int
    passed: int
    rejected: int
    void: int
    false_rejections: int  # honest units with any rejection
    overhead: float | None  # CPU seconds of replay over CPU seconds of training


class LedgerSummary(BaseModel):
    """What the chain holds."""

    chain_id: int
    ledger: str
    token: str
    commit_roots: int
    epochs_finalized: int
    funded_wei: Wei
    paid_wei: Wei
    slashed_wei: Wei


class AuditCheck(BaseModel):
    """One check of the audit."""

    name: str
    ok: bool
    detail: str = ""


class AuditSummary(BaseModel):
    """What the audit found."""

    ok: bool
    checks: list[AuditCheck]


class Summary(BaseModel):
    """Everything a run on one machine has to show."""

    run_id: str
    rounds: int
    parameters: int
    directory: str
    environment: str | None = None  # of a run of rollouts, which alone has the next four
    reward: Course | None = None
    success: Course | None = None
    groups: Groups | None = None
    lag: Lag | None = None
    loss: Loss
    peers: list[PeerSummary]
    verifiers: list[VerifierSummary]
    wire: Wire
    verification: Verification
    ledger: LedgerSummary
    audit: AuditSummary
    wall_s: float
    not_demonstrated: list[str]


def not_demonstrated(
    peers: Iterable[PeerSummary],
    audit: AuditSummary,
    *,
    rounds_done: int,
    rounds: int,
    verifiers: Sequence[VerifierSummary] = (),
    success: Course | None = None,
    drop: float = 0.0,
) -> list[str]:
    """Return what the run was to show and did not, one line each; empty means success.

    The run must have ended, every honest peer been paid and none slashed, every cheat met the fate of its kind (most
    are drawn, rejected and slashed), every dishonest verifier been found wrong, earned less than each honest one and
    cost no honest peer a unit, a policy do more held-out tasks than at first, who joined late or was killed contribute
    at once or again, and the audit passed.

    Args:
        drop: chance to be killed in a round that honest contributors were given.
    """
    peers = list(peers)
    missing = []
    if rounds_done < rounds:
        missing.append(f"the run ended after {rounds_done} of {rounds} rounds")
    for peer in peers:
        if not peer.honest:
            missing += [f"{peer.name} {what}" for what in _not_met(peer)]
            continue
        if peer.slashed_wei:
            missing.append(f"{peer.name} is honest and was slashed")
        if not peer.claimed_wei:
            missing.append(f"{peer.name} is honest and was not paid")
    missing += churn_missing({peer.name: peer.presence for peer in peers if peer.honest}, drop)
    missing += _liars_not_met(peers, verifiers)
    if success is not None:
        missing += _not_learnt(success)
    if not audit.ok:
        failed = next((check.name for check in audit.checks if not check.ok), "no check ran")
        missing.append(f"the audit failed: {failed}")
    return missing


def _not_learnt(success: Course) -> list[str]:
    if success.first is None or success.last is None:
        return ["nobody measured what the policy does"]
    if success.last > success.first:
        return []
    return [f"the policy does {success.last:.3f} of held-out tasks, and {success.first:.3f} at first"]


def _liars_not_met(peers: Iterable[PeerSummary], verifiers: Sequence[VerifierSummary]) -> list[str]:
    """Return what should have become of dishonest verifiers and those they judged, and did not."""
    missing = []
    honest = [one for one in verifiers if one.honest]
    liars = [one for one in verifiers if not one.honest]
    for liar in liars:
        if not liar.wrong:
            missing.append(f"{liar.name} ({liar.cheat}) was never found wrong")
        missing += [
            f"{liar.name} ({liar.cheat}) earned no less than {one.name}, who is honest"
            for one in honest
            if liar.credited_wei >= one.credited_wei
        ]
    if liars:
        missing += [
            f"{peer.name} is honest and lost units: {peer.units.rejected} false, {peer.units.void} void"
            for peer in peers
            if peer.honest and (peer.units.rejected or peer.units.void)
        ]
    return missing


def _not_met(peer: PeerSummary) -> list[str]:
    """Return what should have become of a cheat and did not."""
    assert peer.cheat is not None
    fate, units = cheat_named(peer.cheat).kind.fate, peer.units
    match fate:
        case Fate.REFUSED:
            checks = [
                (peer.credited_wei or units.committed, f"sent {peer.cheat} and it counted as work"),
                (not peer.refused, f"sent {peer.cheat} and nobody refused a frame of it"),
            ]
        case Fate.UNPAID:
            checks = [
                (not units.committed, f"({peer.cheat}) never committed"),
                (peer.credited_wei, f"({peer.cheat}) was paid"),
            ]
        case Fate.HARMLESS:
            checks = [
                (
                    not any("Equivocation" in reason for reason in peer.refused),
                    f"({peer.cheat}) was not noticed",
                ),
                (units.rejected, f"({peer.cheat}) did honest work that was rejected"),
                (not peer.slashed_wei, f"({peer.cheat}) was not punished for its two statements"),
            ]
        case Fate.SLASHED | Fate.CAUGHT | Fate.VOID:
            caught = units.rejected if fate is Fate.SLASHED else units.rejected + units.void
            checks = [
                (not units.drawn, f"({peer.cheat}) was never drawn"),
                (units.drawn and not caught, f"({peer.cheat}) was drawn but not rejected"),
                (units.rejected and not peer.slashed_wei, f"({peer.cheat}) was rejected but not slashed"),
                (fate is Fate.VOID and peer.slashed_wei, f"({peer.cheat}) was slashed without proof"),
            ]
    return [what for failed, what in checks if failed]
