"""Who witnesses, what receipts decide, and which records they contradict."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.canonical import digest
from protocol.errors import Malformed
from protocol.manifest import RunManifest, VerificationConfig
from protocol.messages import Receipt, ReceivedUpdate
from verification.witness import RoundReceipts, check_receipt, witnesses

OURS, OTHERS = "aa" * 32, "bb" * 32


def entry(number: int, symbols: str = OURS, blob: str = OURS) -> ReceivedUpdate:
    return ReceivedUpdate(number=number, symbols=symbols, blob=blob)


def receipt(witness: int, *numbers: int | ReceivedUpdate) -> Receipt:
    entries = tuple(one if isinstance(one, ReceivedUpdate) else entry(one) for one in numbers)
    return Receipt(number=witness, entries=entries)


def heard_of(*receipts: Receipt, drawn: tuple[int, ...] = (1, 2, 3)) -> RoundReceipts:
    return RoundReceipts(drawn, {one.number: one for one in receipts})


def with_witnesses(manifest: RunManifest, count: int) -> RunManifest:
    verification = manifest.verification.model_copy(update={"witnesses": count})
    return manifest.model_copy(update={"verification": verification})


def test_the_beacon_draws_witnesses_from_the_roster_alone(manifest: RunManifest) -> None:
    roster = range(1, 21)
    drawn = [
        witnesses(manifest, manifest.run_id, digest(f"block {block}".encode()), 0, roster)
        for block in range(400)
    ]
    assert {len(set(one)) for one in drawn} == {3}
    assert drawn[0] == witnesses(manifest, manifest.run_id, digest(b"block 0"), 0, reversed(roster))
    counts = Counter(number for one in drawn for number in one)
    assert set(counts) == set(roster)
    # 60 expected of each; five standard deviations are 36.
    assert max(abs(count - 60) for count in counts.values()) < 36
    beacon = digest(b"block 0")
    assert drawn[0] != witnesses(manifest, manifest.run_id, beacon, 1, roster) or drawn[1] != drawn[0]


@pytest.mark.parametrize(("roster", "count", "expected"), [((5, 2), 3, (2, 5)), ((), 3, ()), ((1, 2), 0, ())])
def test_a_small_roster_witnesses_as_a_whole(
    manifest: RunManifest, roster: tuple[int, ...], count: int, expected: tuple[int, ...]
) -> None:
    few = with_witnesses(manifest, count)
    assert witnesses(few, few.run_id, "ab" * 32, 0, roster) == expected


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (receipt(9, 1), "not a witness"),
        (receipt(1, 2, 1), "not in order"),
        (receipt(1, 2, 2), "not in order"),
        (receipt(1, 2, 8), "neither was listed nor forced"),
    ],
)
def test_a_receipt_that_says_nonsense_does_not_count(bad: Receipt, reason: str) -> None:
    check_receipt(receipt(1, 1, 2), (1, 2, 3), (1, 2, 4))
    with pytest.raises(Malformed, match=reason):
        check_receipt(bad, (1, 2, 3), (1, 2, 4))


def test_a_majority_of_receipts_decides_both_ways() -> None:
    heard = heard_of(receipt(1, 4, 5), receipt(2, 4), receipt(3, 4, 5))
    assert all(heard.decides(number) for number in (4, 5, 6))
    assert [heard.rules(number, OURS) for number in (4, 5, 6)] == [True, True, False]
    heard = heard_of(receipt(1, 4), receipt(2), receipt(3))
    assert not heard.rules(4, OURS)
    assert heard.tally(4) == "named by 1 of 3 receipts"


def test_half_is_not_a_majority() -> None:
    heard = heard_of(receipt(1, 4), receipt(2))
    assert heard.decides(4)
    assert not heard.rules(4, OURS)


def test_without_a_majority_of_the_drawn_the_coordinators_word_decides() -> None:
    assert not heard_of(receipt(1, 4)).decides(4)
    assert not heard_of(drawn=()).decides(4)
    assert not heard_of(receipt(1, 4), receipt(2, 4), drawn=(1, 2, 3, 5)).decides(4)
    assert heard_of(receipt(1, 4), receipt(2, 4)).decides(4)


def test_nobody_is_its_own_witness() -> None:
    heard = heard_of(receipt(1, 1, 2), receipt(2, 1), drawn=(1, 2))
    assert heard.rules(1, OURS)
    assert heard.rules(2, OURS)
    assert not heard_of(receipt(1, 1), receipt(2), drawn=(1, 2)).rules(1, OURS)
    assert not heard_of(receipt(1, 1), drawn=(1,)).decides(1), "a lone peer has no witness"


def test_only_receipts_of_the_revealed_symbols_count() -> None:
    heard = heard_of(receipt(1, entry(4, OTHERS)), receipt(2, entry(4, OTHERS)), receipt(3, 4))
    assert heard.named(4) == OTHERS
    assert not heard.rules(4, OURS)
    assert heard.rules(4, None), "whoever hides the reveal does not undo the receipts"
    split = heard_of(receipt(1, entry(4, OTHERS)), receipt(2, 4), receipt(3))
    assert split.named(4) is None
    assert not split.rules(4, None)


def test_an_update_is_fetched_from_who_holds_it() -> None:
    heard = heard_of(receipt(1, entry(4, blob=OTHERS)), receipt(2, 4), receipt(3, entry(4, blob=OTHERS)))
    assert heard.holders(OTHERS) == (1, 3)
    assert heard.holders("cc" * 32) == ()
    assert heard.rules(4, OURS), "encodings differ, the update is one"


@given(st.data())
def test_a_minority_of_liars_changes_no_ruling_about_a_bystander(data: st.DataObject) -> None:
    drawn = tuple(range(1, 1 + 2 * data.draw(st.integers(1, 5)) + 1))
    liars = data.draw(st.sets(st.sampled_from(drawn), max_size=(len(drawn) - 1) // 2))
    came = data.draw(st.booleans())
    said = []
    for witness in drawn:
        named = (not came) if witness in liars else came
        said.append(receipt(witness, *((99,) if named else ())))
    heard = heard_of(*said, drawn=drawn)
    assert heard.decides(99)
    assert heard.rules(99, OURS) == came


def test_the_manifest_bounds_how_many_are_asked() -> None:
    with pytest.raises(ValueError, match="witnesses"):
        VerificationConfig(witnesses=17)
