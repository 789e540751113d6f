"""Where a run stands, in one word and one sentence."""

from dataclasses import dataclass, replace

from coordinator.settling import settled
from coordinator.state import CurrentRound, State
from protocol.chain import OPENING_ROUND, ChainView
from protocol.succession import acts_from


@dataclass(frozen=True)
class Summary:
    """Say where a run stands.

    `phase` is one of created, ready, commit, post, reveal, anchor, judging, jury, disputes, settling, finished.
    """

    phase: str
    round: int  # the one in progress, or the last
    detail: str  # what is waited for, or what is wrong


def summarize(state: State, chain: ChainView) -> Summary:
    """Return where a run stands, and for a stand-in until when it has to wait."""
    found = _summarize(state, chain)
    begins = acts_from(chain, state.stand_in)
    if not state.stand_in or begins is None or chain.height >= begins or found.phase == "finished":
        return found
    waits = f"the coordinator has time until block {begins - 1}"
    return replace(found, detail=f"{found.detail}; {waits}" if found.detail else waits)


def _summarize(state: State, chain: ChainView) -> Summary:
    round_ = min(state.round, state.manifest.rounds - 1)
    if chain.created() is None:
        return Summary("created", 0, "waiting for the run on chain")
    if chain.anchor(OPENING_ROUND) is None:
        return Summary("ready", 0, _ready(state, chain))
    current = state.current
    if current is not None:
        return Summary(current.phase, current.round, state.trouble or _progress(state, current, chain))
    if state.round < state.manifest.rounds:
        return Summary("commit", round_, state.trouble or "waiting for the round's beacon")
    undecided = sum(one.outcome(draw) is None for one in state.judging.values() for draw in one.draws or ())
    pending = sum(case.outcome is None for one in state.judging.values() for case in one.cases)
    if state.judging and not undecided and pending:
        return Summary("jury", round_, state.trouble or f"{pending} cases are before the jury")
    if state.judging and not undecided:
        return Summary("disputes", round_, state.trouble or "all is judged; cases may still be opened")
    if state.judging:
        return Summary("judging", round_, state.trouble or f"{undecided} drawn units are being judged")
    if not settled(state, chain):
        final = 0 if state.settling.rewards is None else state.settling.rewards.next_epoch
        detail = f"{final} of {len(state.settling.due)} reward roots are final"
        return Summary("settling", round_, state.trouble or detail)
    return Summary("finished", round_, state.trouble)


def _ready(state: State, chain: ChainView) -> str:
    staked = [one for one in chain.operators() if one.stake_wei >= chain.min_stake_wei]
    contributors = [one.number for one in staked if one.role == "contributor"]
    verifiers = [one.number for one in staked if one.role == "verifier"]
    ready = [sum(number in state.ready for number in numbers) for numbers in (contributors, verifiers)]
    detail = f"{ready[0]} of {len(contributors)} contributors and {ready[1]} of {len(verifiers)} verifiers are ready"
    if ready[0] < state.manifest.min_peers:
        return f"{detail}; the run needs {state.manifest.min_peers} contributors"
    if ready[1] < state.manifest.verification.verifiers:
        return f"{detail}; the run wants {state.manifest.verification.verifiers} verifiers"
    return detail


def _progress(state: State, current: CurrentRound, chain: ChainView) -> str:
    if current.phase == "commit":
        if current.round not in state.parameters:
            return "waiting for the parameters of the round"
        return f"{len(current.commitments)} of {len(chain.roster(current.round))} have committed"
    if current.phase == "reveal":
        told = current.delivered | current.faults.keys()
        return f"{len(told)} of {len(current.commitments)} updates are here"
    return "waiting for the chain"
