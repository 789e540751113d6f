"""The audit of retractions: what was taken back in which round, recomputed from judgements and updates."""

from protocol.errors import Malformed, ProofRejected
from training.outer import fitting
from verification.audit_rounds import Found, moved_by, retracted_shares
from verification.public import PublicRun
from verification.retract import MAX_RETRACTED, waiting


def check_retractions(run: PublicRun) -> Found:
    """Every round takes back the oldest invalid units that its bound allows, and nothing else."""
    records = run.standing
    count, left = 0, 0
    for round_ in run.scope:
        record = records[round_]
        queue = waiting(records[: round_ + 1])[:MAX_RETRACTED]
        fits = 0
        if queue:
            try:
                fits = fitting(moved_by(run, round_)[0], retracted_shares(run, round_, queue))
            except Malformed as error:
                raise ProofRejected(f"an update that round {round_} needs: {error.message}") from error
        due = queue[:fits]
        if record.retracted != due:
            for found, expected in zip(record.retracted, due, strict=False):
                if found != expected:
                    raise ProofRejected(
                        f"round {round_} takes back number {found.number} of round {found.round}, "
                        f"due was number {expected.number} of round {expected.round}"
                    )
            raise ProofRejected(
                f"round {round_} takes back {len(record.retracted)} units, due were {len(due)} of {len(queue)}"
            )
        count, left = count + fits, len(queue) - fits
    return count, f"units taken back, {left} still waiting after the last record"
