"""A token bucket: how fast a stranger may do something."""

from dataclasses import dataclass


@dataclass
class TokenBucket:
    """Hold up to `burst` tokens, filled at `per_s` a second; the caller tells the time."""

    burst: float
    per_s: float
    now: float

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self.burst, self._tokens + (now - self.now) * self.per_s)
        self.now = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
