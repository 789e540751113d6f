"""The audit of money: reward tables, their roots on chain, and what was claimed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from protocol.errors import ProofInconclusive, ProofRejected
from protocol.manifest import RunManifest
from protocol.merkle import reward_tree
from protocol.messages import RewardEntry
from verification.audit_rounds import Found
from verification.cases import confirmed_faults
from verification.public import PublicRun, closing_keys
from verification.retract import Units, chained
from verification.settle import EpochEarnings, SettledRound, epoch_earnings, reward_entries, vested


@dataclass(frozen=True)
class SettledEpoch:
    """Hold what pay depends on in an epoch whose rounds are all decided."""

    epoch: int
    rounds: tuple[SettledRound, ...]
    unpaid: Units  # carried a residual that was forged up to the epoch's end
    ruled: frozenset[int]  # numbers that a jury found at fault while it lasted

    def earnings(self, manifest: RunManifest) -> EpochEarnings:
        """Return what it means for pay."""
        return epoch_earnings(manifest, self.rounds, self.unpaid, self.ruled)


def settled_epochs(run: PublicRun) -> Iterator[SettledEpoch]:
    """Yield the epochs whose rounds are all decided, recomputed, from the first on."""
    forged: set[tuple[int, int]] = set()
    for epoch in range(run.manifest.epochs):
        rounds = run.manifest.rounds_of(epoch)
        if rounds[-1] not in run.rounds:
            return
        found = [run.settled(round_) for round_ in rounds]
        settled = tuple(one for one in found if one is not None)
        if len(settled) < len(found):
            return
        forged |= {key for one in settled for key in one.forged_units}
        ruled = confirmed_faults(run.manifest, run.chain, epoch)
        yield SettledEpoch(epoch, settled, chained(run.standing, forged), ruled)


def earnings(run: PublicRun) -> tuple[EpochEarnings, ...]:
    """Return what every epoch whose rounds are all decided earned, recomputed, from the first on."""
    return tuple(one.earnings(run.manifest) for one in settled_epochs(run))


Table = tuple[RewardEntry, ...]


def due_tables(run: PublicRun) -> Iterator[tuple[int, Table]]:
    """Yield every epoch up to which any pay vests with its table, recomputed, from the first on.

    Raises:
        ProofInconclusive: a verdict that a record names is missing.
        ProofRejected: a number earned that is not registered.
    """
    earned: list[EpochEarnings] = []
    for one in settled_epochs(run):
        earned.append(one.earnings(run.manifest))
        added = vested(run.manifest, earned)
        if entries := reward_entries(added, wallets_of(run, added)):
            yield one.epoch, entries


def reward_tables(run: PublicRun) -> dict[int, Table]:
    """Return the table of every epoch whose rounds are all decided and up to which any pay vests, recomputed."""
    return dict(due_tables(run))


def final_tables(run: PublicRun) -> dict[int, tuple[int, Table] | None]:
    """Return epoch and recomputed table of every final root, by the ledger's epoch; None where there is none.

    What a record declares late, after others proposed a root without it, is not in that root: it is then recomputed
    as the run stood before its proposal.
    """
    ours, found = list(reward_tables(run).items()), dict[int, tuple[int, Table] | None]()
    for index, final in sorted(run.chain.finalized().items()):
        due = ours[index] if index < len(ours) else None
        if due is None or reward_tree(due[1]).root != final.root:
            for one in [one for one in run.chain.proposals() if one.epoch == index][-1:]:
                speakers = closing_keys(run.manifest, run.chain, one.proposer)
                earlier = due_tables(run.as_of(one.block - 1, speakers))
                due = next(islice(earlier, index, None), due)
        found[index] = due
    return found


def wallets_of(run: PublicRun, epochs: Sequence[Mapping[int, int]]) -> dict[int, str]:
    """Return the wallet of every number that earned.

    Raises:
        ProofRejected: one is not registered.
    """
    numbers = {number for added in epochs for number in added}
    operators = {number: run.chain.operator(number) for number in numbers}
    unknown = sorted(number for number, operator in operators.items() if operator is None)
    if unknown:
        raise ProofRejected(f"number {unknown[0]} earned without being registered")
    return {number: one.wallet for number, one in operators.items() if one is not None}


def _undeclared(run: PublicRun, why: str) -> ProofRejected | ProofInconclusive:
    """Judge pay that runs ahead of the declared outcomes: while a run goes on, the next record may declare them."""
    if run.chain.finished() is not None:
        return ProofRejected(why)
    return ProofInconclusive(f"{why}; no record has declared all outcomes yet")


def check_tables(run: PublicRun) -> Found:
    """Every published reward table is what records, outcomes and verdicts give."""
    ours = reward_tables(run)
    ahead: list[int] = []
    for message in run.settlement.rewards:
        epoch = message.body.epoch
        if epoch not in ours:
            ahead.append(epoch)
            continue
        if message.body.entries != ours[epoch]:
            raise ProofRejected(f"the reward table of epoch {epoch} is not what the records give")
    if ahead:
        raise _undeclared(run, f"a reward table of epoch {ahead[0]}, whose units are not all decided")
    published = {message.body.epoch for message in run.settlement.rewards}
    if run.chain.finished() is not None and set(ours) != published:
        raise ProofRejected(f"the reward table of epoch {min(set(ours) - published)} is missing")
    return len(published), "reward tables"


def check_reward_roots(run: PublicRun) -> Found:
    """The roots that became final are those of the recomputed tables, and the pot covers them."""
    tables, final = final_tables(run), run.chain.finalized()  # the ledger counts epochs that have a root
    for index, due in tables.items():
        if due is None:
            raise _undeclared(run, f"reward root {index} on chain has no table")
        _, table = due
        total = sum(entry.cumulative_wei for entry in table)
        if final[index].root != reward_tree(table).root or final[index].total != total:
            raise ProofRejected(f"reward root {index} on chain is not that of the recomputed table")
        if total > run.chain.funded_wei:
            raise ProofRejected(f"reward root {index} promises more than the pot holds")
    waiting = len(reward_tables(run)) - len(final)
    return len(final), f"final reward roots, {max(0, waiting)} to come"


def check_claims(run: PublicRun) -> Found:
    """Nobody was paid more than the recomputed tables give, and all of it came from the pot."""
    ours = reward_tables(run)
    due: dict[str, int] = {}
    final = (one[1] for one in final_tables(run).values() if one is not None)
    for table in (*ours.values(), *final):
        for entry in table:
            account = entry.account.lower()
            due[account] = max(due.get(account, 0), entry.cumulative_wei)
    paid: dict[str, int] = {}
    for claim in run.chain.claims():
        account = claim.account.lower()
        paid[account] = paid.get(account, 0) + claim.amount
        if paid[account] != claim.cumulative:
            raise ProofRejected(f"the claims of {claim.account} do not add up")
        if paid[account] > due.get(account, 0):
            why = f"{claim.account} claimed more than it earned"
            raise _undeclared(run, why) if len(run.chain.finalized()) > len(ours) else ProofRejected(why)
    total = sum(paid.values())
    if total > run.chain.funded_wei:
        raise ProofRejected("more was paid than the pot received")
    return len(run.chain.claims()), f"claims of {total} wei, {run.chain.funded_wei} wei paid in"
