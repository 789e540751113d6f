"""Making a run: how often units are drawn, what it costs, and what the manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.types import Ladder
from coordinator.config import PUBLIC_DIRECTORY
from coordinator.files import read_manifest
from coordinator.run import create_run, draw_probability, escape_probability, plan_run
from protocol.beacon_config import BlockBeacon, DrandBeacon
from protocol.blobs import BlobStore
from protocol.daemon import MANIFEST_FILE
from protocol.errors import ConfigError, LedgerError, UsageError
from protocol.keys import PeerKey
from protocol.tensors import pack, parameter_layout
from training.outer import load_parameters
from training.program import program_digest
from verification.archive import Archive

KEY = PeerKey(b"\x11" * 32)


class SimulatedLedger:
    """A ledger that knows balances and remembers what was created."""

    chain_id = 31337
    address = "0x" + "22" * 20
    run_bond = 10**18

    def __init__(self, balance: int = 10**21, force_blocks: int = 2) -> None:
        self.balance = balance
        self.force_blocks = force_blocks
        self.created: list[tuple[str, str, Ladder, int]] = []

    def balance_of(self, account: str) -> int:
        return self.balance

    def create_run(self, sender: Any, run: str, key: str, ladder: Ladder, funding: int) -> str:
        self.created.append((run, key, ladder, funding))
        return "receipt"


class SimulatedSender:
    address = "0x" + "33" * 20


def _plan(
    folder: Path, ledger: SimulatedLedger, tmp_path: Path, start: Path | None = None, **fields: Any
) -> Any:
    text = tmp_path / "Some Text.txt"
    text.write_bytes(b"Call me Ishmael. " * 300)
    model = {"width": 16, "layers": 1, "heads": 1, "feed_forward": 16, "context": 8}
    return plan_run(
        folder,
        ledger=ledger,  # type: ignore[arg-type]
        coordinator=KEY,
        fund_wei=10**20,
        contributors=4,
        seed=3,
        start=start,
        data=text,
        fields={"model": model, **fields},
    )


@pytest.mark.parametrize("rounds", range(1, 11))
def test_a_short_run_draws_every_unit(rounds: int) -> None:
    assert draw_probability(rounds) == 1.0


@pytest.mark.parametrize("rounds", [11, 12, 40, 100, 1000, 10_000])
def test_a_constant_cheater_escapes_less_than_once_in_a_thousand_runs(rounds: int) -> None:
    p = draw_probability(rounds)
    assert (1 - p) ** (rounds - 1) <= 0.001
    assert (1 - (p - 0.0002)) ** (rounds - 1) > 0.001, "and no more is drawn than that takes"


def test_forty_rounds_draw_a_sixth() -> None:
    assert draw_probability(40) == 0.1624


def test_a_plan_names_what_is_there(folder: Path, tmp_path: Path) -> None:
    plan = _plan(folder, SimulatedLedger(), tmp_path, rounds=20)
    manifest = plan.manifest
    assert manifest.coordinator == KEY.address
    assert manifest.program == program_digest()
    assert manifest.dataset.name == "some-text"
    assert manifest.verification.schedule.fresh_probability == draw_probability(20)
    assert plan.escape == escape_probability(manifest) <= 0.001
    file = BlobStore(folder / "public" / "blobs").get(manifest.initial_parameters, max_size=1 << 20)
    assert load_parameters(manifest, file).parameters.size > 1000
    a_unit = manifest.pay.unit_wei + 2 * manifest.pay.verdict_wei
    assert plan.max_payout_wei == 20 * 4 * a_unit


@pytest.mark.parametrize(("rounds", "kind", "rate"), [(20, "dense", 1.5), (40, "sparse", 2.0)])
def test_updates_and_outer_steps_suit_the_length_unless_they_are_named(
    folder: Path, tmp_path: Path, rounds: int, kind: str, rate: float
) -> None:
    manifest = _plan(folder, SimulatedLedger(), tmp_path, rounds=rounds).manifest
    assert (manifest.codec.kind, manifest.outer.lr) == (kind, rate)
    fields = {"codec": {"kind": "sparse", "k": 64}, "outer": {"lr": 1.0}}
    named = _plan(folder, SimulatedLedger(), tmp_path, rounds=rounds, **fields).manifest
    assert (named.codec.kind, named.codec.k, named.outer.lr) == ("sparse", 64, 1.0)


def test_a_run_whose_reveals_close_before_everybody_can_be_forced_in_is_not_created(
    folder: Path, tmp_path: Path
) -> None:
    plan = _plan(folder, SimulatedLedger(), tmp_path, deadlines={"reveal": 25})
    ledger = SimulatedLedger(force_blocks=25)
    with pytest.raises(ConfigError, match="reveals close 25 blocks after the list"):
        create_run(folder, plan, ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    assert ledger.created == []
    ledger.force_blocks = 24
    assert create_run(folder, plan, ledger=ledger, sender=SimulatedSender()) == "receipt"  # type: ignore[arg-type,comparison-overlap]


def test_reveals_stay_open_longer_where_the_ledger_takes_forced_commitments_for_longer(
    folder: Path, tmp_path: Path
) -> None:
    for force_blocks, reveal in ((2, 20), (150, 160)):
        ledger = SimulatedLedger(force_blocks=force_blocks)
        plan = _plan(folder, ledger, tmp_path, deadlines={"commit": 50})
        assert (plan.manifest.deadlines.commit, plan.manifest.deadlines.reveal) == (50, reveal)
    with pytest.raises(UsageError, match="make no manifest"):
        _plan(folder, SimulatedLedger(), tmp_path, deadlines=[20])


def test_the_same_seed_gives_the_same_run(folder: Path, tmp_path: Path) -> None:
    one = _plan(folder, SimulatedLedger(), tmp_path)
    two = _plan(tmp_path / "other", SimulatedLedger(), tmp_path)
    assert one.manifest.run_id == two.manifest.run_id


def test_an_outer_momentum_is_part_of_the_first_parameters(folder: Path, tmp_path: Path) -> None:
    manifest = _plan(folder, SimulatedLedger(), tmp_path, outer={"momentum": 0.9}).manifest
    file = BlobStore(folder / "public" / "blobs").get(manifest.initial_parameters, max_size=1 << 20)
    momentum = load_parameters(manifest, file).momentum
    assert momentum is not None
    assert not momentum.any()


@pytest.mark.parametrize(
    "fields",
    [{"rounds": 0}, {"rounds": "many"}, {"unknown": 1}, {"inner": {"steps": 7}}, {"verification": 5}],
)
def test_fields_that_make_no_manifest_are_refused(
    folder: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="make no manifest"):
        _plan(folder, SimulatedLedger(), tmp_path, **fields)


def test_a_run_is_written_down_before_it_is_created(folder: Path, tmp_path: Path) -> None:
    ledger = SimulatedLedger()
    plan = _plan(folder, ledger, tmp_path)
    create_run(folder, plan, ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    assert read_manifest(folder / MANIFEST_FILE, plan.manifest.run_id) == plan.manifest
    ladder = Ladder(fault_bps=10_000, equivocation_bps=1000, window_blocks=1200)
    assert ledger.created == [(plan.manifest.run_id, KEY.address, ladder, 10**20)]


def test_the_chain_holds_the_manifests_penalties(folder: Path, tmp_path: Path) -> None:
    ledger = SimulatedLedger()
    penalties = {"fault_percent": 60, "equivocation_percent": 7, "window": 900}
    plan = _plan(folder, ledger, tmp_path, penalties=penalties)
    create_run(folder, plan, ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    assert [ladder for _, _, ladder, _ in ledger.created] == [Ladder(6000, 700, 900)]


def test_one_directory_holds_one_run(folder: Path, tmp_path: Path) -> None:
    ledger = SimulatedLedger()
    first = _plan(folder, ledger, tmp_path)
    create_run(folder, first, ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    second = _plan(folder, ledger, tmp_path, name="another")
    with pytest.raises(ConfigError, match="already holds a run"):
        create_run(folder, second, ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    assert len(ledger.created) == 1


def test_a_wallet_that_cannot_fund_the_run_is_told_so(folder: Path, tmp_path: Path) -> None:
    ledger = SimulatedLedger(balance=10**20)  # enough for the pot, not for the run's bond
    with pytest.raises(LedgerError, match=f"holds {10**20} wei of the token, not {10**20 + 10**18}"):
        create_run(folder, _plan(folder, ledger, tmp_path), ledger=ledger, sender=SimulatedSender())  # type: ignore[arg-type]
    assert ledger.created == []


@pytest.mark.parametrize("data", [None, b"", b"{}", b"\xff" * 10])
def test_a_directory_without_a_readable_manifest_is_refused(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "manifest.json").write_bytes(data)
    with pytest.raises(ConfigError):
        read_manifest(tmp_path / "manifest.json")


def test_the_chain_decides_the_beacon_and_a_public_one_refuses_blocks(tmp_path: Path) -> None:
    local, public = SimulatedLedger(), SimulatedLedger()
    public.chain_id = 8453
    assert _plan(tmp_path / "a", local, tmp_path).manifest.beacon == BlockBeacon()
    assert _plan(tmp_path / "b", public, tmp_path).manifest.beacon == DrandBeacon()
    with pytest.raises(UsageError, match="any other takes kind drand"):
        _plan(tmp_path / "c", public, tmp_path, beacon={"kind": "block"})


def test_a_run_may_start_from_the_parameters_of_a_file(tmp_path: Path) -> None:
    drawn = _plan(tmp_path / "one", SimulatedLedger(), tmp_path).manifest
    layout = parameter_layout(drawn.model)
    start = tmp_path / "start.safetensors"
    vector = np.linspace(-1, 1, layout.size, dtype=np.float32)
    start.write_bytes(pack(layout, vector))
    found = _plan(tmp_path / "two", SimulatedLedger(), tmp_path, start=start).manifest
    assert found.initial_parameters != drawn.initial_parameters
    store = BlobStore(Archive(tmp_path / "two" / PUBLIC_DIRECTORY).blobs)
    state = load_parameters(found, store.get(found.initial_parameters, max_size=1 << 20))
    assert state.parameters.tobytes() == vector.tobytes()


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    with pytest.raises(ConfigError, match="cannot read"):
        _plan(tmp_path / "one", SimulatedLedger(), tmp_path, start=start)
    start.write_bytes(bytes(100))
    with pytest.raises(ConfigError, match="holds no parameters of the run's model") as caught:
        _plan(tmp_path / "one", SimulatedLedger(), tmp_path, start=start)
    assert "murmur model import" in caught.value.hint
