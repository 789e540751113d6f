"""One sample of a task as tokens: what the environment says, what the policy says, and when either ends.

Whoever samples and whoever checks drive the same `Episode`, so that there is one rule. Tokens are kept, never text:
text that is tokenized again need not give the same tokens. Environments see decoded text alone.

A turn ends with the end token, which the environment is not shown. A turn that reaches its limit, or the episode's,
without it ends the episode, and the environment never sees it: a right answer that is too long earns nothing. An
episode also ends when the environment ends it, with its last turn, or when the next observation and one token more
would not fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from protocol.errors import ConfigError, ProofRejected
from protocol.manifest import SamplingConfig

Span = tuple[int, int]
Info = Mapping[str, Any]


class Environment(Protocol):
    """Play one task: what episodes need of an environment; one instance, one episode at a time."""

    def reset(self, seed: int) -> tuple[Any, Info]:
        """Start the task of a seed; return the first observation, text or messages, and information."""
        ...

    def step(self, action: str) -> tuple[Any, float, bool, bool, Info]:
        """Take an action; return observation, reward, terminated, truncated and information (gymnasium's five)."""
        ...


class Tokenizer(Protocol):
    """Turn text into token ids and back."""

    def encode(self, observation: Any) -> Sequence[int]:
        """Return the tokens of an observation, text or messages."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of any tokens; those that make no text become replacement characters."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """Take the bytes of UTF-8 for tokens."""

    vocab: int = 256

    def encode(self, observation: Any) -> Sequence[int]:
        """Return an observation's bytes; of messages, every content and a newline.

        Raises:
            ConfigError: a byte is outside the vocabulary.
        """
        parts = [observation] if isinstance(observation, str) else [f"{one.content}\n" for one in observation]
        found = "".join(parts).encode()
        if found and max(found) >= self.vocab:
            raise ConfigError(f"an observation holds bytes beyond the vocabulary of {self.vocab}")
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8, and tokens that are not bytes, become U+FFFD."""
        return bytes(token if token < 256 else 0xFF for token in tokens).decode(errors="replace")


@dataclass(frozen=True)
class Step:
    """Hold what an environment answered to one turn."""

    reward: float
    info: Info


class Episode:
    """Advance one sample token by token.

    Attributes:
        environment: what is played; at the end it holds the components of the reward.
        tokens: all so far, observations and turns.
        turns: where the policy's turns lie in them, [start, end) each; the last one may be going on.
        steps: the environment's answers; a turn that was cut off has none.
        over: whether the episode has ended.

    Raises:
        ConfigError: the first observation is empty or leaves no room, or does not fit the vocabulary.
    """

    def __init__(
        self, environment: Environment, seed: int, config: SamplingConfig, tokenizer: Tokenizer
    ) -> None:
        self.environment = environment
        self._config = config
        self._tokenizer = tokenizer
        self.tokens: list[int] = []
        self.turns: list[Span] = []
        self.steps: list[Step] = []
        self.over = False
        self._turn_open = False
        self._forced = list(tokenizer.encode(environment.reset(seed)[0]))
        if not 0 < len(self._forced) < config.tokens:
            raise ConfigError(
                f"a task opens with {len(self._forced)} tokens, and an episode holds {config.tokens}",
                hint="raise the episode's tokens in the manifest",
            )

    @property
    def forced(self) -> int:
        """Return how many tokens the environment says next; 0 where the policy speaks."""
        return len(self._forced)

    def observe(self, count: int) -> list[int]:
        """Append and return the next `count` tokens of what the environment says."""
        told, self._forced = self._forced[:count], self._forced[count:]
        self.tokens += told
        return told

    def take(self, token: int) -> None:
        """Append a token of the policy's, and end the turn and the episode where the rule says.

        Raises:
            ValueError: the episode is over, or the environment speaks next.
        """
        if self.over or self._forced:
            raise ValueError("the policy does not speak next")
        start = self.turns[-1][0] if self._turn_open else len(self.tokens)
        self.tokens.append(token)
        end = len(self.tokens)
        self.turns[len(self.turns) - self._turn_open :] = [(start, end)]
        self._turn_open = True
        if token == self._config.end_token:
            self._turn_open = False
            self._answer(self.tokens[start : end - 1])
        elif end - start == self._config.turn_tokens or end == self._config.tokens:
            self.over = True

    def _answer(self, action: Sequence[int]) -> None:
        told, reward, terminated, truncated, info = self.environment.step(self._tokenizer.decode(action))
        self.steps.append(Step(float(reward), info))
        if terminated or truncated or len(self.turns) == self._config.turns:
            self.over = True
            return
        observation = list(self._tokenizer.encode(told))
        self.over = len(self.tokens) + len(observation) >= self._config.tokens
        self._forced = [] if self.over else observation

    @classmethod
    def replay(
        cls,
        environment: Environment,
        seed: int,
        config: SamplingConfig,
        tokenizer: Tokenizer,
        tokens: Sequence[int],
        turns: Iterable[Span],
    ) -> Self:
        """Play a claimed sample through its environment again.

        Raises:
            ProofRejected: the environment says something else, a turn does not lie where it is claimed to, or the
                sample ends sooner or later than the rule says.
        """
        episode = cls(environment, seed, config, tokenizer)
        while len(episode.tokens) < len(tokens) and not episode.over:
            start = len(episode.tokens)
            if not episode.forced:
                episode.take(int(tokens[start]))
            elif list(tokens[start : start + episode.forced]) != episode.observe(episode.forced):
                raise ProofRejected(f"from token {start} on the environment says something else")
        if not episode.over:
            raise ProofRejected(f"the sample stops at token {len(tokens)}, and its episode goes on")
        if len(episode.tokens) != len(tokens):
            raise ProofRejected(f"the episode ended at token {len(episode.tokens)}, and the sample goes on")
        if episode.turns != list(turns):
            raise ProofRejected("the turns lie elsewhere than claimed")
        return episode
