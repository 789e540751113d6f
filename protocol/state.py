"""What is hashed of a peer's work. Every hash binds run, round and registration number."""

from protocol.canonical import ZERO_DIGEST, tagged_digest


def segment_root(run: str, round_: int, number: int, index: int, parameters: str, moments: str) -> str:
    """Bind the state at the end of `index` segments (0: the start): content addresses of parameters and moments."""
    return tagged_digest("murmur/segment", run, round_, number, index, parameters, moments)


def exact_root(run: str, round_: int, number: int, index: int, parameters: str, moments: str) -> str:
    """Name the state that exact arithmetic reaches after `index` segments, starting the last where it was committed."""
    return tagged_digest("murmur/exact", run, round_, number, index, parameters, moments)


def moments_root(run: str, round_: int, number: int, moments: str) -> str:
    """Bind the moments a peer carries out of a round."""
    return tagged_digest("murmur/moments", run, round_, number, moments)


def residual_root(run: str, round_: int, number: int, residual: str) -> str:
    """Bind the error-feedback residual a peer carries out of a round."""
    return tagged_digest("murmur/residual", run, round_, number, residual)


def update_root(run: str, round_: int, number: int, symbols: str, salt: str) -> str:
    """Hide an update's identity behind 32 bytes of salt until it is revealed."""
    return tagged_digest("murmur/update", run, round_, number, symbols, salt)


NOTHING_CARRIED = ZERO_DIGEST
"""Stands where a peer starts with zero moments and a zero residual."""

EXACT_DIVERGES = tagged_digest("murmur/exact")
"""Stands for an exact reference that does not exist: the steps lead to values that are not finite."""
