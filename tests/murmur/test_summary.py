"""A run shows everything it was asked to show, or says what is missing."""

import pytest

from murmur.summary import (
    AuditCheck,
    AuditSummary,
    Course,
    PeerSummary,
    Units,
    VerifierSummary,
    not_demonstrated,
)

PASSED = AuditSummary(ok=True, checks=[AuditCheck(name="signatures", ok=True)])


def peer(name: str = "peer", **changes: object) -> PeerSummary:
    fields: dict[str, object] = {
        "name": name,
        "number": 1,
        "peer_id": "16U",
        "address": "0x" + "11" * 20,
        "honest": True,
        "cheat": None,
        "units": Units(),
        "stake_wei": 0,
        "slashed_wei": 0,
        "credited_wei": 5,
        "claimed_wei": 5,
    }
    return PeerSummary.model_validate(fields | changes)


def caught(**changes: object) -> PeerSummary:
    fields: dict[str, object] = {
        "honest": False,
        "cheat": "skip-steps",
        "units": Units(drawn=1, rejected=1),
        "slashed_wei": 9,
        "claimed_wei": 0,
    }
    return peer("cheat", **(fields | changes))


def test_a_full_demonstration_misses_nothing() -> None:
    garbage = peer(
        honest=False, cheat="garbage", credited_wei=0, claimed_wei=0, refused={"malformed message": 3}
    )
    met = [
        caught(),
        garbage,
        caught(cheat="tf32", units=Units(drawn=2, void=2), slashed_wei=0),
        caught(cheat="refuse-opening", units=Units(drawn=2, void=2), slashed_wei=0),
        caught(
            cheat="withhold-reveal",
            units=Units(committed=6, drawn=6, passed=6),
            credited_wei=0,
            slashed_wei=0,
        ),
        peer(honest=False, cheat="equivocate", refused={"message (Equivocation)": 18}, slashed_wei=10**19),
    ]
    assert not_demonstrated([peer(), *met], PASSED, rounds_done=6, rounds=6) == []


@pytest.mark.parametrize(
    ("peers", "audit", "rounds", "missing"),
    [
        ([peer()], PASSED, 5, "ended after 5 of 6"),
        ([peer(slashed_wei=1)], PASSED, 6, "honest and was slashed"),
        ([peer(claimed_wei=0)], PASSED, 6, "not paid"),
        ([caught(units=Units())], PASSED, 6, "never drawn"),
        ([caught(units=Units(drawn=1))], PASSED, 6, "not rejected"),
        ([caught(slashed_wei=0)], PASSED, 6, "not slashed"),
        ([caught(cheat="tf32", units=Units(drawn=2, passed=2))], PASSED, 6, "not rejected"),
        ([caught(cheat="refuse-opening", units=Units(drawn=1, void=1))], PASSED, 6, "slashed without proof"),
        ([caught(cheat="refuse-opening", units=Units(drawn=1, passed=1))], PASSED, 6, "not rejected"),
        ([caught(cheat="withhold-reveal", units=Units(committed=1))], PASSED, 6, "was paid"),
        ([caught(cheat="withhold-reveal", units=Units(), credited_wei=0)], PASSED, 6, "never committed"),
        ([caught(cheat="equivocate", refused={"late: over": 1})], PASSED, 6, "not noticed"),
        (
            [peer(honest=False, cheat="equivocate", refused={"message (Equivocation)": 18})],
            PASSED,
            6,
            "not punished",
        ),
        ([peer(honest=False, cheat="garbage", credited_wei=1)], PASSED, 6, "counted as work"),
        ([peer(honest=False, cheat="garbage", credited_wei=0)], PASSED, 6, "nobody refused"),
        (
            [peer()],
            AuditSummary(ok=False, checks=[AuditCheck(name="rewards", ok=False)]),
            6,
            "audit failed: rewards",
        ),
        ([peer()], AuditSummary(ok=False, checks=[]), 6, "no check ran"),
    ],
)
def test_what_is_missing_is_named(
    peers: list[PeerSummary], audit: AuditSummary, rounds: int, missing: str
) -> None:
    found = not_demonstrated(peers, audit, rounds_done=rounds, rounds=6)
    assert any(missing in line for line in found)


def verifier(name: str, *, cheat: str | None = None, credited: int = 5, wrong: int = 0) -> VerifierSummary:
    return VerifierSummary(
        name=name,
        number=9,
        peer_id="16U",
        address="0x" + "22" * 20,
        honest=cheat is None,
        cheat=cheat,
        verdicts=3,
        wrong=wrong,
        credited_wei=credited,
        claimed_wei=credited,
    )


@pytest.mark.parametrize(
    ("liar", "units", "expected"),
    [
        (verifier("liar", cheat="lazy-verifier", credited=1, wrong=3), Units(), None),
        (verifier("liar", cheat="lazy-verifier", credited=0), Units(), "never found wrong"),
        (verifier("liar", cheat="false-accuser", credited=5, wrong=1), Units(), "earned no less than judge"),
        (verifier("liar", cheat="false-accuser", credited=0, wrong=1), Units(void=1), "lost units"),
    ],
)
def test_a_dishonest_verifier_must_be_found_out_and_harm_nobody(
    liar: VerifierSummary, units: Units, expected: str | None
) -> None:
    judges = [verifier("judge"), verifier("other"), liar]
    missing = not_demonstrated([peer(units=units)], PASSED, rounds_done=6, rounds=6, verifiers=judges)
    if expected is None:
        assert missing == []
    else:
        assert any(expected in line for line in missing)


@pytest.mark.parametrize(
    ("first", "last", "missing"),
    [
        (0.2, 0.8, []),
        (0.2, 0.2, ["the policy does 0.200 of held-out tasks, and 0.200 at first"]),
        (None, None, ["nobody measured what the policy does"]),
    ],
)
def test_a_policy_has_to_do_more_than_at_first(
    first: float | None, last: float | None, missing: list[str]
) -> None:
    success = Course(first=first, last=last, curve=[])
    assert not_demonstrated([peer()], PASSED, rounds_done=6, rounds=6, success=success) == missing


def test_a_cherry_picker_that_is_drawn_must_be_proven_false() -> None:
    free = caught(cheat="cherry-picker", units=Units(drawn=2), slashed_wei=0)
    assert not_demonstrated([peer(), free], PASSED, rounds_done=6, rounds=6) == [
        "cheat (cherry-picker) was drawn but not rejected"
    ]
    assert not_demonstrated([peer(), caught(cheat="reward-liar")], PASSED, rounds_done=6, rounds=6) == []
