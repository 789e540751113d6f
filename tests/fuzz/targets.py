"""Every reader of hostile bytes as a function of bytes that returns or raises nothing but a defect.

A reader may refuse with `Malformed`, `ProofRejected` or `ConfigError`; any other exception is a finding.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from protocol import rollouts
from protocol.canonical import digest
from protocol.errors import ConfigError, Malformed, ProofRejected
from protocol.keys import PeerKey
from protocol.manifest import CodecConfig, DatasetConfig, RunManifest
from protocol.messages import (
    Body,
    Commitment,
    CommitmentEntry,
    CommitmentList,
    Finish,
    Judgement,
    ListedPreference,
    Objection,
    Opening,
    Preference,
    Ready,
    Receipt,
    ReceivedUpdate,
    Reveal,
    RewardEntry,
    RewardTable,
    RoundRecord,
    Seal,
    UnitRecord,
    Verdict,
    parse_message,
    sign,
)
from protocol.rollout_config import SamplingConfig
from protocol.update import decode
from tests.training import models
from training.pretrained import read_pretrained
from training.tokenizer import ChatTokenizer
from verification.anchor import read_anchor_file
from verification.archive import RoundDossier, Settlement
from verification.bundle import file_limit, parse_bundle
from verification.container import read_contents
from verification.tarball import unpack

ALLOWED = (Malformed, ProofRejected, ConfigError)
KEY = PeerKey(b"\x11" * 32)
ROUND = 7
SOME = "ab" * 32
MANIFEST = RunManifest(
    name="fuzz",
    chain_id=31337,
    ledger="0x" + "22" * 20,
    coordinator=KEY.address,
    rounds=9,
    dataset=DatasetConfig(name="bytes", root=SOME, tokens=1000),
    initial_parameters=SOME,
    program=SOME,
)
SHAPE = rollouts.Shape(SamplingConfig(groups=2, group_size=2, turns=2, turn_tokens=4, tokens=16), 1, 128)
CODEC, SIZE = CodecConfig(chunk=512, k=32), 5936  # of the test bed's model

Target = Callable[[bytes], None]


def bodies() -> list[tuple[str, Body]]:
    """Return one valid body of each kind, with the role that says it."""
    roots = (
        "parameters",
        "assignment",
        "moments_before",
        "moments_after",
        "residual_before",
        "residual_after",
    )
    commitment = Commitment.model_validate(
        {
            "number": 1,
            "profile": "cpu-fp32",
            "segments": (SOME, SOME),
            "update": SOME,
            **dict.fromkeys(roots, SOME),
        }
    )
    files = ("start_parameters", "start_moments", "end_parameters", "end_moments", "final_parameters")
    more = ("final_moments", "residual_before", "residual_after", "symbols", "salt", "commitment")
    opening = Opening.model_validate({"number": 1, "segment": 0, **dict.fromkeys((*files, *more), SOME)})
    unit = UnitRecord(number=1, commitment=SOME, merged=True, symbols=SOME, blob=SOME)
    said = Preference(person=0, number=1, group=0, better=0, worse=1)
    told = ListedPreference(round=ROUND, said=said, signature="1b" * 65)
    judged = (Judgement(round=3, number=1, segment=0, outcome="passed"),)
    return [
        ("contributor", Ready(number=1, program=SOME, addresses=("/ip4/127.0.0.1/tcp/1",))),
        ("contributor", commitment),
        ("coordinator", CommitmentList(entries=(CommitmentEntry(number=1, commitment=SOME),))),
        (
            "contributor",
            Reveal(
                number=1, commitment=SOME, symbols=SOME, salt=SOME, blob=SOME, blob_bytes=9, train_cpu_s=0.5
            ),
        ),
        ("coordinator", RoundRecord(parameters=SOME, units=(unit,), judged=judged, preferences=(told,))),
        ("contributor", Receipt(number=1, entries=(ReceivedUpdate(number=1, symbols=SOME, blob=SOME),))),
        ("contributor", Objection(number=1, record=SOME)),
        ("contributor", opening),
        ("verifier", Seal(number=1, verifier=5, commitment=SOME, opening=SOME, segment=0, seal=SOME)),
        (
            "verifier",
            Verdict(
                number=1, verifier=5, outcome=3, commitment=SOME, opening=SOME, segment=0, profile="cpu-fp32",
                reason="far", distance=0.5, tensor="norm", exact=SOME, exact_distance=0.25,
                fingerprint=(0.5, -1.0), salt=SOME, replay_cpu_s=1.0,
            ),
        ),
        ("coordinator", RewardTable(epoch=0, entries=(RewardEntry(account=KEY.address, cumulative_wei=5),))),
        ("coordinator", Finish(parameters=SOME, judged=judged)),
        ("person", said),
    ]  # fmt: skip


def messages() -> dict[str, bytes]:
    """Return a valid message of each kind in its wire form."""
    return {
        body.kind: sign(KEY, MANIFEST, ROUND, role, body).wire  # type: ignore[arg-type]
        for role, body in bodies()
    }


def dossier() -> bytes:
    """Return the file of a round that holds one message of each kind."""
    signed = {body.kind: sign(KEY, MANIFEST, ROUND, role, body) for role, body in bodies()}  # type: ignore[arg-type]
    entry = CommitmentEntry(number=1, commitment=signed["commitment"].id)
    listed = sign(KEY, MANIFEST, ROUND, "coordinator", CommitmentList(entries=(entry,)))
    record = signed["record"].body.model_copy(update={"receipts": (signed["receipt"].id,)})
    found = RoundDossier(
        ROUND,
        listed,
        (signed["commitment"],),  # type: ignore[arg-type]
        (signed["reveal"],),  # type: ignore[arg-type]
        (signed["receipt"],),  # type: ignore[arg-type]
        sign(KEY, MANIFEST, ROUND, "coordinator", record),  # type: ignore[arg-type]
        (signed["opening"],),  # type: ignore[arg-type]
        (signed["verdict"],),  # type: ignore[arg-type]
    )
    return found.to_bytes()


def settlement() -> bytes:
    """Return a file of what was said about a run as a whole."""
    signed = {body.kind: sign(KEY, MANIFEST, ROUND, role, body) for role, body in bodies()}  # type: ignore[arg-type]
    return Settlement((signed["ready"],), (signed["rewards"],), signed["finish"]).to_bytes()  # type: ignore[arg-type]


def _refusing(read: Callable[[bytes], object]) -> Target:
    def target(data: bytes) -> None:
        try:
            read(data)
        except ALLOWED:
            return

    return target


def _bundle(data: bytes) -> object:
    return parse_bundle(read_contents(io.BytesIO(data), len(data), file_limit))


def _packed(data: bytes) -> None:
    with TemporaryDirectory(prefix="murmur-fuzz-") as directory:
        unpack(io.BytesIO(data), Path(directory))
        for path in Path(directory).rglob("*"):
            assert path.resolve().is_relative_to(Path(directory).resolve())
            assert not path.is_symlink()


def groups() -> list[bytes]:
    """Return a unit's groups of rollouts."""
    turns = np.array([[3, 7], [8, 10]], np.uint16)
    players, codes = np.zeros(2, np.uint8), np.arange(6, dtype=np.uint8)
    rewards, shown = np.ones((1, 1)), np.ones(rollouts.PROJECTIONS, np.float32)
    sample = rollouts.Sample(np.arange(10, dtype=np.uint16), turns, players, codes, rewards, shown)
    return [rollouts.encode_group((sample, sample), SHAPE)] * 2


def _anchors(data: bytes) -> None:
    with TemporaryDirectory(prefix="murmur-fuzz-") as directory:
        path = Path(directory) / digest(data)
        path.write_bytes(data)
        read_anchor_file(path)


def model_file() -> bytes:
    """Return a GGUF file of a small model with its vocabulary."""
    shape = models.SHAPE.model_copy(update={"vocab": len(models.vocabulary()[0]), "layers": 1})
    known = models.llama_metadata(shape) | models.vocabulary_metadata()
    return models.gguf(known, models.llama_tensors(models.weights(shape), shape, models.Q8_0))


def _model(data: bytes) -> None:
    with TemporaryDirectory(prefix="murmur-fuzz-") as directory:
        path = Path(directory) / "model.gguf"
        path.write_bytes(data)
        read_pretrained(path)
        ChatTokenizer.open(path)


TARGETS: dict[str, Target] = {
    "message": _refusing(parse_message),
    "manifest": _refusing(RunManifest.from_bytes),
    "dossier": _refusing(lambda data: RoundDossier.from_bytes(data, MANIFEST, ROUND)),
    "settlement": _refusing(lambda data: Settlement.from_bytes(data, MANIFEST)),
    "bundle": _refusing(_bundle),
    "packed folder": _refusing(_packed),
    "anchors": _refusing(_anchors),
    "update": _refusing(lambda data: decode(data, codec=CODEC, size=SIZE)),
    "rollouts": _refusing(lambda data: rollouts.decode(data, SHAPE)),
    "model": _refusing(_model),
    "group": _refusing(lambda data: rollouts.decode_group(data, SHAPE)),
}
