"""Verifiers who do not verify, against one who does."""

from __future__ import annotations

import pytest

from protocol.messages import PASSED, PROVEN_FALSE, Opening, Signed
from tests.verification.testbed import Testbed
from verification.fingerprint import VALUES as REAL_VALUES
from verification.honesty import Begun, Honesty
from verification.liars import VALUES, FalseAccuser, LazyVerifier, VerifierCheat, honesty_of
from verification.ruling import fault, rule
from verification.sample import Draw
from verification.seal import fingerprint_distance
from verification.unit import DrawnUnit, ReplayReport


class Desk:
    """A bench that replays in this process and notes what is fetched."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.fetched: list[bool] = []

    async def bring(self, unit: DrawnUnit, opening: Opening, *, late: bool) -> None:
        self.fetched.append(late)

    async def begin(self, unit: DrawnUnit, opening: Signed[Opening]) -> Begun:
        begun = self.bed.units.begin(self.bed.manifest, unit, opening.body, self.bed.files(unit, opening))
        assert not isinstance(begun, ReplayReport)
        return begun.fingerprint, None

    async def compare(self, unit: DrawnUnit, opening: Signed[Opening]) -> ReplayReport:
        return self.bed.units.replay(self.bed.manifest, unit, opening.body, self.bed.files(unit, opening))


async def judged(
    honesty: Honesty, bed: Testbed, unit: DrawnUnit, opening: Signed[Opening]
) -> tuple[ReplayReport, list[bool]]:
    desk = Desk(bed)
    shown, report = await honesty.begin(desk, unit, opening)
    return report or await honesty.compare(desk, unit, opening, shown), desk.fetched


@pytest.mark.parametrize("cheat", list(VerifierCheat))
async def test_a_verifier_who_does_not_verify_is_wrong_and_the_unit_passes(
    bed: Testbed, cheat: VerifierCheat
) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    honest, fetched = await judged(honesty_of(None), bed, unit, opened)
    assert (honest.outcome, fetched) == (PASSED, [False, False, True])
    lying, fetched = await judged(honesty_of(cheat), bed, unit, opened)
    assert fetched == [], "it looks at nothing"
    draw = Draw(1, 1, bed.judges)
    reports = dict(zip(draw.verifiers, (lying, honest, honest), strict=True))
    said = {judge: bed.verdict(draw, 0, judge, report, opened.id) for judge, report in reports.items()}
    for message in said.values():
        seal = bed.seal(message).body if message.body.fingerprint else None
        body = made.commitment.body
        assert fault(bed.manifest, bed.run, 0, body, message.body, seal) == "", "in form it is a good verdict"
    bodies = {judge: message.body for judge, message in said.items()}
    first_two = {judge: bodies[judge] for judge in draw.verifiers[:2]}
    assert rule(bed.manifest, made.commitment.body, draw, first_two, closed=False) is None
    ruling = rule(bed.manifest, made.commitment.body, draw, bodies, closed=False)
    assert ruling is not None
    assert (ruling.outcome, ruling.right, ruling.wrong) == ("passed", bed.judges[1:], bed.judges[:1])


async def test_a_lazy_fingerprint_looks_like_one_and_an_accuser_shows_none(bed: Testbed) -> None:
    made = bed.make(0, 1)
    unit, opened = bed.drawn(made, 1), bed.open(made, 1)
    assert VALUES == REAL_VALUES
    lazy, _ = await judged(LazyVerifier(), bed, unit, opened)
    honest, _ = await judged(Honesty(), bed, unit, opened)
    assert len(lazy.fingerprint) == len(honest.fingerprint)
    assert fingerprint_distance(lazy.fingerprint, honest.fingerprint) > 0.3
    accusation, _ = await judged(FalseAccuser(), bed, unit, opened)
    assert (accusation.outcome, accusation.fingerprint) == (PROVEN_FALSE, ())


def test_an_unknown_way_to_cheat_is_refused() -> None:
    with pytest.raises(ValueError, match="sloppy"):
        honesty_of("sloppy")
