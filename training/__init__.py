"""The work itself: model, data, inner steps, compression, outer step.

The step that a verifier replays is this code, not a copy of it. Torch; no network, no chain, no wall clock.
"""
