"""From decided rounds to pay: reward tables by epoch, proposals on the ledger, and the end of the run.

The ledger counts epochs that have a root. While no pay has vested a table would be empty and has none, so that epochs
before the first pay are left out: the ledger's epoch is the index among the tables that exist.

A root is proposed once everybody can recompute it: when anchored records, or our closing word, declare every outcome
that it rests on (`verification.rewards`).
"""

from collections.abc import Mapping
from dataclasses import replace

from coordinator import succeeding
from coordinator.state import Close, Effect, Finalize, Propose, Say, Settling, State, records_in_force
from protocol.chain import ChainView
from protocol.merkle import rewards_root
from protocol.messages import Finish, RewardTable
from verification.cases import confirmed_faults
from verification.retract import chained
from verification.settle import epoch_earnings, reward_entries, vested

MAX_CLOSING = 360  # judgements in the closing word, so that it stays a single message

Step = tuple[State, tuple[Effect, ...]]


def settle(state: State, chain: ChainView) -> Step:
    """Complete epochs, say their tables, propose and finalize their roots, and finish the run."""
    state = _complete_epochs(state, chain)
    state, said = _say_tables(state, chain)
    state, sent = _follow_ledger(state, chain)
    state, closed = _finish(state, chain)
    return state, (*said, *sent, *closed)


def _complete_epochs(state: State, chain: ChainView) -> State:
    while len(state.settling.earned) < state.manifest.epochs:
        settling, epoch = state.settling, len(state.settling.earned)
        rounds = state.manifest.rounds_of(epoch)
        if any(round_ not in settling.settled for round_ in rounds):
            break
        inside = [settling.settled[round_] for round_ in rounds]
        forged = settling.forged.union(*(one.forged_units for one in inside))
        records = records_in_force(state, chain, rounds[-1] + 1) if forged else {}
        unpaid = chained([*records.values()], forged)
        ruled = confirmed_faults(state.manifest, chain, epoch)
        earned = (*settling.earned, epoch_earnings(state.manifest, inside, unpaid, ruled))
        epochs = vested(state.manifest, earned)
        entries = reward_entries(epochs, _wallets(epochs, chain))
        due = settling.due
        if entries:
            due = (*due, RewardTable(epoch=epoch, entries=entries))
        settled = {round_: one for round_, one in settling.settled.items() if round_ not in rounds}
        state = replace(
            state, settling=replace(settling, settled=settled, forged=forged, earned=earned, due=due)
        )
    return state


def _wallets(epochs: tuple[Mapping[int, int], ...], chain: ChainView) -> dict[int, str]:
    wallets = {}
    for number in {number for added in epochs for number in added}:
        operator = chain.operator(number)
        assert operator is not None  # whoever earned was on a roster
        wallets[number] = operator.wallet
    return wallets


def _say_tables(state: State, chain: ChainView) -> Step:
    state, adopted = succeeding.adopt_tables(state)
    settling, saying = state.settling, len(state.settling.due)
    effects: list[Effect] = [*adopted]
    for index, table in enumerate(settling.due[settling.saying :], settling.saying):
        said = settling.tables.get(table.epoch)
        if said is None:
            if not succeeding.may_act(state, chain):
                saying = index
                break
            effects.append(Say(state.manifest.rounds_of(table.epoch)[-1], table))
        elif said.body != table:
            trouble = f"the reward table said for epoch {table.epoch} is not what the records give"
            return replace(state, trouble=trouble), adopted
    return replace(state, settling=replace(settling, saying=saying)), tuple(effects)


def _follow_ledger(state: State, chain: ChainView) -> Step:
    """Propose the next root, again after it was cancelled, and make it final when its window is over."""
    settling = state.settling
    rewards = settling.rewards
    if rewards is None or rewards.next_epoch >= len(settling.due):
        return state, ()
    epoch, table = rewards.next_epoch, settling.due[rewards.next_epoch]
    if table.epoch not in settling.tables or not succeeding.may_act(state, chain):
        return state, ()
    root = rewards_root(table.entries)
    if rewards.pending is not None:
        return _follow_pending(state, settling, epoch, root, chain)
    if settling.asked == (epoch, settling.attempt):
        if settling.mined is None or rewards.height < settling.mined:
            return state, ()
        # It was on chain and is neither pending nor final: the jury has cancelled it.
        settling = replace(settling, attempt=settling.attempt + 1)
    if not _is_public(state, chain, table.epoch):
        return state, ()
    total = sum(entry.cumulative_wei for entry in table.entries)
    settling = replace(settling, asked=(epoch, settling.attempt), mined=None, finalizing=None)
    return replace(state, settling=settling), (Propose(epoch, rewards.final_root, root, total),)


def _is_public(state: State, chain: ChainView, epoch: int) -> bool:
    """Tell whether everybody can recompute the table of a complete epoch.

    Jurors count the proposer's own closing word, or that of a run which is closed on chain.
    """
    last, finish = state.manifest.rounds_of(epoch)[-1], state.finish
    counts = finish is not None and (finish.author == state.author or chain.finished() is not None)
    closing = finish.body.judged if finish is not None and counts else ()
    open_ = [one.body.judged for one in state.records.values() if chain.record_hash(one.round) is None]
    missing = [one for judged in (state.undeclared, *open_) for one in judged if one not in closing]
    return all(one.round > last for one in missing)


def _follow_pending(state: State, settling: Settling, epoch: int, root: str, chain: ChainView) -> Step:
    rewards = settling.rewards
    assert rewards is not None
    assert rewards.pending is not None
    if rewards.pending.root != root:
        return replace(state, trouble=f"the root pending for epoch {epoch} is not what the records give"), ()
    settling = replace(settling, asked=(epoch, settling.attempt), mined=rewards.height)
    if chain.height < rewards.pending.final_at or settling.finalizing == epoch:
        return replace(state, settling=settling), ()
    settling = replace(settling, finalizing=epoch)
    return replace(state, settling=settling), (Finalize(epoch),)


def _finish(state: State, chain: ChainView) -> Step:
    manifest = state.manifest
    parameters = state.parameters.get(manifest.rounds)
    if len(state.settling.earned) < manifest.epochs or parameters is None or state.closing:
        return state, ()
    state, adopted = succeeding.adopt_finish(state, chain)
    if state.finish is None:
        if state.finishing or not succeeding.may_act(state, chain) or succeeding.awaits_finish(state, chain):
            return state, ()
        finish = Finish(parameters=parameters, judged=state.undeclared[:MAX_CLOSING])
        return replace(state, finishing=True), (Say(manifest.rounds - 1, finish),)
    if chain.finished() is not None or state.stand_in:
        return state, adopted
    return replace(state, closing=True), (*adopted, Close(state.finish.body.parameters))


def settled(state: State, chain: ChainView) -> bool:
    """Tell whether nothing is left to do: every reward root is final, and the run is closed, or its last word said."""
    rewards = state.settling.rewards
    complete = len(state.settling.earned) == state.manifest.epochs
    done = rewards is not None and rewards.next_epoch >= len(state.settling.due)
    closed = chain.finished() is not None or (bool(state.stand_in) and state.finish is not None)
    return complete and done and closed


def settled_rounds(state: State) -> int:
    """Return the first round whose epoch is not complete: nothing that is said of earlier ones changes any pay."""
    epoch = len(state.settling.earned)
    complete = epoch >= state.manifest.epochs
    return state.manifest.rounds if complete else state.manifest.rounds_of(epoch)[0]
