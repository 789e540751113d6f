"""A rollout ends where the rule says, for whoever samples it and for whoever plays it again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import ConfigError, Malformed
from protocol.rollout_config import SamplingConfig
from protocol.rollouts import Sample
from tests.training.episodes import SAMPLING, TOKENIZER, Duel, Echo, sample_of, scripted
from training.environments.protocol import Message, Observation, Step
from training.rollout import ByteTokenizer, Rollout


def replayed(sample: Sample, seed: int = 5, environment: type[Echo] = Echo) -> Rollout:
    return Rollout.replay(environment(), seed, SAMPLING, TOKENIZER, sample)


def test_turns_and_observations_alternate_until_the_environment_ends_it() -> None:
    rollout = scripted(5, "ab\nc\n\nmore")
    assert rollout.over
    assert TOKENIZER.decode(rollout.tokens) == str(Echo().reset(5)[0]) + "ab\n..c\n.\n"
    assert [TOKENIZER.decode(rollout.tokens[start:end]) for start, end in rollout.turns] == [
        "ab\n",
        "c\n",
        "\n",
    ]
    assert rollout.rewards().tolist() == [[3.0, 3.0]]
    assert rollout.episode.outcome().terminated


def test_the_last_turn_allowed_ends_the_sample_with_the_reward_so_far() -> None:
    rollout = scripted(5, "a\nb\n", SAMPLING.model_copy(update={"turns": 1}))
    assert rollout.over
    assert rollout.rewards().tolist() == [[1.0, 1.0]]


def test_a_turn_cut_off_is_never_seen_by_the_environment() -> None:
    rollout = scripted(1, "abc", SAMPLING.model_copy(update={"turn_tokens": 3}))
    assert rollout.over
    assert len(rollout.turns) == 1
    assert rollout.rewards().tolist() == [[0.0, 0.0]]


def test_the_samples_limit_cuts_a_turn_too() -> None:
    rollout = scripted(1, "x" * 100, SAMPLING.model_copy(update={"tokens": 30}))
    assert rollout.over
    assert len(rollout.tokens) == 30
    assert rollout.rewards().tolist() == [[0.0, 0.0]]


def test_an_action_longer_than_the_environment_allows_ends_the_sample_unseen() -> None:
    longest = Echo.spec.max_action_bytes
    for length, seen in ((longest, True), (longest + 1, False)):
        rollout = scripted(4, "x" * length + "\n")
        assert bool(rollout.rewards().any()) is seen
        assert rollout.over is not seen
    replayed(sample_of(rollout), 4)


def test_an_observation_that_does_not_fit_ends_the_sample_after_its_turn() -> None:
    rollout = scripted(4, "x" * 30 + "\n" + "y")
    prompt = len(Echo().reset(4)[0])
    small = SAMPLING.model_copy(update={"tokens": prompt + 31 + 5})
    cut = scripted(4, "x" * 30 + "\n" + "y", small)
    assert not rollout.over
    assert cut.over
    assert len(cut.tokens) == prompt + 31
    assert cut.rewards().tolist() == [[30.0, 1.0]]


class Quoting(Echo):
    """Answer with a character that small vocabularies lack."""

    def step(self, action: str) -> Step:
        return "\ufffd", *super().step(action)[1:]


def test_an_observation_without_tokens_ends_the_sample_after_its_turn() -> None:
    rollout = scripted(4, "ab\n", environment=Quoting)
    assert rollout.over
    assert rollout.rewards().tolist() == [[2.0, 1.0]]


def test_each_turn_is_its_players_and_each_player_has_a_reward() -> None:
    rollout = scripted(5, "ab\ncde\nf\n", environment=Duel)
    assert rollout.players == [0, 1, 0]
    assert rollout.rewards().tolist() == [[3.0, 2.0], [3.0, 1.0]]
    one = sample_of(rollout)
    replayed(one, environment=Duel)
    for players in ([1, 0, 1], [0, 1, 1]):
        with pytest.raises(Malformed, match="another player"):
            replayed(replace(one, players=np.array(players, np.uint8)), environment=Duel)


def test_the_policy_cannot_speak_out_of_turn() -> None:
    rollout = Rollout(Echo(), 1, SAMPLING, TOKENIZER)
    with pytest.raises(ValueError, match="next"):
        rollout.take(97)
    done = scripted(1, "\n\n\n")
    with pytest.raises(ValueError, match="next"):
        done.take(97)


def test_a_task_that_leaves_no_room_or_has_other_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="opens with"):
        Rollout(Echo(), 3, SamplingConfig(tokens=8), TOKENIZER)
    with pytest.raises(ConfigError, match="vocabulary"):
        Rollout(Echo(), 3, SAMPLING, ByteTokenizer(vocab=64))


def test_messages_are_read_as_their_contents() -> None:
    messages: Observation = (Message("user", "be brief"), Message("user", "a?"))
    assert TOKENIZER.encode(messages) == b"be brief\na?\n"


def test_any_tokens_decode() -> None:
    assert ByteTokenizer(vocab=300).decode([97, 255, 299, 98]) == "a\ufffd\ufffdb"


@pytest.mark.parametrize("said", ["ab\nc\n\n", "\n\n\n", "x" * 60, "a\n" + "y" * 60])
def test_an_honest_sample_replays(said: str) -> None:
    one = sample_of(scripted(5, said))
    np.testing.assert_array_equal(replayed(one).rewards(), one.rewards)


def test_what_did_not_happen_does_not_replay() -> None:
    rollout = scripted(5, "ab\nc\n\n")
    one = sample_of(rollout)
    tokens, turns = one.tokens, one.turns
    for place, why in ((0, "from token 0 on"), (rollout.turns[0][1], "environment says something else")):
        edited = tokens.copy()
        edited[place] ^= 1
        with pytest.raises(Malformed, match=why):
            replayed(replace(one, tokens=edited))
    with pytest.raises(Malformed, match="environment says"):
        replayed(one, seed=6)
    with pytest.raises(Malformed, match="goes on"):
        replayed(replace(one, tokens=tokens[: rollout.turns[0][1]], turns=turns[:1]))
    with pytest.raises(Malformed, match="ended at"):
        replayed(replace(one, tokens=np.append(tokens, np.uint16(97))))
    moved = turns.copy()
    moved[0, 0] -= 1
    with pytest.raises(Malformed, match="claimed"):
        replayed(replace(one, turns=moved))


def test_whoever_checks_rollouts_needs_no_torch() -> None:
    code = "import sys, verification.rollouts; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0
