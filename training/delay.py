"""Where a unit starts if its run delays outer steps: the arithmetic of rounds that nobody waits between.

With `outer.delay` = d, a peer goes on from its own final state x of round r - 1 while updates, record and aggregation
of that round are under way, and takes the outer step after d segments of round r:

    x'  = d segments of inner steps from x
    x'' = x' + (theta - x)                  theta: the parameters that round r starts from, which everybody aggregates

and the rest of its segments from x''; moments go on as they are. The round's pseudo-gradient is theta - (its end), as
in any round. Who carries nothing into a round starts from theta, and moves nowhere. Delayed outer steps: arXiv
2502.12996 (eager updates), 2501.18512 (streaming DiLoCo), where what is applied late are averaged gradients.

All of it is known from what a unit opens: theta is public, x the state that its peer committed to at the end of the
round before. Each of the two operations is one rounding to float32 of each element, the same on every machine.
"""

from dataclasses import replace

from protocol.tensors import Floats
from training.inner import InnerState


def caught_up(state: InnerState, before: Floats, public: Floats) -> InnerState:
    """Return a state after the outer step that was delayed.

    Args:
        state: after the first `outer.delay` segments.
        before: float32[P], where they started: the peer's own parameters at the end of the round before.
        public: float32[P], the round's global parameters.
    """
    return replace(state, parameters=state.parameters + (public - before))
