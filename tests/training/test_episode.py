"""An episode ends where the rule says, for whoever samples it and for whoever plays it again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from protocol.errors import ConfigError, ProofRejected
from protocol.manifest import SamplingConfig
from tests.training.episodes import SAMPLING, TOKENIZER, Echo, scripted
from training.episode import ByteTokenizer, Episode


def replayed(tokens: list[int], turns: list[tuple[int, int]], seed: int = 5) -> Episode:
    return Episode.replay(Echo(), seed, SAMPLING, TOKENIZER, tokens, turns)


def test_turns_and_observations_alternate_until_the_environment_ends_it() -> None:
    episode = scripted(5, "ab\nc\n\nmore")
    assert episode.over
    assert TOKENIZER.decode(episode.tokens) == Echo().reset(5)[0] + "ab\n..c\n.\n"
    assert [TOKENIZER.decode(episode.tokens[start:end]) for start, end in episode.turns] == [
        "ab\n",
        "c\n",
        "\n",
    ]
    assert [step.reward for step in episode.steps] == [2.0, 1.0, 0.0]


def test_the_last_turn_allowed_ends_the_episode() -> None:
    episode = scripted(5, "a\nb\n", SAMPLING.model_copy(update={"turns": 1}))
    assert episode.over
    assert len(episode.steps) == len(episode.turns) == 1


def test_a_turn_cut_off_is_never_seen_by_the_environment() -> None:
    environment = Echo()
    episode = Episode(environment, 1, SAMPLING.model_copy(update={"turn_tokens": 3}), TOKENIZER)
    episode.observe(episode.forced)
    for token in b"abc":
        episode.take(token)
    assert episode.over
    assert environment.actions == []
    assert episode.steps == []


def test_the_episodes_limit_cuts_a_turn_too() -> None:
    episode = scripted(1, "x" * 100, SAMPLING.model_copy(update={"tokens": 30}))
    assert episode.over
    assert len(episode.tokens) == 30
    assert episode.steps == []


def test_an_observation_that_does_not_fit_ends_the_episode_after_its_turn() -> None:
    episode = scripted(4, "x" * 30 + "\n" + "y")
    prompt = len(Echo().reset(4)[0])
    small = SAMPLING.model_copy(update={"tokens": prompt + 31 + 5})
    cut = scripted(4, "x" * 30 + "\n" + "y", small)
    assert not episode.over
    assert cut.over
    assert len(cut.tokens) == prompt + 31
    assert len(cut.steps) == 1


def test_the_policy_cannot_speak_out_of_turn() -> None:
    episode = Episode(Echo(), 1, SAMPLING, TOKENIZER)
    with pytest.raises(ValueError, match="next"):
        episode.take(97)
    done = scripted(1, "\n\n\n")
    with pytest.raises(ValueError, match="next"):
        done.take(97)


def test_a_task_that_leaves_no_room_or_has_other_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="opens with"):
        Episode(Echo(), 3, SamplingConfig(tokens=8), TOKENIZER)
    with pytest.raises(ConfigError, match="vocabulary"):
        Episode(Echo(), 3, SAMPLING, ByteTokenizer(vocab=64))


def test_messages_are_read_as_their_contents() -> None:
    messages = (SimpleNamespace(content="be brief"), SimpleNamespace(content="a?"))
    assert TOKENIZER.encode(messages) == b"be brief\na?\n"


def test_any_tokens_decode() -> None:
    assert ByteTokenizer(vocab=300).decode([97, 255, 299, 98]) == "a\ufffd\ufffdb"


@pytest.mark.parametrize("said", ["ab\nc\n\n", "\n\n\n", "x" * 60, "a\n" + "y" * 60])
def test_an_honest_sample_replays(said: str) -> None:
    episode = scripted(5, said)
    again = replayed(episode.tokens, episode.turns)
    assert [step.reward for step in again.steps] == [step.reward for step in episode.steps]


def test_what_did_not_happen_does_not_replay() -> None:
    episode = scripted(5, "ab\nc\n\n")
    tokens, turns = episode.tokens, episode.turns
    first = turns[0][0]
    for place, why in ((0, "from token 0 on"), (turns[0][1], "environment says something else")):
        edited = list(tokens)
        edited[place] ^= 1
        with pytest.raises(ProofRejected, match=why):
            replayed(edited, turns)
    with pytest.raises(ProofRejected, match="environment says"):
        replayed(tokens, turns, seed=6)
    with pytest.raises(ProofRejected, match="goes on"):
        replayed(tokens[: turns[0][1]], turns[:1])
    with pytest.raises(ProofRejected, match="ended at"):
        replayed([*tokens, 97], turns)
    with pytest.raises(ProofRejected, match="claimed"):
        replayed(tokens, [(first - 1, turns[0][1]), *turns[1:]])
