"""A manifest is one byte string, and anything that differs is another run."""

import json

import pytest
from pydantic import ValidationError

from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.canonical import canonical_json
from protocol.drand import QUICKNET
from protocol.errors import Malformed
from protocol.manifest import CodecConfig, PayConfig, PenaltyConfig, RunManifest
from protocol.model_config import ModelConfig
from tests.protocol.makers import digest_of, manifest


def test_a_manifest_survives_the_wire_under_its_id() -> None:
    original = manifest(pay=PayConfig(unit_wei=10**30))
    parsed = RunManifest.from_bytes(original.to_bytes())
    assert parsed == original
    assert parsed.run_id == original.run_id
    assert parsed.pay.unit_wei == 10**30


def test_anything_that_differs_is_another_run() -> None:
    ids = {
        manifest().run_id,
        manifest(rounds=7).run_id,
        manifest(initial_parameters=digest_of("other")).run_id,
        manifest(ledger="0x" + "11" * 20).run_id,
        manifest(pay=PayConfig(unit_wei=1)).run_id,
        manifest(penalties=PenaltyConfig(fault_percent=50)).run_id,
    }
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v | {"surprise": 1}, "surprise"),
        (lambda v: {k: w for k, w in v.items() if k != "codec"}, "spell every field"),
        (lambda v: v | {"pay": v["pay"] | {"unit_wei": 5}}, "spell every field"),
        (lambda v: v | {"pay": v["pay"] | {"unit_wei": "-5"}}, "unit_wei"),
        (lambda v: v | {"pay": v["pay"] | {"unit_wei": "007"}}, "unit_wei"),
        (lambda v: {k: w for k, w in v.items() if k != "penalties"}, "spell every field"),
        (lambda v: v | {"penalties": v["penalties"] | {"fault_percent": 49}}, "fault_percent"),
        (lambda v: v | {"penalties": v["penalties"] | {"fault_percent": 101}}, "fault_percent"),
        (lambda v: v | {"penalties": v["penalties"] | {"equivocation_percent": 0}}, "equivocation_percent"),
        (lambda v: v | {"penalties": v["penalties"] | {"window": 0}}, "window"),
        (lambda v: v | {"penalties": v["penalties"] | {"window": 2**32}}, "window"),
        (lambda v: v | {"inner": v["inner"] | {"steps": 16}}, "multiple of the segment"),
        (lambda v: v | {"rounds": 0}, "rounds"),
        (lambda v: v | {"codec": v["codec"] | {"k": 5000}}, "codec"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_field(change, reason: str) -> None:  # type: ignore[no-untyped-def]
    value = json.loads(manifest().to_bytes())
    with pytest.raises(Malformed, match=reason):
        RunManifest.from_bytes(canonical_json(change(value)))


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="rotary"):
        ModelConfig(width=60, heads=8)
    with pytest.raises(ValidationError, match="exceeds the chunk"):
        CodecConfig(chunk=64, k=65)


def test_epochs_cover_every_round() -> None:
    run = manifest(rounds=25)
    assert run.epochs == 3
    assert [run.epoch_of(round_) for round_ in (0, 9, 10, 24)] == [0, 0, 1, 2]


def test_a_blocks_hash_is_a_beacon_on_the_local_chain_only() -> None:
    assert manifest(beacon={"kind": "block"}).beacon == BlockBeacon()
    with pytest.raises(ValidationError, match="only the local chain"):
        manifest(chain_id=1, beacon={"kind": "block"})
    with pytest.raises(ValidationError, match="only the local chain"):
        manifest(chain_id=1)
    for chain_id in (1, 31337):
        found = manifest(chain_id=chain_id, beacon={"kind": "drand"})
        assert isinstance(found.beacon, DrandBeacon)
        assert found.beacon.chain == QUICKNET
        assert RunManifest.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(
    "fields",
    [
        {"public_key": "c0" + "00" * 95},
        {"public_key": QUICKNET.public_key.upper()},
        {"public_key": "ab" * 96},
        {"scheme": "pedersen-bls-chained"},
        {"period": 0},
        {"period": 30, "margin_s": 29},
        {"margin_s": 0},
        {"kind": "random.org"},
        {"url": "https://api.drand.sh"},
    ],
)
def test_a_drand_network_that_is_none_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        manifest(chain_id=1, beacon={"kind": "drand", **fields})


def test_the_margin_after_the_anchor_is_over_before_its_drand_round() -> None:
    beacon = DrandBeacon(margin_s=12)
    for second in range(1_700_000_000, 1_700_000_009):
        round_ = beacon.round_after(second)
        assert beacon.chain.time_of(round_) >= second + 12 > beacon.chain.time_of(round_ - 1)
