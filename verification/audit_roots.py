"""The audit of reward roots that are not final: what juries ruled of disputed ones, and the one that is pending."""

from contracts.events import RewardsProposed
from contracts.jury import vote_digest
from contracts.types import CaseKind, CaseOutcome
from protocol.errors import ProofRejected
from verification.audit_rounds import Found
from verification.public import PublicRun, closing_keys
from verification.rewards import KnownRun, judge_root, proposal_of
from verification.unit import Finding


def check_pending_root(run: PublicRun) -> Found:
    """The reward root that waits to become final is the one that was due when it was proposed."""
    pending = run.chain.pending()
    if pending is None:
        return 0, "reward roots pending"
    found = _judge(run, pending)
    if found.outcome != CaseOutcome.RIGHT:
        raise ProofRejected(
            f"the root of epoch {pending.epoch} that is pending since block {pending.block} is wrong: {found.reason}"
        )
    return 1, "reward root pending"


def check_reward_rulings(run: PublicRun) -> Found:
    """What a jury ruled of a reward root is what the records give that were anchored before it."""
    closed = [case for case in run.chain.every_case() if case.closed and case.kind is CaseKind.REWARDS]
    # Whether something could be fetched in time is past; that most jurors could not is on chain.
    ruled = [case for case in closed if case.outcome in (CaseOutcome.RIGHT, CaseOutcome.VOID)]
    for case in ruled:
        found = _judge(run, proposal_of(run.chain, case))
        if vote_digest(found.outcome, found.result) != case.vote:
            said = CaseOutcome(case.outcome).name.lower()
            raise ProofRejected(
                f"the jury of case {case.case} ruled {said} of a reward root, the records say "
                f"{found.outcome.name.lower()} {found.reason}".rstrip()
            )
    return len(ruled), f"rulings on reward roots judged again, of {len(closed)}"


def _judge(run: PublicRun, proposed: RewardsProposed) -> Finding:
    speakers = closing_keys(run.manifest, run.chain, proposed.proposer)
    return judge_root(KnownRun(run.as_of(proposed.block - 1, speakers)), proposed)
