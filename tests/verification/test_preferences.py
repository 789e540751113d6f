"""Which preferences in records count, and the audit of those that do not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from protocol.beacons import SignatureFiles
from protocol.canonical import ZERO_DIGEST
from protocol.errors import Malformed, ProofRejected
from protocol.messages import CommitmentList, Preference, RoundRecord, Signed, UnitRecord, sign
from protocol.preferences import listed
from tests.protocol.makers import asking, key, manifest, preference
from tests.verification.simchain import SimChain
from verification.archive import RoundDossier, Settlement
from verification.audit_preferences import check_preferences
from verification.preferences import check_listed, open_rounds, preferences_about
from verification.public import PublicRun

RUN = manifest(rollouts=asking(lag=3))


def record(said: Iterable[Signed[Preference]] = (), merged: bool = True) -> RoundRecord:
    unit = UnitRecord(number=1, commitment=ZERO_DIGEST, merged=merged, symbols=ZERO_DIGEST, blob=ZERO_DIGEST)
    return RoundRecord(
        parameters=ZERO_DIGEST, units=(unit,), judged=(), preferences=tuple(listed(one) for one in said)
    )


def faults(records: dict[int, RoundRecord], round_: int) -> list[str]:
    return [fault for _, fault in check_listed(RUN, records.get, round_)]


def test_a_record_carries_what_the_learners_of_a_later_round_can_know() -> None:
    assert [open_rounds(RUN, round_) for round_ in (0, 1, 2, 5)] == [
        range(0),
        range(1),
        range(2),
        range(3, 5),
    ]
    first, second = preference(RUN, 1, 0, 1), preference(RUN, 1, 1, 0, person=1)
    records = {1: record(), 2: record([first]), 3: record([second])}
    assert [one.said for one in preferences_about(RUN, records.get, 1)] == [first.body, second.body]
    assert faults(records, 2) == faults(records, 3) == [""]


def test_learning_waits_for_every_record_that_may_carry_some() -> None:
    with pytest.raises(Malformed, match="record of round 3 is not here"):
        preferences_about(RUN, {1: record(), 2: record()}.get, 1)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (preference(RUN, 0, 0, 1), "about round 0, and this record may carry those of 1 to 2"),
        (preference(RUN, 3, 0, 1), "about round 3"),
        (preference(RUN, 2, 0, 1, number=2), "of whom round 2 merged nothing"),
        (preference(RUN, 2, 0, 1, group=2), "a unit has 2"),
        (preference(RUN, 2, 0, 4), "samples of which a group has 4"),
        (
            sign(
                key("person 1"), RUN, 2, "person", Preference(person=0, number=1, group=0, better=0, worse=1)
            ),
            "signed by",
        ),
    ],
)
def test_what_breaks_a_rule_counts_for_nobody_and_the_rest_stands(said: Signed[Preference], why: str) -> None:
    good = preference(RUN, 2, 2, 3)
    records = {1: record(), 2: record(), 3: record([said, good])}
    first, second = faults(records, 3)
    assert why in first
    assert second == ""
    assert [one.said for one in preferences_about(RUN, {**records, 4: record()}.get, 2)] == [good.body]
    with pytest.raises(ProofRejected, match="carries a preference that does not count"):
        check_preferences(public(records))


def test_a_broken_signature_counts_for_nobody() -> None:
    good = preference(RUN, 0, 0, 1)
    one = listed(good).model_copy(update={"signature": "11" * 64 + "1b"})
    records = {0: record(), 1: record().model_copy(update={"preferences": (one,)})}
    assert faults(records, 1) != [""]


def test_of_what_a_person_says_twice_the_first_counts() -> None:
    first, turned = preference(RUN, 0, 0, 1), preference(RUN, 0, 1, 0)
    within = {0: record(), 1: record([first, turned])}
    later = {0: record(), 1: record([first]), 2: record([turned])}
    assert [not fault for fault in faults(within, 1)] == [True, False]
    assert "of these two samples before" in faults(later, 2)[0]
    assert [one.said for one in preferences_about(RUN, later.get, 0)] == [first.body]
    other = {0: record(), 1: record([first, preference(RUN, 0, 1, 0, person=1)])}
    assert faults(other, 1) == ["", ""], "another person may think otherwise"


def test_what_did_not_count_does_not_take_the_place_of_what_does() -> None:
    forged = listed(preference(RUN, 0, 0, 1)).model_copy(update={"signature": "11" * 64 + "1b"})
    early = record().model_copy(update={"preferences": (forged,)})
    assert faults({0: record(), 1: early, 2: record([preference(RUN, 0, 1, 0)])}, 2) == [""]


def test_nothing_is_said_of_a_unit_that_did_not_merge() -> None:
    records = {0: record(merged=False), 1: record([preference(RUN, 0, 0, 1)])}
    assert "merged nothing" in faults(records, 1)[0]


def public(records: dict[int, RoundRecord]) -> PublicRun:
    """Return a run of which only the records matter."""
    chain = SimChain(RUN, {1: "contributor"})
    listed_ = CommitmentList(entries=())
    dossiers = [
        RoundDossier(
            round_,
            sign(key("coordinator"), RUN, round_, "coordinator", listed_),
            (),
            (),
            record=sign(key("coordinator"), RUN, round_, "coordinator", records.get(round_, record())),
        )
        for round_ in range(max(records) + 1)
    ]
    beacons = SignatureFiles(Path("beacons"))
    return PublicRun(RUN, RUN.run_id, chain, dossiers, Settlement(), lambda address, size: None, beacons)


def test_the_audit_counts_preferences_that_are_in_order() -> None:
    records = {0: record(), 1: record([preference(RUN, 0, 0, 1)]), 2: record([preference(RUN, 1, 0, 1)])}
    assert check_preferences(public(records)) == (2, "signed preferences")


def test_the_audit_names_a_preference_where_nobody_is_asked() -> None:
    plain = manifest()
    told = record([preference(plain, 0, 0, 1)])
    (fault,) = (fault for _, fault in check_listed(plain, {0: record(), 1: told}.get, 1))
    assert fault == "the run asks no people"
