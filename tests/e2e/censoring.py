"""`murmur` as it is, but for a coordinator that leaves the first contributor out of the list of one round.

Started by its path, it takes murmur's arguments; every process of its local network starts the same way.
"""

import sys
from dataclasses import replace

from coordinator import rounds
from coordinator.state import CurrentRound, Say, State
from murmur import local, processes
from murmur.cli import main
from protocol.chain import ChainView
from protocol.messages import CommitmentList

ROUND = 0

_commit = rounds._commit


def _leave_one_out(state: State, current: CurrentRound, chain: ChainView) -> rounds.Step:
    state, effects = _commit(state, current, chain)
    return state, tuple(
        replace(effect, body=CommitmentList(entries=effect.body.entries[1:]))
        if isinstance(effect, Say) and isinstance(effect.body, CommitmentList) and effect.round == ROUND
        else effect
        for effect in effects
    )


def _argv(*arguments: str) -> list[str]:
    return [sys.executable, __file__, *arguments]


if __name__ == "__main__":
    # Twice the usual time to force in: tests share their machine.
    local.LEDGER_TERMS = replace(local.LEDGER_TERMS, force_blocks=2 * local.LEDGER_TERMS.force_blocks)
    rounds._commit = _leave_one_out
    processes.murmur_argv = _argv
    main()
