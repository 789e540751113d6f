"""The public folder: what is written is read back, and nothing hostile gets through."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.canonical import canonical_json
from protocol.errors import ConfigError, Malformed
from protocol.keys import PeerKey
from protocol.manifest import DatasetConfig, RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Finish,
    Ready,
    Receipt,
    ReceivedUpdate,
    RewardTable,
    RoundRecord,
    Signed,
    Verdict,
    sign,
)
from verification import archive
from verification.archive import Archive, RoundDossier, Settlement

KEY = PeerKey(b"\x11" * 32)
PEER = PeerKey(b"\x22" * 32)
ZERO = "00" * 32
MANIFEST = RunManifest(
    name="archive",
    chain_id=31337,
    ledger="0x" + "22" * 20,
    coordinator=KEY.address,
    rounds=9,
    dataset=DatasetConfig(name="bytes", root=ZERO, tokens=1000),
    initial_parameters=ZERO,
    program=ZERO,
)


def _commitment(number: int, round_: int = 7, manifest: RunManifest = MANIFEST) -> Signed[Commitment]:
    digests = dict.fromkeys(
        ("parameters", "assignment", "moments_before", "moments_after", "residual_before", "residual_after"),
        ZERO,
    )
    body = Commitment.model_validate(
        {
            "number": number,
            "profile": "cpu-fp32",
            "segments": (ZERO, ZERO),
            "update": f"{number:064x}",
            **digests,
        }
    )
    return sign(PEER, manifest, round_, "contributor", body)


def _verdict(number: int, verifier: int) -> Signed[Verdict]:
    body = Verdict(
        number=number,
        verifier=verifier,
        outcome=1,
        commitment=ZERO,
        opening=None,
        profile="cpu-fp32",
        segment=0,
        reason="",
        distance=0.0,
        tensor="",
        replay_cpu_s=0.5,
    )
    return sign(PEER, MANIFEST, 7, "verifier", body)


def _dossier() -> RoundDossier:
    commitments = (_commitment(1), _commitment(2))
    entries = tuple(CommitmentEntry(number=m.body.number, commitment=m.id) for m in commitments)
    return RoundDossier(
        round=7,
        listed=sign(KEY, MANIFEST, 7, "coordinator", CommitmentList(entries=entries)),
        commitments=commitments,
        record=sign(KEY, MANIFEST, 7, "coordinator", RoundRecord(parameters=ZERO, units=(), judged=())),
        receipts=(_receipt(1), _receipt(2)),
        verdicts=(_verdict(1, 5), _verdict(1, 6)),
    )


def _receipt(number: int) -> Signed[Receipt]:
    entry = ReceivedUpdate(number=1, symbols=ZERO, blob=ZERO)
    return sign(PEER, MANIFEST, 7, "contributor", Receipt(number=number, entries=(entry,)))


def _coordinator(round_: int, body: Body) -> Any:
    return sign(KEY, MANIFEST, round_, "coordinator", body)


def test_a_round_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = Archive(tmp_path)
    folder.write_manifest(MANIFEST)
    folder.write_round(_dossier())
    assert folder.manifest() == MANIFEST
    assert folder.rounds() == (7,)
    assert folder.round(MANIFEST, 7) == _dossier()
    assert folder.round(MANIFEST, 8) is None
    assert (tmp_path / "rounds" / "000007.json").exists()


def test_the_settlement_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = Archive(tmp_path)
    assert folder.settlement(MANIFEST) == Settlement()
    ready = sign(PEER, MANIFEST, 0, "contributor", Ready(number=1, program=ZERO, addresses=()))
    settlement = Settlement(
        (ready,),
        (_coordinator(8, RewardTable(epoch=0, entries=())),),
        _coordinator(8, Finish(parameters=ZERO, judged=())),
    )
    folder.write_settlement(settlement)
    assert folder.settlement(MANIFEST) == settlement


def test_a_folder_without_a_manifest_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        Archive(tmp_path).manifest()


def _change(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def _wire(message: Signed[Body]) -> dict[str, Any]:
    return json.loads(message.wire)  # type: ignore[no-any-return]


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another round": (_change(("round",), 6), "another round"),
    "a field more": (_change(("extra",), 1), "other fields"),
    "no list": (_change(("commitments",), {}), "not a list"),
    "a message that is text": (_change(("listed",), "x"), "not an object"),
    "another kind": (_change(("listed",), _wire(_commitment(1))), "in the place of"),
    "a commitment of another round": (
        _change(("commitments",), [_wire(_commitment(1, 6)), _wire(_commitment(2))]),
        "of another round",
    ),
    "a commitment of another run": (
        _change(
            ("commitments",),
            [_wire(_commitment(1, 7, MANIFEST.model_copy(update={"name": "other"}))), _wire(_commitment(2))],
        ),
        "of another run",
    ),
    "an unlisted commitment": (
        _change(("commitments",), [_wire(_commitment(1)), _wire(_commitment(3))]),
        "other commitments",
    ),
    "a commitment left out": (_change(("commitments",), [_wire(_commitment(1))]), "other commitments"),
    "two verdicts of one verifier": (
        _change(("verdicts",), [_wire(_verdict(1, 5)), _wire(_verdict(1, 5))]),
        "two verdict",
    ),
    "a verdict on nobody": (_change(("verdicts",), [_wire(_verdict(4, 5))]), "without a commitment"),
    "a forged signature": (_change(("listed", "signature"), "00" * 65), "signature"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_round_is_refused(tmp_path: Path, attack: str) -> None:
    change, reason = HOSTILE[attack]
    document = json.loads(_dossier().to_bytes())
    change(document)
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "000007.json").write_bytes(canonical_json(document))
    with pytest.raises(Malformed, match=reason):
        Archive(tmp_path).round(MANIFEST, 7)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"round": 7}', b"\xff\xfe", b"[" * 100_000])
def test_bytes_that_are_no_round_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rounds").mkdir()
    (tmp_path / "rounds" / "000007.json").write_bytes(data)
    with pytest.raises(Malformed):
        Archive(tmp_path).round(MANIFEST, 7)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_DOSSIER_BYTES", 1000)
    Archive(tmp_path).write_round(_dossier())
    with pytest.raises(Malformed, match="exceeds 1000 bytes"):
        Archive(tmp_path).round(MANIFEST, 7)


def test_names_that_are_no_rounds_are_passed_over(tmp_path: Path) -> None:
    rounds = tmp_path / "rounds"
    rounds.mkdir()
    for name in ("x.json", "7.json", "000003.json.part", "0000000001.json", "000003.json"):
        (rounds / name).write_text("{}")
    assert Archive(tmp_path).rounds() == (3,)


def test_a_list_that_names_a_number_twice_is_refused(tmp_path: Path) -> None:
    one = _commitment(1)
    entry = CommitmentEntry(number=1, commitment=one.id)
    listed = sign(KEY, MANIFEST, 7, "coordinator", CommitmentList(entries=(entry, entry)))
    dossier = RoundDossier(round=7, listed=listed, commitments=(one, one))
    with pytest.raises(Malformed, match="twice"):
        RoundDossier.from_bytes(dossier.to_bytes(), MANIFEST, 7)


def test_writing_the_same_again_leaves_the_file_alone(tmp_path: Path) -> None:
    folder = Archive(tmp_path)
    folder.write_round(_dossier())
    before = (tmp_path / "rounds" / "000007.json").stat().st_ino
    folder.write_round(_dossier())
    assert (tmp_path / "rounds" / "000007.json").stat().st_ino == before


def test_two_receipts_of_one_witness_are_refused() -> None:
    again = dataclasses.replace(_dossier(), receipts=(_receipt(1), _receipt(1)))
    with pytest.raises(Malformed, match="two receipt messages"):
        RoundDossier.from_bytes(again.to_bytes(), MANIFEST, 7)
    many = dataclasses.replace(_dossier(), receipts=tuple(map(_receipt, range(1, 18))))
    with pytest.raises(Malformed, match="at most 16"):
        RoundDossier.from_bytes(many.to_bytes(), MANIFEST, 7)
