"""What a coordinator or a verifier could write into a public folder about verdicts that are not so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from protocol.messages import sign
from tests.verification.simchain import key

Forge = Any  # tests.verification.test_audit.Forge


def change_verdict(forge: Forge, **changes: Any) -> None:
    dossier = forge.round(1)
    verdict = dossier.verdicts[0]
    body = verdict.body.model_copy(update=changes)
    forged = sign(key(body.verifier), forge.bed.manifest, 1, "verifier", body)
    seals = tuple(
        forge.bed.seal(forged)
        if body.opening and (one.body.number, one.body.verifier) == (body.number, body.verifier)
        else one
        for one in dossier.seals
    )
    verdicts = (forged, *dossier.verdicts[1:])
    forge.archive.write_round(dataclasses.replace(dossier, verdicts=verdicts, seals=seals))


def verdict_of_nothing(forge: Forge) -> None:
    change_verdict(forge, opening=None)


def verdict_beside_its_distance(forge: Forge) -> None:
    change_verdict(forge, distance=0.5)


def ignored_verdict(forge: Forge) -> None:
    change_verdict(forge, outcome=3, distance=0.5, exact="ab" * 32, exact_distance=0.5)


def hidden_verdict(forge: Forge) -> None:
    # The judgement stands on one verdict, long before the time for the others was over.
    dossier = forge.round(1)
    forge.chain.anchors[2] = forge.chain.anchors[1] + 2
    forge.archive.write_round(dataclasses.replace(dossier, verdicts=dossier.verdicts[1:]))
    hidden = dossier.verdicts[0].body
    rehear(forge, hidden.number, lambda heard: heard - {hidden.verifier})


def rehear(forge: Forge, number: int, change: Callable[[set[int]], set[int]]) -> None:
    """Let the record of round 2 declare round 1's judgement on a number by other verifiers."""
    record = forge.round(2).record
    assert record is not None
    judged = [
        one.model_copy(update={"heard": tuple(sorted(change(set(one.heard))))})
        if (one.round, one.number) == (1, number)
        else one
        for one in record.body.judged
    ]
    forge.record(2, judged=tuple(judged))


def unsealed_verdict(forge: Forge) -> None:
    dossier = forge.round(1)
    forge.archive.write_round(dataclasses.replace(dossier, seals=dossier.seals[1:]))


def other_fingerprint(forge: Forge) -> None:
    change_verdict(forge, fingerprint=(0.5,) * 16)


def slandered_verifier(forge: Forge) -> None:
    record = forge.round(1).record
    assert record is not None
    first, *rest = record.body.judged
    wrong = first.model_copy(update={"wrong": (forge.bed.judges[0],)})
    forge.record(1, judged=(wrong, *rest))


def judged_out_of_turn(forge: Forge) -> None:
    # The last rank's verdict displaces an earlier one's, long before its turn came.
    dossier = forge.round(1)
    verdict = dossier.verdicts[1].body
    judges = {one.body.verifier for one in dossier.verdicts if one.body.number == verdict.number}
    (last,) = set(forge.bed.judges) - judges
    said = verdict.model_copy(update={"verifier": last})
    forged = sign(key(last), forge.bed.manifest, 1, "verifier", said)
    verdicts = (dossier.verdicts[0], forged, *dossier.verdicts[2:])
    seals = (*dossier.seals, forge.bed.seal(forged))
    forge.archive.write_round(dataclasses.replace(dossier, verdicts=verdicts, seals=seals))
    rehear(forge, verdict.number, lambda heard: (heard - {verdict.verifier}) | {last})
    forge.chain.anchors[2] = forge.chain.anchors[1] + 2
