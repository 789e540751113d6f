"""One sample of a task as tokens: what the environment says, what the policy says, and when either ends.

Whoever samples and whoever checks drive the same `Rollout`, so that there is one rule. Tokens are kept, never text:
text that is tokenized again need not give the same tokens. Environments see decoded text alone, through
`training.environments.episode`. Where several play, the policy is all of them. No torch: whoever merges checks too.

A turn ends with the end token, which the environment is not shown. The environment never sees a turn that reaches its
limit, or the episode's, without it, nor one longer than its actions may be: the episode is then over, so a right
answer that is too long earns nothing. It also ends when the environment ends it, with its last turn, or when the next
observation and one token more would not fit. The reward is what the environment gives every player at that moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from protocol.errors import ConfigError, Malformed
from protocol.rollout_config import SamplingConfig
from protocol.rollouts import Doubles, Sample
from training.environments.episode import Episode, check_action
from training.environments.protocol import Environment, Observation, as_text

Span = tuple[int, int]


class Tokenizer(Protocol):
    """Turn text into token ids and back."""

    def encode(self, observation: Observation, *, opening: bool = True) -> Sequence[int]:
        """Return the tokens of an observation, up to where the policy speaks.

        Args:
            opening: nothing was said before; else a turn of the policy was, with its end token.

        Raises:
            ValueError: the vocabulary has no tokens for it.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of any tokens; those that make no text become replacement characters."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """Take the bytes of UTF-8 for tokens."""

    vocab: int = 256

    def encode(self, observation: Observation, *, opening: bool = True) -> Sequence[int]:
        """Return an observation's bytes; of messages, every content and a newline.

        Raises:
            ValueError: a byte is outside the vocabulary.
        """
        found = as_text(observation).encode()
        if found and max(found) >= self.vocab:
            raise ValueError(f"an observation holds bytes beyond the vocabulary of {self.vocab}")
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text; bytes that are not UTF-8, and tokens that are not bytes, become U+FFFD."""
        return bytes(token if token < 256 else 0xFF for token in tokens).decode(errors="replace")


class Rollout:
    """Advance one sample token by token.

    Attributes:
        episode: what is played.
        tokens: all so far, observations and turns.
        turns: where the policy's turns lie in them, [start, end) each; the last one may be going on.
        players: whose turn each is.
        over: whether the sample has ended.

    Raises:
        ConfigError: the first observation is empty or leaves no room, or does not fit the vocabulary.
    """

    def __init__(
        self, environment: Environment, seed: int, config: SamplingConfig, tokenizer: Tokenizer
    ) -> None:
        self.episode = Episode(environment, seed)
        self._config = config
        self._tokenizer = tokenizer
        self.tokens: list[int] = []
        self.turns: list[Span] = []
        self.players: list[int] = []
        self.over = False
        self._turn_open = False
        try:
            self._forced = list(tokenizer.encode(self.episode.observation))
        except ValueError as error:
            raise ConfigError(str(error), hint="raise the model's vocabulary in the manifest") from error
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
        """Append a token of the policy's, and end the turn and the sample where the rule says.

        Raises:
            ValueError: the sample is over, or the environment speaks next.
        """
        if self.over or self._forced:
            raise ValueError("the policy does not speak next")
        if not self._turn_open:
            self._turn_open = True
            self.turns.append((len(self.tokens), len(self.tokens)))
            self.players.append(self.episode.player)
        start = self.turns[-1][0]
        self.tokens.append(token)
        end = len(self.tokens)
        self.turns[-1] = (start, end)
        if token == self._config.end_token:
            self._turn_open = False
            self._act(self._tokenizer.decode(self.tokens[start : end - 1]))
        elif end - start == self._config.turn_tokens or end == self._config.tokens:
            self.over = True

    def rewards(self) -> Doubles:
        """Return every player's components as they stand, in the environment's order: float64[players, components]."""
        found = [[one.value for one in components] for components in self.episode.components()]
        return np.array(found, np.float64) + 0.0  # zero has one sign

    def _act(self, action: str) -> None:
        try:
            check_action(action, self.episode.environment.spec.max_action_bytes)
        except Malformed:
            self.over = True
            return
        self.episode.act(action)
        if self.episode.over or len(self.turns) == self._config.turns:
            self.over = True
            return
        try:
            self._forced = list(self._tokenizer.encode(self.episode.observation, opening=False))
        except ValueError:  # an environment may quote what the policy said
            self.over = True
        if len(self.tokens) + len(self._forced) >= self._config.tokens:
            self.over, self._forced = True, []

    @classmethod
    def replay(
        cls, environment: Environment, seed: int, config: SamplingConfig, tokenizer: Tokenizer, sample: Sample
    ) -> Self:
        """Play a claimed sample through its environment again; its rewards are not compared.

        Raises:
            Malformed: the environment says something else, a turn does not lie where it is claimed to or is another
                player's, or the sample ends sooner or later than the rule says.
        """
        rollout = cls(environment, seed, config, tokenizer)
        tokens = sample.tokens.tolist()
        while len(rollout.tokens) < len(tokens) and not rollout.over:
            start = len(rollout.tokens)
            if not rollout.forced:
                rollout.take(tokens[start])
            elif tokens[start : start + rollout.forced] != rollout.observe(rollout.forced):
                raise Malformed(f"from token {start} on the environment says something else")
        if not rollout.over:
            raise Malformed(f"the sample stops at token {len(tokens)}, and its episode goes on")
        if len(rollout.tokens) != len(tokens):
            raise Malformed(f"the episode ended at token {len(rollout.tokens)}, and the sample goes on")
        if rollout.turns != [tuple(turn) for turn in sample.turns.tolist()]:
            raise Malformed("the turns lie elsewhere than claimed")
        if rollout.players != sample.players.tolist():
            raise Malformed("a turn is another player's than claimed")
        return rollout
