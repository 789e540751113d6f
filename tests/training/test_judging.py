"""Who judges whose groups, what a judge is asked, and what its answer means."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from protocol.canonical import ZERO_DIGEST, digest
from protocol.errors import ConfigError, Malformed
from protocol.judging import Judgment, decode, encode, judging, max_judgments_bytes
from protocol.manifest import RunManifest
from protocol.model_config import ModelConfig
from protocol.published import Published, max_published_bytes, read_published, write_published
from protocol.rollout_config import JudgeConfig
from protocol.tensors import pack, parameter_layout
from tests.verification.judged_run import honest_judge, judged_manifest, judged_round, nothing_learned
from tests.verification.rollout_run import rollout_manifest
from training.assignment import judged_groups, judgment_seeds
from training.environments.pinned import check_environment
from training.judges import read_judge, tuned_config
from training.judging import prompt_of, score_of
from training.model import initial_parameters
from training.preset import Signals, preset
from training.rollout import ByteTokenizer

BEACON = "5e" * 32
MODEL = ModelConfig(vocab=128, width=16, layers=1, heads=1, feed_forward=16, context=32)


def judge(**changes: object) -> JudgeConfig:
    return JudgeConfig.model_validate(
        {"model": MODEL, "parameters": ZERO_DIGEST, "prompt": "<{sample}>", "tokens": 12, **changes}
    )


@pytest.mark.parametrize(("peers", "judges"), [(2, 1), (2, 3), (3, 2), (5, 3), (9, 3), (40, 15)])
def test_every_group_has_its_judges_and_everybody_as_much_to_judge(peers: int, judges: int) -> None:
    manifest = judged_manifest(judges)
    groups = 3
    numbers = [3 * place + 1 for place in range(peers)]
    by_judge = {one: judged_groups(manifest, BEACON, 4, numbers, one) for one in numbers}
    each = min(judges, peers - 1)
    assert all(len(found) == len(set(found)) == groups * each for found in by_judge.values())
    assert all(author != one for one, found in by_judge.items() for author, _ in found)
    judged = Counter(name for found in by_judge.values() for name in found)
    assert judged == dict.fromkeys(((one, group) for one in numbers for group in range(groups)), each)
    again = {one: judged_groups(manifest, BEACON, 4, numbers[::-1], one) for one in numbers}
    assert by_judge == again, "a record's order decides nothing"


def test_the_beacon_decides_who_judges_whom() -> None:
    manifest, numbers = judged_manifest(1), list(range(1, 9))
    found = {judged_groups(manifest, f"{one:02x}" * 32, 4, numbers, 1) for one in range(20)}
    assert len(found) > 10
    assert judged_groups(manifest, BEACON, 4, [1], 1) == ()
    seeds = judgment_seeds(manifest, BEACON, 4, 1, 6)
    assert len(set(seeds) | set(judgment_seeds(manifest, BEACON, 4, 2, 6))) == 12


def test_the_first_number_of_an_answer_is_its_score() -> None:
    asked = judge(low=-1.0, high=2.0)
    for answer, score in (
        ("0.5", 0.5),
        (" I say 1 of 2", 1.0),
        ("-0.25!", -0.25),
        ("99", 2.0),
        ("-7", -1.0),
        ("", -1.0),
        ("good", -1.0),
        ("1e9", 1.0),
        ("\u0665", -1.0),  # a digit of another script
        ("9" * 40, 2.0),
    ):
        assert score_of(asked, answer) == score, answer


def test_a_sample_is_cut_to_what_fits_beside_the_answer() -> None:
    tokenizer, asked = ByteTokenizer(128), judge()
    assert prompt_of(asked, tokenizer, "abc") == "<abc>"
    assert prompt_of(asked, tokenizer, "abcdefghij") == "<abcdef>"
    assert prompt_of(asked, tokenizer, "\u00e9\ufffda") == "<??a>", "letters that the judge does not know"
    hostile = prompt_of(asked, tokenizer, "{sample}" * 5000)
    assert len(hostile) == 8
    with pytest.raises(ConfigError, match="the judge's prompt has 1 tokens more than fit"):
        prompt_of(judge(prompt="123456789{sample}"), tokenizer, "abc")


def test_a_judge_that_nobody_could_ask_is_refused() -> None:
    for change in (
        {"prompt": "no place"},
        {"prompt": "{sample}{sample}"},
        {"low": 1.0},
        {"answer_tokens": 12},
    ):
        with pytest.raises(ValueError, match="judge"):
            judge(**change)
    manifest = judged_manifest()
    check_environment(manifest)
    config = manifest.rollouts
    assert config is not None
    assert config.judge is not None
    for change, why in (
        ({"tokens": 65}, "context or vocabulary"),
        ({"end_token": 128}, "context or vocabulary"),
        ({"model": config.judge.model.model_copy(update={"vocab": 100})}, "at least 128"),
    ):
        other = config.judge.model_copy(update=change)
        rollouts = config.model_copy(update={"judge": other}).model_dump()
        with pytest.raises(ValueError, match=why):
            RunManifest.model_validate({**manifest.model_dump(), "rollouts": rollouts})
    long = config.model_copy(
        update={"judge": config.judge.model_copy(update={"prompt": "a" * 30 + "{sample}"})}
    )
    with pytest.raises(ConfigError, match="more than fit"):
        check_environment(manifest.model_copy(update={"rollouts": long}))


def test_judgments_come_back_as_they_were_written() -> None:
    manifest, judged = judged_manifest(), honest_judge()
    found = judged.judgments
    for some in (found, found[:1], ()):
        assert decode(manifest, encode(manifest, some)) == some
    data = encode(manifest, found)
    assert len(data) <= max_judgments_bytes(manifest)
    for broken, why in (
        (data[:3], "truncated"),
        (b"\xff\xff\xff\xff" + data[4:], "another number"),
        (b"\x05\x00\x00\x00" + data[4:], "not rollouts"),
        (data[:-1], "length"),
        (data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], "checksum"),
    ):
        with pytest.raises(Malformed, match=why):
            decode(manifest, broken)
    with pytest.raises(ValueError, match="a unit has 6"):
        encode(manifest, (*found, found[0]))


def test_a_unit_is_what_it_judges_too() -> None:
    manifest, judgments = judged_manifest(), honest_judge().judgments
    groups = read_published(manifest, judged_round().blobs[2]).groups
    symbols = nothing_learned(manifest)
    whole = Published(symbols, groups, judgments)
    blob = write_published(manifest, whole)
    assert len(blob) <= max_published_bytes(manifest)
    assert read_published(manifest, blob).judgments == judgments
    assert read_published(manifest, blob).identity == whole.identity
    first = judgments[0]
    others = (
        (),
        judgments[1:],
        judgments[::-1],
        (Judgment(first.number + 1, first.group, first.data), *judgments[1:]),
        (Judgment(first.number, first.group + 1, first.data), *judgments[1:]),
        (Judgment(first.number, first.group, judgments[1].data), *judgments[1:]),
    )
    identities = {Published(symbols, groups, one).identity for one in (judgments, *others)}
    assert len(identities) == 1 + len(others)


def test_the_judging_run_is_bound_to_its_run() -> None:
    manifest = judged_manifest()
    other = manifest.model_copy(update={"name": "another"})
    assert len({one.run_id for one in (manifest, other, judging(manifest), judging(other))}) == 4
    with pytest.raises(ValueError, match="no judge"):
        judging(rollout_manifest())


def write_judge(folder: Path, said: object) -> Path:
    (folder / "parameters.safetensors").write_bytes(
        pack(parameter_layout(MODEL), initial_parameters(MODEL, 0))
    )
    (folder / "judge.json").write_text(json.dumps(said))
    return folder


def test_a_judge_that_somebody_brings_is_read(tmp_path: Path) -> None:
    said = {"model": MODEL.model_dump(mode="json"), "prompt": "{sample}?", "tokens": 32}
    found = read_judge(write_judge(tmp_path, said))
    assert found.config.parameters == digest(found.file.read_bytes())
    assert found.config.prompt == "{sample}?"
    for wrong, why in (
        ({**said, "prompt": "x"}, "prompt"),
        ({**said, "colour": "red"}, "colour"),
        ({**said, "model": {**MODEL.model_dump(mode="json"), "width": 32}}, "holds no judge"),
        ([], "holds no judge"),
    ):
        with pytest.raises(ConfigError, match=why):
            read_judge(write_judge(tmp_path, wrong))
    with pytest.raises(ConfigError, match="cannot read"):
        read_judge(tmp_path / "nowhere")


def test_a_preset_weighs_its_judge_and_leaves_the_environments_word_out_if_asked() -> None:
    chosen = preset("sort")
    config = tuned_config(chosen)
    rollouts = chosen.fields(Signals(judge=config, judge_weight=2.0, own_weight=0.0))["rollouts"]
    assert [(one.component, one.weight, one.source) for one in rollouts.rewards] == [
        ("sorted", 0.0, "verifiable"),
        ("judged", 2.0, "ai_judge"),
    ]
    assert rollouts.judge == config
