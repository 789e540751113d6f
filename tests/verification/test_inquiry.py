"""What a juror asks about: the unit as messages show it, and whose fault it is that something is missing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from contracts.cases import CaseState
from contracts.types import CaseKind, CaseOutcome
from protocol.daemon import MANIFEST_FILE
from protocol.errors import NetworkError
from protocol.messages import sign
from protocol.peer import PeerConfig, open_peer
from protocol.pool import MessagePool
from protocol.speakers import speaker_of
from tests.verification.mischief import other_rate
from tests.verification.testbed import Testbed, key
from verification.archive import RoundDossier
from verification.bench import NotServed, ReplayBench
from verification.config import VerifierConfig
from verification.inquiry import Inquiry, accused_unit, openings_of
from verification.unit import NO_RESULT, DrawnUnit, Finding

CASE = 7


def about(bed: Testbed, number: int, round_: int = 0, segment: int = 1) -> CaseState:
    appellant = key(9).address
    return CaseState(
        CASE, bed.run, CaseKind.ACCUSATION, round_, number, segment, appellant, bytes(32), block=1
    )


class Watch:
    """A juror's pool, and its look at a bed's chain."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.pool = MessagePool(bed.manifest, partial(speaker_of, bed.chain), lambda round_: {(1, CASE)})

    def hear(self, dossier: RoundDossier, *, without: frozenset[int] = frozenset()) -> None:
        assert dossier.record is not None
        for message in (dossier.listed, dossier.record):
            self.pool.add(message)
        for commitment in dossier.commitments:
            if commitment.body.number not in without:
                self.pool.add(commitment)

    def unit(self, round_: int = 0, number: int = 1, segment: int = 1) -> DrawnUnit | Finding:
        case = about(self.bed, number, round_, segment)
        return accused_unit(self.bed.manifest, self.bed.chain, self.pool, case)


@pytest.fixture
def watch(bed: Testbed) -> Watch:
    return Watch(bed)


def test_any_segment_of_a_listed_unit_can_be_asked_about(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    watch.hear(bed.play_round(1))
    for round_ in (0, 1):
        for segment in range(bed.manifest.segments):
            assert watch.unit(round_, 2, segment) == bed.drawn(bed.made[round_, 2], segment)


def test_where_no_unit_or_segment_is_nothing_is_wrong(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    for found in (watch.unit(number=9), watch.unit(segment=3), watch.unit(round_=99)):
        assert isinstance(found, Finding)
        assert (found.outcome, found.result) == (CaseOutcome.RIGHT, NO_RESULT)


def test_in_a_void_round_nobody_has_a_unit_to_answer_for(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0))
    deadlines, posted = bed.manifest.deadlines, bed.chain.posted[0]
    late = posted.block + deadlines.reveal + deadlines.record
    bed.chain.anchors[0], bed.chain.height = late, late + 2
    assert isinstance(watch.unit(), DrawnUnit), "just in time"
    bed.chain.anchors[0] = late + 1
    found = watch.unit()
    assert isinstance(found, Finding)
    assert (found.outcome, found.result) == (CaseOutcome.RIGHT, NO_RESULT)


def test_a_listed_commitment_that_nobody_tells_is_its_owners_to_tell(bed: Testbed, watch: Watch) -> None:
    watch.hear(bed.play_round(0), without=frozenset({1}))
    watch.hear(bed.play_round(1))
    for round_ in (0, 1):
        with pytest.raises(NotServed, match="commitment of number 1 in round 0"):
            watch.unit(round_)
    assert isinstance(watch.unit(1, 2), DrawnUnit)


def test_what_the_coordinator_has_not_told_is_nobodys_fault(bed: Testbed, watch: Watch) -> None:
    bed.play_round(0)
    with pytest.raises(NetworkError, match="list or the record") as caught:
        watch.unit()
    assert not isinstance(caught.value, NotServed)


def test_a_commitment_to_other_parameters_is_void(bed: Testbed, watch: Watch) -> None:
    dossier = bed.play_round(0)
    assert dossier.record is not None
    body = dossier.record.body.model_copy(update={"parameters": "cd" * 32})
    record = sign(key(0), bed.manifest, 0, "coordinator", body)
    bed.chain.records[0] = body.digest().hex()
    watch.hear(replace(dossier, record=record))
    found = watch.unit()
    assert isinstance(found, Finding)
    assert (found.outcome, found.result) == (CaseOutcome.VOID, NO_RESULT)


def test_an_opening_counts_for_any_case_and_only_if_it_gives_the_committed_roots(
    bed: Testbed, watch: Watch
) -> None:
    watch.hear(bed.play_round(0))
    unit = watch.unit()
    assert isinstance(unit, DrawnUnit)
    made = bed.made[0, 1]
    watch.pool.add(bed.open(made, 2))
    assert openings_of(bed.manifest, watch.pool, unit) == [], "another segment is open"
    wrong, right = Watch(bed), bed.open(made, 1, case=CASE)
    wrong.pool.add(bed.open(made, 1, case=CASE, end_moments="ab" * 32))
    assert openings_of(bed.manifest, wrong.pool, unit) == []
    watch.pool.add(right)
    assert openings_of(bed.manifest, watch.pool, unit) == [right]


@pytest.mark.slow
async def test_files_come_from_whoever_holds_them_and_the_child_finds_what_every_juror_finds(
    bed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verification.bench.FIND_DEADLINE_S", 1.0)
    watch = Watch(bed)
    watch.hear(bed.play_round(0, {2: other_rate(1, 0.5)}))
    directory = tmp_path / "juror"
    directory.mkdir()
    (directory / MANIFEST_FILE).write_bytes(bed.manifest.to_bytes())
    async with open_peer(PeerConfig(tmp_path / "holder", bed.run), key(0), bed.chain, bed.manifest) as holder:
        for store in (bed.public, bed.states):
            for path in store.root.glob("[0-9a-f][0-9a-f]/*"):
                holder.store.put(path.read_bytes())
        config = VerifierConfig(
            directory=directory,
            run=bed.run,
            rpc="http://127.0.0.1:1",
            ledger=bed.manifest.ledger,
            bootstrap=(holder.network.addresses[0],),
            data_dir=bed.data_dir,
        )
        settings = PeerConfig(directory, bed.run, bootstrap=config.bootstrap)
        async with open_peer(settings, key(4), bed.chain, bed.manifest) as peer:
            bench = ReplayBench(config, peer)
            peer.pool = watch.pool
            inquiry = Inquiry(peer, bench)
            try:
                with pytest.raises(NotServed, match="has not opened segment 1"):
                    await inquiry.find(about(bed, 1), ())
                for number, outcome in ((1, CaseOutcome.RIGHT), (2, CaseOutcome.FALSE)):
                    unit, opened = bed.drawn(bed.made[0, number], 1), bed.open(bed.made[0, number], 1)
                    watch.pool.add(opened)
                    files = bed.files(unit, opened)
                    found = await inquiry.find(about(bed, number), ())
                    ours = bed.units.find(bed.manifest, unit, opened.body, files)
                    assert found.outcome == outcome
                    assert replace(found, cpu_s=ours.cpu_s) == ours
                    assert inquiry.files(about(bed, number)) == set(files)
                inquiry.check_connection()
                for store in (holder.store, peer.store):
                    store.unpin(opened.body.end_moments)
                    store.delete(opened.body.end_moments)
                with pytest.raises(NotServed, match="end_moments not served"):
                    await inquiry.find(about(bed, 2), ())
            finally:
                await bench.close()
