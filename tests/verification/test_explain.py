"""What a person reads of a bundle: every sentence has to be true of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.messages import sign
from tests.verification.conftest import CHEAT, HONEST
from tests.verification.testbed import Testbed, key
from verification.anchor import Anchor, RootAnchor
from verification.bundle import Bundle, load_bundle
from verification.explain import Explanation, explain
from verification.proof import decide
from verification.sample import Draw, draws

Explain = Callable[..., Explanation]


@pytest.fixture
def explained(corpus: Path, bundles: dict[tuple[int, int], Path], anchor: Anchor) -> Explain:
    def run(unit: tuple[int, int], relied: Anchor | None = anchor, *, replay: bool = True) -> Explanation:
        bundle = load_bundle(bundles[unit])
        return explain(bundle, decide(bundle, relied, data=corpus, replay=replay))

    return run


def text(explanation: Explanation, name: str) -> str:
    return " ".join(next(one for one in explanation.sections if one.name == name).sentences)


def test_an_honest_unit_is_told_from_promise_to_answer(explained: Explain, played: Testbed) -> None:
    found = explained(HONEST)
    assert found.exit_code == 0
    told = json.loads(json.dumps(found.to_json()))
    draw = load_draw(played, HONEST)
    assert told["subject"]["number"] == HONEST[1]
    assert told["promised"]["commitment"] == played.made[HONEST].commitment.id
    assert told["promised"]["carried"] is True
    assert told["drawn"]["probability"] == 1.0
    assert (told["drawn"]["segment"], told["drawn"]["judges"]) == (draw.segment, list(draw.verifiers[:2]))
    assert told["drawn"]["steps"] == [2 * draw.segment + 1, 2 * draw.segment + 2]
    assert {one["role"] for one in told["recomputed"]["files"]} >= {"start_moments", "end_parameters"}
    assert all(one["here"] for one in told["recomputed"]["files"])
    assert told["recomputed"]["distance"] == 0.0
    assert told["divergence"] == {"found": False, "text": ["Nowhere: every tensor is within tolerance."]}
    assert told["verdicts"]["unit"] == "passed"
    assert [one["rank"] for one in told["verdicts"]["verdicts"]] == [1, 2]
    assert told["anchor"]["taken_from_the_bundle"] == []
    assert "which the chain holds" in text(found, "promised")
    assert "The bundle holds" in text(found, "answer")


def load_draw(played: Testbed, unit: tuple[int, int]) -> Draw:

    round_, number = unit
    beacon = played.chain.sampling_beacon(round_)
    assert beacon is not None
    judges = [one.number for one in played.chain.verifiers(round_)]
    units = played.records[round_].body.units
    return next(
        one
        for one in draws(played.manifest, played.run, beacon, round_, units, judges)
        if one.number == number
    )


def test_a_cheat_is_told_where_it_went_another_way(explained: Explain) -> None:
    found = explained(CHEAT)
    assert found.exit_code == 0
    divergence = found.to_json()["divergence"]
    assert isinstance(divergence, dict)
    assert divergence["found"] is True
    assert divergence["tensor"] in divergence["tensors"]
    assert divergence["steps"] == [2 * divergence["segment"] + 1, 2 * divergence["segment"] + 2]
    assert "the peer's stake is taken" in text(found, "verdicts")
    assert "nothing carried over" in text(found, "promised")


def test_what_is_only_the_bundle_s_word_is_said_to_be(explained: Explain, played: Testbed) -> None:
    nothing = explained(HONEST, None)
    assert nothing.exit_code == 7
    assert "which the chain is said to hold" in text(nothing, "promised")
    assert "could have invented" in text(nothing, "anchor")
    assert "undecided" in text(nothing, "answer")
    root = explained(HONEST, RootAnchor(played.chain.posted[1].root))
    assert "which the chain holds" in text(root, "promised")
    assert "Only the bundle says" in text(root, "anchor")
    assert "the beacon that drew the unit" in text(root, "anchor")


def test_without_a_replay_nothing_is_claimed_of_one(explained: Explain) -> None:
    found = explained(CHEAT, replay=False)
    assert found.exit_code == 7
    assert "Nothing was computed again" in text(found, "recomputed")
    assert found.to_json()["divergence"] == {
        "found": None,
        "text": ["Unknown, since nothing was computed again."],
    }
    assert "not decided here" in text(found, "verdicts")


def with_verdicts(bundle: Bundle, played: Testbed, changes: list[dict[str, object]]) -> Bundle:
    verdicts = tuple(
        sign(
            key(one.body.verifier), played.manifest, one.round, "verifier", one.body.model_copy(update=change)
        )
        for one, change in zip(bundle.verdicts, changes, strict=True)
    )
    return Bundle(**{**vars(bundle), "verdicts": verdicts})


def test_the_ends_in_exact_arithmetic_are_compared(
    bundles: dict[tuple[int, int], Path], played: Testbed, corpus: Path, anchor: Anchor
) -> None:
    bundle = load_bundle(bundles[CHEAT])
    same: dict[str, object] = {"exact": "ab" * 32, "exact_distance": 0.5}
    found = with_verdicts(bundle, played, [same, same])
    said = text(explain(found, decide(found, anchor, data=corpus, replay=False)), "verdicts")
    assert "same end in exact arithmetic" in said
    assert "ab" * 32 in said
    found = with_verdicts(bundle, played, [same, {**same, "exact": "cd" * 32}])
    said = text(explain(found, decide(found, anchor, data=corpus, replay=False)), "verdicts")
    assert "at least one of them did not compute it" in said
