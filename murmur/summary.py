"""The document that `murmur up` ends with, and what it has to show for itself. Token amounts are decimal strings."""

from collections.abc import Iterable

from pydantic import BaseModel, Field

from protocol.manifest import Wei


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


class VerifierSummary(BaseModel):
    """One verifier."""

    name: str
    number: int
    peer_id: str
    address: str
    verdicts: int
    credited_wei: Wei
    claimed_wei: Wei


class Wire(BaseModel):
    """What an update weighs on the wire."""

    update_bytes_mean: float | None
    bits_per_parameter: float | None
    dense_ratio: float | None  # fp32 bytes over update bytes


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
    peers: Iterable[PeerSummary], audit: AuditSummary, *, rounds_done: int, rounds: int
) -> list[str]:
    """Return what the run was to show and did not, one line each; empty means success.

    The run must have ended, every honest peer been paid and none slashed, every cheat been drawn, rejected and slashed
    (garbage: refused with a reason, and nothing earned), and the audit passed.
    """
    missing = []
    if rounds_done < rounds:
        missing.append(f"the run ended after {rounds_done} of {rounds} rounds")
    for peer in peers:
        if peer.honest:
            if peer.slashed_wei:
                missing.append(f"{peer.name} is honest and was slashed")
            if not peer.claimed_wei:
                missing.append(f"{peer.name} is honest and was not paid")
        elif peer.cheat == "garbage":
            if peer.credited_wei or peer.units.committed:
                missing.append(f"{peer.name} sent garbage and it counted as work")
            if not peer.refused:
                missing.append(f"{peer.name} sent garbage and nobody refused a frame of it")
        elif not peer.units.drawn:
            missing.append(f"{peer.name} ({peer.cheat}) was never drawn")
        elif not peer.units.rejected:
            missing.append(f"{peer.name} ({peer.cheat}) was drawn but not rejected")
        elif not peer.slashed_wei:
            missing.append(f"{peer.name} ({peer.cheat}) was rejected but not slashed")
    if not audit.ok:
        failed = next((check.name for check in audit.checks if not check.ok), "no check ran")
        missing.append(f"the audit failed: {failed}")
    return missing
