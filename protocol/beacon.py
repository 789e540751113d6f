"""Pseudo-random draws that anyone recomputes: functions of a beacon that nobody knew before, and public numbers."""

from protocol.canonical import tagged_digest

ASSIGNMENT = "murmur/assignment"
ROLLOUTS = "murmur/rollouts"
JUDGES = "murmur/judges"
GATE = "murmur/gate"
MOMENTS = "murmur/second-moments"
SAMPLING = "murmur/sampling"
WITNESSES = "murmur/witnesses"


def seed(purpose: str, beacon: str, run: str, round_: int) -> str:
    """Derive the 32-byte seed of one purpose and round from a beacon (a block hash, 64 hex digits)."""
    return tagged_digest(purpose, beacon, run, round_)


def draw(seed_: str, *labels: int) -> int:
    """Return a uniform unsigned 64-bit number for the labels (registration numbers, steps)."""
    return int.from_bytes(bytes.fromhex(tagged_digest("murmur/draw", seed_, *labels))[:8], "big")


def chosen(seed_: str, probability: float, *labels: int) -> bool:
    """Tell whether an event of the given probability happens for the labels; 0 never does, 1 always."""
    return draw(seed_, *labels) < int(probability * 2**64)
