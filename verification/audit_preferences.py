"""The audit of what people said: records carry only preferences that count."""

from protocol.errors import ProofRejected
from verification.audit_rounds import Found
from verification.preferences import check_listed
from verification.public import PublicRun


def check_preferences(run: PublicRun) -> Found:
    """Every preference in a record is signed by a person of the run, once, about samples that still count."""
    known = dict(enumerate(run.standing))
    count = 0
    for round_ in run.scope:
        for _, fault in check_listed(run.manifest, known.get, round_):
            if fault:
                raise ProofRejected(
                    f"the record of round {round_} carries a preference that does not count: {fault}"
                )
            count += 1
    return count, "signed preferences"
