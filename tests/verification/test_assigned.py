"""What an explanation says of a reward: a line for each source."""

from __future__ import annotations

from protocol.rollout_config import JudgeConfig, PeopleConfig, RewardWeight, RolloutConfig
from tests.protocol.makers import key
from tests.verification.rollout_run import MODEL, rollout_config, rollout_manifest
from verification.assigned import weighed_rewards


def test_each_component_of_a_reward_says_its_weight_and_how_it_is_known() -> None:
    config = rollout_config()
    added = (
        RewardWeight(component="judged", weight=0.25, source="ai_judge"),
        RewardWeight(component="preferred", weight=0.5, source="human"),
    )
    changes = {
        "rewards": (*config.rewards, *added),
        "people": PeopleConfig(addresses=(key("person 0").address, key("person 1").address)),
        "judge": JudgeConfig(model=MODEL, parameters="ab" * 32),
        "lag": 3,
    }
    rollouts = RolloutConfig.model_validate({**config.model_dump(), **changes})
    manifest = rollout_manifest().model_copy(update={"rollouts": rollouts})
    played, judged, preferred = weighed_rewards(manifest)
    assert played == "sorted, weight 1: recomputed by everybody who plays the sample again"
    assert judged.startswith("judged, weight 0.25: the median score of up to 3 peers, drawn by the beacon")
    assert preferred.startswith("preferred, weight 0.5: what 2 people prefer: Bradley and Terry's values")
    assert preferred.endswith("that records carry until 2 rounds later")


def test_what_has_no_weight_is_asked_of_nobody() -> None:
    config = rollout_config()
    idle = RewardWeight(component="liked", weight=0.0, source="human")
    rollouts = config.model_copy(update={"rewards": (*config.rewards, idle)})
    *_, told = weighed_rewards(rollout_manifest().model_copy(update={"rollouts": rollouts}))
    assert told == "liked, weight 0: asked of nobody in this run"


def test_a_run_on_a_text_has_no_rewards() -> None:
    assert weighed_rewards(rollout_manifest().model_copy(update={"rollouts": None})) == ()
