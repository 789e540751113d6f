from __future__ import annotations

import dataclasses

import pytest

from protocol.errors import Malformed, ProofRejected
from protocol.keys import PeerKey
from protocol.messages import sign
from tests.verification.testbed import Testbed, key
from verification.commit import Carried
from verification.opening import check_opening, needed_files, zero_moments

OTHER = "cd" * 32


def test_an_honest_opening_gives_the_committed_roots_at_every_segment(bed: Testbed) -> None:
    made = bed.make(0, 1)
    for segment in range(3):
        check_opening(bed.manifest, bed.drawn(made, segment), bed.open(made, segment))


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("start_parameters", "start of the segment"),
        ("start_moments", "start of the segment"),
        ("end_parameters", "end of the segment"),
        ("end_moments", "end of the segment"),
        ("final_parameters", "final state"),
        ("final_moments", "final state"),
        ("residual_before", "residual before"),
        ("residual_after", "residual after"),
        ("symbols", "update"),
        ("salt", "update"),
    ],
)
def test_an_address_that_was_not_committed_is_proven_by_signatures_alone(
    bed: Testbed, field: str, what: str
) -> None:
    made = bed.make(0, 1)
    with pytest.raises(ProofRejected, match=f"opened {what} does not give"):
        check_opening(bed.manifest, bed.drawn(made, 1), bed.open(made, 1, **{field: OTHER}))


@pytest.mark.parametrize("field", ["residual_before", "start_moments"])
def test_what_is_carried_must_be_what_was_committed_before(bed: Testbed, field: str) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    unit = bed.drawn(made, 0)
    check_opening(bed.manifest, unit, bed.open(made, 0))
    with pytest.raises(ProofRejected):
        check_opening(bed.manifest, unit, bed.open(made, 0, **{field: OTHER}))


def test_a_peer_that_carried_a_residual_cannot_open_none(bed: Testbed) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    with pytest.raises(ProofRejected, match="residual before"):
        check_opening(bed.manifest, bed.drawn(made, 0), bed.open(made, 0, residual_before=None))


def test_a_newcomer_s_first_moments_are_zeros(bed: Testbed) -> None:
    made = bed.make(0, 1)
    assert bed.open(made, 0).body.start_moments == zero_moments(bed.manifest.model)
    forged = bed.make(0, 1)
    state = forged.unit.work.segments[1]
    files = (
        forged.unit.work.segments[0].model_copy(update={"moments": state.moments}),
        *forged.unit.work.segments[1:],
    )
    work = forged.unit.work.model_copy(update={"segments": files})
    made = bed.recommit(forged, work)
    with pytest.raises(ProofRejected, match="first moments"):
        check_opening(bed.manifest, bed.drawn(made, 0), bed.open(made, 0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"commitment": OTHER}, "another commitment"),
        ({"segment": 0}, "segment 0 instead of 1"),
        ({"number": 2}, "another unit"),
    ],
)
def test_an_opening_of_something_else_opens_nothing_and_proves_nothing(
    bed: Testbed, changes: dict[str, object], reason: str
) -> None:
    made = bed.make(0, 1)
    with pytest.raises(Malformed, match=reason):
        check_opening(bed.manifest, bed.drawn(made, 1), bed.open(made, 1, **changes))


def test_an_opening_by_another_key_opens_nothing(bed: Testbed) -> None:
    made = bed.make(0, 1)
    forged = sign(key(2), bed.manifest, 0, "contributor", bed.open(made, 1).body)
    with pytest.raises(Malformed, match="nor by a later one"):
        check_opening(bed.manifest, bed.drawn(made, 1), forged)


def test_a_unit_is_opened_with_a_key_that_its_number_got_later(bed: Testbed) -> None:
    made, new, older = bed.make(0, 1), PeerKey(b"\x55" * 32), PeerKey(b"\x56" * 32)
    unit = dataclasses.replace(bed.drawn(made, 1), openers=(new.address,))
    body = bed.open(made, 1).body
    check_opening(bed.manifest, unit, sign(new, bed.manifest, 0, "contributor", body))
    check_opening(bed.manifest, unit, bed.open(made, 1))
    with pytest.raises(Malformed, match="nor by a later one"):
        check_opening(bed.manifest, unit, sign(older, bed.manifest, 0, "contributor", body))
    lie = body.model_copy(update={"end_moments": OTHER})
    with pytest.raises(ProofRejected, match="end of the segment"):
        check_opening(bed.manifest, unit, sign(new, bed.manifest, 0, "contributor", lie))


def test_a_commitment_that_breaks_the_chain_cannot_be_opened(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit = dataclasses.replace(bed.drawn(made, 1), carried=Carried(OTHER, OTHER))
    with pytest.raises(Malformed, match="breaks the chain"):
        check_opening(bed.manifest, unit, bed.open(made, 1))


def test_a_residual_before_the_first_round_gives_no_root(bed: Testbed) -> None:
    made = bed.make(0, 1)
    with pytest.raises(ProofRejected, match="residual before"):
        check_opening(bed.manifest, bed.drawn(made, 1), bed.open(made, 1, residual_before="00" * 32))


def test_a_replay_needs_the_opened_files_and_the_public_parameters(bed: Testbed) -> None:
    bed.play_round(0)
    bed.chain.height += 1
    made = bed.make(1, 1)
    unit, opened = bed.drawn(made, 2), bed.open(made, 2)
    needed = {one.role: one for one in needed_files(bed.manifest, unit, opened.body)}
    assert set(needed) == {
        "parameters",
        "start_parameters",
        "start_moments",
        "end_parameters",
        "end_moments",
        "final_parameters",
        "residual_before",
    }
    assert [role for role, one in needed.items() if one.public] == ["parameters"]
    stores = {**bed.files(unit, opened)}
    assert all(len(stores[one.address]) == one.bytes for one in needed.values())


def test_a_listed_commitment_without_all_its_segments_is_refused_and_harms_nobody(bed: Testbed) -> None:
    made = bed.make(0, 1)
    body = made.commitment.body.model_copy(update={"segments": made.commitment.body.segments[:2]})
    short = sign(key(1), bed.manifest, 0, "contributor", body)
    unit = dataclasses.replace(bed.drawn(made, 2), commitment=short)
    with pytest.raises(Malformed, match="2 segment roots"):
        check_opening(bed.manifest, unit, bed.open(made, 2, commitment=short.id))
