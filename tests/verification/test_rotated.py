"""An audit of a run in which numbers were given other keys: who may say what of which round."""

from __future__ import annotations

import dataclasses
from typing import Any

from protocol.chain import LinkedKey
from protocol.keys import PeerKey
from protocol.messages import sign
from tests.verification.test_audit import Forge, failed, forge

__all__ = ["forge"]

NEW = PeerKey(b"\x55" * 32)


def rotated(forge: Forge, number: int, block: int) -> None:
    """Link another key to a number in a block that is past."""
    forge.chain.linked[number] = [LinkedKey(NEW.address, NEW.peer_id, block)]


def signed_anew(forge: Forge, round_: int, number: int, *kinds: str) -> None:
    """Let what a number said of a round be signed with its new key."""
    dossier = forge.round(round_)
    changes: dict[str, Any] = {}
    for kind in kinds:
        changes[kind] = tuple(
            sign(NEW, forge.bed.manifest, round_, one.role, one.body)
            if (getattr(one.body, "verifier", None) or one.body.number) == number
            else one
            for one in getattr(dossier, kind)
        )
    forge.archive.write_round(dataclasses.replace(dossier, **changes))


def test_what_later_keys_of_a_number_said_of_a_round_holds(forge: Forge) -> None:
    owner = forge.round(1).openings[0].body.number
    rotated(forge, owner, forge.chain.anchors[0] + 1)  # while round 1 is under way
    signed_anew(forge, 1, owner, "reveals", "openings")
    signed_anew(forge, 0, owner, "openings")
    signed_anew(forge, 2, owner, "commitments", "reveals", "receipts", "openings")
    judge = forge.round(0).verdicts[0].body.verifier
    report = forge.audit(replay="sampled", shard=lambda: forge.bed.shard)
    assert [check for check in report.checks if not check.ok] == []
    rotated(forge, judge, forge.chain.anchors[0] + 1)
    signed_anew(forge, 0, judge, "verdicts", "seals")
    for round_ in (1, 2):
        signed_anew(forge, round_, judge, "verdicts", "seals")
    assert failed(forge.audit()) == set()


def test_what_a_replaced_key_said_of_rounds_that_began_since_does_not_hold(forge: Forge) -> None:
    rotated(forge, 1, forge.chain.anchors[0])
    report = forge.audit()
    assert failed(report) == {"authors"}
    said = next(check.detail for check in report.checks if check.name == "authors")
    assert "does not speak for it" in said


def test_a_commitment_to_a_round_under_another_key_than_its_rosters_does_not_hold(forge: Forge) -> None:
    rotated(forge, 1, forge.chain.anchors[0] + 1)
    signed_anew(forge, 2, 1, "commitments", "reveals", "receipts", "openings")
    assert failed(forge.audit()) == set()
    signed_anew(forge, 1, 1, "commitments")
    assert failed(forge.audit()) == {"authors"}
